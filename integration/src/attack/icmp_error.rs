//! ICMP errors about the connections of others, which conntrack considers related from any sender; and other
//! ICMP messages that open no connection.

use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::case::Case;
use super::frame;
use super::message::{self, Message, Path};
use super::packet::packet;
use super::suite::{AttackContext, Suite};
use super::wire;
use crate::probe::Family;

/// The UDP port on which pods answer.
const ECHO: u16 = 9;

/// An ICMP type and code.
type Kind = (u8, u8);

/// The errors: a name, and the type and code in ICMP and ICMPv6.
const ERRORS: [(&str, Kind, Kind); 4] = [
    ("port unreachable", (3, 3), (1, 4)),
    ("packet too big", (3, 4), (2, 0)),
    ("time exceeded", (11, 0), (3, 0)),
    ("parameter problem", (12, 0), (4, 0)),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    about_others(suite);
    about_nothing(suite);
    other_types(suite);
}

/// Sends ICMP messages that conntrack considers replies, other messages, or invalid.
fn other_types(suite: &mut Suite) {
    let types4 = [0, 5, 9, 10, 13, 14, 15, 17, 18, 30, 42, 253];
    let types6 = [129, 130, 131, 132, 139, 140, 143, 144, 149, 151, 155, 160, 253];
    let both = types4.map(|kind| (Family::V4, kind)).into_iter().chain(types6.map(|kind| (Family::V6, kind)));
    for (family, kind) in both {
        for (from, to) in
            [("evil/a", "victim/v"), ("evil/a", "victim/w"), ("closed/c", "open/o"), ("closed/c", "open/p")]
        {
            let case = Case::new(format!("ICMP of type {kind}"), from, to).family(family);
            suite.frame(case, |topology, mark| {
                let path = topology.path(from, to, family);
                let message =
                    message::icmp(path, kind, 0, [0, 1, 0, 1], &[&mark.bytes()[..], &[0; 32]].concat());
                frame::of_packet(topology.next_hop(from, to), topology[from].mac(), &packet(path, &message))
            });
        }
    }
}

/// Sends an error to the victim that quotes a packet of the victim's own connection with a friend, with the
/// mark as its payload. The attacker must guess the ports.
fn about_others(suite: &mut Suite) {
    for (what, v4, v6) in ERRORS {
        for family in Family::BOTH {
            for (victim, friend) in [("victim/v", "friend/f"), ("victim/w", "friend/f")] {
                let case = Case::new(format!("{what} about the victim's connection"), "evil/a", victim);
                suite.attempt(case.family(family), |context, mark| {
                    connect(context, friend, victim, family, mark.port())?;
                    let kind = if family == Family::V4 { v4 } else { v6 };
                    let quoted = context.topology.path(victim, friend, family);
                    send_error(context, victim, kind, quoted, (ECHO, mark.port()), family, &mark.bytes())
                });
            }
        }
    }
}

/// Sends an error to the victim about a connection that does not exist.
fn about_nothing(suite: &mut Suite) {
    for family in Family::BOTH {
        for victim in ["victim/v", "victim/w"] {
            let case = Case::new("port unreachable about no connection", "evil/a", victim).family(family);
            suite.attempt(case, |context, mark| {
                let kind = if family == Family::V4 { (3, 3) } else { (1, 4) };
                let quoted = context.topology.path(victim, "evil/a", family);
                send_error(context, victim, kind, quoted, (40_000, mark.port()), family, &mark.bytes())
            });
        }
    }
}

/// Opens a UDP connection from `friend` to `victim`, which is allowed.
fn connect(context: AttackContext<'_>, friend: &str, victim: &str, family: Family, port: u16) -> Result<()> {
    let AttackContext { testbed, topology, .. } = context;
    let (from, to) = (topology[friend].address(family), topology[victim].address(family));
    testbed.namespace(friend)?.run(|| -> Result<()> {
        let socket = UdpSocket::bind((from, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send_to(b"hello", SocketAddr::new(to, ECHO))?;
        socket.recv(&mut [0; 200]).context("the victim did not answer its friend")?;
        Ok(())
    })??;
    sleep(Duration::from_millis(5));
    Ok(())
}

fn send_error(
    context: AttackContext<'_>,
    victim: &str,
    (kind, code): Kind,
    quoted: Path,
    ports: (u16, u16),
    family: Family,
    data: &[u8],
) -> Result<()> {
    let AttackContext { testbed, topology, .. } = context;
    let inside: Message = message::udp(quoted, ports, data);
    let path = topology.path("evil/a", victim, family);
    let error = message::icmp(path, kind, code, [0, 0, 5, 0xdc], &packet(quoted, &inside));
    let frame = frame::of_packet(
        topology.next_hop("evil/a", victim),
        topology["evil/a"].mac(),
        &packet(path, &error),
    );
    wire::send_frames(testbed.namespace("evil/a")?, &topology["evil/a"].interface, &[frame])
}
