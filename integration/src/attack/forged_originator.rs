//! Forged originators: one packet "from" the victim, so that the attacker's own packets would be replies to it.

use std::thread::sleep;
use std::time::Duration;

use super::case::Case;
use super::field::Field;
use super::frame;
use super::message::{self, Message, Path, flag};
use super::packet::packet;
use super::suite::Suite;
use super::wire;
use crate::cluster::OUTSIDE;
use crate::command::nft;
use crate::probe::Family;

/// Between the forged packet and the reply: longer than its verdict takes.
const BETWEEN: Duration = Duration::from_millis(40);

/// The one who forges, the one that he claims to be, and the one who then replies.
const TRIOS: [(&str, &str, &str); 5] = [
    // A second pod of the attacker, that is isolated itself.
    ("evil/b", "victim/v", "evil/a"),
    // The attacker alone, to itself.
    ("evil/a", "victim/v", "evil/a"),
    // To be free of its own isolation.
    ("evil/a", "open/o", "closed/c"),
    ("evil/a", "open/p", "closed/c"),
    ("evil/a", OUTSIDE, "closed/c"),
];

/// The attackers' kernels know nothing of these connections: their RST would end what is about to begin.
const NO_RESET: &str =
    "table inet quiet {\nchain c {\ntype filter hook output priority 0;\ntcp flags & rst == rst drop\n}\n}\n";

/// All attempts.
pub fn all(suite: &mut Suite) {
    for attacker in ["evil/a", "closed/c"] {
        let quiet = suite.scenario.testbed.namespace(attacker).and_then(|namespace| nft(namespace, NO_RESET));
        suite.note_allowed(Case::new(format!("{attacker} sends no RST"), attacker, attacker), quiet);
    }
    for protocol in ["UDP", "TCP", "TCP's SYN and ACK", "echo"] {
        for family in Family::BOTH {
            for trio in TRIOS {
                reply(suite, protocol, family, trio);
            }
        }
    }
}

/// Forges what would make the replying pod's packet a reply, and sends that.
fn reply(
    suite: &mut Suite,
    protocol: &str,
    family: Family,
    (forger, victim, replier): (&'static str, &str, &str),
) {
    let name = format!("{replier}'s reply by {protocol} to what {forger} sent as {victim}");
    let case = Case::new(name, forger, victim).family(family).dropped("spoofed-source");
    suite.attempt(case, |means, mark| {
        let field = means.field;
        let path = field.path(replier, victim, family);
        let (forged, reply) = messages(protocol, path, mark.port(), &mark.bytes());
        // A bridge sends a frame back to the port where it came from in hairpin mode.
        let first = frame_of(field, forger, replier, path.reversed(), &forged);
        wire::send_frames(means.testbed.namespace(forger)?, &field[forger].interface, &[first])?;
        sleep(BETWEEN);
        let second = frame_of(field, replier, victim, path, &reply);
        wire::send_frames(means.testbed.namespace(replier)?, &field[replier].interface, &[second])
    });
}

/// The forged message and what replies to it; `path` is the reply's.
fn messages(protocol: &str, path: Path, port: u16, data: &[u8]) -> (Message, Message) {
    let back = path.reversed();
    match protocol {
        "UDP" => (message::udp(back, (port, port), b"x"), message::udp(path, (port, port), data)),
        // A simultaneous open (RFC 9293, section 3.5).
        "TCP" => (
            message::tcp(back, (port, port), flag::SYN, (100, 0), &[]),
            message::tcp(path, (port, port), flag::SYN, (500, 0), data),
        ),
        "echo" => (message::echo(back, false, port, b"x"), message::echo(path, true, port, data)),
        _ => (
            message::tcp(back, (port, port), flag::SYN, (100, 0), &[]),
            message::tcp(path, (port, port), flag::SYN | flag::ACK, (500, 101), data),
        ),
    }
}

fn frame_of(field: &Field, sender: &str, to: &str, path: Path, message: &Message) -> Vec<u8> {
    frame::of_packet(field.next_hop(sender, to), field[sender].mac(), &packet(path, message))
}
