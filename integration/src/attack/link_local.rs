//! Link-local addresses: no policy can name them, so isolated pods have no traffic by them.

use std::net::Ipv4Addr;

use super::case::Case;
use super::field::Field;
use super::frame;
use super::message::{self, Path, flag};
use super::packet::packet;
use super::suite::Suite;
use super::wire;
use crate::probe::Family;

/// Of an attacker whose peer isolates ingress, and of one that isolates egress.
const PAIRS: [(&str, &str); 3] = [("evil/a", "victim/v"), ("closed/c", "open/o"), ("evil/b", "evil/a")];

/// All attempts.
pub fn all(suite: &mut Suite) {
    by_socket(suite);
    by_frame(suite);
    one_end(suite);
    to_the_node(suite);
    of_ipv4(suite);
}

/// Sends UDP from `fe80::` to `fe80::` by a plain socket, as any process can.
fn by_socket(suite: &mut Suite) {
    for (from, to) in PAIRS {
        let case = Case::new("UDP to fe80:: by a socket", from, to).family(Family::V6);
        suite.attempt(case.dropped_on_bridge("isolated-scope"), |means, mark| {
            let to = wire::scoped(means.field[to].link_local(), mark.port(), &means.field[from].interface);
            wire::send_datagram(means.testbed.namespace(from)?, mark.port(), to, &mark.bytes())
        });
    }
}

/// Sends TCP's SYN and an echo request from `fe80::` to `fe80::`.
fn by_frame(suite: &mut Suite) {
    for (from, to) in PAIRS {
        for protocol in ["TCP", "echo"] {
            let case = Case::new(format!("{protocol} to fe80::"), from, to).family(Family::V6);
            suite.frame(case.dropped_on_bridge("isolated-scope"), |field, mark| {
                let path = Path::new(field[from].link_local(), field[to].link_local());
                let message = match protocol {
                    "TCP" => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                    _ => message::echo(path, false, mark.port(), &mark.bytes()),
                };
                frame::of_packet(field.next_hop(from, to), field[from].mac(), &packet(path, &message))
            });
        }
    }
}

/// Sends UDP between a pod's own address and a link-local one, in both ways.
fn one_end(suite: &mut Suite) {
    for (from, to) in PAIRS {
        for source_is_local in [true, false] {
            let name = if source_is_local {
                "UDP from fe80:: to a pod's address"
            } else {
                "UDP to fe80:: from a pod's address"
            };
            let case = Case::new(name, from, to).family(Family::V6);
            suite.frame(case.dropped_on_bridge("isolated-scope|spoofed-source"), |field, mark| {
                let (source, destination) = (&field[from], &field[to]);
                let path = if source_is_local {
                    Path::new(source.link_local(), destination.v6())
                } else {
                    Path::new(source.v6(), destination.link_local())
                };
                udp_frame(field, from, field.next_hop(from, to), path, mark.ports(), &mark.bytes())
            });
        }
    }
}

/// Sends UDP, TCP and echo requests from an egress-isolated pod to its node's `fe80::`, from either of its own addresses.
fn to_the_node(suite: &mut Suite) {
    let from = "closed/c";
    for (protocol, own) in [("UDP", true), ("UDP", false), ("TCP", true), ("echo", true)] {
        let source = if own { "fe80::" } else { "its address" };
        let case = Case::new(format!("{protocol} to the node's fe80:: from {source}"), from, "node-a");
        suite.frame(case.family(Family::V6).dropped("isolated-scope"), |field, mark| {
            let host = &field[from];
            let source = if own { host.link_local() } else { host.v6() };
            let path = Path::new(source, host.gateway.link_local);
            let message = match protocol {
                "UDP" => message::udp(path, mark.ports(), &mark.bytes()),
                "TCP" => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                _ => message::echo(path, false, mark.port(), &mark.bytes()),
            };
            frame::of_packet(host.gateway.mac, host.mac(), &packet(path, &message))
        });
    }
}

/// Sends UDP with addresses of 169.254.0.0/16 at either end.
fn of_ipv4(suite: &mut Suite) {
    let local = |last| Ipv4Addr::new(169, 254, 7, last);
    for (from, to) in PAIRS {
        let case = |name: &str| Case::new(name, from, to).family(Family::V4);
        suite.frame(case("UDP between 169.254.x").dropped("spoofed-source"), |field, mark| {
            let path = Path::new(local(1), local(2));
            udp_frame(field, from, field.next_hop(from, to), path, mark.ports(), &mark.bytes())
        });
        let reasons = "isolated-scope|unbound-destination";
        suite.frame(case("UDP to 169.254.x").dropped_on_bridge(reasons), |field, mark| {
            let path = Path::new(field[from].v4(), local(2));
            udp_frame(field, from, field.next_hop(from, to), path, mark.ports(), &mark.bytes())
        });
        suite.frame(case("UDP from 169.254.x").dropped("spoofed-source"), |field, mark| {
            let path = Path::new(local(1), field[to].v4());
            udp_frame(field, from, field.next_hop(from, to), path, mark.ports(), &mark.bytes())
        });
    }
}

/// The frame of a datagram out of `from`'s interface.
pub(super) fn udp_frame(
    field: &Field,
    from: &str,
    to: frame::Mac,
    path: Path,
    ports: (u16, u16),
    data: &[u8],
) -> Vec<u8> {
    frame::of_packet(to, field[from].mac(), &packet(path, &message::udp(path, ports, data)))
}
