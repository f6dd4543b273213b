//! Hardware addresses of the bridge's own group, 01:80:c2:00:00:00 to 0f. The bridge does not forward frames
//! to them. They are received on the port's device itself.

use super::case::Case;
use super::frame::Mac;
use super::link_local::udp_frame;
use super::message::Path;
use super::overlay;
use super::suite::Suite;
use super::topology::Topology;
use crate::cluster::Links;
use crate::probe::Family;

/// The last byte of the tested addresses: of STP, pause frames, LACP, 802.1X, a provider's bridge, and LLDP.
const LAST: [u8; 6] = [0x00, 0x01, 0x02, 0x03, 0x0d, 0x0e];

/// All attempts.
pub fn all(suite: &mut Suite) {
    to_the_node(suite);
    to_a_pod(suite);
    overlay_packets(suite);
}

/// Sends UDP to a socket of the node from a friend's address. Also sends UDP from an egress-isolated pod's
/// own address to a link-scope address of the node.
fn to_the_node(suite: &mut Suite) {
    for last in LAST {
        for family in Family::BOTH {
            for gateway in [false, true] {
                let at = if gateway { "the gateway's address" } else { "the node's address" };
                let case = Case::new(format!("UDP to {at}, frame for {}", text(last)), "evil/a", "node-a");
                suite.frame(case.family(family).dropped("spoofed-source|ether-type"), |topology, mark| {
                    let to = node_address(topology, gateway, family);
                    let path = Path::new(topology["friend/f"].address(family), to);
                    udp_frame(topology, "evil/a", mac(last), path, mark.ports(), &mark.bytes())
                });
            }
            let name = format!("UDP to the node's link, frame for {}", text(last));
            let case = Case::new(name, "closed/c", "node-a").family(family);
            suite.frame(case, |topology, mark| {
                let host = &topology["closed/c"];
                let path = match family {
                    Family::V4 => Path::new(host.v4(), [224, 0, 0, 1]),
                    Family::V6 => Path::new(host.link_local(), host.gateway.link_local),
                };
                udp_frame(topology, "closed/c", mac(last), path, mark.ports(), &mark.bytes())
            });
        }
    }
}

/// Sends UDP to pods in such frames.
fn to_a_pod(suite: &mut Suite) {
    for last in LAST {
        for family in Family::BOTH {
            for (from, to) in [("evil/a", "victim/v"), ("evil/a", "victim/w"), ("closed/c", "open/o")] {
                let case =
                    Case::new(format!("UDP to a pod, frame for {}", text(last)), from, to).family(family);
                suite.frame(case, |topology, mark| {
                    let path = topology.path(from, to, family);
                    udp_frame(topology, from, mac(last), path, mark.ports(), &mark.bytes())
                });
            }
        }
    }
}

/// Sends VXLAN to the pod's own node in such frames.
fn overlay_packets(suite: &mut Suite) {
    for last in LAST {
        let case = Case::new(format!("VXLAN, frame for {}", text(last)), "evil/a", "victim/v");
        let case =
            if suite.topology.links == Links::Vxlan { case.dropped("overlay|ether-type") } else { case };
        suite.frame(case.family(Family::V4), |topology, mark| {
            let inner = overlay::inner(topology, 0, "friend/g", "victim/v", Family::V4, mark);
            let path = Path::new(topology["evil/a"].v4(), topology.nodes[0].address4);
            udp_frame(
                topology,
                "evil/a",
                mac(last),
                path,
                (mark.port(), overlay::VXLAN_PORT),
                &overlay::vxlan(1, &inner),
            )
        });
    }
}

fn node_address(topology: &Topology, gateway: bool, family: Family) -> std::net::IpAddr {
    let node = &topology.nodes[0];
    family.of(if gateway { [node.gateway4().into(), node.gateway6().into()] } else { node.addresses() })
}

fn mac(last: u8) -> Mac {
    [0x01, 0x80, 0xc2, 0, 0, last]
}

fn text(last: u8) -> String {
    format!("01:80:c2:00:00:{last:02x}")
}
