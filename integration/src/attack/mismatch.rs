//! Frames for one pod with packets for another: rules about the packet's destination say nothing of who receives it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::case::Case;
use super::frame::{self, Mac};
use super::link_local::udp_frame;
use super::message::{self, Path, flag};
use super::packet::packet;
use super::suite::Suite;
use crate::cluster::OUTSIDE;
use crate::probe::Family;

/// Who sends, to whose hardware address, and for whom the packet claims to be.
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
    if suite.field.is_bridged() {
        for_another(suite);
    }
    through_the_gateway(suite);
    to_an_unknown_station(suite);
}

/// Sends UDP and TCP to one pod's hardware address and to another's address, which policy lets it reach.
fn for_another(suite: &mut Suite) {
    for family in Family::BOTH {
        for (from, receiver, claimed) in TRIOS {
            for protocol in ["UDP", "TCP"] {
                let name =
                    format!("{protocol} to the hardware address of {receiver} and the address of {claimed}");
                let case = Case::new(name, from, receiver).family(family).dropped("unbound-destination");
                suite.frame(case, |field, mark| {
                    let node = &field.nodes[0];
                    let to: IpAddr = match claimed {
                        "nowhere" => family.of([
                            Ipv4Addr::new(203, 0, 113, 9).into(),
                            Ipv6Addr::new(0x2001, 0xdb8, 0, 9, 0, 0, 0, 9).into(),
                        ]),
                        "gateway" => family.of([node.gateway4().into(), node.gateway6().into()]),
                        pod => field[pod].address(family),
                    };
                    let path = Path::new(field[from].address(family), to);
                    let message = match protocol {
                        "UDP" => message::udp(path, mark.ports(), &mark.bytes()),
                        _ => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                    };
                    frame::of_packet(field[receiver].mac(), field[from].mac(), &packet(path, &message))
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
            let case = case.recorded(suite.field.path(from, to, family));
            suite.frame(case, |field, mark| {
                let path = field.path(from, to, family);
                udp_frame(field, from, field[from].gateway.mac, path, mark.ports(), &mark.bytes())
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
            suite.frame(case, |field, mark| {
                let path = field.path(from, claimed, family);
                udp_frame(field, from, unknown, path, mark.ports(), &mark.bytes())
            });
        }
    }
}
