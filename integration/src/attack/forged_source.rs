//! Forged sources: addresses and hardware addresses of other hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::case::Case;
use super::frame::{self, Mac};
use super::link_local::udp_frame;
use super::message::{self, Message, Path, flag};
use super::packet::{fragment, fragments, packet};
use super::suite::Suite;
use super::topology::Topology;
use super::wire;
use crate::cluster::{Links, OUTSIDE};
use crate::probe::Family;

/// All attempts.
pub fn all(suite: &mut Suite) {
    every_source(suite);
    every_protocol(suite);
    in_fragments(suite);
    freebound(suite);
    out_of_an_isolated_pod(suite);
    to_the_node(suite);
    hardware_addresses(suite);
    from_outside(suite);
}

/// Source addresses that are not the attacker's.
fn sources(topology: &Topology, family: Family) -> Vec<(&'static str, IpAddr)> {
    let [a, b] = [&topology.nodes[0], &topology.nodes[1]];
    let named = |name: &str| topology[name].address(family);
    let mut sources = vec![
        ("a friend's address", named("friend/f")),
        ("a friend's address of the other node", named("friend/g")),
        ("the victim's own address", named("victim/v")),
        ("its node's address", family.of(a.addresses())),
        ("its gateway's address", family.of([a.gateway4().into(), a.gateway6().into()])),
        ("the address of flannel.1", family.of([a.cidr4.network().into(), a.cidr6.network().into()])),
        ("the other node's address", family.of(b.addresses())),
        ("the other node's gateway's address", family.of([b.gateway4().into(), b.gateway6().into()])),
        ("the address of the host outside", named(OUTSIDE)),
        ("a free address of its node", family.of([[10, 244, 1, 77].into(), free6(0x77)])),
        ("loopback", family.of([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])),
        ("no address", family.of([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()])),
        (
            "a service's address",
            family.of([[10, 96, 0, 10].into(), Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10).into()]),
        ),
    ];
    if family == Family::V6 {
        sources.push((
            "a friend's address, mapped from IPv4",
            topology["friend/f"].v4().to_ipv6_mapped().into(),
        ));
        sources.push(("a friend's link-local address", topology["friend/f"].link_local().into()));
        sources.push(("the gateway's link-local address", topology["evil/a"].gateway.link_local.into()));
    }
    sources
}

fn free6(last: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, last).into()
}

/// Sends UDP and a TCP SYN from every foreign address, to a pod of its own node and to one of the other.
fn every_source(suite: &mut Suite) {
    for family in Family::BOTH {
        for (what, source) in sources(&suite.topology, family) {
            for to in ["victim/v", "victim/w"] {
                for protocol in ["UDP", "TCP"] {
                    let case = Case::new(format!("{protocol} from {what}"), "evil/a", to).family(family);
                    // The kernel drops some of these before the inet hooks; only the bridge's hooks would see
                    // them.
                    let case = if what.contains("loopback") || what.contains("mapped") {
                        case.dropped_on_bridge("spoofed-source")
                    } else {
                        case.dropped("spoofed-source")
                    };
                    suite.frame(case, |topology, mark| {
                        let path = Path::new(source, topology[to].address(family));
                        let message = by_name(protocol, path, mark.port(), &mark.bytes());
                        frame::of_packet(
                            topology.next_hop("evil/a", to),
                            topology["evil/a"].mac(),
                            &packet(path, &message),
                        )
                    });
                }
            }
        }
    }
}

/// Sends every protocol from a friend's address.
fn every_protocol(suite: &mut Suite) {
    let protocols = ["echo", "echo reply", "SCTP", "UDP-Lite", "DCCP", "ESP", "GRE", "unknown"];
    for family in Family::BOTH {
        for protocol in protocols {
            for to in ["victim/v", "victim/w"] {
                let case =
                    Case::new(format!("{protocol} from a friend's address"), "evil/a", to).family(family);
                suite.frame(case.dropped("spoofed-source"), |topology, mark| {
                    let path = topology.path("friend/f", to, family);
                    let message = by_name(protocol, path, mark.port(), &mark.bytes());
                    frame::of_packet(
                        topology.next_hop("evil/a", to),
                        topology["evil/a"].mac(),
                        &packet(path, &message),
                    )
                });
            }
        }
    }
}

/// Sends UDP from a friend's address in fragments: all of them, the last first, and a later one alone.
fn in_fragments(suite: &mut Suite) {
    for family in Family::BOTH {
        for (number, what) in
            (1..).zip(["in fragments", "in fragments, the last first", "in a later fragment alone"])
        {
            let case = Case::new(format!("UDP from a friend's address {what}"), "evil/a", "victim/v");
            suite.frames(case.family(family).dropped("spoofed-source"), |topology, mark| {
                let path = topology.path("friend/f", "victim/v", family);
                let data = [&mark.bytes()[..], &[0; 100]].concat();
                let message = message::udp(path, mark.ports(), &data);
                let mut parts = fragments(path, &message, mark.port(), &[16, 64]);
                if number == 2 {
                    parts.reverse();
                } else if number == 3 {
                    parts = vec![fragment(path, message.protocol, mark.port(), (64, false), &data)];
                }
                frames(topology, "victim/v", &parts)
            });
        }
    }
}

