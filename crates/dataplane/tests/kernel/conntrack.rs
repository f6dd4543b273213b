//! Reads and changes the kernel's connection tracking table.

use std::collections::BTreeMap;

use dataplane::conntrack::{Conntrack, Entry, EntryChange, MarkChange, VisitCounts};
use dataplane::marks::Mark;
use policy::Packet;

use crate::entries::{NewEntry, delete, make};
use crate::namespace::in_namespace;

/// Every entry's evaluated packet, as text, and its mark.
fn table() -> BTreeMap<String, Mark> {
    let mut table = BTreeMap::new();
    let mut conntrack = Conntrack::open().unwrap();
    conntrack
        .visit(|entry| {
            table.insert(summary(&entry.evaluated()), entry.mark);
            None::<MarkChange>
        })
        .unwrap();
    table
}

/// How many entries have ALL of these bits in their mark.
fn marked(bits: Mark) -> usize {
    table().into_values().filter(|mark| *mark & bits == bits).count()
}

fn summary(packet: &Packet) -> String {
    let port = |port: Option<u16>| port.map_or("-".to_owned(), |port| port.to_string());
    let kind = packet.icmp_type.map_or(String::new(), |kind| format!(" type {kind}"));
    let (from, to) = (port(packet.source_port), port(packet.destination_port));
    format!("{} {} {from} > {} {to}{kind}", packet.protocol, packet.source(), packet.destination())
}

#[test]
fn a_connection_is_evaluated_as_its_first_packet_was_after_dnat_and_before_snat() {
    in_namespace(&[], || {
        let service = ("10.96.0.10", 53);
        make([
            NewEntry::udp(("10.9.0.1", 4000), ("10.9.0.2", 5000)),
            NewEntry::udp(("10.9.0.1", 4001), service).with_dnat_to(("10.9.0.2", 5353)),
            NewEntry::udp(("10.9.0.1", 4002), ("192.0.2.9", 80)).tcp().with_snat_to(("192.0.2.1", 61000)),
            NewEntry::udp(("fd09::1", 4003), ("fd09::2", 443)).tcp(),
            NewEntry { protocol: 1, ..NewEntry::udp(("10.9.0.1", 77), ("10.9.0.2", 77)) },
            NewEntry { protocol: 58, ..NewEntry::udp(("fd09::1", 78), ("fd09::2", 78)) },
            NewEntry { protocol: 132, ..NewEntry::udp(("10.9.0.1", 4004), ("10.9.0.2", 3868)) },
        ]);
        let expected = [
            "ICMP 10.9.0.1 - > 10.9.0.2 - type 8",
            "ICMPv6 fd09::1 - > fd09::2 - type 128",
            "SCTP 10.9.0.1 4004 > 10.9.0.2 3868",
            "TCP 10.9.0.1 4002 > 192.0.2.9 80",
            "TCP fd09::1 4003 > fd09::2 443",
            "UDP 10.9.0.1 4000 > 10.9.0.2 5000",
            "UDP 10.9.0.1 4001 > 10.9.0.2 5353",
        ];
        assert_eq!(table().into_keys().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn the_mark_of_one_entry_is_read_until_it_ends() {
    in_namespace(&[], || {
        let connections = [
            NewEntry::udp(("10.9.0.1", 4000), ("10.9.0.2", 5000)),
            NewEntry::udp(("fd09::1", 4003), ("fd09::2", 443)).tcp(),
            NewEntry::udp(("10.9.0.1", 4000), ("10.9.0.2", 5000)).in_zone(7),
        ];
        make(connections.map(|entry| entry.marked(Mark(0x0100_4000))));
        let mut conntrack = Conntrack::open().unwrap();
        let mut names = Vec::new();
        let one = |entry: &Entry<'_>| {
            names.push(entry.name());
            (entry.zone == Some(7)).then_some(MarkChange { value: Mark::NONE, mask: Mark(0x4000) })
        };
        conntrack.visit(one).unwrap();
        let mut marks: Vec<_> = names.iter().map(|name| conntrack.mark(name).unwrap()).collect();
        marks.sort_by_key(|mark| mark.map(|mark| mark.0));
        assert_eq!(marks, [0x0100_0000, 0x0100_4000, 0x0100_4000].map(|mark| Some(Mark(mark))));
        conntrack.visit(|_| Some(EntryChange::Delete)).unwrap();
        assert!(names.iter().all(|name| conntrack.mark(name).unwrap().is_none()));
    });
}

#[test]
fn a_change_affects_only_the_bits_under_its_mask_in_every_protocol_family_and_zone() {
    in_namespace(&[], || {
        let connections = [
            NewEntry::udp(("10.9.0.1", 4000), ("10.9.0.2", 5000)),
            NewEntry::udp(("fd09::1", 4003), ("fd09::2", 443)).tcp(),
            NewEntry { protocol: 1, ..NewEntry::udp(("10.9.0.1", 77), ("10.9.0.2", 77)) },
            NewEntry { protocol: 58, ..NewEntry::udp(("fd09::1", 78), ("fd09::2", 78)) },
            NewEntry::udp(("10.9.0.1", 4005), ("10.9.0.2", 5000)).in_zone(7),
        ];
        make(connections.map(|entry| entry.marked(Mark(0x0100_4000))));
        let mut conntrack = Conntrack::open().unwrap();
        let change = MarkChange { value: Mark(0x0200_0000), mask: Mark(0x0300_0000) };
        let counts = conntrack.visit(|_| Some(change)).unwrap();
        assert_eq!(counts, VisitCounts { entries: 5, changed: 5, gone: 0 });
        assert!(table().into_values().all(|mark| mark == Mark(0x0200_4000)));
    });
}

#[test]
fn a_connection_that_ends_before_its_change_is_counted_as_gone() {
    in_namespace(&[], || {
        let ending = NewEntry::udp(("10.9.0.1", 4000), ("10.9.0.2", 5000));
        let staying = NewEntry::udp(("10.9.0.1", 4001), ("10.9.0.2", 5000));
        make([ending, staying]);
        let mut conntrack = Conntrack::open().unwrap();
        let change = MarkChange { value: Mark(1), mask: Mark(1) };
        let counts = conntrack.visit(|entry| {
            if entry.original.source_port == Some(4000) {
                delete(ending);
            }
            Some(change)
        });
        assert_eq!(counts, Ok(VisitCounts { entries: 2, changed: 1, gone: 1 }));
        assert_eq!(marked(Mark(1)), 1);
    });
}

#[test]
fn more_changes_than_fit_one_message_are_all_made() {
    in_namespace(&[], || {
        make((0..5_000u16).map(|port| NewEntry::udp(("10.9.0.1", port), ("10.9.0.2", 5000))));
        let mut conntrack = Conntrack::open().unwrap();
        let change = MarkChange { value: Mark(0x0200_0000), mask: Mark(0x0200_0000) };
        let counts = conntrack.visit(|_| Some(change)).unwrap();
        assert_eq!(counts, VisitCounts { entries: 5_000, changed: 5_000, gone: 0 });
        assert_eq!(marked(Mark(0x0200_0000)), 5_000);
    });
}
