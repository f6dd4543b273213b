//! Neighbour caches: no pod takes an attacker's hardware address for another pod's, nor for the gateway's.

use std::net::{IpAddr, Ipv6Addr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::case::Case;
use super::field::Field;
use super::frame::{self, Arp, Mac};
use super::message::{self, Path};
use super::packet::{fragments_for, packet_for};
use super::report::Outcome;
use super::suite::{Means, Suite};
use super::wire;
use crate::command::{ip, ip_answer};
use crate::probe::{Family, probe};

/// How long the kernel takes to update its neighbour cache.
const BELIEF: Duration = Duration::from_millis(60);

/// Who is lied to, and about whom: `gateway` is the pods' own.
const LIES: [(&str, &str); 5] = [
    ("victim/v", "friend/f"),
    ("victim/v", "gateway"),
    ("open/o", "gateway"),
    ("node-a", "friend/f"),
    ("friend/f", "victim/v"),
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    for (victim, about) in LIES {
        for lie in ["ARP request", "ARP reply", "ARP reply to all", "gratuitous ARP"] {
            try_lie(suite, Family::V4, lie, victim, about, arp);
        }
        for lie in ["advertisement", "advertisement to all", "solicitation from it"] {
            try_lie(suite, Family::V6, lie, victim, about, discovery);
        }
        // The first fragment ends before what the message is about, which netfilter sees when it has put both together.
        try_lie(suite, Family::V6, "advertisement in fragments", victim, about, discovery);
    }
}

/// Lets the victim know the truth, tells it a lie, and looks at what it believes then.
fn try_lie(
    suite: &mut Suite,
    family: Family,
    lie: &str,
    victim: &str,
    about: &str,
    frames: fn(&Field, &str, &str, &str) -> Vec<Vec<u8>>,
) {
    let case =
        Case::new(format!("{lie}: tells {victim} that it is {about}"), "evil/a", victim).family(family);
    let reasons = "spoofed-source|neighbour-discovery";
    // Of routed pods no hook sees ARP, and none is needed: each has a link of its own.
    let case = match family {
        Family::V4 => case.dropped_on_bridge(reasons),
        Family::V6 => case.dropped(reasons),
    };
    let means = suite.means();
    let outcome = match believed(means, family, victim, about, &frames(&suite.field, lie, victim, about)) {
        Err(error) => Outcome::Broken(format!("{error:#}")),
        Ok(believed) if believed.contains(&text(suite.field["evil/a"].mac())) => {
            Outcome::GotThrough(format!("the cache of {victim}"))
        }
        Ok(_) => Outcome::Held,
    };
    suite.note(case, outcome);
}

/// What the victim's cache holds of the address after the lie.
fn believed(
    means: Means<'_>,
    family: Family,
    victim: &str,
    about: &str,
    frames: &[Vec<u8>],
) -> Result<String> {
    let Means { testbed, field, .. } = means;
    let namespace = testbed.namespace(victim)?;
    let address = address_of(field, about, family);
    ip(namespace, "neigh flush all\n")?;
    let way = "ping".parse()?;
    namespace.run(|| probe(address, way, Duration::from_secs(1)))??;
    let attacker = testbed.namespace("evil/a")?;
    wire::send_frames(attacker, &field["evil/a"].interface, frames)?;
    sleep(BELIEF);
    // What a node believes of a link that no packet for the address takes does no harm.
    let device = match (victim, field.is_bridged()) {
        ("node-a", true) => "cni0",
        ("node-a", false) => testbed.device(about)?,
        _ => "eth0",
    };
    let answer = ip_answer(namespace, &["neigh", "show", "to", &address.to_string(), "dev", device])?;
    // The next attempts begin with the truth.
    ip(namespace, "neigh flush all\n")?;
    Ok(answer)
}

/// The lie in ARP.
fn arp(field: &Field, lie: &str, victim: &str, about: &str) -> Vec<Vec<u8>> {
    let own = field["evil/a"].mac();
    let IpAddr::V4(address) = address_of(field, about, Family::V4) else { return Vec::new() };
    let (mac, victims) = link_of(field, victim);
    let IpAddr::V4(victims) = victims[0] else { return Vec::new() };
    let (operation, to, target) = match lie {
        "ARP request" => (1, mac, ([0; 6], victims)),
        "ARP reply" => (2, mac, (mac, victims)),
        "ARP reply to all" => (2, frame::BROADCAST, (mac, victims)),
        _ => (1, frame::BROADCAST, ([0; 6], address)),
    };
    vec![frame::arp(to, own, Arp { operation, sender: (own, address), target }, &[])]
}

/// The lie in neighbour discovery.
fn discovery(field: &Field, lie: &str, victim: &str, about: &str) -> Vec<Vec<u8>> {
    let host = &field["evil/a"];
    let IpAddr::V6(address) = address_of(field, about, Family::V6) else { return Vec::new() };
    let (mac, victims) = link_of(field, victim);
    let all: IpAddr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into();
    let (path, to, kind) = match lie {
        "advertisement" | "advertisement in fragments" => (Path::new(host.v6(), victims[1]), mac, 136),
        "advertisement to all" => (Path::new(host.v6(), all), frame::group_mac(all), 136),
        // A request updates the cache entry of its sender.
        _ => (Path::new(address, victims[1]), mac, 135),
    };
    // An advertisement says that it overrides, and names the attacker's hardware address; a solicitation names its source's.
    let (rest, target, option) = match kind {
        136 => ([0x20, 0, 0, 0], IpAddr::V6(address), 2),
        _ => ([0; 4], victims[1], 1),
    };
    let body = [&message::octets(target)[..], &[option, 1], &host.mac()].concat();
    let message = message::icmp(path, kind, 0, rest, &body);
    let packets = match lie {
        "advertisement in fragments" => fragments_for(path, &message, 136, &[8], 255),
        _ => vec![packet_for(path, &message, 255)],
    };
    packets.iter().map(|packet| frame::of_packet(to, host.mac(), packet)).collect()
}

fn address_of(field: &Field, about: &str, family: Family) -> IpAddr {
    let node = &field.nodes[0];
    match about {
        "gateway" => family.of([node.gateway4().into(), node.gateway6().into()]),
        pod => field[pod].address(family),
    }
}

/// The hardware address to which frames for the victim go, and its addresses on the link.
fn link_of(field: &Field, victim: &str) -> (Mac, [IpAddr; 2]) {
    let node = &field.nodes[0];
    match victim {
        "node-a" => (field["evil/a"].gateway.mac, [node.gateway4().into(), node.gateway6().into()]),
        pod => (field.next_hop("evil/a", pod), field[pod].addresses),
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
