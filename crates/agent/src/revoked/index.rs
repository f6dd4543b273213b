//! An index of revoked connections by tuple and by address, with a queue of addresses whose connections are
//! due for evaluation.
//!
//! From and to: the [`RevokedRegistry`](super::RevokedRegistry). Invariant: each connection is taken after it
//! became due, and addresses take turns.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};

use dataplane::conntrack::EntryName;
use policy::Packet;

/// How many connections of one address are taken in its turn.
pub(super) const IN_TURN: usize = 64;

/// Identifies a connection. Connections that are added later have higher numbers.
pub(super) type Id = u64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ConnectionIndex {
    /// Connections by their first packet as evaluated, in the orientation in which each was added. Several
    /// connections have the same packet if they differ in what `Packet` does not contain: an ICMP identifier,
    /// or the Service address before DNAT.
    ids: HashMap<Packet, Vec<Id>>,
    connections: HashMap<Id, (Packet, Connection)>,
    latest: Id,
    ends: HashMap<IpAddr, End>,
    /// Addresses whose connections are due, each once.
    due: VecDeque<IpAddr>,
}

/// A revoked connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Connection {
    /// Its entry in conntrack; `None` if it was only found in the kernel's set.
    pub entry: Option<EntryName>,
    /// Whether it is known which end opened it.
    pub is_oriented: bool,
}

/// The connections with one address at either end.
#[derive(Debug, Default)]
struct End {
    connections: BTreeSet<Id>,
    due: Due,
}

/// Which connections of an address are due.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Due {
    #[default]
    None,
    /// Those with a higher number than `taken`; if `again`, then all of them once more.
    After { taken: Id, again: bool },
}

impl ConnectionIndex {
    /// The number of connections.
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether any connection of this tuple is known, in either orientation.
    pub(super) fn holds(&self, connection: &Packet) -> bool {
        [*connection, connection.reversed()].iter().any(|packet| self.ids.contains_key(packet))
    }

    /// The connections of this tuple, in either orientation.
    pub(super) fn of_tuple(&self, connection: &Packet) -> impl Iterator<Item = &Connection> {
        self.ids_of(connection).into_iter().filter_map(|id| self.connections.get(&id)).map(|(_, known)| known)
    }

    /// The connection of this entry.
    pub(super) fn find(&self, connection: &Packet, entry: &EntryName) -> Option<&Connection> {
        let mut all = self.ids.get(connection)?.iter().filter_map(|id| self.connections.get(id));
        all.find(|(_, known)| known.entry.as_ref() == Some(entry)).map(|(_, known)| known)
    }

    /// Adds a connection. It replaces an earlier one with the same entry tuple, and connections of its tuple
    /// that were only found in the kernel's set.
    pub(super) fn insert(&mut self, connection: Packet, known: Connection) {
        self.remove_replaced(&connection, known.entry.as_ref());
        self.latest += 1;
        for end in [connection.source(), connection.destination()] {
            self.ends.entry(end).or_default().connections.insert(self.latest);
        }
        self.ids.entry(connection).or_default().push(self.latest);
        self.connections.insert(self.latest, (connection, known));
    }

    /// Removes the connection of this entry, and connections of its tuple that were only found in the
    /// kernel's set.
    pub(super) fn remove_replaced(&mut self, connection: &Packet, entry: Option<&EntryName>) {
        for id in self.ids_of(connection) {
            let known = self.connections.get(&id).map(|(_, known)| known.entry.as_ref());
            let is_replaced = known.is_some_and(|known| match (known, entry) {
                (Some(known), Some(entry)) => known.has_tuple_of(entry),
                (known, _) => known.is_none(),
            });
            if is_replaced {
                self.remove(id);
            }
        }
    }

    /// Removes all connections of this tuple, in either orientation.
    pub(super) fn remove_tuple(&mut self, connection: &Packet) {
        self.ids_of(connection).into_iter().for_each(|id| self.remove(id));
    }

