//! Revoked connections: they stay revoked when conntrack deletes their entries, and resume at once when
//! policy allows them again.
//!
//! From: the engine, with snapshots in force and the end of sweeps. To: the [`RevokedRegistry`], and the
//! kernel's set of their tuples. Invariant: a connection stays revoked until policy allows it again, or until
//! it has sent no packet for an hour (semantics 35).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dataplane::conntrack::ConntrackError;
use dataplane::sweep::{LocalAddresses, OverlayFlows};
use dataplane::table::{Table, TableError};
use policy::{Affected, Snapshot};

use crate::sync::lock;

mod index;
mod registry;
mod tuples;
pub(crate) use registry::RevokedRegistry;

/// How often the kernel's set is read, to remove connections that have timed out there.
const READ_INTERVAL: Duration = Duration::from_secs(600);

/// The pause after each step of evaluating connections, as a multiple of the step's duration. While many
/// connections are due, this thus takes a quarter of the thread's time.
const PAUSE_FACTOR: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct RevokedConnections {
    registry: Arc<Mutex<RevokedRegistry>>,
    /// When more of the connections that are due are evaluated; `None` if none are due.
    due_at: Option<Instant>,
    /// When the pause after the last step ends.
    paused_until: Instant,
    /// When the kernel's set is read next; `None` before it was first read.
    read_at: Option<Instant>,
    /// Whether the kernel's set was full, and no tuple is known to have been removed since.
    is_full: bool,
}

/// Connections could not be restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// Their marks could not be changed.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The kernel's set of their tuples could not be changed.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl RevokedConnections {
    /// The revoked connections of a registry, which is shared with sweeps.
    pub(crate) fn new(registry: Arc<Mutex<RevokedRegistry>>) -> Self {
        Self { registry, due_at: None, paused_until: Instant::now(), read_at: None, is_full: false }
    }

    /// Call this when `snapshot` is in force. Makes the revoked connections of `affected` addresses due, so
    /// that [`RevokedConnections::restore_due`] restores those that `snapshot` allows.
    pub(crate) fn follow(
        &mut self,
        snapshot: &Arc<Snapshot>,
        overlay: &Arc<OverlayFlows>,
        affected: &Affected,
    ) {
        let is_due = lock(&self.registry).follow(snapshot, overlay, affected);
        self.due_at = is_due.then_some(self.paused_until);
    }

    /// Call this when other pods have these addresses from the next snapshot on.
    pub(crate) fn reassign(&mut self, addresses: &BTreeSet<IpAddr>) {
        if !addresses.is_empty() {
            lock(&self.registry).reassign(addresses);
        }
    }

    /// When [`RevokedConnections::restore_due`] must be called; `None` if no connection is due.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// If it is time, evaluates some of the connections that are due and restores those that are allowed. It
    /// does not evaluate all at once, so that the next change need not wait.
    ///
    /// # Errors
    /// [`RestoreError`]: connections stay revoked until all are evaluated again.
    pub(crate) fn restore_due(&mut self, table: &mut Table) -> Result<(), RestoreError> {
        let started = Instant::now();
        if self.due_at.is_none_or(|at| at > started) {
            return Ok(());
        }
        // If the node's own addresses can't be read, fewer connections count as allowed.
        let local = LocalAddresses::read().unwrap_or_default();
        let are_due = lock(&self.registry).restore_due(&local)?;
        self.remove_restored(table)?;
        let now = Instant::now();
        self.paused_until = now + (now - started) * PAUSE_FACTOR;
        self.due_at = are_due.then_some(self.paused_until);
        Ok(())
    }

    /// Call this after each sweep. Adds the connections that the sweep revoked to the kernel's set, and
    /// removes those that were restored. Returns how many connections were restored without a sweep since the
    /// last call.
    ///
    /// # Errors
    /// [`RestoreError`] if the set can't be read or changed. The next sweep completes the changes. A full set
    /// is no error: only their marks then keep connections revoked, until the set has room.
    pub(crate) fn swept(&mut self, table: &mut Table) -> Result<u64, RestoreError> {
        let now = Instant::now();
        // Remove tuples first: this makes room.
        self.remove_restored(table)?;
        if self.read_at.is_none_or(|at| at <= now) {
            let in_kernel = table.revoked()?;
            let mut registry = lock(&self.registry);
            registry.read(&in_kernel)?;
            if registry.has_due() {
                self.due_at.get_or_insert(self.paused_until);
            }
            self.is_full = false;
            self.read_at = Some(now + READ_INTERVAL);
        }
        if !self.is_full {
            let missing = lock(&self.registry).missing();
            let left_over = table.add_revoked(&missing)?;
            lock(&self.registry).added(&missing, &left_over);
            self.is_full = !left_over.is_empty();
            if self.is_full {
                tracing::warn!(
                    connections = left_over.len(),
                    "too many revoked connections: not all stay revoked if conntrack deletes their entries"
                );
            }
        }
        Ok(lock(&self.registry).take_restored())
    }

    /// Makes the next sweep add all known tuples again: another program may have emptied the kernel's set.
    pub(crate) fn save_all(&mut self) {
        lock(&self.registry).save_all();
        self.is_full = false;
        self.read_at = Some(Instant::now() + READ_INTERVAL);
    }

    fn remove_restored(&mut self, table: &mut Table) -> Result<(), TableError> {
        let surplus = lock(&self.registry).surplus();
        table.remove_revoked(&surplus)?;
        lock(&self.registry).removed(&surplus);
        self.is_full &= surplus.is_empty();
        Ok(())
    }
}
