//! Link-local addresses: no policy can name them, so isolated pods may not use them.

use std::net::Ipv4Addr;

use super::case::Case;
use super::frame;
use super::message::{self, Path, flag};
use super::packet::packet;
use super::suite::Suite;
use super::topology::Topology;
use super::wire;
use crate::probe::Family;

/// Attackers whose peer is isolated for ingress, or that are isolated for egress.
const PAIRS: [(&str, &str); 3] = [("evil/a", "victim/v"), ("closed/c", "open/o"), ("evil/b", "evil/a")];

/// All attempts.
pub fn all(suite: &mut Suite) {
    by_socket(suite);
    by_frame(suite);
    one_end(suite);
    to_the_node(suite);
    of_ipv4(suite);
}

/// Sends UDP from `fe80::` to `fe80::` by an unprivileged socket.
fn by_socket(suite: &mut Suite) {
    for (from, to) in PAIRS {
        let case = Case::new("UDP to fe80:: by a socket", from, to).family(Family::V6);
        suite.attempt(case.dropped_on_bridge("isolated-scope"), |context, mark| {
            let to = wire::scoped(
                context.topology[to].link_local(),
                mark.port(),
                &context.topology[from].interface,
            );
            wire::send_datagram(context.testbed.namespace(from)?, mark.port(), to, &mark.bytes())
        });
    }
}

/// Sends a TCP SYN and an echo request from `fe80::` to `fe80::`.
fn by_frame(suite: &mut Suite) {
    for (from, to) in PAIRS {
        for protocol in ["TCP", "echo"] {
            let case = Case::new(format!("{protocol} to fe80::"), from, to).family(Family::V6);
            suite.frame(case.dropped_on_bridge("isolated-scope"), |topology, mark| {
                let path = Path::new(topology[from].link_local(), topology[to].link_local());
                let message = match protocol {
                    "TCP" => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                    _ => message::echo(path, false, mark.port(), &mark.bytes()),
                };
                frame::of_packet(topology.next_hop(from, to), topology[from].mac(), &packet(path, &message))
            });
        }
    }
}

/// Sends UDP between a pod's own address and a link-local one, in both directions.
fn one_end(suite: &mut Suite) {
    for (from, to) in PAIRS {
        for source_is_local in [true, false] {
            let name = if source_is_local {
                "UDP from fe80:: to a pod's address"
            } else {
                "UDP to fe80:: from a pod's address"
            };
            let case = Case::new(name, from, to).family(Family::V6);
            suite.frame(case.dropped_on_bridge("isolated-scope|spoofed-source"), |topology, mark| {
                let (source, destination) = (&topology[from], &topology[to]);
                let path = if source_is_local {
                    Path::new(source.link_local(), destination.v6())
                } else {
                    Path::new(source.v6(), destination.link_local())
                };
                udp_frame(topology, from, topology.next_hop(from, to), path, mark.ports(), &mark.bytes())
            });
        }
    }
}

/// Sends UDP, TCP and echo requests from an egress-isolated pod to its node's `fe80::` address, from its own
/// addresses.
fn to_the_node(suite: &mut Suite) {
    let from = "closed/c";
    for (protocol, own) in [("UDP", true), ("UDP", false), ("TCP", true), ("echo", true)] {
        let source = if own { "fe80::" } else { "its address" };
        let case = Case::new(format!("{protocol} to the node's fe80:: from {source}"), from, "node-a");
        suite.frame(case.family(Family::V6).dropped("isolated-scope"), |topology, mark| {
            let host = &topology[from];
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
        suite.frame(case("UDP between 169.254.x").dropped("spoofed-source"), |topology, mark| {
            let path = Path::new(local(1), local(2));
            udp_frame(topology, from, topology.next_hop(from, to), path, mark.ports(), &mark.bytes())
        });
        let reasons = "isolated-scope|unbound-destination";
        suite.frame(case("UDP to 169.254.x").dropped_on_bridge(reasons), |topology, mark| {
            let path = Path::new(topology[from].v4(), local(2));
            udp_frame(topology, from, topology.next_hop(from, to), path, mark.ports(), &mark.bytes())
        });
        suite.frame(case("UDP from 169.254.x").dropped("spoofed-source"), |topology, mark| {
            let path = Path::new(local(1), topology[to].v4());
            udp_frame(topology, from, topology.next_hop(from, to), path, mark.ports(), &mark.bytes())
        });
    }
}

/// The frame of a datagram that `from` sends.
pub(super) fn udp_frame(
    topology: &Topology,
    from: &str,
    to: frame::Mac,
    path: Path,
    ports: (u16, u16),
    data: &[u8],
) -> Vec<u8> {
    frame::of_packet(to, topology[from].mac(), &packet(path, &message::udp(path, ports, data)))
}
