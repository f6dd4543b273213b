//! The bridge's forwarding table: it learns from each frame behind which port a hardware address is, also from frames that
//! it does not forward.

use std::thread::sleep;
use std::time::Duration;

use super::case::Case;
use super::frame::{self, Arp, Mac};
use super::link_local::udp_frame;
use super::suite::Suite;
use super::wire;
use crate::probe::Family;

/// Longer than a frame is under way.
const BETWEEN: Duration = Duration::from_millis(20);

/// Frames that teach: what they are, and their destination. Those of the bridge's own group do not pass its prerouting
/// hook, but its input hook.
const TEACHERS: [(&str, Mac); 6] = [
    ("an IP frame to all", frame::BROADCAST),
    ("an IP frame to an unknown station", [2, 0, 0, 0, 0, 0x43]),
    ("an IP frame for 01:80:c2:00:00:00", [0x01, 0x80, 0xc2, 0, 0, 0]),
    ("an IP frame for 01:80:c2:00:00:03", [0x01, 0x80, 0xc2, 0, 0, 3]),
    ("a frame of LLDP", [0x01, 0x80, 0xc2, 0, 0, 0x0e]),
    ("an ARP frame to all", frame::BROADCAST),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    if suite.field.is_bridged() {
        steal(suite);
    }
}

/// Sends a frame with another pod's hardware address as its source, so that what others send to that pod comes here.
fn steal(suite: &mut Suite) {
    for (what, to) in TEACHERS {
        for (robbed, sender) in [("friend/f", "victim/v"), ("victim/v", "friend/f")] {
            let name =
                format!("{sender}'s datagram to {robbed} after {what} from {robbed}'s hardware address");
            let mut case = Case::new(name, "evil/a", "evil/a");
            case.must_reach = vec![robbed.to_owned()];
            suite.attempt(case.dropped("spoofed-source|ether-type"), |means, mark| {
                let (field, testbed) = (means.field, means.testbed);
                let (host, robbed_host) = (&field["evil/a"], &field[robbed]);
                let taught = match what {
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
                        let path = field.path("evil/a", "friend/f", Family::V4);
                        let mut frame = udp_frame(field, "evil/a", to, path, mark.ports(), b"learn");
                        frame[6..12].copy_from_slice(&robbed_host.mac());
                        frame
                    }
                };
                wire::send_frames(testbed.namespace("evil/a")?, &host.interface, &[taught])?;
                sleep(BETWEEN);
                let path = field.path(sender, robbed, Family::V4);
                let frame = udp_frame(field, sender, robbed_host.mac(), path, mark.ports(), &mark.bytes());
                wire::send_frames(testbed.namespace(sender)?, &field[sender].interface, &[frame])?;
                sleep(BETWEEN);
                // The table learns the truth again: the other pod speaks.
                let path = field.path(robbed, sender, Family::V4);
                let frame = udp_frame(field, robbed, field[sender].mac(), path, mark.ports(), b"truth");
                wire::send_frames(testbed.namespace(robbed)?, &robbed_host.interface, &[frame])
            });
        }
    }
}
