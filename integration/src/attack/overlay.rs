//! Overlay packets from a pod: a node would accept them as another node's, and their content as that of the
//! other node's pods.

use std::net::{IpAddr, SocketAddr};

use super::case::Case;
use super::frame::{self, Mac};
use super::mark::Mark;
use super::message::{self, Path, protocol};
use super::packet::{fragments, packet};
use super::suite::Suite;
use super::topology::Topology;
use super::wire;
use crate::cluster::Links;
use crate::probe::Family;
use crate::wiring;

/// Flannel's VXLAN port.
pub const VXLAN_PORT: u16 = 8472;

/// The port of Flannel's backend `udp`.
const FLANNEL_UDP: u16 = 8285;

/// The ports of VXLAN at IANA, of GENEVE and of WireGuard.
const OTHER_PORTS: [(&str, u16); 3] =
    [("VXLAN's 4789", 4789), ("GENEVE's 6081", 6081), ("WireGuard's 51820", 51820)];

/// All attempts.
pub fn all(suite: &mut Suite) {
    by_socket(suite);
    by_frame(suite);
    forged_outside(suite);
    other_tunnels(suite);
}

/// Sends VXLAN by an unprivileged socket to each address of the pod's own node and to the other node. The
/// inner packet is from a friend to the victim.
fn by_socket(suite: &mut Suite) {
    for from in ["evil/a", "closed/c"] {
        for inner_family in Family::BOTH {
            for (what, number, address) in targets(&suite.topology) {
                let victim = ["victim/v", "victim/w"][number];
                let case =
                    Case::new(format!("VXLAN to {what} by a socket"), from, victim).family(inner_family);
                suite.attempt(expect_drop(suite, case), |context, mark| {
                    let inner = inner(context.topology, number, friend(number), victim, inner_family, mark);
                    let to = SocketAddr::new(address, VXLAN_PORT);
                    wire::send_datagram(context.testbed.namespace(from)?, mark.port(), to, &vxlan(1, &inner))
                });
            }
        }
    }
}

/// Sends VXLAN in frames: in fragments, with another network identifier, with other flags, and over IPv6.
fn by_frame(suite: &mut Suite) {
    for name in ["in fragments", "of network 0", "with the flags of others", "over IPv6"] {
        let case = Case::new(format!("VXLAN to its node {name}"), "evil/a", "victim/v");
        let must_record = matches!(name, "in fragments" | "of network 0");
        let case = if must_record { expect_drop(suite, case) } else { case };
        suite.frames(case, |topology, mark| {
            let host = &topology["evil/a"];
            let family = if name == "over IPv6" { Family::V6 } else { Family::V4 };
            let inner = inner(topology, 0, "friend/g", "victim/v", Family::V4, mark);
            let path = Path::new(host.address(family), family.of(topology.nodes[0].addresses()));
            let mut data = vxlan(u32::from(name != "of network 0"), &inner);
            if name == "with the flags of others" {
                data[0] = 0xff;
            }
            let message = message::udp(path, (mark.port(), VXLAN_PORT), &data);
            let packets = match name {
                "in fragments" => fragments(path, &message, mark.port(), &[8, 24]),
                _ => vec![packet(path, &message)],
            };
            packets.iter().map(|packet| frame::of_packet(host.gateway.mac, host.mac(), packet)).collect()
        });
    }
}

/// Sends VXLAN with the other node's source address.
fn forged_outside(suite: &mut Suite) {
    for (what, number, address) in targets(&suite.topology) {
        let IpAddr::V4(address) = address else { continue };
        let victim = ["victim/v", "victim/w"][number];
        let case = Case::new(format!("VXLAN to {what} from the other node's address"), "evil/a", victim);
        suite.frame(case.dropped("spoofed-source|overlay"), |topology, mark| {
            let host = &topology["evil/a"];
            let path = Path::new(topology.nodes[1 - number].address4, address);
            let data = vxlan(1, &inner(topology, number, friend(number), victim, Family::V4, mark));
            let datagram = message::udp(path, (mark.port(), VXLAN_PORT), &data);
            frame::of_packet(host.gateway.mac, host.mac(), &packet(path, &datagram))
        });
    }
}

