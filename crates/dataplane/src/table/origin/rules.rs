//! The rules of the chain `prerouting`, and of the chains to which it jumps.

use std::collections::BTreeSet;

use super::names::{FROM_ELSEWHERE, FROM_EXEMPT, FROM_ISOLATED, FROM_PORT, ICMP, LINK, NFQUEUE, PREROUTING};
use super::sets::{
    BEHIND_4, BEHIND_6, EXEMPT, OTHER_PORTS, OVERLAY_PORTS, OVERLAY_PROTOCOLS, OWN_4, OWN_6, SETTLED,
    SOURCES_4, SOURCES_6, TAKEN_4, TAKEN_6,
};
use crate::drops::DropReason;
use crate::marks::Marks;
use crate::nft::expression::{Address, Comparison, Expression, Meta, Payload};
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::nft::set::Set;
use crate::numbers::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IGMP, NFPROTO_IPV4, NFPROTO_IPV6};
use crate::ports::InterfaceIndex;
use crate::table::family::{FAMILIES, Family};
use crate::table::link_rules::{
    NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, ROUTER_SOLICITATION, drop_for, interface_in, is,
    is_unspecified, overlay_transports, port_key, veth,
};
use crate::table::rule::rule;

/// The index of the loopback interface in each network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// The rules of the chain `prerouting`. They name the pods' bridges, so they are rewritten when the bridges
/// change.
pub(in crate::table) fn prerouting_rules(
    pod_bridges: &BTreeSet<InterfaceIndex>,
    marks: &Marks,
    has_bridge_table: bool,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    let has_new_port = |comparison| {
        [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: marks.queue_reason_mask().0, flip: 0 },
            Expression::Compare(comparison, marks.new_port().0.to_ne_bytes().to_vec()),
        ]
    };
    let enters_by = |bridge: &InterfaceIndex| is(Meta::Iif, &bridge.0.to_ne_bytes());
    for bridge in pod_bridges.iter().filter(|_| has_bridge_table) {
        let passed = enters_by(bridge)
            .into_iter()
            .chain(has_new_port(Comparison::NotEqual))
            .chain([Expression::Accept]);
        rules.push(rule(PREROUTING, "accept packets that the bridge table accepted", passed));
    }
    // From any bridge.
    let wait = has_new_port(Comparison::Equal).into_iter().chain([Expression::Goto(NFQUEUE)]);
    rules.push(rule(PREROUTING, "hold packets of new ports", wait));
    for bridge in pod_bridges.iter().filter(|_| !has_bridge_table) {
        let unchecked = enters_by(bridge).into_iter().chain([Expression::Goto(FROM_EXEMPT)]);
        rules.push(rule(PREROUTING, "accept any source from bridges that can't be checked", unchecked));
    }
    let from_veth = is(Meta::IifKind, &veth()).into_iter().chain([Expression::Goto(FROM_PORT)]);
    rules.push(rule(PREROUTING, "check packets that enter by a veth device", from_veth));
    rules.push(rule(PREROUTING, "check packets from elsewhere", [Expression::Goto(FROM_ELSEWHERE)]));
    rules
}

/// The rules of all other chains except the drop chains.
pub(super) fn rules(queue: Queue, form: QueueForm) -> Vec<Rule> {
    let mut rules = from_port();
    rules.extend(icmp_messages());
    rules.extend(from_elsewhere());
    rules.extend(from_exempt());
    rules.extend(from_isolated());
    rules.extend(LINK.no_fragments(NFQUEUE));
    rules.push(rule(NFQUEUE, "queue until the port is bound", [Expression::Queue(queue, form)]));
    rules
}

