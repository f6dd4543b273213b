//! Fragments of one pod that complete another's datagram: netfilter puts them together by addresses and number alone, so a source
//! that is looked at afterwards is that of the first fragment.

use std::thread::sleep;
use std::time::Duration;

use super::case::Case;
use super::frame;
use super::message;
use super::packet::fragments;
use super::suite::{Means, Suite};
use super::wire;
use crate::cluster::OUTSIDE;
use crate::probe::Family;

/// Whose datagram it is, who sends the rest of it, and to whom. The first may send there, the second may not.
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
            suite.attempt(case.dropped("spoofed-source"), |means, mark| {
                let Means { testbed, field, .. } = means;
                let path = field.path(head, to, family);
                let data = [&[0; 64][..], &mark.bytes(), &[0; 40]].concat();
                let parts = fragments(path, &message::udp(path, (mark.port(), 9), &data), mark.port(), &[64]);
                for (from, part) in [tail, head].into_iter().zip(parts.iter().rev()) {
                    let frame = frame::of_packet(field.next_hop(from, to), field[from].mac(), part);
                    wire::send_frames(testbed.namespace(from)?, &field[from].interface, &[frame])?;
                    sleep(Duration::from_millis(5));
                }
                Ok(())
            });
        }
    }
}
