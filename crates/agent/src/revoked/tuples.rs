//! The actual and the desired content of the kernel's set of tuples.
//!
//! From: the [`RevokedRegistry`](super::RevokedRegistry), which revokes and restores connections, and the
//! kernel's set, as it was read. To: [`RevokedConnections`](super::RevokedConnections), which adds tuples to
//! the set and removes them. Invariant: once the set was read, it contains no tuple that is not known here.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use policy::{Packet, Protocol};

/// A tuple in the lesser of its two orientations.
type Key = (IpAddr, IpAddr, Protocol, Option<u16>, Option<u16>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tuples {
    known: HashMap<Key, Tuple>,
    /// Tuples that are wanted and may not be in the set.
    missing: HashSet<Key>,
    /// Tuples that are not wanted and may be in the set.
    surplus: HashSet<Key>,
    /// Whether the kernel's set was read. Before that, it may contain any tuple.
    is_read: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tuple {
    /// Whether the set must contain it.
    is_wanted: bool,
    in_set: InSet,
}

/// Whether the kernel's set contains a tuple in both orientations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InSet {
    No,
    Unknown,
    Yes,
}

/// The difference between the kernel's set when it was read and the known tuples.
#[derive(Debug, Default)]
pub(super) struct SetDelta {
    /// Tuples in the set that were not known.
    pub added: Vec<Packet>,
    /// Wanted tuples that have timed out in the set.
    pub expired: Vec<Packet>,
}

impl Tuples {
    /// Makes the set's desired content include this connection. Connections without ports are never in the
    /// set.
    pub(super) fn want(&mut self, connection: &Packet) {
        self.set_wanted(connection, true);
    }

    /// Removes this connection from the set's desired content.
    pub(super) fn unwant(&mut self, connection: &Packet) {
        self.set_wanted(connection, false);
    }

    /// The tuples to add. Until [`Tuples::added`] is called, it is unknown whether they were added.
    pub(super) fn missing(&mut self) -> Vec<Packet> {
        for key in &self.missing {
            if let Some(tuple) = self.known.get_mut(key) {
                tuple.in_set = InSet::Unknown;
            }
        }
        self.missing.iter().map(packet).collect()
    }

    /// Call this when the tuples in `missing` were added to the set, except `left_over`, for which it has no
    /// room.
    pub(super) fn added(&mut self, missing: &[Packet], left_over: &[Packet]) {
        for (connections, in_set) in [(missing, InSet::Yes), (left_over, InSet::No)] {
            connections.iter().for_each(|connection| self.note(&key(connection), in_set));
        }
    }

    /// The tuples to remove.
    pub(super) fn surplus(&self) -> Vec<Packet> {
        self.surplus.iter().map(packet).collect()
    }

    /// Call this when these tuples were removed from the set.
    pub(super) fn removed(&mut self, connections: &[Packet]) {
        connections.iter().for_each(|connection| self.note(&key(connection), InSet::No));
    }

    /// Makes all wanted tuples be added again: another program may have emptied the set.
    pub(super) fn distrust(&mut self) {
        for (key, tuple) in &mut self.known {
            if tuple.is_wanted {
                tuple.in_set = InSet::Unknown;
                self.missing.insert(*key);
            }
        }
    }

    /// Compares with the set's content. A tuple that is in the set in one orientation only must be added
    /// again.
    pub(super) fn read(&mut self, in_kernel: &[Packet]) -> SetDelta {
        self.is_read = true;
        let mut found: HashMap<Key, u8> = HashMap::new();
        in_kernel.iter().for_each(|connection| *found.entry(key(connection)).or_default() += 1);
        let mut delta = SetDelta::default();
        for (key, orientations) in &found {
            if !self.known.contains_key(key) {
                self.known.insert(*key, Tuple { is_wanted: true, in_set: InSet::Yes });
                delta.added.push(packet(key));
            }
            // A tuple that equals its own reverse is in the set once.
            let is_whole = *orientations == 2 || packet(key) == packet(key).reversed();
            self.note(key, if is_whole { InSet::Yes } else { InSet::Unknown });
        }
        let absent: Vec<Key> = self.known.keys().filter(|key| !found.contains_key(*key)).copied().collect();
        for key in absent {
            let was = self.known.get(&key).copied();
            if was == Some(Tuple { is_wanted: true, in_set: InSet::Yes }) {
                delta.expired.push(packet(&key));
            }
            self.note(&key, InSet::No);
        }
        delta
    }

    /// Whether the set contains a tuple that is not in `known`.
    fn unknown(&self) -> InSet {
        if self.is_read { InSet::No } else { InSet::Unknown }
    }

    fn set_wanted(&mut self, connection: &Packet, is_wanted: bool) {
        if has_ports(connection) {
            let (key, in_set) = (key(connection), self.unknown());
            let tuple = self.known.entry(key).or_insert(Tuple { is_wanted, in_set });
            tuple.is_wanted = is_wanted;
            let in_set = tuple.in_set;
            self.note(&key, in_set);
        }
    }

    /// Updates whether the set contains a tuple, and whether the tuple must be added or removed.
    fn note(&mut self, key: &Key, in_set: InSet) {
        let Some(tuple) = self.known.get_mut(key) else { return };
        tuple.in_set = in_set;
        self.missing.remove(key);
        self.surplus.remove(key);
        match (tuple.is_wanted, in_set) {
            (true, InSet::Yes) => {}
            (true, InSet::No | InSet::Unknown) => drop(self.missing.insert(*key)),
            (false, InSet::No) => drop(self.known.remove(key)),
            (false, InSet::Unknown | InSet::Yes) => drop(self.surplus.insert(*key)),
        }
    }
}

/// Whether the kernel's set can contain the connection.
fn has_ports(connection: &Packet) -> bool {
    matches!(connection.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
        && connection.source_port.is_some()
        && connection.destination_port.is_some()
}

fn key(connection: &Packet) -> Key {
    let tuple = |packet: &Packet| {
        (packet.source(), packet.destination(), packet.protocol, packet.source_port, packet.destination_port)
    };
    tuple(connection).min(tuple(&connection.reversed()))
}

fn packet(&(source, destination, protocol, source_port, destination_port): &Key) -> Packet {
    let mut packet = Packet::new(source, destination, protocol);
    (packet.source_port, packet.destination_port) = (source_port, destination_port);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(port: u16) -> Packet {
        let mut connection = Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::TCP);
        (connection.source_port, connection.destination_port) = (Some(port), Some(80));
        connection
    }

    fn ports(connections: &[Packet]) -> Vec<u16> {
        let mut ports: Vec<u16> =
            connections.iter().filter_map(|connection| connection.source_port).collect();
        ports.sort_unstable();
        ports
    }

    fn read_empty() -> Tuples {
        let mut tuples = Tuples::default();
        tuples.read(&[]);
        tuples
    }

    #[test]
    fn each_tuple_that_may_be_in_the_set_is_removed_from_it_once() {
        let mut tuples = read_empty();
        for port in [1, 2, 3] {
            tuples.want(&connection(port));
        }
        let missing = tuples.missing();
        assert_eq!(ports(&missing), [1, 2, 3]);
        // There was no room for the last tuple.
        tuples.added(&missing, &[connection(3)]);
        for port in [1, 3, 4] {
            tuples.unwant(&connection(port));
            tuples.unwant(&connection(port).reversed());
        }
        assert_eq!(ports(&tuples.surplus()), [1]);
        tuples.removed(&tuples.surplus());
        assert_eq!((tuples.surplus(), tuples.known.len()), (vec![], 1));
    }

    #[test]
    fn a_connection_that_is_cut_again_stays_in_the_set_or_is_added_again() {
        let mut tuples = read_empty();
        tuples.want(&connection(1));
        let missing = tuples.missing();
        tuples.added(&missing, &[]);
        tuples.unwant(&connection(1));
        tuples.want(&connection(1).reversed());
        assert_eq!((tuples.surplus(), tuples.missing()), (vec![], vec![]));
        // The same holds while its removal is in progress.
        tuples.unwant(&connection(1));
        let surplus = tuples.surplus();
        tuples.want(&connection(1));
        tuples.removed(&surplus);
        assert_eq!(ports(&tuples.missing()), [1]);
    }

    #[test]
    fn before_it_was_read_the_set_may_contain_any_tuple() {
        let mut tuples = Tuples::default();
        tuples.unwant(&connection(1));
        tuples.want(&connection(2));
        assert_eq!((ports(&tuples.surplus()), ports(&tuples.missing())), (vec![1], vec![2]));
        let both = |port| [connection(port), connection(port).reversed()];
        let SetDelta { added, expired } = tuples.read(&[both(2), both(3)].concat());
        assert_eq!((added, expired), (vec![connection(3)], vec![]));
        assert_eq!((tuples.surplus(), tuples.missing()), (vec![], vec![]));
    }

    #[test]
    fn a_timed_out_tuple_is_expired_and_one_in_a_single_orientation_is_added_again() {
        let mut tuples = read_empty();
        [1, 2].iter().for_each(|port| tuples.want(&connection(*port)));
        let missing = tuples.missing();
        tuples.added(&missing, &[]);
        let SetDelta { expired, .. } = tuples.read(&[connection(2).reversed()]);
        assert_eq!(expired.len(), 1);
        tuples.unwant(&expired[0]);
        assert_eq!(ports(&tuples.missing()), [2]);
        tuples.distrust();
        assert_eq!(ports(&tuples.missing()), [2]);
    }

    #[test]
    fn connections_without_ports_are_never_in_the_set() {
        let mut tuples = Tuples::default();
        let ping = Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::ICMP);
        tuples.want(&ping);
        tuples.unwant(&ping);
        assert_eq!((tuples.missing(), tuples.surplus()), (vec![], vec![]));
    }
}
