//! Frames for one pod with packets for another: rules about the packet's destination do not cover the pod
//! that receives the frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::case::Case;
use super::frame::{self, Mac};
use super::link_local::udp_frame;
use super::message::{self, Path, flag};
use super::packet::packet;
use super::suite::Suite;
use crate::cluster::OUTSIDE;
use crate::probe::Family;

/// The sender, the pod whose hardware address the frame has, and the destination of the packet.
const TRIOS: [(&str, &str, &str); 8] = [
    ("evil/a", "evil/b", "nowhere"),
    ("evil/a", "evil/b", "open/o"),
    ("evil/a", "evil/b", "open/p"),
    ("evil/a", "victim/v", OUTSIDE),
    ("evil/a", "victim/v", "gateway"),
    ("limited/l", "evil/b", "open/o"),
    ("limited/l", "victim/v", "open/o"),
    ("limited/l", "evil/a", "open/o"),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    if suite.topology.is_bridged() {
        for_another(suite);
    }
    through_the_gateway(suite);
    to_an_unknown_station(suite);
}

/// Sends UDP and TCP to one pod's hardware address with the address of another, which policy allows.
fn for_another(suite: &mut Suite) {
    for family in Family::BOTH {
        for (from, receiver, claimed) in TRIOS {
            for protocol in ["UDP", "TCP"] {
                let name =
                    format!("{protocol} to the hardware address of {receiver} and the address of {claimed}");
                let case = Case::new(name, from, receiver).family(family).dropped("unbound-destination");
                suite.frame(case, |topology, mark| {
                    let node = &topology.nodes[0];
                    let to: IpAddr = match claimed {
                        "nowhere" => family.of([
                            Ipv4Addr::new(203, 0, 113, 9).into(),
                            Ipv6Addr::new(0x2001, 0xdb8, 0, 9, 0, 0, 0, 9).into(),
                        ]),
                        "gateway" => family.of([node.gateway4().into(), node.gateway6().into()]),
                        pod => topology[pod].address(family),
                    };
                    let path = Path::new(topology[from].address(family), to);
                    let message = match protocol {
                        "UDP" => message::udp(path, mark.ports(), &mark.bytes()),
                        _ => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                    };
                    frame::of_packet(topology[receiver].mac(), topology[from].mac(), &packet(path, &message))
                });
            }
        }
    }
}

/// Sends packets for a pod of the same node to the gateway, so that they are routed instead of bridged.
fn through_the_gateway(suite: &mut Suite) {
    for family in Family::BOTH {
        for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/o"), ("limited/l", "evil/a")] {
            let case =
                Case::new("UDP to a pod of the same node through the gateway", from, to).family(family);
            let case = case.recorded(suite.topology.path(from, to, family));
            suite.frame(case, |topology, mark| {
                let path = topology.path(from, to, family);
                udp_frame(topology, from, topology[from].gateway.mac, path, mark.ports(), &mark.bytes())
            });
        }
    }
}

/// Sends frames to an unknown hardware address, which a bridge floods to every port.
fn to_an_unknown_station(suite: &mut Suite) {
    let unknown: Mac = [2, 0, 0, 0, 0, 0x42];
    for family in Family::BOTH {
        for (from, claimed, not) in [
            ("evil/a", "victim/v", "victim/v"),
            ("evil/a", "open/o", "victim/v"),
            ("limited/l", "open/o", "evil/a"),
        ] {
            let case = Case::new(format!("UDP to an unknown hardware address and {claimed}"), from, not);
            let case = case.family(family).dropped_on_bridge("unbound-destination");
            suite.frame(case, |topology, mark| {
                let path = topology.path(from, claimed, family);
                udp_frame(topology, from, unknown, path, mark.ports(), &mark.bytes())
            });
        }
    }
}
