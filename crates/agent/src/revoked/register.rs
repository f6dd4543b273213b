//! The connections that are cut, shared by the thread that sweeps and the thread that puts snapshots in force.
//!
//! From: sweeps (connections that are cut or to be cut), and the engine (the snapshot in force, and the pods that it affects). To: the
//! marks in conntrack, and [`RevokedConnections`](super::RevokedConnections). Invariant: REVOKED is set and cleared here alone, by one
//! thread at a time, as the snapshot in force says.
//!
//! As soon as a change is in force, the cut connections of the pods that it affects are evaluated by their tuples. This waits neither for
//! a sweep, which may be put off, nor for a packet, which would have to be queued. So neither the number of other connections nor a
//! sender over its quota delays it. A restored connection has the marks that it had before it was cut. The change affects its pods, so
//! its packets are evaluated again until a sweep has looked at it (`recheck`).
//!
//! A sweep may follow an older snapshot. What it finds is evaluated once more here, so it cuts no connection that is allowed again
//! meanwhile, and restores none that is denied again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::conntrack::{Conntrack, ConntrackError, EntryName};
use dataplane::marks::Marks;
use dataplane::sweep::{
    Evaluator, LocalAddresses, MarkCounts, OverlayFlows, Standing, SweptConnection, apply_marks, revoke,
};
use policy::{Affected, Packet, Protocol, Snapshot};

use super::known::{Connection, Known};

/// The most connections that are known: as many as the kernel's set holds. Others are restored by sweeps alone.
const MOST: usize = 65_536;

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
    /// Connections that may be lacking in the kernel's set.
    missing: Vec<Packet>,
    /// Connections that were restored, and are in the kernel's set still.
    restored: Vec<Packet>,
    /// How many connections were restored without a sweep.
    count: u64,
}

/// What the kernel's set holds of a connection.
type Tuple = (IpAddr, IpAddr, Protocol, Option<u16>, Option<u16>);