/// First match decides.
fn from_port() -> Vec<Rule> {
    let elsewhere =
        interface_in(Meta::Iif, OTHER_PORTS).into_iter().chain([Expression::Goto(FROM_ELSEWHERE)]);
    let icmp = |family: [Expression; 2], protocol: u8| {
        family.into_iter().chain(is(Meta::Transport, &[protocol])).chain([Expression::Jump(ICMP)])
    };
    let mut rules = vec![
        rule(FROM_PORT, "check packets from elsewhere", elsewhere),
        rule(FROM_PORT, "check ICMP", icmp(LINK.is_ipv4(), IPPROTO_ICMP)),
        rule(FROM_PORT, "check ICMPv6", icmp(LINK.is_ipv6(), IPPROTO_ICMPV6)),
    ];
    rules.extend(LINK.router_messages(FROM_PORT));
    rules.push(rule(FROM_PORT, "drop link-local sources beyond the link", beyond_the_link()));
    let source = |family: [Expression; 2], address, map: Set| {
        family.into_iter().chain(port_key(address)).chain([Expression::VerdictOf(map.name)])
    };
    let (v4, v6) = (Payload::V4(Address::Source), Payload::V6(Address::Source));
    rules.extend([
        rule(FROM_PORT, "continue by bound IPv4 source", source(LINK.is_ipv4(), v4, SOURCES_4)),
        rule(FROM_PORT, "continue by bound IPv6 source", source(LINK.is_ipv6(), v6, SOURCES_6)),
    ]);
    rules.extend(unspecified());
    // The taken address is checked first: between two rules, the address may have been bound to this very
    // port. Sets change while packets pass.
    let taken = |family: u8, address, taken: Set, behind: Set| {
        interface_in(Meta::Iif, EXEMPT)
            .into_iter()
            .chain(is(Meta::Family, &[family]))
            .chain([Expression::LoadPayload(address), Expression::InSet(taken.name)])
            .chain(port_key(address))
            .chain([Expression::NotInSet(behind.name)])
            .chain(drop_for(DropReason::SpoofedSource))
    };
    let exempt = interface_in(Meta::Iif, EXEMPT).into_iter().chain([Expression::Goto(FROM_EXEMPT)]);
    let settled = interface_in(Meta::Iif, SETTLED).into_iter().chain(drop_for(DropReason::SpoofedSource));
    rules.extend([
        rule(FROM_PORT, "drop IPv4 addresses of other ports", taken(NFPROTO_IPV4, v4, TAKEN_4, BEHIND_4)),
        rule(FROM_PORT, "drop IPv6 addresses of other ports", taken(NFPROTO_IPV6, v6, TAKEN_6, BEHIND_6)),
        rule(FROM_PORT, "check packets of exempt pods", exempt),
        rule(FROM_PORT, "drop packets from unbound sources", settled),
        rule(FROM_PORT, "hold packets of new ports", [Expression::Goto(NFQUEUE)]),
    ]);
    rules
}

/// Drops packets from a source in fe80::/10 to a destination that is neither link-local nor multicast.
fn beyond_the_link() -> impl Iterator<Item = Expression> {
    LINK.is_ipv6()
        .into_iter()
        .chain([
            Expression::LoadPayload(Payload::V6SourceStart),
            Expression::Compare(Comparison::AtLeast, vec![0xfe, 0x80]),
            Expression::Compare(Comparison::AtMost, vec![0xfe, 0xbf]),
            Expression::LoadPayload(Payload::V6DestinationStart),
            Expression::Compare(Comparison::AtMost, vec![0xfe, 0x7f]),
        ])
        .chain(drop_for(DropReason::IsolatedScope))
}

/// IPv6 from `::`, as in the bridge table's chain `unspecified`.
fn unspecified() -> [Rule; 3] {
    let from_unspecified = |expressions: Vec<Expression>| {
        expressions.into_iter().chain(is_unspecified()).chain([Expression::Accept])
    };
    let mut duplicates = LINK.short_neighbour_discovery(NEIGHBOUR_SOLICITATION, NEIGHBOUR_SOLICITATION);
    duplicates.extend(LINK.has_own_target());
    let solicitation = LINK.short_neighbour_discovery(ROUTER_SOLICITATION, ROUTER_SOLICITATION);
    [
        rule(FROM_PORT, "accept duplicate address detection", from_unspecified(duplicates)),
        rule(FROM_PORT, "accept router solicitations", from_unspecified(solicitation)),
        rule(FROM_PORT, "accept multicast listener reports", from_unspecified(LINK.icmpv6(143, 143))),
    ]
}

/// As in the bridge table's chains `icmp-errors` and `icmpv6-messages`. Packets that no rule matches return
/// to `from-port`.
fn icmp_messages() -> Vec<Rule> {
    let mut rules = LINK.icmp_errors(ICMP);
    rules.extend(LINK.fragments(ICMP));
    rules.extend(LINK.neighbour_discovery_rules(ICMP));
    rules.extend(LINK.icmpv6_errors(ICMP));
    rules
}

