//! The connections that are cut, shared by the thread that sweeps and the thread that puts snapshots in force.
//!
//! From: sweeps (connections that are cut or to be cut), and the engine (the snapshot in force, and the pods that it affects). To: the
//! marks in conntrack, and [`RevokedConnections`](super::RevokedConnections). Invariant: REVOKED is set and cleared here alone, by one
//! thread at a time, as the snapshot in force says.
//!
//! As soon as a change is in force, the cut connections of the pods that it affects are evaluated by their tuples. This waits neither for
//! a sweep, which may be put off, nor for a packet, which would have to be queued. So neither the number of other connections nor a
//! sender over its quota delays it. A restored connection has the marks that it had before it was cut. The change affects its pods, so
//! its packets are evaluated again until a sweep has looked at it (`revalidate`).
//!
//! A sweep may follow an older snapshot. What it finds is evaluated once more here, so it cuts no connection that is allowed again
//! meanwhile, and restores none that is denied again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::conntrack::{Conntrack, ConntrackError};
use dataplane::marks::Marks;
use dataplane::sweep::{
    Evaluator, LocalAddresses, MarkCounts, OverlayFlows, Standing, SweptConnection, apply_marks, revoke,
    unaccept,
};
use policy::{Affected, Packet, Snapshot};

use super::known::{Connection, Known};
use super::tuples::{Differences, Tuples};

/// The most connections that are known: as many as the kernel's set holds. Others are restored by sweeps alone.
const MOST: usize = 65_536;

/// The most connections with one tuple that are known: a pod that sends pings with many identifiers must not make others wait. Others are
/// restored by sweeps alone.
const MOST_OF_TUPLE: usize = 64;

/// The most connections that are evaluated at once, at some tenths of a microsecond each.
const EVALUATED_AT_ONCE: usize = 4_096;
/// The most connections that are restored at once, give or take a turn: mark and set take some microseconds each, and the next change
/// waits.
const RESTORED_AT_ONCE: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Register {
    conntrack: Conntrack,
    marks: Marks,
    /// The snapshot in force.
    snapshot: Arc<Snapshot>,
    overlay: Arc<OverlayFlows>,
    known: Known,
    /// The kernel's set. Invariant: wants the tuples of the known connections.
    tuples: Tuples,
    /// How many connections were restored without a sweep.
    count: u64,
}

impl Register {
    /// An empty one, before this snapshot is in force.
    pub fn new(conntrack: Conntrack, marks: Marks, snapshot: Arc<Snapshot>) -> Self {
        Self {
            conntrack,
            marks,
            snapshot,
            overlay: Arc::default(),
            known: Known::default(),
            tuples: Tuples::default(),
            count: 0,
        }
    }

