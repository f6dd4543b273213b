//! Messages of neighbour discovery and ARP as tunnels, and messages that only a router may send.

use std::net::{IpAddr, Ipv6Addr};

use super::case::Case;
use super::frame::{self, Arp, Mac};
use super::mark::Mark;
use super::message::{self, Path};
use super::packet::{fragments_for, packet_for};
use super::suite::Suite;
use super::topology::Topology;
use crate::cluster::OUTSIDE;
use crate::probe::Family;

/// ICMPv6 types of link-scope protocols, and their names.
const TYPES: [(&str, u8); 9] = [
    ("router solicitation", 133),
    ("router advertisement", 134),
    ("neighbour solicitation", 135),
    ("neighbour advertisement", 136),
    ("redirect", 137),
    ("router renumbering", 138),
    ("inverse neighbour solicitation", 141),
    ("certification path solicitation", 148),
    ("multicast router solicitation", 152),
];

/// Attacker and peer: isolated for ingress on either node; isolated for egress to either node and outside.
const PAIRS: [(&str, &str); 5] = [
    ("evil/a", "victim/v"),
    ("evil/a", "victim/w"),
    ("closed/c", "open/o"),
    ("closed/c", "open/p"),
    ("closed/c", OUTSIDE),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    with_a_payload(suite);
    in_fragments(suite);
    between_link_local(suite);
    from_a_router(suite);
    for_another(suite);
    arp_with_a_payload(suite);
}

/// Sends every type with a payload to one pod, with the hop limit of a routed packet and with that of one
/// from the link.
fn with_a_payload(suite: &mut Suite) {
    for (what, kind) in TYPES {
        for (from, to) in PAIRS {
            for hop_limit in [64, 255] {
                let name = format!("{what} with a payload, hop limit {hop_limit}");
                let case = Case::new(name, from, to).family(Family::V6);
                let is_same_node = matches!(to, "victim/v" | "open/o");
                let case = match kind {
                    134 | 137 => case.dropped("router-advertisement"),
                    133 | 135 | 136 if is_same_node && hop_limit == 255 => {
                        case.dropped_on_bridge("neighbour-discovery|isolated-scope")
                    }
                    _ => case,
                };
                suite.frame(case, |topology, mark| {
                    let path = topology.path(from, to, Family::V6);
                    discovery(
                        topology,
                        (from, topology.next_hop(from, to)),
                        path,
                        (kind, hop_limit),
                        &oversized(mark, path),
                    )
                });
            }
        }
    }
}

/// Sends solicitations and advertisements with a payload in fragments. The first fragment has only the
/// message's header, and the others don't show the type.
fn in_fragments(suite: &mut Suite) {
    for (what, kind) in [("neighbour solicitation", 135), ("neighbour advertisement", 136)] {
        for (from, to) in PAIRS.into_iter().chain([("evil/b", "evil/a"), ("evil/b", "closed/c")]) {
            let case = Case::new(format!("{what} with a payload in fragments"), from, to).family(Family::V6);
            suite.frames(case, |topology, mark| {
                let host = &topology[from];
                let path = topology.path(from, to, Family::V6);
                let body = [&octets(host.v6())[..], &option(mark), &[0; 1200]].concat();
                let message = message::icmp(path, kind, 0, [0; 4], &body);
                let frame =
                    |packet: &Vec<u8>| frame::of_packet(topology.next_hop(from, to), host.mac(), packet);
                fragments_for(path, &message, mark.port(), &[8], 255).iter().map(frame).collect()
            });
        }
    }
}

/// Sends neighbour discovery with a payload between link-local addresses of pods, and to that of the node.
fn between_link_local(suite: &mut Suite) {
    for (what, kind) in
        [("router solicitation", 133), ("neighbour solicitation", 135), ("neighbour advertisement", 136)]
    {
        for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/o"), ("closed/c", "node-a")] {
            let case = Case::new(format!("{what} with a payload by fe80::"), from, to).family(Family::V6);
            let reasons = "neighbour-discovery|isolated-scope";
            let case = if to == "node-a" { case.dropped(reasons) } else { case.dropped_on_bridge(reasons) };
            suite.frame(case, |topology, mark| {
                let host = &topology[from];
                let (destination, mac) = match to {
                    "node-a" => (host.gateway.link_local, host.gateway.mac),
                    to => (topology[to].link_local(), topology.next_hop(from, to)),
                };
                let path = Path::new(host.link_local(), destination);
                discovery(topology, (from, mac), path, (kind, 255), &oversized(mark, path))
            });
        }
    }
}