/// Sends UDP from foreign addresses by an IPv6 socket with IPV6_FREEBIND, which needs no privilege.
fn freebound(suite: &mut Suite) {
    let attempts = [
        ("evil/a", "victim/v"),
        ("evil/a", "victim/w"),
        ("closed/c", "open/o"),
        ("closed/c", "open/p"),
        ("closed/c", OUTSIDE),
    ];
    for (from, to) in attempts {
        for what in ["a friend's", "its gateway's", "its node's"] {
            let case = Case::new(format!("UDP from {what} address by IPV6_FREEBIND"), from, to);
            suite.attempt(case.family(Family::V6).dropped("spoofed-source"), |context, mark| {
                let node = &context.topology.nodes[0];
                let source: IpAddr = match what {
                    "a friend's" => context.topology["friend/f"].v6().into(),
                    "its gateway's" => node.gateway6().into(),
                    _ => node.address6.into(),
                };
                let to = SocketAddr::new(context.topology[to].v6().into(), mark.port());
                let from_there = SocketAddr::new(source, mark.port());
                wire::send_freebound(context.testbed.namespace(from)?, from_there, to, &mark.bytes())
            });
        }
    }
}

/// Sends UDP from foreign addresses out of a pod that is isolated for egress, to pods of both nodes and
/// outside.
fn out_of_an_isolated_pod(suite: &mut Suite) {
    for family in Family::BOTH {
        for (what, source) in sources(&suite.topology, family).into_iter().take(10) {
            for to in ["open/o", "open/p", OUTSIDE] {
                let case = Case::new(format!("UDP from {what}"), "closed/c", to).family(family);
                suite.frame(case.dropped("spoofed-source"), |topology, mark| {
                    let path = Path::new(source, topology[to].address(family));
                    let mac = topology.next_hop("closed/c", to);
                    udp_frame(topology, "closed/c", mac, path, mark.ports(), &mark.bytes())
                });
            }
        }
    }
}

/// Sends UDP from foreign addresses to sockets of the pod's own node.
fn to_the_node(suite: &mut Suite) {
    for from in ["evil/a", "closed/c"] {
        for family in Family::BOTH {
            for (what, source) in sources(&suite.topology, family).into_iter().take(10) {
                let case = Case::new(format!("UDP to the node from {what}"), from, "node-a").family(family);
                suite.frame(case.dropped("spoofed-source"), |topology, mark| {
                    let path = Path::new(source, family.of(topology.nodes[0].addresses()));
                    let mac = topology[from].gateway.mac;
                    udp_frame(topology, from, mac, path, mark.ports(), &mark.bytes())
                });
            }
        }
    }
}

/// Sends UDP with a friend's or an unknown hardware address, and with the pod's own or the friend's address.
fn hardware_addresses(suite: &mut Suite) {
    let unknown: Mac = [2, 0, 0, 0, 0, 0x99];
    for family in Family::BOTH {
        for to in ["victim/v", "victim/w"] {
            for (what, friends_mac, address) in [
                ("a friend's hardware address", true, "evil/a"),
                ("a friend's hardware address and address", true, "friend/f"),
                ("an unknown hardware address", false, "evil/a"),
                ("an unknown hardware address and a friend's address", false, "friend/f"),
            ] {
                let case = Case::new(format!("UDP from {what}"), "evil/a", to).family(family);
                suite.frame(case.dropped("spoofed-source"), |topology, mark| {
                    let source = if friends_mac { topology["friend/f"].mac() } else { unknown };
                    let path = topology.path(address, to, family);
                    let datagram = message::udp(path, mark.ports(), &mark.bytes());
                    frame::of_packet(topology.next_hop("evil/a", to), source, &packet(path, &datagram))
                });
            }
        }
    }
}

/// Sends UDP from a host outside of the cluster, with addresses of the node itself and of one of its pods.
fn from_outside(suite: &mut Suite) {
    for family in Family::BOTH {
        for (what, source) in sources(&suite.topology, family) {
            let is_nodes = match what {
                "its node's address" | "its gateway's address" => true,
                // Without VXLAN, no interface has this address.
                "the address of flannel.1" => suite.topology.links == Links::Vxlan,
                "a friend's address" | "the victim's own address" => false,
                _ => continue,
            };
            let case =
                Case::new(format!("UDP from {what}"), OUTSIDE, "victim/v").family(family).seen_by("node-a");
            // The kernel drops packets from its own IPv4 addresses as martians. So only IPv6 always has a
            // line.
            let case = if family == Family::V6 && is_nodes { case.dropped("local-source") } else { case };
            suite.frame(case, |topology, mark| {
                let path = Path::new(source, topology["victim/v"].address(family));
                let mac = topology[OUTSIDE].gateway.mac;
                udp_frame(topology, OUTSIDE, mac, path, mark.ports(), &mark.bytes())
            });
        }
    }
}

/// A message of a protocol: if possible, one that opens a connection.
fn by_name(protocol: &str, path: Path, port: u16, data: &[u8]) -> Message {
    match protocol {
        "TCP" => message::tcp(path, (port, port), flag::SYN, (1, 0), data),
        "UDP" => message::udp(path, (port, port), data),
        "echo" => message::echo(path, false, port, data),
        "echo reply" => message::echo(path, true, port, data),
        "SCTP" => message::sctp((port, port), data),
        "UDP-Lite" => message::udp_lite(path, (port, port), data),
        "DCCP" => message::dccp(path, (port, port), data),
        "ESP" => message::raw(message::protocol::ESP, data),
        "GRE" => message::raw(message::protocol::GRE, &[&[0, 0, 0x08, 0][..], data].concat()),
        _ => message::raw(message::protocol::UNKNOWN, data),
    }
}

/// The frames that carry packets of `evil/a`.
fn frames(topology: &Topology, to: &str, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mac, own) = (topology.next_hop("evil/a", to), topology["evil/a"].mac());
    packets.iter().map(|packet| frame::of_packet(mac, own, packet)).collect()
}
