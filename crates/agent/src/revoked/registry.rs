//! The registry of revoked connections, shared by the sweeper's thread and the agent's thread, which applies
//! snapshots.
//!
//! From: sweeps (connections to revoke and to restore), and the engine (the snapshot in force, and the pods
//! that it affects). To: the marks in conntrack, and [`RevokedConnections`](super::RevokedConnections).
//! Invariant: REVOKED is set and cleared only here, by one thread at a time, according to the snapshot in
//! force.
//!
//! As soon as a change is in force, the revoked connections of affected pods are evaluated by their tuples.
//! This waits neither for a sweep, which may be paused, nor for a packet, which would have to be queued. So
//! neither the number of other connections nor a sender over its quota delays it. A restored connection has
//! the marks that it had before it was revoked. The change affects its pods, so its packets are revalidated
//! until a sweep has evaluated it.
//!
//! A sweep may follow an older snapshot. Its results are evaluated once more here, so it revokes no
//! connection that is allowed again, and restores none that is denied again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use audit::{Recorder, RevokedBy};
use dataplane::conntrack::{Conntrack, ConntrackError};
use dataplane::marks::Marks;
use dataplane::sweep::{
    ConnectionVerdict, Evaluator, LocalAddresses, MarkCounts, OverlayFlows, SweptConnection, apply_marks,
    revoke, unaccept,
};
use policy::{Affected, Decision, Evaluation, Packet, Snapshot};

use super::index::{Connection, ConnectionIndex};
use super::tuples::{SetDelta, Tuples};

/// The most connections in the registry, which is the size of the kernel's set. Only sweeps restore others.
const MOST: usize = 65_536;

/// The most connections with one tuple in the registry: a pod that sends pings with many identifiers must not
/// delay others. Only sweeps restore others.
const MOST_OF_TUPLE: usize = 64;

/// The most connections that are evaluated in one step, at some tenths of a microsecond each.
const EVALUATED_AT_ONCE: usize = 4_096;
/// Roughly the most connections that are restored in one step (it may exceed this by one address's turn).
/// Changing a mark and the set takes some microseconds each, and the next change waits.
const RESTORED_AT_ONCE: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct RevokedRegistry {
    conntrack: Conntrack,
    marks: Marks,
    /// The snapshot in force.
    snapshot: Arc<Snapshot>,
    overlay: Arc<OverlayFlows>,
    known: ConnectionIndex,
    /// The state of the kernel's set. Invariant: it wants exactly the tuples of the known connections.
    tuples: Tuples,
    /// How many connections were restored without a sweep since the last report.
    restored: u64,
    /// Records connections that are revoked and restored; `None` in tests.
    recorder: Option<Recorder>,
}

impl RevokedRegistry {
    /// An empty registry. Call this before `snapshot` is in force.
    pub(crate) fn new(conntrack: Conntrack, marks: Marks, snapshot: Arc<Snapshot>) -> Self {
        Self {
            conntrack,
            marks,
            snapshot,
            overlay: Arc::default(),
            known: ConnectionIndex::default(),
            tuples: Tuples::default(),
            restored: 0,
            recorder: None,
        }
    }

    /// Records connections that are revoked and restored.
    #[must_use]
    pub(crate) fn recording(mut self, recorder: Recorder) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Call this when `snapshot` is in force. Makes the connections of `affected` addresses due. Returns
    /// whether any connection is due.
    pub(crate) fn follow(
        &mut self,
        snapshot: &Arc<Snapshot>,
        overlay: &Arc<OverlayFlows>,
        affected: &Affected,
    ) -> bool {
        (self.snapshot, self.overlay) = (Arc::clone(snapshot), Arc::clone(overlay));
        match affected {
            Affected::All => self.known.mark_all_due(),
            Affected::Addresses(addresses) => {
                addresses.keys().for_each(|address| self.known.mark_due(*address));
            }
        }
        self.known.has_due()
    }

    /// Call this when other pods have these addresses. Revoked connections of the previous pods are not
    /// restored: the next sweep deletes them.
    pub(crate) fn reassign(&mut self, addresses: &BTreeSet<IpAddr>) {
        addresses.iter().for_each(|address| self.known.clear_entries(*address));
    }

