//! The rules of the regular chains: what pods send, by whether the source is bound and what policy
//! isolates.

use super::matches::{is_link_local, is_multicast4, is_multicast6};
use super::names::{
    ARP, EXEMPT, ICMP, ICMPV6, IP, IPV6, ISOLATED_4, ISOLATED_6, LINK, LINK_LOCAL_ISOLATED, LINK_LOCAL_OPEN,
    OPEN_4, OPEN_6, UNMATCHED, UNSPECIFIED,
};
use super::sets::{
    BOUND_ARP, EXEMPT_PORTS, NODES_4, NODES_6, OVERLAY_PORTS, OVERLAY_PROTOCOLS, OWN_4, OWN_6, OWN_MACS,
    SETTLED, TAKEN_4, TAKEN_6, TAKEN_MACS,
};
use crate::drops::DropReason;
use crate::marks::Marks;
use crate::nft::expression::{Address, Comparison, Expression, KeyPart, Meta, Payload};
use crate::nft::rule::Rule;
use crate::nft::set::Set;
use crate::numbers::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IGMP};
use crate::table::link_rules::{
    NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, ROUTER_SOLICITATION, drop_for, interface_in, is,
    is_unspecified, length, overlay_transports, port_key,
};
use crate::table::rule::{mark_packet, rule};

/// An ARP message for IPv4 takes 28 bytes, and Ethernet pads a frame's content to 46.
const LONGEST_ARP: u32 = 46;

/// Frames from a bound source. From a pod that isolates egress, only packets to one address continue, to be
/// evaluated by their addresses. All chains end in a verdict.
pub(super) fn bound() -> Vec<Rule> {
    let mut rules = bound4();
    rules.extend(bound6());
    rules
}

fn bound4() -> Vec<Rule> {
    let unicast = is_for_one_station().into_iter().chain([
        Expression::LoadPayload(Payload::V4DestinationStart),
        Expression::Compare(Comparison::AtMost, vec![223]),
        Expression::Accept,
    ]);
    let igmp =
        is(Meta::Transport, &[IPPROTO_IGMP]).into_iter().chain(is_multicast4()).chain([Expression::Accept]);
    // One rule for TCP and UDP: ICMP is protocol 1, IGMP is 2.
    let behind_igmp = [
        Expression::LoadMeta(Meta::Transport),
        Expression::Compare(Comparison::AtLeast, vec![IPPROTO_IGMP + 1]),
        Expression::Accept,
    ];
    vec![
        look_at_icmp(ISOLATED_4),
        LINK.membership_queries(ISOLATED_4),
        rule(OPEN_4, "accept all but ICMP and IGMP", behind_igmp),
        look_at_icmp(OPEN_4),
        LINK.membership_queries(OPEN_4),
        rule(OPEN_4, "accept all else", [Expression::Accept]),
        rule(ISOLATED_4, "accept unicast", unicast),
        rule(ISOLATED_4, "accept IGMP", igmp),
        rule(ISOLATED_4, "drop multicast and broadcast", drop_for(DropReason::IsolatedScope)),
    ]
}

fn bound6() -> Vec<Rule> {
    let drop = || drop_for(DropReason::IsolatedScope);
    let link_local = is_link_local().into_iter().chain(drop());
    let unicast = is_for_one_station().into_iter().chain([
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtMost, vec![0xfe, 0xff]),
        Expression::Accept,
    ]);
    let stays = [
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![0xfe, 0x80]),
        Expression::Accept,
    ];
    vec![
        look_at_icmpv6(ISOLATED_6),
        rule(ISOLATED_6, "drop link-local", link_local),
        rule(ISOLATED_6, "accept unicast", unicast),
        rule(ISOLATED_6, "drop multicast", drop()),
        look_at_icmpv6(OPEN_6),
        rule(OPEN_6, "accept all else", [Expression::Accept]),
        look_at_icmpv6(LINK_LOCAL_ISOLATED),
        rule(LINK_LOCAL_ISOLATED, "drop all else", drop()),
        look_at_icmpv6(LINK_LOCAL_OPEN),
        // Policy can't evaluate a link-local source, so its packets must not leave the link.
        rule(LINK_LOCAL_OPEN, "accept packets that stay on the link", stays),
        rule(LINK_LOCAL_OPEN, "drop all else", drop()),
    ]
}

fn look_at_icmp(chain: &'static str) -> Rule {
    let icmp = is(Meta::Transport, &[IPPROTO_ICMP]).into_iter().chain([Expression::Jump(ICMP)]);
    rule(chain, "check ICMP", icmp)
}

fn look_at_icmpv6(chain: &'static str) -> Rule {
    let icmpv6 = is(Meta::Transport, &[IPPROTO_ICMPV6]).into_iter().chain([Expression::Jump(ICMPV6)]);
    rule(chain, "check ICMPv6", icmpv6)
}

