//! Fragments of one pod that complete another pod's datagram. Netfilter reassembles fragments by addresses
//! and identification alone. So a check of the source after that sees only the first fragment's origin.

use std::thread::sleep;
use std::time::Duration;

use super::case::Case;
use super::frame;
use super::message;
use super::packet::fragments;
use super::suite::{AttackContext, Suite};
use super::wire;
use crate::cluster::OUTSIDE;
use crate::probe::Family;

/// The pod that starts a datagram, the pod that sends the rest of it, and the destination. Only the first may
/// send there.
const TRIPLES: [(&str, &str, &str); 5] = [
    ("evil/a", "closed/c", "open/o"),
    ("evil/a", "closed/c", "open/p"),
    ("evil/a", "closed/c", OUTSIDE),
    ("friend/f", "evil/a", "victim/v"),
    ("friend/f", "evil/b", "victim/w"),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    for (head, tail, to) in TRIPLES {
        for family in Family::BOTH {
            let case = Case::new(format!("the rest of a datagram of {head}"), tail, to).family(family);
            suite.attempt(case.dropped("spoofed-source"), |context, mark| {
                let AttackContext { testbed, topology, .. } = context;
                let path = topology.path(head, to, family);
                let data = [&[0; 64][..], &mark.bytes(), &[0; 40]].concat();
                let parts = fragments(path, &message::udp(path, (mark.port(), 9), &data), mark.port(), &[64]);
                for (from, part) in [tail, head].into_iter().zip(parts.iter().rev()) {
                    let frame = frame::of_packet(topology.next_hop(from, to), topology[from].mac(), part);
                    wire::send_frames(testbed.namespace(from)?, &topology[from].interface, &[frame])?;
                    sleep(Duration::from_millis(5));
                }
                Ok(())
            });
        }
    }
}