    /// Evaluates some of the connections that are due, and clears REVOKED on those that are allowed. Returns
    /// whether others are due.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed: the connections still count as revoked, though some
    /// marks may be cleared.
    pub(crate) fn restore_due(&mut self, local: &LocalAddresses) -> Result<bool, ConntrackError> {
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        // A connection is taken twice if both of its ends are due.
        let (mut evaluated, mut allowed) = (0, BTreeMap::new());
        while evaluated < EVALUATED_AT_ONCE && allowed.len() < RESTORED_AT_ONCE {
            let Some(due) = self.known.take_due() else { break };
            evaluated += due.len();
            let is_allowed = |(_, connection, known): &(_, Packet, Connection)| {
                evaluator.verdict(connection, known.is_oriented) == ConnectionVerdict::Allowed
            };
            let due = due.into_iter().filter(is_allowed);
            allowed.extend(due.map(|(id, connection, known)| (id, (connection, known.entry))));
        }
        let change = revoke(&self.marks, false);
        let entries = allowed.values().filter_map(|(_, entry)| Some((entry.as_ref()?, change)));
        let changed = self.conntrack.change_marks(entries)?.changed;
        self.restored += changed;
        for (id, (connection, entry)) in allowed {
            // Without an entry, the connection may have ended.
            if let (Some(recorder), Some(_)) = (&mut self.recorder, entry) {
                let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
                let (decision, _) = evaluator.decision(&connection, true);
                recorder.record_restored(evaluation(connection, decision, &self.snapshot));
            }
            self.known.remove(id);
            self.release_tuple(&connection);
        }
        Ok(self.known.has_due())
    }

    /// Revokes and restores the connections that a sweep has found, according to the snapshot in force.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed.
    pub(crate) fn apply_marks(
        &mut self,
        found: &mut [SweptConnection],
        local: &LocalAddresses,
    ) -> Result<MarkCounts, ConntrackError> {
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        for found in found.iter_mut() {
            // A connection that was only found in the kernel's set has no known opener: then the sweep's
            // result counts.
            let known = self.known.find(&found.connection, &found.entry);
            found.is_oriented &= known.is_none_or(|known| known.is_oriented);
            found.is_allowed = match evaluator.verdict(&found.connection, found.is_oriented) {
                ConnectionVerdict::Allowed => true,
                ConnectionVerdict::Denied => false,
                ConnectionVerdict::Provisional => !found.is_revoked,
            };
        }
        let settled = apply_marks(&mut self.conntrack, &self.marks, found)?;
        self.record(found, local);
        for found in found.iter() {
            match (found.is_allowed, found.is_revoked) {
                (false, _) => self.add(found),
                (true, true) => {
                    self.known.remove_replaced(&found.connection, Some(&found.entry));
                    self.release_tuple(&found.connection);
                }
                (true, false) => {}
            }
        }
        Ok(settled)
    }

    /// Sets REVOKED again on connections that lost it, except those that the snapshot in force allows:
    /// another thread may have restored them. Returns the connections on which it was set.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed.
    pub(crate) fn revoke_again(
        &mut self,
        mut lost: Vec<SweptConnection>,
        local: &LocalAddresses,
    ) -> Result<Vec<SweptConnection>, ConntrackError> {
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        // A revoked connection stays revoked until it is allowed, even while one of its pods is not known.
        lost.retain(|lost| {
            evaluator.verdict(&lost.connection, lost.is_oriented) != ConnectionVerdict::Allowed
        });
        let change = revoke(&self.marks, true);
        self.conntrack.change_marks(lost.iter().map(|lost| (&lost.entry, change)))?;
        Ok(lost)
    }

    /// Clears ACCEPTED again on connections that regained it. Excludes those that the snapshot in force
    /// allows, since a worker may have allowed them, and those that it denies, since a sweep revokes them.
    /// Returns the connections on which it was cleared.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed.
    pub(crate) fn unaccept_again(
        &mut self,
        mut lost: Vec<SweptConnection>,
        local: &LocalAddresses,
    ) -> Result<Vec<SweptConnection>, ConntrackError> {
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        lost.retain(|lost| {
            evaluator.verdict(&lost.connection, lost.is_oriented) == ConnectionVerdict::Provisional
        });
        let change = unaccept(&self.marks);
        self.conntrack.change_marks(lost.iter().map(|lost| (&lost.entry, change)))?;
        Ok(lost)
    }

