//! VLAN tags and protocols other than IP and ARP: rules about IP don't see what they carry.

use super::case::Case;
use super::frame::{self, DOT1AD, DOT1Q, Mac};
use super::mark::Mark;
use super::message;
use super::packet::packet;
use super::suite::Suite;
use super::topology::Topology;
use crate::probe::Family;

/// Tags before an IP packet, outermost first: the type, and the priority with the VLAN number.
const TAGS: [(&str, &[(u16, u16)]); 9] = [
    ("802.1Q", &[(DOT1Q, 5)]),
    ("802.1Q of network 1", &[(DOT1Q, 1)]),
    ("802.1Q with priority alone", &[(DOT1Q, 0xe000)]),
    ("802.1Q twice", &[(DOT1Q, 5), (DOT1Q, 6)]),
    ("802.1Q three times", &[(DOT1Q, 5), (DOT1Q, 6), (DOT1Q, 7)]),
    ("802.1ad", &[(DOT1AD, 5)]),
    ("802.1ad with priority alone", &[(DOT1AD, 0xe000)]),
    ("QinQ", &[(DOT1AD, 5), (DOT1Q, 6)]),
    ("the old type of QinQ", &[(0x9100, 5), (DOT1Q, 6)]),
];

/// EtherTypes other than IP: for experiments, LLDP, PPPoE, MPLS, RARP, IPX, 802.1X, MACsec, the loopback
/// protocol, TIPC, and an unassigned one.
const TYPES: [(&str, u16); 12] = [
    ("0x88b5", 0x88b5),
    ("LLDP", 0x88cc),
    ("PPPoE", 0x8864),
    ("PPPoE discovery", 0x8863),
    ("MPLS", 0x8847),
    ("RARP", 0x8035),
    ("IPX", 0x8137),
    ("802.1X", 0x888e),
    ("MACsec", 0x88e5),
    ("loopback", 0x9000),
    ("TIPC", 0x88ca),
    ("0xffff", 0xffff),
];

/// An attacker whose peer is isolated for ingress, and one that is itself isolated for egress.
const PAIRS: [(&str, &str); 2] = [("evil/a", "victim/v"), ("closed/c", "open/o")];

/// All attempts.
pub fn all(suite: &mut Suite) {
    vlan_tags(suite);
    other_types(suite);
    length_fields(suite);
    other_version(suite);
    to_all(suite);
}

/// Sends UDP behind VLAN tags, also with a friend's source address.
fn vlan_tags(suite: &mut Suite) {
    for (what, tags) in TAGS {
        for family in Family::BOTH {
            for (from, to) in PAIRS {
                let case = Case::new(format!("UDP behind {what}"), from, to).family(family);
                suite.frame(case.dropped_on_bridge("ether-type"), |topology, mark| {
                    let packet = datagram(topology, from, to, family, mark);
                    frame::tagged(topology.next_hop(from, to), topology[from].mac(), tags, &packet)
                });
            }
        }
    }
    for family in Family::BOTH {
        let case = Case::new("UDP to the node behind 802.1Q with priority alone", "closed/c", "node-a");
        // Without a bridge, the kernel removes the tag, and a packet with a forged source remains.
        let reason = if suite.topology.is_bridged() { "ether-type" } else { "spoofed-source" };
        suite.frame(case.family(family).dropped(reason), |topology, mark| {
            let host = &topology["closed/c"];
            let path = message::Path::new(
                topology["friend/f"].address(family),
                family.of(topology.nodes[0].addresses()),
            );
            let packet = packet(path, &message::udp(path, mark.ports(), &mark.bytes()));
            frame::tagged(host.gateway.mac, host.mac(), &[(DOT1Q, 0xe000)], &packet)
        });
    }
}

/// Sends frames of other protocols.
fn other_types(suite: &mut Suite) {
    for (what, ether_type) in TYPES {
        for (from, to) in PAIRS {
            let case = Case::new(format!("a frame of {what}"), from, to).dropped_on_bridge("ether-type");
            suite.frame(case, |topology, mark| {
                let payload = [&mark.bytes()[..], &[0; 60]].concat();
                frame::of_type(topology.next_hop(from, to), topology[from].mac(), ether_type, &payload)
            });
        }
    }
}

/// Sends frames of IEEE 802.3, with SNAP and with STP's LLC header.
fn length_fields(suite: &mut Suite) {
    for (from, to) in PAIRS {
        for family in Family::BOTH {
            let case =
                Case::new("UDP behind LLC and SNAP", from, to).family(family).dropped_on_bridge("ether-type");
            suite.frame(case, |topology, mark| {
                let packet = datagram(topology, from, to, family, mark);
                frame::snap(topology.next_hop(from, to), topology[from].mac(), &packet)
            });
        }
        let case = Case::new("a frame of 802.3 with STP's LLC", from, to).dropped_on_bridge("ether-type");
        suite.frame(case, |topology, mark| {
            let payload = [&[0x42, 0x42, 3][..], &mark.bytes(), &[0; 35]].concat();
            let length = u16::try_from(payload.len()).unwrap_or_default();
            frame::of_type(topology.next_hop(from, to), topology[from].mac(), length, &payload)
        });
    }
}

/// Sends IP packets of one version in frames with the EtherType of the other.
fn other_version(suite: &mut Suite) {
    for (from, to) in PAIRS {
        for (what, family, ether_type) in [
            ("IPv4 in a frame of type IPv6", Family::V4, 0x86dd),
            ("IPv6 in a frame of type IPv4", Family::V6, 0x0800),
        ] {
            suite.frame(Case::new(what, from, to).family(family), |topology, mark| {
                let packet = datagram(topology, from, to, family, mark);
                frame::of_type(topology.next_hop(from, to), topology[from].mac(), ether_type, &packet)
            });
        }
        for ether_type in [frame::ARP, 0x0800, 0x86dd] {
            let case = Case::new(format!("no packet in a frame of type {ether_type:#06x}"), from, to);
            suite.frame(case, |topology, mark| {
                frame::of_type(topology.next_hop(from, to), topology[from].mac(), ether_type, &mark.bytes())
            });
        }
    }
}

/// Sends frames of other protocols and with tags to all stations and to groups.
fn to_all(suite: &mut Suite) {
    let macs: [(&str, Mac); 3] = [
        ("all stations", frame::BROADCAST),
        ("a group", [0x01, 0, 0x5e, 0, 0, 1]),
        ("LLDP's group", [0x01, 0x80, 0xc2, 0, 0, 0x0e]),
    ];
    for (whom, mac) in macs {
        for from in ["evil/a", "closed/c"] {
            let case = |name: String| {
                let to = if from == "evil/a" { "evil/b" } else { "open/o" };
                Case::new(name, from, to).nor("victim/v").dropped_on_bridge("ether-type")
            };
            suite.frame(case(format!("a frame of 0x88b5 to {whom}")), |topology, mark| {
                frame::of_type(mac, topology[from].mac(), 0x88b5, &mark.bytes())
            });
            suite.frame(case(format!("UDP behind 802.1Q to {whom}")), |topology, mark| {
                let packet = datagram(topology, from, "victim/v", Family::V4, mark);
                frame::tagged(mac, topology[from].mac(), &[(DOT1Q, 5)], &packet)
            });
        }
    }
}

fn datagram(topology: &Topology, from: &str, to: &str, family: Family, mark: Mark) -> Vec<u8> {
    let path = topology.path(from, to, family);
    packet(path, &message::udp(path, mark.ports(), &mark.bytes()))
}