    /// To be called when `snapshot` is in force: makes the connections of `affected` addresses due. Returns whether any is due.
    pub fn follow(
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

    /// Other pods have these addresses: connections that were cut of the pods before are not restored, but deleted by the next sweep.
    pub fn reassign(&mut self, addresses: &BTreeSet<IpAddr>) {
        addresses.iter().for_each(|address| self.known.forget_entries(*address));
    }

    /// Evaluates some of the connections that are due, and clears REVOKED on those that are allowed. Returns whether others are due.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed: the connections still count as cut, though some marks may be cleared.
    pub fn restore_due(&mut self, local: &LocalAddresses) -> Result<bool, ConntrackError> {
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        // One whose two ends are both due is taken twice.
        let (mut evaluated, mut allowed) = (0, BTreeMap::new());
        while evaluated < EVALUATED_AT_ONCE && allowed.len() < RESTORED_AT_ONCE {
            let Some(due) = self.known.take_due() else { break };
            evaluated += due.len();
            let is_allowed = |(_, connection, known): &(_, Packet, Connection)| {
                evaluator.standing(connection, known.is_oriented) == Standing::Allowed
            };
            let due = due.into_iter().filter(is_allowed);
            allowed.extend(due.map(|(id, connection, known)| (id, (connection, known.entry))));
        }
        let change = revoke(&self.marks, false);
        let entries = allowed.values().filter_map(|(_, entry)| Some((entry.as_ref()?, change)));
        let changed = self.conntrack.change_marks(entries)?.changed;
        self.count += changed;
        for (id, (connection, _)) in allowed {
            self.known.remove(id);
            self.release_tuple(&connection);
        }
        Ok(self.known.has_due())
    }

    /// Cuts and restores what a sweep has found, as the snapshot in force says.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed.
    pub fn apply_marks(
        &mut self,
        found: &mut [SweptConnection],
        local: &LocalAddresses,
    ) -> Result<MarkCounts, ConntrackError> {
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        for found in found.iter_mut() {
            // What is known from the kernel's set alone says nothing about the opener: then the sweep's answer counts.
            let known = self.known.find(&found.connection, &found.entry);
            found.is_oriented &= known.is_none_or(|known| known.is_oriented);
            found.is_allowed = match evaluator.standing(&found.connection, found.is_oriented) {
                Standing::Allowed => true,
                Standing::Denied => false,
                Standing::Unknown => !found.is_revoked,
            };
        }
        let settled = apply_marks(&mut self.conntrack, &self.marks, found)?;
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

    /// Sets REVOKED again on connections that lost it, except those that the snapshot in force allows: another thread may have restored
    /// them since. Returns the connections on which it was set.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed.
    pub fn cut_again(
        &mut self,
        mut lost: Vec<SweptConnection>,
        local: &LocalAddresses,
    ) -> Result<Vec<SweptConnection>, ConntrackError> {
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        // What was cut stays cut until it is allowed, also if a pod is not known meanwhile.
        lost.retain(|lost| evaluator.standing(&lost.connection, lost.is_oriented) != Standing::Allowed);
        let change = revoke(&self.marks, true);
        self.conntrack.change_marks(lost.iter().map(|lost| (&lost.entry, change)))?;
        Ok(lost)
    }

    /// Clears ACCEPTED again on connections that got it back, except those that the snapshot in force allows or denies: a worker may have
    /// allowed them since, and a sweep cuts them. Returns the connections on which it was cleared.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed.
    pub fn unaccept_again(
        &mut self,
        mut lost: Vec<SweptConnection>,
        local: &LocalAddresses,
    ) -> Result<Vec<SweptConnection>, ConntrackError> {
        let evaluator = Evaluator { snapshot: &self.snapshot, local, overlay: &self.overlay };
        lost.retain(|lost| evaluator.standing(&lost.connection, lost.is_oriented) == Standing::Unknown);
        let change = unaccept(&self.marks);
        self.conntrack.change_marks(lost.iter().map(|lost| (&lost.entry, change)))?;
        Ok(lost)
    }

    /// A connection is cut.
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

    /// A connection is known no more: the kernel's set holds its tuple as long as another one has it.
    fn release_tuple(&mut self, connection: &Packet) {
        if !self.known.holds(connection) {
            self.tuples.unwant(connection);
        }
    }

    /// Connections to add to the kernel's set.
    pub fn missing(&mut self) -> Vec<Packet> {
        self.tuples.missing()
    }

    /// The kernel's set holds those of `missing` that are not `left_over`, for which it has no room.
    pub fn added(&mut self, missing: &[Packet], left_over: &[Packet]) {
        self.tuples.added(missing, left_over);
    }

    /// Connections to remove from the kernel's set.
    pub fn surplus(&self) -> Vec<Packet> {
        self.tuples.surplus()
    }

    /// The kernel's set holds none of these.
    pub fn removed(&mut self, connections: &[Packet]) {
        self.tuples.removed(connections);
    }

    /// Whether any connection is due.
    pub fn has_due(&self) -> bool {
        self.known.has_due()
    }

    /// How many connections were restored without a sweep since the last call.
    pub fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }

    /// Another program may have emptied the kernel's set: all that is known is to be added.
    pub fn save_all(&mut self) {
        self.tuples.distrust();
    }

    /// Takes in what the kernel's set holds. Learns what an earlier agent has cut, and has it evaluated. Forgets what has timed out there,
    /// unless conntrack still shows it as cut: that is added again.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be read.
    pub fn read(&mut self, in_kernel: &[Packet]) -> Result<(), ConntrackError> {
        let Differences { learned, gone } = self.tuples.read(in_kernel);
        for connection in learned {
            self.known.insert(connection, Connection { entry: None, is_oriented: false });
            self.known.mark_due(connection.source());
        }
        for connection in gone {
            if !self.is_cut(&connection)? {
                self.known.remove_tuple(&connection);
                self.tuples.unwant(&connection);
            }
        }
        Ok(())
    }

    /// Whether ANY connection of this tuple is marked REVOKED.
    fn is_cut(&mut self, connection: &Packet) -> Result<bool, ConntrackError> {
        for known in self.known.of_tuple(connection) {
            if let Some(entry) = &known.entry
                && self.conntrack.mark(entry)?.is_some_and(|mark| mark & self.marks.revoked().0 != 0)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