/// Packets that enter by no pod's port. Those that no rule matches are accepted by the policy of
/// `prerouting`.
fn from_elsewhere() -> Vec<Rule> {
    let lo = is(Meta::Iif, &LOOPBACK.to_ne_bytes()).into_iter().chain([Expression::Accept]);
    // This node's pods send only by their ports.
    let pods = |family: &Family| {
        family
            .is_it()
            .into_iter()
            .chain([
                Expression::LoadPayload((family.payload)(Address::Source)),
                Expression::InSet(family.pod_cidrs),
            ])
            .chain(drop_for(DropReason::SpoofedSource))
    };
    let mut rules = vec![rule(FROM_ELSEWHERE, "accept the node's packets to itself", lo)];
    rules.extend(own_sources(FROM_ELSEWHERE));
    rules.extend(
        FAMILIES
            .iter()
            .map(|family| rule(FROM_ELSEWHERE, "drop packets from local pods' addresses", pods(family))),
    );
    rules
}

/// Packets of exempt pods. Those that no rule matches are accepted by the policy of `prerouting`.
fn from_exempt() -> Vec<Rule> {
    // From any source: the rules of `postrouting` and `input` identify pods by their addresses.
    let mut rules: Vec<Rule> = FAMILIES
        .iter()
        .flat_map(|family| {
            overlay_transports(OVERLAY_PORTS, OVERLAY_PROTOCOLS).map(|transport| {
                let to_node = [
                    Expression::LoadPayload((family.payload)(Address::Destination)),
                    Expression::InSet(family.node_addresses),
                ];
                let dropped = family
                    .is_it()
                    .into_iter()
                    .chain(transport)
                    .chain(to_node)
                    .chain(drop_for(DropReason::Overlay));
                rule(FROM_EXEMPT, "drop overlay packets to nodes", dropped)
            })
        })
        .collect();
    rules.extend(own_sources(FROM_EXEMPT));
    rules
}

/// No packet from another host has one of the node's own addresses as its source (semantics 33).
fn own_sources(chain: &'static str) -> [Rule; 2] {
    let own = |family: [Expression; 2], address, set: Set| {
        family
            .into_iter()
            .chain([Expression::LoadPayload(address), Expression::InSet(set.name)])
            .chain(drop_for(DropReason::LocalSource))
    };
    [
        (LINK.is_ipv4(), Payload::V4(Address::Source), OWN_4),
        (LINK.is_ipv6(), Payload::V6(Address::Source), OWN_6),
    ]
    .map(|(family, address, set)| {
        rule(chain, "drop packets from the node's own addresses", own(family, address, set))
    })
}

/// Packets of a routed pod that isolates egress: no multicast, broadcast or link-local traffic but what the
/// link itself needs.
fn from_isolated() -> Vec<Rule> {
    let up_to = |family: [Expression; 2], start: Payload, last: Vec<u8>| {
        family.into_iter().chain([
            Expression::LoadPayload(start),
            Expression::Compare(Comparison::AtMost, last),
            Expression::Accept,
        ])
    };
    let unicast4 = up_to(LINK.is_ipv4(), Payload::V4DestinationStart, vec![223]);
    let unicast6 = up_to(LINK.is_ipv6(), Payload::V6DestinationStart, vec![0xfe, 0x7f]);
    let igmp = is(Meta::Transport, &[IPPROTO_IGMP]).into_iter().chain([Expression::Accept]);
    let discovery = LINK
        .short_neighbour_discovery(ROUTER_SOLICITATION, NEIGHBOUR_ADVERTISEMENT)
        .into_iter()
        .chain([Expression::Accept]);
    let listener = LINK.icmpv6(143, 143).into_iter().chain([Expression::Accept]);
    let rest = drop_for(DropReason::IsolatedScope);
    vec![
        rule(FROM_ISOLATED, "accept unicast", unicast4),
        rule(FROM_ISOLATED, "accept IGMP", igmp),
        rule(FROM_ISOLATED, "accept neighbour discovery", discovery),
        rule(FROM_ISOLATED, "accept multicast listener reports", listener),
        rule(FROM_ISOLATED, "accept unicast", unicast6),
        rule(FROM_ISOLATED, "drop multicast, broadcast and link-local", rest),
    ]
}