    /// Removes one connection.
    pub(super) fn remove(&mut self, id: Id) {
        let Some((connection, _)) = self.connections.remove(&id) else { return };
        if let Some(ids) = self.ids.get_mut(&connection) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.ids.remove(&connection);
            }
        }
        for address in [connection.source(), connection.destination()] {
            if let Some(end) = self.ends.get_mut(&address) {
                end.connections.remove(&id);
                if end.connections.is_empty() {
                    self.ends.remove(&address);
                }
            }
        }
    }

    /// Clears the entries of this address's connections: another pod has the address, and a sweep will delete
    /// the entries.
    pub(super) fn clear_entries(&mut self, address: IpAddr) {
        for id in self.ends.get(&address).into_iter().flat_map(|end| &end.connections) {
            if let Some((_, known)) = self.connections.get_mut(id) {
                known.entry = None;
            }
        }
    }

    fn ids_of(&self, connection: &Packet) -> Vec<Id> {
        let orientations = [*connection, connection.reversed()];
        orientations.iter().filter_map(|packet| self.ids.get(packet)).flatten().copied().collect()
    }

    /// Makes all connections of this address due, including those that were due and have been taken.
    pub(super) fn mark_due(&mut self, address: IpAddr) {
        let Some(end) = self.ends.get_mut(&address) else { return };
        match &mut end.due {
            Due::None => {
                end.due = Due::After { taken: 0, again: false };
                self.due.push_back(address);
            }
            Due::After { again, .. } => *again = true,
        }
    }

    /// Makes all connections due.
    pub(super) fn mark_all_due(&mut self) {
        let addresses: Vec<IpAddr> = self.ends.keys().copied().collect();
        addresses.into_iter().for_each(|address| self.mark_due(address));
    }

    /// Whether any connection is due.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Takes some due connections of one address; `None` if none are due. Addresses take turns, so that one
    /// with many connections does not delay the others.
    pub(super) fn take_due(&mut self) -> Option<Vec<(Id, Packet, Connection)>> {
        let address = self.due.pop_front()?;
        // Connections may have been removed since, and an address with its last connection.
        let Some(end) = self.ends.get_mut(&address) else { return Some(Vec::new()) };
        let Due::After { taken, again } = end.due else { return Some(Vec::new()) };
        let ids: Vec<Id> =
            end.connections.range((Excluded(taken), Unbounded)).take(IN_TURN).copied().collect();
        end.due = match ids.last() {
            Some(last) if ids.len() == IN_TURN => Due::After { taken: *last, again },
            _ if again => Due::After { taken: 0, again: false },
            _ => Due::None,
        };
        if end.due != Due::None {
            self.due.push_back(address);
        }
        let known =
            |id: Id| self.connections.get(&id).map(|(connection, known)| (id, *connection, known.clone()));
        Some(ids.into_iter().filter_map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use policy::Protocol;

    use super::*;

    fn connection(client: u8, port: u16) -> Packet {
        let mut connection = Packet::new([10, 0, 0, client].into(), [10, 0, 1, 1].into(), Protocol::TCP);
        (connection.source_port, connection.destination_port) = (Some(port), Some(80));
        connection
    }

    fn by_tuple(is_oriented: bool) -> Connection {
        Connection { entry: None, is_oriented }
    }

    #[test]
    fn a_connection_is_found_in_either_orientation() {
        let connection = connection(1, 4000);
        let mut known = ConnectionIndex::default();
        known.insert(connection.reversed(), by_tuple(false));
        known.insert(connection, by_tuple(true));
        assert_eq!(known.len(), 1, "the later one replaces the earlier one");
        for packet in [connection, connection.reversed()] {
            assert!(known.holds(&packet));
            assert_eq!(known.of_tuple(&packet).collect::<Vec<_>>(), [&by_tuple(true)]);
        }
        known.remove_tuple(&connection.reversed());
        assert_eq!((known.len(), known.ids.len(), known.ends.len()), (0, 0, 0));
    }

    #[test]
    fn addresses_take_turns_and_each_of_their_connections_is_taken_after_it_became_due() {
        let mut known = ConnectionIndex::default();
        for port in 0..200 {
            known.insert(connection(1, port), by_tuple(true));
        }
        known.insert(connection(2, 1), by_tuple(true));
        let taken = |known: &mut ConnectionIndex| known.take_due().map(|taken| taken.len());
        assert_eq!(taken(&mut known), None);
        for client in [1, 2, 3] {
            known.mark_due([10, 0, 0, client].into());
        }
        assert_eq!(taken(&mut known), Some(IN_TURN));
        assert_eq!(taken(&mut known), Some(1), "the connection of the other address");
        // Half-way through, all become due once more.
        known.mark_due([10, 0, 0, 1].into());
        let mut rest = 0;
        while let Some(some) = taken(&mut known) {
            rest += some;
        }
        assert_eq!(rest, 200 - IN_TURN + 200);
        assert!(!known.has_due());
    }
}
