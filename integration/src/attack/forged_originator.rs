//! Forged originators: one packet with the victim's source address, so that the attacker's own packets look
//! like replies to it.

use std::thread::sleep;
use std::time::Duration;

use super::case::Case;
use super::frame;
use super::message::{self, Message, Path, flag};
use super::packet::packet;
use super::suite::Suite;
use super::topology::Topology;
use super::wire;
use crate::cluster::OUTSIDE;
use crate::command::nft;
use crate::probe::Family;

/// The pause between the forged packet and the reply: longer than its verdict takes.
const BETWEEN: Duration = Duration::from_millis(40);

/// The pod that forges, the pod whose source address it forges, and the pod that then replies.
const TRIOS: [(&str, &str, &str); 5] = [
    // A second pod of the attacker, which is isolated itself.
    ("evil/b", "victim/v", "evil/a"),
    // The attacker forges a packet to itself.
    ("evil/a", "victim/v", "evil/a"),
    // The replying pod evades its own isolation for egress.
    ("evil/a", "open/o", "closed/c"),
    ("evil/a", "open/p", "closed/c"),
    ("evil/a", OUTSIDE, "closed/c"),
];

/// The attackers' kernels don't have these connections. Without this rule, their RST would end them.
const NO_RESET: &str = "table inet no_reset {\nchain c {\ntype filter hook output priority 0;\ntcp flags & rst == rst drop\n}\n}\n";

/// All attempts.
pub fn all(suite: &mut Suite) {
    for attacker in ["evil/a", "closed/c"] {
        let no_reset =
            suite.scenario.testbed.namespace(attacker).and_then(|namespace| nft(namespace, NO_RESET));
        suite.record_allowed(Case::new(format!("{attacker} sends no RST"), attacker, attacker), no_reset);
    }
    for protocol in ["UDP", "TCP", "TCP's SYN and ACK", "echo"] {
        for family in Family::BOTH {
            for trio in TRIOS {
                reply(suite, protocol, family, trio);
            }
        }
    }
}

/// Forges a packet to which the replying pod's packet would be a reply, and sends both.
fn reply(
    suite: &mut Suite,
    protocol: &str,
    family: Family,
    (forger, victim, replier): (&'static str, &str, &str),
) {
    let name = format!("{replier}'s reply by {protocol} to what {forger} sent as {victim}");
    let case = Case::new(name, forger, victim).family(family).dropped("spoofed-source");
    suite.attempt(case, |context, mark| {
        let topology = context.topology;
        let path = topology.path(replier, victim, family);
        let (forged, reply) = messages(protocol, path, mark.port(), &mark.bytes());
        // In hairpin mode, a bridge also forwards a frame to the port on which it arrived.
        let first = frame_of(topology, forger, replier, path.reversed(), &forged);
        wire::send_frames(context.testbed.namespace(forger)?, &topology[forger].interface, &[first])?;
        sleep(BETWEEN);
        let second = frame_of(topology, replier, victim, path, &reply);
        wire::send_frames(context.testbed.namespace(replier)?, &topology[replier].interface, &[second])
    });
}

/// The forged message and the reply; `path` is that of the reply.
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

fn frame_of(topology: &Topology, sender: &str, to: &str, path: Path, message: &Message) -> Vec<u8> {
    frame::of_packet(topology.next_hop(sender, to), topology[sender].mac(), &packet(path, message))
}