/// Sends router advertisements and redirects to all and to one, from the pod's own and from the gateway's
/// address.
fn from_a_router(suite: &mut Suite) {
    for (what, kind) in [("router advertisement", 134), ("redirect", 137)] {
        for as_gateway in [false, true] {
            for (whom, to) in
                [("all", "open/o"), ("one", "open/o"), ("one", "victim/v"), ("the node", "node-a")]
            {
                let source = if as_gateway { "the gateway's" } else { "its own" };
                let case = Case::new(format!("{what} to {whom} by {source} fe80::"), "evil/a", to);
                let case =
                    if whom == "all" { case.nor("victim/v").nor("evil/b").nor("node-a") } else { case };
                let reasons =
                    if as_gateway { "router-advertisement|spoofed-source" } else { "router-advertisement" };
                suite.frame(case.family(Family::V6).dropped(reasons), |topology, mark| {
                    let host = &topology["evil/a"];
                    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                    let (destination, mac) = match (whom, to) {
                        ("all", _) => (all, frame::group_mac(all.into())),
                        (_, "node-a") => (host.gateway.link_local, host.gateway.mac),
                        (_, to) => (topology[to].link_local(), topology.next_hop("evil/a", to)),
                    };
                    let source = if as_gateway { host.gateway.link_local } else { host.link_local() };
                    let path = Path::new(source, destination);
                    let body = match kind {
                        134 => router_advertisement(mark),
                        _ => [octets(topology["friend/f"].v6()), octets(host.v6()), option(mark)].concat(),
                    };
                    let rest = if kind == 134 { [64, 0, 0xff, 0xff] } else { [0; 4] };
                    let message = message::icmp(path, kind, 0, rest, &body);
                    frame::of_packet(mac, host.mac(), &packet_for(path, &message, 255))
                });
            }
        }
    }
}

/// Sends a duplicate address detection for another pod's address (RFC 4862), after which that pod would give
/// it up. Also sends an advertisement of another pod's address to all.
fn for_another(suite: &mut Suite) {
    let case = Case::new("duplicate address detection of a friend's address", "evil/a", "friend/f");
    suite.frame(
        case.family(Family::V6).dropped_on_bridge("spoofed-source|neighbour-discovery"),
        |topology, mark| {
            let target = topology["friend/f"].v6();
            let group = frame::solicited_node(target);
            let path = Path::new(Ipv6Addr::UNSPECIFIED, group);
            let body = [octets(target), nonce(mark)].concat();
            discovery(topology, ("evil/a", frame::group_mac(group.into())), path, (135, 255), &body)
        },
    );
    let case = Case::new("advertisement of a friend's address to all", "evil/a", "open/o").nor("victim/v");
    suite.frame(case.family(Family::V6).dropped("spoofed-source|neighbour-discovery"), |topology, mark| {
        let all: IpAddr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into();
        let path = Path::new(topology["evil/a"].v6(), all);
        let body = [octets(topology["friend/f"].v6()), nonce(mark)].concat();
        discovery(topology, ("evil/a", frame::group_mac(all)), path, (136, 255), &body)
    });
}

/// Sends ARP followed by a payload, to one and to all: a tunnel that rules about IP don't see.
fn arp_with_a_payload(suite: &mut Suite) {
    for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/o"), ("evil/b", "evil/a")] {
        for whom in ["one", "all"] {
            for operation in [1, 2] {
                let what = ["request", "reply"][usize::from(operation) - 1];
                let case =
                    Case::new(format!("ARP {what} with a payload to {whom}"), from, to).family(Family::V4);
                suite.frame(case, |topology, mark| {
                    let (host, peer) = (&topology[from], &topology[to]);
                    let mac: Mac = if whom == "all" { frame::BROADCAST } else { topology.next_hop(from, to) };
                    let arp =
                        Arp { operation, sender: (host.mac(), host.v4()), target: (peer.mac(), peer.v4()) };
                    frame::arp(mac, host.mac(), arp, &[&mark.bytes()[..], &[0; 400]].concat())
                });
            }
        }
    }
    let case = Case::new("an unknown operation of ARP", "evil/a", "victim/v").family(Family::V4);
    suite.frame(case, |topology, mark| {
        let (host, peer) = (&topology["evil/a"], &topology["victim/v"]);
        let [a, b, c, d, e, f, ..] = mark.bytes();
        let arp =
            Arp { operation: 9, sender: (host.mac(), host.v4()), target: ([a, b, c, d, e, f], peer.v4()) };
        frame::arp(topology.next_hop("evil/a", "victim/v"), host.mac(), arp, &mark.bytes())
    });
}

/// The frame of a message whose first word is zero.
fn discovery(
    topology: &Topology,
    (from, mac): (&str, Mac),
    path: Path,
    (kind, hop_limit): (u8, u8),
    body: &[u8],
) -> Vec<u8> {
    let message = message::icmp(path, kind, 0, [0; 4], body);
    frame::of_packet(mac, topology[from].mac(), &packet_for(path, &message, hop_limit))
}

/// A target address and about 600 bytes of unknown options, with the mark in the first one.
fn oversized(mark: Mark, path: Path) -> Vec<u8> {
    let mut body = message::octets(path.destination);
    body.extend(option(mark));
    for _ in 0..36 {
        body.extend([253, 2]);
        body.extend([0; 14]);
    }
    body
}

/// An unknown option that contains the mark.
fn option(mark: Mark) -> Vec<u8> {
    [&[253, 2][..], &mark.bytes(), &[0; 6]].concat()
}

/// The option "nonce" (RFC 3971) that contains the mark.
fn nonce(mark: Mark) -> Vec<u8> {
    [&[14, 2][..], &mark.bytes(), &[0; 6]].concat()
}

/// The body after the first two words: timers, a prefix for address configuration, and the mark.
fn router_advertisement(mark: Mark) -> Vec<u8> {
    let lifetime = 600_u32.to_be_bytes();
    let prefix = [0xfd, 0xee, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [&[3, 4, 64, 0xc0], &lifetime[..], &lifetime, &[0; 4], &prefix].concat();
    [&[0; 8][..], &prefix, &option(mark)].concat()
}

fn octets(address: Ipv6Addr) -> Vec<u8> {
    address.octets().to_vec()
}
