//! Packets that hide what they carry: fragments, options, extension headers, and invalid headers.

use super::case::Case;
use super::frame;
use super::message::{self, Message, Path, flag, protocol};
use super::packet::{fragment, fragments, packet, packet_with_extension, packet_with_options};
use super::suite::Suite;
use super::topology::Topology;
use crate::probe::Family;

/// Attacker and peer: isolated for ingress and for egress, on the same node and across nodes.
const PAIRS: [(&str, &str); 4] =
    [("evil/a", "victim/v"), ("evil/a", "victim/w"), ("closed/c", "open/o"), ("closed/c", "open/p")];

/// Options of IPv4: no operation, record route, loose source route, router alert.
const OPTIONS: [(&str, &[u8]); 4] = [
    ("no operation", &[1, 1, 1, 0]),
    ("record route", &[7, 7, 4, 0, 0, 0, 0, 0]),
    ("a loose source route", &[131, 7, 4, 10, 244, 1, 1, 0]),
    ("router alert", &[148, 4, 0, 0]),
];

/// Extension headers of IPv6: the type, and the bytes, which include next header and length.
const EXTENSIONS: [(&str, u8, &[u8]); 9] = [
    ("hop-by-hop options", 0, &[0, 0, 1, 4, 0, 0, 0, 0]),
    ("a router alert", 0, &[0, 0, 5, 2, 0, 0, 1, 0]),
    ("destination options", 60, &[0, 0, 1, 4, 0, 0, 0, 0]),
    ("a routing header of type 0", 43, &[0, 0, 0, 0, 0, 0, 0, 0]),
    ("a routing header of type 253", 43, &[0, 0, 253, 0, 0, 0, 0, 0]),
    ("a fragment header of one fragment", 44, &[0, 0, 0, 0, 0, 0, 0, 9]),
    ("an authentication header", 51, &[0, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1]),
    ("a mobility header", 135, &[0, 0, 0, 0, 0, 0, 0, 0]),
    ("a shim6 header", 140, &[0, 0, 0x80, 0, 0, 0, 0, 0]),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    in_fragments(suite);
    options(suite);
    extension_headers(suite);
    other_protocols(suite);
    invalid_headers(suite);
}

/// Sends UDP and TCP in fragments: tiny, reversed, overlapping, and only one of them.
fn in_fragments(suite: &mut Suite) {
    for kind in ["tiny", "the last first", "overlapping", "the first alone", "a later one alone"] {
        for family in Family::BOTH {
            for (from, to) in PAIRS {
                for protocol in ["UDP", "TCP"] {
                    let case = Case::new(format!("{protocol} in fragments, {kind}"), from, to).family(family);
                    suite.frames(case, |topology, mark| {
                        let path = topology.path(from, to, family);
                        let data = [&[0; 24][..], &mark.bytes(), &[0; 64]].concat();
                        let message = match protocol {
                            "UDP" => message::udp(path, mark.ports(), &data),
                            _ => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &data),
                        };
                        let frame = |packet: &Vec<u8>| {
                            frame::of_packet(topology.next_hop(from, to), topology[from].mac(), packet)
                        };
                        cut(kind, path, &message, mark.port()).iter().map(frame).collect()
                    });
                }
            }
        }
    }
}

fn cut(kind: &str, path: Path, message: &Message, id: u16) -> Vec<Vec<u8>> {
    match kind {
        "tiny" => fragments(path, message, id, &[8, 16, 24, 32]),
        "the last first" => fragments(path, message, id, &[16, 64]).into_iter().rev().collect(),
        "overlapping" => {
            let mut parts = fragments(path, message, id, &[48]);
            parts.insert(1, fragment(path, message.protocol, id, (0, false), &message.bytes[..48]));
            parts
        }
        "the first alone" => fragments(path, message, id, &[56]).into_iter().take(1).collect(),
        _ => vec![fragment(path, message.protocol, id, (64, false), &message.bytes)],
    }
}

