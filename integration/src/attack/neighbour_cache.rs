//! Neighbour caches: no pod may accept an attacker's hardware address as that of another pod or of the
//! gateway.

use std::net::{IpAddr, Ipv6Addr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::case::Case;
use super::frame::{self, Arp, Mac};
use super::message::{self, Path};
use super::packet::{fragments_for, packet_for};
use super::report::Outcome;
use super::suite::{AttackContext, Suite};
use super::topology::Topology;
use super::wire;
use crate::command::{ip, ip_output};
use crate::probe::{Family, probe};

/// Longer than the kernel takes to update its neighbour cache.
const CACHE_UPDATE: Duration = Duration::from_millis(60);

/// The victim, and the host whose hardware address is forged. `gateway` is the pods' own gateway.
const VICTIMS: [(&str, &str); 5] = [
    ("victim/v", "friend/f"),
    ("victim/v", "gateway"),
    ("open/o", "gateway"),
    ("node-a", "friend/f"),
    ("friend/f", "victim/v"),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    for (victim, about) in VICTIMS {
        for forgery in ["ARP request", "ARP reply", "ARP reply to all", "gratuitous ARP"] {
            try_forgery(suite, Family::V4, forgery, victim, about, arp);
        }
        for forgery in ["advertisement", "advertisement to all", "solicitation from it"] {
            try_forgery(suite, Family::V6, forgery, victim, about, discovery);
        }
        // The first fragment ends before the target address, which netfilter sees only after reassembly.
        try_forgery(suite, Family::V6, "advertisement in fragments", victim, about, discovery);
    }
}

/// Lets the victim learn the right hardware address, sends forged messages, and checks its cache.
fn try_forgery(
    suite: &mut Suite,
    family: Family,
    forgery: &str,
    victim: &str,
    about: &str,
    frames: fn(&Topology, &str, &str, &str) -> Vec<Vec<u8>>,
) {
    let case = Case::new(format!("{forgery} to {victim} that claims to be {about}"), "evil/a", victim)
        .family(family);
    let reasons = "spoofed-source|neighbour-discovery";
    // No hook sees the ARP of routed pods, and none is needed, since each pod has its own link.
    let case = match family {
        Family::V4 => case.dropped_on_bridge(reasons),
        Family::V6 => case.dropped(reasons),
    };
    let context = suite.context();
    let outcome =
        match cached(context, family, victim, about, &frames(&suite.topology, forgery, victim, about)) {
            Err(error) => Outcome::Broken(format!("{error:#}")),
            Ok(cached) if cached.contains(&text(suite.topology["evil/a"].mac())) => {
                Outcome::GotThrough(format!("the neighbour cache of {victim}"))
            }
            Ok(_) => Outcome::AsExpected,
        };
    suite.record(case, outcome);
}

/// The victim's cache entry for the address after the forged messages.
fn cached(
    context: AttackContext<'_>,
    family: Family,
    victim: &str,
    about: &str,
    frames: &[Vec<u8>],
) -> Result<String> {
    let AttackContext { testbed, topology, .. } = context;
    let namespace = testbed.namespace(victim)?;
    let address = address_of(topology, about, family);
    ip(namespace, "neigh flush all\n")?;
    let target = "ping".parse()?;
    namespace.run(|| probe(address, target, Duration::from_secs(1)))??;
    let attacker = testbed.namespace("evil/a")?;
    wire::send_frames(attacker, &topology["evil/a"].interface, frames)?;
    sleep(CACHE_UPDATE);
    // A node's entries on links that no packet for the address takes do no harm.
    let device = match (victim, topology.is_bridged()) {
        ("node-a", true) => "cni0",
        ("node-a", false) => testbed.device(about)?,
        _ => "eth0",
    };
    let answer = ip_output(namespace, &["neigh", "show", "to", &address.to_string(), "dev", device])?;
    // The next attempts start with an empty cache.
    ip(namespace, "neigh flush all\n")?;
    Ok(answer)
}

/// The forged ARP frames.
fn arp(topology: &Topology, forgery: &str, victim: &str, about: &str) -> Vec<Vec<u8>> {
    let own = topology["evil/a"].mac();
    let IpAddr::V4(address) = address_of(topology, about, Family::V4) else { return Vec::new() };
    let (mac, victims) = link_of(topology, victim);
    let IpAddr::V4(victims) = victims[0] else { return Vec::new() };
    let (operation, to, target) = match forgery {
        "ARP request" => (1, mac, ([0; 6], victims)),
        "ARP reply" => (2, mac, (mac, victims)),
        "ARP reply to all" => (2, frame::BROADCAST, (mac, victims)),
        _ => (1, frame::BROADCAST, ([0; 6], address)),
    };
    vec![frame::arp(to, own, Arp { operation, sender: (own, address), target }, &[])]
}

/// The forged frames of neighbour discovery.
fn discovery(topology: &Topology, forgery: &str, victim: &str, about: &str) -> Vec<Vec<u8>> {
    let host = &topology["evil/a"];
    let IpAddr::V6(address) = address_of(topology, about, Family::V6) else { return Vec::new() };
    let (mac, victims) = link_of(topology, victim);
    let all: IpAddr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into();
    let (path, to, kind) = match forgery {
        "advertisement" | "advertisement in fragments" => (Path::new(host.v6(), victims[1]), mac, 136),
        "advertisement to all" => (Path::new(host.v6(), all), frame::group_mac(all), 136),
        // A solicitation updates the cache entry of its sender.
        _ => (Path::new(address, victims[1]), mac, 135),
    };
    // An advertisement has the override flag and the option "target link-layer address"; a solicitation has
    // the option "source link-layer address".
    let (rest, target, option) = match kind {
        136 => ([0x20, 0, 0, 0], IpAddr::V6(address), 2),
        _ => ([0; 4], victims[1], 1),
    };
    let body = [&message::octets(target)[..], &[option, 1], &host.mac()].concat();
    let message = message::icmp(path, kind, 0, rest, &body);
    let packets = match forgery {
        "advertisement in fragments" => fragments_for(path, &message, 136, &[8], 255),
        _ => vec![packet_for(path, &message, 255)],
    };
    packets.iter().map(|packet| frame::of_packet(to, host.mac(), packet)).collect()
}

fn address_of(topology: &Topology, about: &str, family: Family) -> IpAddr {
    let node = &topology.nodes[0];
    match about {
        "gateway" => family.of([node.gateway4().into(), node.gateway6().into()]),
        pod => topology[pod].address(family),
    }
}

/// The hardware address to which frames for the victim go, and its addresses on the link.
fn link_of(topology: &Topology, victim: &str) -> (Mac, [IpAddr; 2]) {
    let node = &topology.nodes[0];
    match victim {
        "node-a" => (topology["evil/a"].gateway.mac, [node.gateway4().into(), node.gateway6().into()]),
        pod => (topology.next_hop("evil/a", pod), topology[pod].addresses),
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
