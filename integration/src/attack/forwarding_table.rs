//! The bridge's forwarding table. From each frame, also from frames that it does not forward, a bridge learns
//! which port has a hardware address.

use std::thread::sleep;
use std::time::Duration;

use super::case::Case;
use super::frame::{self, Arp, Mac};
use super::link_local::udp_frame;
use super::suite::Suite;
use super::wire;
use crate::probe::Family;

/// The pause between two frames: longer than the delivery of a frame takes.
const BETWEEN: Duration = Duration::from_millis(20);

/// Frames from which the bridge could learn: a description, and the destination. Frames to the bridge's own
/// group pass its input hook, but not its prerouting hook.
const FRAMES: [(&str, Mac); 6] = [
    ("an IP frame to all", frame::BROADCAST),
    ("an IP frame to an unknown station", [2, 0, 0, 0, 0, 0x43]),
    ("an IP frame for 01:80:c2:00:00:00", [0x01, 0x80, 0xc2, 0, 0, 0]),
    ("an IP frame for 01:80:c2:00:00:03", [0x01, 0x80, 0xc2, 0, 0, 3]),
    ("a frame of LLDP", [0x01, 0x80, 0xc2, 0, 0, 0x0e]),
    ("an ARP frame to all", frame::BROADCAST),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    if suite.topology.is_bridged() {
        steal(suite);
    }
}

/// Sends a frame with another pod's hardware address as its source, so that the attacker receives frames for
/// that pod.
fn steal(suite: &mut Suite) {
    for (what, to) in FRAMES {
        for (robbed, sender) in [("friend/f", "victim/v"), ("victim/v", "friend/f")] {
            let name =
                format!("{sender}'s datagram to {robbed} after {what} from {robbed}'s hardware address");
            let mut case = Case::new(name, "evil/a", "evil/a");
            case.must_reach = vec![robbed.to_owned()];
            suite.attempt(case.dropped("spoofed-source|ether-type"), |context, mark| {
                let (topology, testbed) = (context.topology, context.testbed);
                let (host, robbed_host) = (&topology["evil/a"], &topology[robbed]);
                let forged = match what {
                    "a frame of LLDP" => frame::of_type(to, robbed_host.mac(), 0x88cc, &[0; 60]),
                    "an ARP frame to all" => {
                        let arp = Arp {
                            operation: 1,
                            sender: (host.mac(), host.v4()),
                            target: ([0; 6], robbed_host.v4()),
                        };
                        frame::arp(to, robbed_host.mac(), arp, &[])
                    }
                    _ => {
                        let path = topology.path("evil/a", "friend/f", Family::V4);
                        let mut frame = udp_frame(topology, "evil/a", to, path, mark.ports(), b"learn");
                        frame[6..12].copy_from_slice(&robbed_host.mac());
                        frame
                    }
                };
                wire::send_frames(testbed.namespace("evil/a")?, &host.interface, &[forged])?;
                sleep(BETWEEN);
                let path = topology.path(sender, robbed, Family::V4);
                let frame = udp_frame(topology, sender, robbed_host.mac(), path, mark.ports(), &mark.bytes());
                wire::send_frames(testbed.namespace(sender)?, &topology[sender].interface, &[frame])?;
                sleep(BETWEEN);
                // The robbed pod sends a frame, so that the bridge learns its port again.
                let path = topology.path(robbed, sender, Family::V4);
                let frame = udp_frame(topology, robbed, topology[sender].mac(), path, mark.ports(), b"truth");
                wire::send_frames(testbed.namespace(robbed)?, &robbed_host.interface, &[frame])
            });
        }
    }
}