    /// Records the connections whose mark has changed.
    fn record(&mut self, found: &[SweptConnection], local: &LocalAddresses) {
        let Some(recorder) = &mut self.recorder else { return };
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        for found in found.iter().filter(|found| found.is_revoked == found.is_allowed) {
            let (decision, is_overlay) = evaluator.decision(&found.connection, found.is_oriented);
            let evaluation = evaluation(found.connection, decision, &self.snapshot);
            match (found.is_allowed, is_overlay) {
                (true, _) => recorder.record_restored(evaluation),
                (false, true) => recorder.record_revoked(evaluation, RevokedBy::Overlay),
                (false, false) => recorder.record_revoked(evaluation, RevokedBy::Policy),
            }
        }
    }

    /// Adds a revoked connection, if there is room.
    fn add(&mut self, found: &SweptConnection) {
        let SweptConnection { connection, entry, is_oriented, .. } = found;
        let before = self.known.len();
        self.known.remove_replaced(connection, Some(entry));
        let has_room = self.known.len() < MOST
            && self.known.of_tuple(connection).take(MOST_OF_TUPLE).count() < MOST_OF_TUPLE;
        if has_room || self.known.len() < before {
            let known = Connection { entry: Some(entry.clone()), is_oriented: *is_oriented };
            self.known.insert(*connection, known);
        }
        if self.known.holds(connection) {
            self.tuples.want(connection);
        }
    }

    /// Call this when a connection was removed: the kernel's set keeps its tuple while another connection has
    /// it.
    fn release_tuple(&mut self, connection: &Packet) {
        if !self.known.holds(connection) {
            self.tuples.unwant(connection);
        }
    }

    /// The connections to add to the kernel's set.
    pub(crate) fn missing(&mut self) -> Vec<Packet> {
        self.tuples.missing()
    }

    /// Call this when the connections in `missing` were added to the kernel's set, except `left_over`, for
    /// which it has no room.
    pub(crate) fn added(&mut self, missing: &[Packet], left_over: &[Packet]) {
        self.tuples.added(missing, left_over);
    }

    /// The connections to remove from the kernel's set.
    pub(crate) fn surplus(&self) -> Vec<Packet> {
        self.tuples.surplus()
    }

    /// Call this when these connections were removed from the kernel's set.
    pub(crate) fn removed(&mut self, connections: &[Packet]) {
        self.tuples.removed(connections);
    }

    /// Whether any connection is due.
    pub(crate) fn has_due(&self) -> bool {
        self.known.has_due()
    }

    /// How many connections were restored without a sweep since the last call.
    pub(crate) fn take_restored(&mut self) -> u64 {
        std::mem::take(&mut self.restored)
    }

    /// Makes all known tuples be added again: another program may have emptied the kernel's set.
    pub(crate) fn save_all(&mut self) {
        self.tuples.distrust();
    }

    /// Compares the registry with the content of the kernel's set. Adds connections that an earlier agent has
    /// revoked, and makes them due. Removes connections that have timed out in the set, unless their entries
    /// are still marked REVOKED: those are added to the set again.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be read.
    pub(crate) fn read(&mut self, in_kernel: &[Packet]) -> Result<(), ConntrackError> {
        let SetDelta { added, expired } = self.tuples.read(in_kernel);
        for connection in added {
            self.known.insert(connection, Connection { entry: None, is_oriented: false });
            self.known.mark_due(connection.source());
        }
        for connection in expired {
            if !self.is_marked_revoked(&connection)? {
                self.known.remove_tuple(&connection);
                self.tuples.unwant(&connection);
            }
        }
        Ok(())
    }

    /// Whether ANY connection of this tuple is marked REVOKED.
    fn is_marked_revoked(&mut self, connection: &Packet) -> Result<bool, ConntrackError> {
        for known in self.known.of_tuple(connection) {
            if let Some(entry) = &known.entry
                && self.conntrack.mark(entry)?.is_some_and(|mark| mark.has_any(self.marks.revoked()))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The evaluation of an established connection, as it is recorded.
fn evaluation(connection: Packet, decision: Decision, snapshot: &Arc<Snapshot>) -> Evaluation {
    Evaluation {
        at: SystemTime::now(),
        packet: Some(connection),
        decision,
        elapsed: Duration::ZERO,
        held: None,
        snapshot: Arc::clone(snapshot),
        cached: false,
    }
}

#[cfg(test)]
mod tests;
