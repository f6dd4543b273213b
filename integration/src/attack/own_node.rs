//! The node as a destination: a pod that is isolated for egress may reach none of its addresses, by any
//! protocol.

use std::net::IpAddr;

use super::case::Case;
use super::frame;
use super::message::{self, Path, flag};
use super::packet::packet;
use super::suite::Suite;
use super::topology::Topology;
use crate::cluster::Links;
use crate::probe::Family;

/// All attempts.
pub fn all(suite: &mut Suite) {
    to_every_address(suite);
}

/// Sends UDP, TCP and echo requests from an egress-isolated pod to every address of either node.
fn to_every_address(suite: &mut Suite) {
    for family in Family::BOTH {
        for (what, node, address) in addresses(&suite.topology, family) {
            for protocol in ["UDP", "TCP", "echo"] {
                let case = Case::new(format!("{protocol} to {what}"), "closed/c", node).family(family);
                suite.frame(case, |topology, mark| {
                    let host = &topology["closed/c"];
                    let path = Path::new(host.address(family), address);
                    let message = match protocol {
                        "UDP" => message::udp(path, mark.ports(), &mark.bytes()),
                        "TCP" => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                        _ => message::echo(path, false, mark.port(), &mark.bytes()),
                    };
                    frame::of_packet(host.gateway.mac, host.mac(), &packet(path, &message))
                });
            }
        }
    }
}

/// The nodes' addresses: of eth0, of the gateway, of flannel.1 (in IPv6 it is also the subnet-router anycast
/// address), the broadcast address of the pods, and loopback.
fn addresses(topology: &Topology, family: Family) -> Vec<(&'static str, &'static str, IpAddr)> {
    let [a, b] = [&topology.nodes[0], &topology.nodes[1]];
    let mut all = vec![
        ("its node", "node-a", family.of(a.addresses())),
        ("its gateway", "node-a", family.of([a.gateway4().into(), a.gateway6().into()])),
        (
            "the first address of its subnet",
            "node-a",
            family.of([a.cidr4.network().into(), a.cidr6.network().into()]),
        ),
        ("the other node", "node-b", family.of(b.addresses())),
        ("loopback", "node-a", family.of([[127, 0, 0, 1].into(), [0_u16, 0, 0, 0, 0, 0, 0, 1].into()])),
        ("the other node's gateway", "node-b", family.of([b.gateway4().into(), b.gateway6().into()])),
    ];
    if topology.links == Links::Vxlan {
        let network = family.of([b.cidr4.network().into(), b.cidr6.network().into()]);
        all.push(("the other node's flannel.1", "node-b", network));
    }
    if family == Family::V4 {
        all.push(("the last address of its subnet", "node-a", a.cidr4.broadcast().into()));
    }
    all
}