/// Matches if the frame is not for a group of stations.
fn is_for_one_station() -> [Expression; 3] {
    [
        Expression::LoadPayload(Payload::DestinationMacStart),
        Expression::Bits { mask: u32::from_ne_bytes([1, 0, 0, 0]), flip: 0 },
        Expression::Compare(Comparison::Equal, vec![0]),
    ]
}

/// Messages about the link itself. All other messages return to the chain that jumped here.
pub(super) fn icmp_messages() -> Vec<Rule> {
    let discovery = LINK
        .neighbour_discovery(ROUTER_SOLICITATION, NEIGHBOUR_ADVERTISEMENT)
        .into_iter()
        .chain([Expression::Accept]);
    let mut rules = LINK.icmp_errors(ICMP);
    rules.extend(LINK.fragments(ICMPV6));
    rules.extend(LINK.router_messages(ICMPV6));
    rules.extend(LINK.neighbour_discovery_rules(ICMPV6));
    rules.push(rule(ICMPV6, "accept neighbour discovery", discovery));
    rules.extend(listener_reports(ICMPV6));
    rules.extend(LINK.icmpv6_errors(ICMPV6));
    rules
}

/// Matches multicast listener reports (RFC 2710, RFC 3810).
fn listener_reports(chain: &'static str) -> [Rule; 2] {
    [(131, 132), (143, 143)].map(|(first, last)| {
        let report = LINK.icmpv6(first, last).into_iter().chain(is_multicast6()).chain([Expression::Accept]);
        rule(chain, "accept multicast listener reports", report)
    })
}

/// Frames that enter by a pod's port with a source that is not bound to it. First match decides.
pub(super) fn unmatched(marks: &Marks) -> Vec<Rule> {
    let is_not = |ether_type: [u8; 2]| {
        [
            Expression::LoadPayload(Payload::EtherType),
            Expression::Compare(Comparison::NotEqual, ether_type.to_vec()),
        ]
    };
    let other = [IP, IPV6, ARP].into_iter().flat_map(is_not).chain(drop_for(DropReason::EtherType));
    let unspecified =
        is_frame_of(IPV6).into_iter().chain(is_unspecified()).chain([Expression::Jump(UNSPECIFIED)]);
    let exempt = interface_in(Meta::Iif, EXEMPT_PORTS).into_iter().chain([Expression::Jump(EXEMPT)]);
    let settled = interface_in(Meta::Iif, SETTLED).into_iter().chain(drop_for(DropReason::SpoofedSource));
    // The taken address is checked first: between two rules, the address may have been bound to this very
    // port. Sets change while packets pass.
    let taken_arp = is_frame_of(ARP)
        .into_iter()
        .chain([Expression::LoadPayload(Payload::ArpSenderAddress), Expression::InSet(TAKEN_4.name)])
        .chain(arp_key())
        .chain([Expression::NotInSet(BOUND_ARP.name)])
        .chain(drop_for(DropReason::SpoofedSource));
    // A bridge learns a hardware address's port from the first frame of that port.
    let another_mac = [Payload::SourceMac, Payload::ArpSenderMac].map(|mac| {
        let is_arp = is_frame_of(ARP).into_iter().filter(move |_| mac == Payload::ArpSenderMac);
        let taken = [Expression::LoadPayload(mac), Expression::InSet(TAKEN_MACS.name)];
        let [port, mac] = port_key(mac);
        let not_own = [port, mac, Expression::NotInSet(OWN_MACS.name)];
        let dropped = is_arp.chain(taken).chain(not_own).chain(drop_for(DropReason::SpoofedSource));
        rule(UNMATCHED, "drop new ports' frames with hardware addresses of other ports", dropped)
    });
    let new_arp = is_frame_of(ARP).into_iter().chain(is_short_arp()).chain([Expression::Accept]);
    let long_arp = is_frame_of(ARP).into_iter().chain(drop_for(DropReason::NeighbourDiscovery));
    let new_port =
        mark_packet(marks.queue_reason_mask(), marks.new_port()).into_iter().chain([Expression::Accept]);
    let mut rules = vec![
        rule(UNMATCHED, "accept ARP from a bound sender", bound_arp()),
        rule(UNMATCHED, "drop frames other than IP and ARP", other),
        rule(UNMATCHED, "check unspecified sources", unspecified),
        rule(UNMATCHED, "check exempt pods", exempt),
        rule(UNMATCHED, "drop packets from unbound sources", settled),
    ];
    rules.extend(another_mac);
    rules.extend([
        rule(UNMATCHED, "drop new ports' ARP with addresses of other ports", taken_arp),
        rule(UNMATCHED, "accept ARP from new ports", new_arp),
        rule(UNMATCHED, "drop ARP that is too long, or neither request nor reply", long_arp),
    ]);
    rules.extend(LINK.no_fragments(UNMATCHED));
    rules.push(rule(UNMATCHED, "hold packets of new ports", new_port));
    rules
}

