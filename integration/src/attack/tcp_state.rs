//! TCP packets that open no connection: conntrack accepts some as new connections (loose pickup), and
//! considers others invalid.

use super::case::Case;
use super::frame;
use super::message::{self, flag};
use super::packet::packet;
use super::suite::Suite;
use crate::probe::Family;

/// The flags of one packet without a connection, and whether conntrack accepts it as a new connection.
const FLAGS: [(&str, u8, bool); 12] = [
    ("ACK", flag::ACK, true),
    ("PSH and ACK", flag::PSH | flag::ACK, true),
    ("SYN", flag::SYN, true),
    ("SYN and URG", flag::SYN | flag::URG, true),
    ("FIN and ACK", flag::FIN | flag::ACK, true),
    ("SYN and ACK", flag::SYN | flag::ACK, false),
    ("RST", flag::RST, false),
    ("RST and ACK", flag::RST | flag::ACK, false),
    ("FIN", flag::FIN, false),
    ("SYN and FIN", flag::SYN | flag::FIN, false),
    ("no flags", 0, false),
    ("all flags", 0x3f, false),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    without_a_connection(suite);
    bad_checksums(suite);
}

/// Sends one TCP packet without a connection, with every combination of flags.
fn without_a_connection(suite: &mut Suite) {
    let pairs =
        [("evil/a", "victim/v"), ("evil/a", "victim/w"), ("closed/c", "open/o"), ("closed/c", "open/p")];
    for (what, flags, is_new) in FLAGS {
        for family in Family::BOTH {
            for (from, to) in pairs {
                let case = Case::new(format!("TCP with {what}"), from, to).family(family);
                let case = match (is_new, to) {
                    (true, _) => case.recorded(suite.topology.path(from, to, family)),
                    // The victim's node drops it, and does not know through which port it entered the
                    // attacker's node.
                    (false, "victim/w") => case,
                    (false, _) => case.dropped("invalid-tcp"),
                };
                suite.frame(case, |topology, mark| {
                    let path = topology.path(from, to, family);
                    let message = message::tcp(path, mark.ports(), flags, (1000, 2000), &mark.bytes());
                    frame::of_packet(
                        topology.next_hop(from, to),
                        topology[from].mac(),
                        &packet(path, &message),
                    )
                });
            }
        }
    }
}

/// Sends UDP, TCP and ICMP with a wrong checksum. Conntrack considers them invalid, but a receiver may ignore
/// the checksum.
fn bad_checksums(suite: &mut Suite) {
    for protocol in ["UDP", "TCP", "echo"] {
        for family in Family::BOTH {
            for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/o")] {
                let case = Case::new(format!("{protocol} with a wrong checksum"), from, to).family(family);
                suite.frame(case, |topology, mark| {
                    let path = topology.path(from, to, family);
                    let (mut message, at) = match protocol {
                        "UDP" => (message::udp(path, mark.ports(), &mark.bytes()), 6),
                        "TCP" => (message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()), 16),
                        _ => (message::echo(path, false, mark.port(), &mark.bytes()), 2),
                    };
                    message.bytes[at] ^= 0x55;
                    frame::of_packet(
                        topology.next_hop(from, to),
                        topology[from].mac(),
                        &packet(path, &message),
                    )
                });
            }
        }
    }
}