impl Register {
    /// An empty one, before this snapshot is in force.
    pub fn new(conntrack: Conntrack, marks: Marks, snapshot: Arc<Snapshot>) -> Self {
        Self {
            conntrack,
            marks,
            snapshot,
            overlay: Arc::default(),
            known: Known::default(),
            missing: Vec::new(),
            restored: Vec::new(),
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
        let (mut evaluated, mut allowed) = (0, Vec::new());
        while evaluated < EVALUATED_AT_ONCE && allowed.len() < RESTORED_AT_ONCE {
            let Some(due) = self.known.take_due() else { break };
            evaluated += due.len();
            allowed.extend(due.into_iter().filter(|(connection, known)| {
                evaluator.standing(connection, known.is_oriented) == Standing::Allowed
            }));
        }
        let change = revoke(&self.marks, false);
        let entries = allowed.iter().filter_map(|(_, known)| Some((known.entry.as_ref()?, change)));
        let changed = self.conntrack.change_marks(entries)?.changed;
        self.count += changed;
        for (connection, _) in allowed {
            self.known.remove(&connection);
            self.restored.push(connection);
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
            let known = self.known.find(&found.connection).filter(|(_, known)| known.entry.is_some());
            found.is_oriented &= known.is_none_or(|(_, known)| known.is_oriented);
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
                    self.known.remove(&found.connection);
                    self.restored.push(found.connection);
                }
                (true, false) => {}
            }
        }
        Ok(settled)
    }

    /// Sets REVOKED again on connections that lost it, except those that were restored since. Returns the connections on which it was set.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed.
    pub fn cut_again(
        &mut self,
        mut lost: Vec<(Packet, EntryName)>,
    ) -> Result<Vec<(Packet, EntryName)>, ConntrackError> {
        // Another thread may have restored a connection since: it stays restored.
        lost.retain(|(connection, entry)| {
            self.known.find(connection).is_some_and(|(_, known)| known.entry.as_ref() == Some(entry))
        });
        let change = revoke(&self.marks, true);
        self.conntrack.change_marks(lost.iter().map(|(_, entry)| (entry, change)))?;
        Ok(lost)
    }

    /// A connection is cut.
    fn add(&mut self, found: &SweptConnection) {
        let before = self.known.find(&found.connection).map(|(_, known)| known.is_saved);
        if before.is_none() && self.known.len() >= MOST {
            return;
        }
        let (entry, is_oriented) = (Some(found.entry.clone()), found.is_oriented);
        let is_saved = before.unwrap_or(false);
        self.known.insert(found.connection, Connection { entry, is_oriented, is_saved });
        if before.is_none() {
            self.missing.push(found.connection);
        }
    }

    /// Connections to add to the kernel's set.
    pub fn take_missing(&mut self) -> Vec<Packet> {
        let mut missing = std::mem::take(&mut self.missing);
        missing.retain(|connection| self.known.find(connection).is_some_and(|(_, known)| !known.is_saved));
        missing
    }

    /// These need not be added to the kernel's set any more.
    pub fn saved(&mut self, connections: &[Packet]) {
        for connection in connections {
            if let Some(known) = self.known.find_mut(connection) {
                known.is_saved = true;
            }
        }
    }

    /// These are to be added to the kernel's set after all.
    pub fn not_saved(&mut self, connections: Vec<Packet>) {
        self.missing.extend(connections);
    }

    /// Connections to remove from the kernel's set.
    pub fn take_restored(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.restored)
    }

    /// These are to be removed from the kernel's set after all.
    pub fn not_removed(&mut self, connections: Vec<Packet>) {
        self.restored.extend(connections);
    }

    /// How many connections were restored without a sweep since the last call.
    pub fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }

    /// Another program may have emptied the kernel's set: all that is known is to be added.
    pub fn save_all(&mut self) {
        self.missing = self.known.all().map(|(connection, _)| *connection).collect();
        for connection in &self.missing {
            if let Some(known) = self.known.find_mut(connection) {
                known.is_saved = false;
            }
        }
    }

    /// Takes in what the kernel's set holds: forgets what has timed out there, and learns what an earlier agent has cut.
    pub fn read(&mut self, in_kernel: &[Packet]) {
        let in_kernel: BTreeSet<_> = in_kernel.iter().map(tuple).collect();
        let is_gone = |(connection, known): &(&Packet, &Connection)| {
            known.is_saved && !in_kernel.contains(&tuple(connection))
        };
        let gone: Vec<Packet> = self.known.all().filter(is_gone).map(|(connection, _)| *connection).collect();
        gone.iter().for_each(|connection| self.known.remove(connection));
        for &(source, destination, protocol, source_port, destination_port) in &in_kernel {
            let mut connection = Packet::new(source, destination, protocol);
            (connection.source_port, connection.destination_port) = (source_port, destination_port);
            // Each is there in both orientations.
            match self.known.find(&connection) {
                Some((known, _)) => self.saved(&[known]),
                None => self
                    .known
                    .insert(connection, Connection { entry: None, is_oriented: false, is_saved: true }),
            }
        }
    }
}

fn tuple(packet: &Packet) -> Tuple {
    (packet.source(), packet.destination(), packet.protocol, packet.source_port, packet.destination_port)
}

#[cfg(test)]
mod tests {
    use policy::{Compiler, Scope};

    use super::*;

    #[test]
    fn a_connection_of_an_earlier_agent_is_known_once_until_it_times_out_in_the_kernels_set() {
        let mut connection = Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::TCP);
        (connection.source_port, connection.destination_port) = (Some(4000), Some(80));
        let snapshot = Compiler::new(Scope::Node("node-a".into())).apply([]).snapshot;
        let mut register = Register::new(Conntrack::open().unwrap(), Marks::default(), snapshot);
        register.read(&[connection, connection.reversed()]);
        assert_eq!(register.known.len(), 1);
        assert!(register.known.find(&connection).is_some_and(|(_, known)| !known.is_oriented));
        assert_eq!(register.take_missing(), []);

        register.save_all();
        assert_eq!(register.take_missing().len(), 1);
        register.read(&[]);
        assert_eq!(register.known.len(), 1, "it is still to be added to the set");
        register.saved(&[connection]);
        register.read(&[]);
        assert_eq!(register.known.len(), 0);
    }
}