/// Sends packets of other tunnel protocols to both nodes, which must not decapsulate them.
fn other_tunnels(suite: &mut Suite) {
    for (what, number, address) in targets(&suite.topology).into_iter().take(2) {
        let victim = ["victim/v", "victim/w"][number];
        for tunnel in ["IPIP", "6in4", "GRE", "Flannel's udp"] {
            let case = Case::new(format!("{tunnel} to {what}"), "evil/a", victim).family(Family::V4);
            suite.frame(case, |topology, mark| {
                let host = &topology["evil/a"];
                let family = if tunnel == "6in4" { Family::V6 } else { Family::V4 };
                let inside = topology.path(friend(number), victim, family);
                let inside = packet(inside, &message::udp(inside, mark.ports(), &mark.bytes()));
                let path = Path::new(host.v4(), address);
                let message = match tunnel {
                    "IPIP" => message::raw(protocol::IPV4, &inside),
                    "6in4" => message::raw(protocol::IPV6, &inside),
                    "GRE" => message::raw(protocol::GRE, &[&[0, 0, 0x08, 0][..], &inside].concat()),
                    _ => message::udp(path, (mark.port(), FLANNEL_UDP), &inside),
                };
                frame::of_packet(host.gateway.mac, host.mac(), &packet(path, &message))
            });
        }
        for (tunnel, port) in OTHER_PORTS {
            let case = Case::new(format!("{tunnel} to {what}"), "evil/a", victim).family(Family::V4);
            suite.attempt(case, |context, mark| {
                let inner = inner(context.topology, number, friend(number), victim, Family::V4, mark);
                let to = SocketAddr::new(address, port);
                wire::send_datagram(context.testbed.namespace("evil/a")?, mark.port(), to, &vxlan(1, &inner))
            });
        }
    }
}

/// If nodes are connected by VXLAN, the audit log must report the drop. Otherwise no node accepts such
/// packets.
fn expect_drop(suite: &Suite, case: Case) -> Case {
    if suite.topology.links == Links::Vxlan { case.dropped("overlay") } else { case }
}

/// The nodes' addresses to which a pod can send, with a description and the index of the node.
fn targets(topology: &Topology) -> Vec<(&'static str, usize, IpAddr)> {
    let [a, b] = [&topology.nodes[0], &topology.nodes[1]];
    let mut targets = vec![
        ("its node", 0, a.address4.into()),
        ("the other node", 1, b.address4.into()),
        ("its gateway", 0, a.gateway4().into()),
    ];
    if topology.links == Links::Vxlan {
        targets.push(("its node's flannel.1", 0, a.cidr4.network().into()));
        targets.push(("the other node's flannel.1", 1, b.cidr4.network().into()));
        targets.push(("the other node's gateway", 1, b.gateway4().into()));
        targets.push(("all of the other node's pods", 1, b.cidr4.broadcast().into()));
    }
    targets
}

/// A pod of the other node that may reach the victim on node `number`.
fn friend(number: usize) -> &'static str {
    ["friend/g", "friend/f"][number]
}

/// The inner frame that another node would send to node `number`: UDP from one pod to another.
pub fn inner(
    topology: &Topology,
    number: usize,
    from: &str,
    to: &str,
    family: Family,
    mark: Mark,
) -> Vec<u8> {
    let path = topology.path(from, to, family);
    let vtep = |number: usize| -> Mac { wiring::vtep_bytes(&topology.nodes[number]) };
    let datagram = message::udp(path, mark.ports(), &mark.bytes());
    frame::of_packet(vtep(number), vtep(1 - number), &packet(path, &datagram))
}

/// The payload of a VXLAN datagram (RFC 7348).
pub fn vxlan(network: u32, frame: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = network.to_be_bytes();
    [&[8, 0, 0, 0, high, middle, low, 0], frame].concat()
}