fn bound_arp() -> impl Iterator<Item = Expression> {
    let bound = [Expression::InSet(BOUND_ARP.name), Expression::Accept];
    is_short_arp().into_iter().chain(arp_key()).chain(bound)
}

/// Loads the key of [`BOUND_ARP`].
fn arp_key() -> [Expression; 5] {
    [
        Expression::LoadKeyPart(KeyPart::Meta(Meta::Iif), 0),
        Expression::LoadKeyPart(KeyPart::Payload(Payload::SourceMac), 1),
        Expression::LoadKeyPart(KeyPart::Payload(Payload::EtherType), 3),
        Expression::LoadKeyPart(KeyPart::Payload(Payload::ArpSenderMac), 4),
        Expression::LoadKeyPart(KeyPart::Payload(Payload::ArpSenderAddress), 6),
    ]
}

/// Matches a frame with this protocol and without a VLAN tag.
fn is_frame_of(ether_type: [u8; 2]) -> [Expression; 2] {
    [Expression::LoadPayload(Payload::EtherType), Expression::Compare(Comparison::Equal, ether_type.to_vec())]
}

/// Matches an ARP request or reply (RFC 826) that is no longer than necessary.
fn is_short_arp() -> Vec<Expression> {
    let mut expressions = length(Comparison::AtMost, LONGEST_ARP).to_vec();
    expressions.extend([
        Expression::LoadPayload(Payload::ArpOperation),
        Expression::Compare(Comparison::AtLeast, vec![0, 1]),
        Expression::Compare(Comparison::AtMost, vec![0, 2]),
    ]);
    expressions
}

/// Frames of an exempt pod: from any address but those of other ports and of the node.
pub(super) fn exempt() -> Vec<Rule> {
    let taken = |protocol: [u8; 2], address: Payload, taken: Set, own: Set| {
        is(Meta::Protocol, &protocol)
            .into_iter()
            .chain([Expression::LoadPayload(address), Expression::InSet(taken.name)])
            .chain(port_key(address))
            .chain([Expression::NotInSet(own.name)])
            .chain(drop_for(DropReason::SpoofedSource))
    };
    let overlay = |protocol: [u8; 2], destination: Payload, nodes: Set| {
        overlay_transports(OVERLAY_PORTS, OVERLAY_PROTOCOLS).map(|transport| {
            let to_node = [Expression::LoadPayload(destination), Expression::InSet(nodes.name)];
            let dropped = is(Meta::Protocol, &protocol)
                .into_iter()
                .chain(transport)
                .chain(to_node)
                .chain(drop_for(DropReason::Overlay));
            rule(EXEMPT, "drop overlay packets to nodes", dropped)
        })
    };
    let icmpv6 = is(Meta::Protocol, &IPV6)
        .into_iter()
        .chain(is(Meta::Transport, &[IPPROTO_ICMPV6]))
        .chain([Expression::Jump(ICMPV6)]);
    let mut rules = overlay(IP, Payload::V4(Address::Destination), NODES_4).to_vec();
    rules.extend(overlay(IPV6, Payload::V6(Address::Destination), NODES_6));
    rules.extend([
        rule(
            EXEMPT,
            "drop IPv4 addresses of other ports",
            taken(IP, Payload::V4(Address::Source), TAKEN_4, OWN_4),
        ),
        rule(
            EXEMPT,
            "drop IPv6 addresses of other ports",
            taken(IPV6, Payload::V6(Address::Source), TAKEN_6, OWN_6),
        ),
        rule(
            EXEMPT,
            "drop ARP with addresses of other ports",
            taken(ARP, Payload::ArpSenderAddress, TAKEN_4, OWN_4),
        ),
        rule(EXEMPT, "check ICMPv6", icmpv6),
        rule(EXEMPT, "accept all else", [Expression::Accept]),
    ]);
    rules
}

/// IPv6 from `::`, which a host uses before it has an address (RFC 4862, RFC 3810): solicitations for its own
/// address, and listener reports. Anything else returns to `unmatched`.
pub(super) fn unspecified() -> Vec<Rule> {
    let duplicates = LINK
        .short_neighbour_discovery(NEIGHBOUR_SOLICITATION, NEIGHBOUR_SOLICITATION)
        .into_iter()
        .chain(LINK.has_own_target())
        .chain([Expression::Accept]);
    let solicitation = LINK
        .short_neighbour_discovery(ROUTER_SOLICITATION, ROUTER_SOLICITATION)
        .into_iter()
        .chain([Expression::Accept]);
    let mut rules = vec![
        rule(UNSPECIFIED, "accept duplicate address detection", duplicates),
        rule(UNSPECIFIED, "accept router solicitations", solicitation),
    ];
    rules.extend(listener_reports(UNSPECIFIED));
    rules
}