/// Sends UDP behind options of IPv4.
fn options(suite: &mut Suite) {
    for (what, options) in OPTIONS {
        for (from, to) in PAIRS {
            let case = Case::new(format!("UDP behind the option {what}"), from, to).family(Family::V4);
            suite.frame(case, |topology, mark| {
                let path = topology.path(from, to, Family::V4);
                let message = message::udp(path, mark.ports(), &mark.bytes());
                framed(topology, from, to, &packet_with_options(path, &message, options))
            });
        }
    }
}

/// Sends UDP and TCP behind extension headers of IPv6.
fn extension_headers(suite: &mut Suite) {
    for (what, kind, bytes) in EXTENSIONS {
        for (from, to) in PAIRS {
            for protocol in ["UDP", "TCP"] {
                let case = Case::new(format!("{protocol} behind {what}"), from, to).family(Family::V6);
                suite.frame(case, |topology, mark| {
                    let path = topology.path(from, to, Family::V6);
                    let message = match protocol {
                        "UDP" => message::udp(path, mark.ports(), &mark.bytes()),
                        _ => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                    };
                    framed(topology, from, to, &packet_with_extension(path, &message, kind, bytes))
                });
            }
        }
    }
}

/// Sends protocols that policies can't name.
fn other_protocols(suite: &mut Suite) {
    let protocols = [
        0,
        protocol::IPV4,
        protocol::IPV6,
        33,
        46,
        47,
        50,
        51,
        59,
        89,
        103,
        112,
        115,
        132,
        136,
        137,
        143,
        253,
        255,
    ];
    for number in protocols {
        for family in Family::BOTH {
            for (from, to) in PAIRS {
                let case = Case::new(format!("protocol {number}"), from, to).family(family);
                suite.frame(case, |topology, mark| {
                    let path = topology.path(from, to, family);
                    let data = [&mark.bytes()[..], &[0; 32], &mark.bytes()].concat();
                    framed(topology, from, to, &packet(path, &message::raw(number, &data)))
                });
            }
        }
    }
}

/// Sends UDP in packets with invalid headers: version, header length, total length, checksum, reserved bit,
/// time to live.
fn invalid_headers(suite: &mut Suite) {
    let changes: [(&str, usize, u8); 8] = [
        ("version 5", 0, 0x55),
        ("a header of four words", 0, 0x44),
        ("a header of fifteen words", 0, 0x4f),
        ("a total length of 21", 3, 21),
        ("a total length that is too long", 2, 0x7f),
        ("a wrong checksum", 10, 0x99),
        ("a reserved fragment bit", 6, 0x80),
        ("a time to live of 0", 8, 0),
    ];
    for (from, to) in PAIRS {
        for (what, at, byte) in changes {
            let case = Case::new(format!("UDP in a packet with {what}"), from, to).family(Family::V4);
            suite.frame(case, |topology, mark| {
                let path = topology.path(from, to, Family::V4);
                let mut packet = packet(path, &message::udp(path, mark.ports(), &mark.bytes()));
                packet[at] = byte;
                framed(topology, from, to, &packet)
            });
        }
        for (what, at, byte) in [
            ("a payload length of 0", 5, 0),
            ("a payload length that is too long", 4, 0x7f),
            ("version 4", 0, 0x45),
        ] {
            let case = Case::new(format!("UDP in a packet with {what}"), from, to).family(Family::V6);
            suite.frame(case, |topology, mark| {
                let path = topology.path(from, to, Family::V6);
                let mut packet = packet(path, &message::udp(path, mark.ports(), &mark.bytes()));
                packet[at] = byte;
                let own = topology[from].mac();
                frame::of_type(topology.next_hop(from, to), own, 0x86dd, &packet)
            });
        }
    }
}

fn framed(topology: &Topology, from: &str, to: &str, packet: &[u8]) -> Vec<u8> {
    frame::of_packet(topology.next_hop(from, to), topology[from].mac(), packet)
}
