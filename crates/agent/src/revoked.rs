//! Revoked connections: they stay cut when connection tracking forgets them, and resume at once when policy allows them again.
//!
//! From: the engine, snapshots in force and the end of sweeps. To: the [`Register`], and the kernel's set of their tuples. Invariant: a
//! connection stays cut until policy allows it again, or until it has sent no packet for an hour (semantics 35).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dataplane::conntrack::ConntrackError;
use dataplane::sweep::{LocalAddresses, OverlayFlows};
use dataplane::table::{Table, TableError};
use policy::{Affected, Snapshot};

mod known;
mod register;
mod tuples;
pub use register::Register;

/// How often the kernel's set is read, to forget connections that have timed out there.
const READ_EVERY: Duration = Duration::from_secs(600);

/// While many connections are to be evaluated, this takes a quarter of the thread's time: it rests for three times as long as it took.
const REST: u32 = 3;

/// See the module.
#[derive(Debug)]
pub struct RevokedConnections {
    register: Arc<Mutex<Register>>,
    /// When more of the connections that are due are evaluated; `None` if none are.
    due_at: Option<Instant>,
    /// Until when evaluating them rests.
    rested: Instant,
    /// When the kernel's set is read again; `None` before it was read.
    read_at: Option<Instant>,
    /// Whether the kernel's set had no room, and nothing has left it since that is known of.
    is_full: bool,
}

/// Connections could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Their marks can't be changed.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The kernel's set of their tuples can't be changed.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl RevokedConnections {
    /// Those of a register that sweeps add to.
    pub fn new(register: Arc<Mutex<Register>>) -> Self {
        Self { register, due_at: None, rested: Instant::now(), read_at: None, is_full: false }
    }

    /// To be called when `snapshot` is in force: makes the cut connections of `affected` addresses due, so that
    /// [`RevokedConnections::restore_due`] restores those that it allows.
    pub fn follow(&mut self, snapshot: &Arc<Snapshot>, overlay: &Arc<OverlayFlows>, affected: &Affected) {
        let is_due = lock(&self.register).follow(snapshot, overlay, affected);
        self.due_at = is_due.then_some(self.rested);
    }

    /// Other pods have these addresses from the next snapshot on.
    pub fn reassign(&mut self, addresses: &BTreeSet<IpAddr>) {
        if !addresses.is_empty() {
            lock(&self.register).reassign(addresses);
        }
    }

    /// When [`RevokedConnections::restore_due`] is to be called, if it is.
    pub fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// Restores connections that are allowed again, if it is time: some of them, so that the next change need not wait.
    ///
    /// # Errors
    /// [`RestoreError`]: connections stay cut until all are evaluated again.
    pub fn restore_due(&mut self, table: &mut Table) -> Result<(), RestoreError> {
        let started = Instant::now();
        if self.due_at.is_none_or(|at| at > started) {
            return Ok(());
        }
        // Without the node's own addresses fewer connections count as allowed.
        let local = LocalAddresses::read().unwrap_or_default();
        let are_due = lock(&self.register).restore_due(&local)?;
        self.remove_restored(table)?;
        let now = Instant::now();
        self.rested = now + (now - started) * REST;
        self.due_at = are_due.then_some(self.rested);
        Ok(())
    }

    /// To be called after each sweep: adds what it cut to the kernel's set, and removes what was restored. Returns how many connections
    /// were restored without a sweep since the last call.
    ///
    /// # Errors
    /// [`RestoreError`] if the set can't be read or changed. What is not done then is done with the next sweep. A set that is full is no
    /// error: its connections are cut by their marks alone until it has room.
    pub fn swept(&mut self, table: &mut Table) -> Result<u64, RestoreError> {
        let now = Instant::now();
        // First, since it makes room.
        self.remove_restored(table)?;
        if self.read_at.is_none_or(|at| at <= now) {
            let in_kernel = table.revoked()?;
            let mut register = lock(&self.register);
            register.read(&in_kernel)?;
            if register.has_due() {
                self.due_at.get_or_insert(self.rested);
            }
            self.is_full = false;
            self.read_at = Some(now + READ_EVERY);
        }
        if !self.is_full {
            let missing = lock(&self.register).missing();
            let left_over = table.add_revoked(&missing)?;
            lock(&self.register).added(&missing, &left_over);
            self.is_full = !left_over.is_empty();
            if self.is_full {
                tracing::warn!(
                    connections = left_over.len(),
                    "too many revoked connections to keep them all cut when conntrack forgets them"
                );
            }
        }
        Ok(lock(&self.register).take_count())
    }

    /// Another program may have emptied the kernel's set: all that is known is added again with the next sweep.
    pub fn save_all(&mut self) {
        lock(&self.register).save_all();
        self.is_full = false;
        self.read_at = Some(Instant::now() + READ_EVERY);
    }

    fn remove_restored(&mut self, table: &mut Table) -> Result<(), TableError> {
        let surplus = lock(&self.register).surplus();
        table.remove_revoked(&surplus)?;
        lock(&self.register).removed(&surplus);
        self.is_full &= surplus.is_empty();
        Ok(())
    }
}

/// A panic while it was held has ended the program.
pub fn lock(register: &Mutex<Register>) -> MutexGuard<'_, Register> {
    register.lock().unwrap_or_else(PoisonError::into_inner)
}
