//! Hardware addresses of the bridge's own group, 01:80:c2:00:00:00 to 0f: frames for them are no bridge's traffic, but come
//! up on the port's device itself, beside the bridge.

use super::case::Case;
use super::field::Field;
use super::frame::Mac;
use super::link_local::udp_frame;
use super::message::Path;
use super::overlay;
use super::suite::Suite;
use crate::cluster::Links;
use crate::probe::Family;

/// The last byte of the addresses that are tried: of STP, pause frames, LACP, 802.1X, a provider's bridge, and LLDP.
const LAST: [u8; 6] = [0x00, 0x01, 0x02, 0x03, 0x0d, 0x0e];

/// All attempts.
pub fn all(suite: &mut Suite) {
    to_the_node(suite);
    to_a_pod(suite);
    overlay_packets(suite);
}

/// Sends UDP to a socket of the node from a friend's address, and from an egress-isolated pod's own, at the address of its
/// gateway, which it may not reach by its link-local one either.
fn to_the_node(suite: &mut Suite) {
    for last in LAST {
        for family in Family::BOTH {
            for gateway in [false, true] {
                let at = if gateway { "the gateway's address" } else { "the node's address" };
                let case = Case::new(format!("UDP to {at}, frame for {}", text(last)), "evil/a", "node-a");
                suite.frame(case.family(family).dropped("spoofed-source|ether-type"), |field, mark| {
                    let to = node_address(field, gateway, family);
                    let path = Path::new(field["friend/f"].address(family), to);
                    udp_frame(field, "evil/a", mac(last), path, mark.ports(), &mark.bytes())
                });
            }
            let name = format!("UDP to the node's link, frame for {}", text(last));
            let case = Case::new(name, "closed/c", "node-a").family(family);
            suite.frame(case, |field, mark| {
                let host = &field["closed/c"];
                let path = match family {
                    Family::V4 => Path::new(host.v4(), [224, 0, 0, 1]),
                    Family::V6 => Path::new(host.link_local(), host.gateway.link_local),
                };
                udp_frame(field, "closed/c", mac(last), path, mark.ports(), &mark.bytes())
            });
        }
    }
}

/// Sends UDP to pods by such frames.
fn to_a_pod(suite: &mut Suite) {
    for last in LAST {
        for family in Family::BOTH {
            for (from, to) in [("evil/a", "victim/v"), ("evil/a", "victim/w"), ("closed/c", "open/o")] {
                let case =
                    Case::new(format!("UDP to a pod, frame for {}", text(last)), from, to).family(family);
                suite.frame(case, |field, mark| {
                    let path = field.path(from, to, family);
                    udp_frame(field, from, mac(last), path, mark.ports(), &mark.bytes())
                });
            }
        }
    }
}

/// Sends VXLAN to the own node by such frames.
fn overlay_packets(suite: &mut Suite) {
    for last in LAST {
        let case = Case::new(format!("VXLAN, frame for {}", text(last)), "evil/a", "victim/v");
        let case = if suite.field.links == Links::Vxlan { case.dropped("overlay|ether-type") } else { case };
        suite.frame(case.family(Family::V4), |field, mark| {
            let inner = overlay::inner(field, 0, "friend/g", "victim/v", Family::V4, mark);
            let path = Path::new(field["evil/a"].v4(), field.nodes[0].address4);
            udp_frame(
                field,
                "evil/a",
                mac(last),
                path,
                (mark.port(), overlay::VXLAN_PORT),
                &overlay::vxlan(1, &inner),
            )
        });
    }
}

fn node_address(field: &Field, gateway: bool, family: Family) -> std::net::IpAddr {
    let node = &field.nodes[0];
    family.of(if gateway { [node.gateway4().into(), node.gateway6().into()] } else { node.addresses() })
}

fn mac(last: u8) -> Mac {
    [0x01, 0x80, 0xc2, 0, 0, last]
}

fn text(last: u8) -> String {
    format!("01:80:c2:00:00:{last:02x}")
}
