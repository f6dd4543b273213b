//! Rules about the protocols of the link itself (ICMP errors, neighbour discovery) and about overlay packets,
//! for both tables.
//!
//! `bridge` matches frames and `origin` matches packets: [`Link`] holds the differences. `ports::check`
//! implements the same checks in Rust, for packets of ports that were not bound yet.

use super::drops;
use super::rule::rule;
use crate::drops::DropReason;
use crate::nft::expression::{Address, Comparison, Expression, KeyPart, Meta, Payload};
use crate::nft::rule::Rule;
use crate::nft::set::Set;
use crate::numbers::{IPPROTO_ICMPV6, IPPROTO_IGMP, IPPROTO_UDP};

/// An IPv6 header, a neighbour solicitation or advertisement, and two options of 8 bytes (RFC 4861, RFC
/// 7527's nonce).
const LONGEST_NEIGHBOUR_DISCOVERY: u32 = 40 + 24 + 2 * 8;

/// Types of ICMPv6 messages (RFC 4861).
pub(super) const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
/// See [`ROUTER_SOLICITATION`].
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
/// See [`ROUTER_SOLICITATION`].
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// See RFC 4443.
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// See RFC 2710 and RFC 3810.
const LISTENER_QUERY: u8 = 130;
/// The type of an IGMP membership query (RFC 3376). [`Payload::IcmpType`] loads the same byte.
const MEMBERSHIP_QUERY: u8 = 0x11;

/// How the rules of one table match addresses and families.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Loads the address family.
    pub family: Meta,
    /// The value for IPv4.
    pub ipv4: &'static [u8],
    /// The value for IPv6.
    pub ipv6: &'static [u8],
    /// Whether the chain of ICMP errors gets packets of both families.
    pub mixes_families: bool,
    /// The set of ports, each with an IPv4 address behind it.
    pub own_4: Set,
    /// The set of ports, each with an IPv6 address behind it.
    pub own_6: Set,
}

impl Link {
    /// Matches IPv4.
    pub(super) fn is_ipv4(&self) -> [Expression; 2] {
        is(self.family, self.ipv4)
    }

    /// Matches IPv6.
    pub(super) fn is_ipv6(&self) -> [Expression; 2] {
        is(self.family, self.ipv6)
    }

    /// Matches ICMPv6 messages with a type from `first` to `last`.
    pub(super) fn icmpv6(&self, first: u8, last: u8) -> Vec<Expression> {
        let mut expressions = self.is_ipv6().to_vec();
        expressions.extend(is(Meta::Transport, &[IPPROTO_ICMPV6]));
        expressions.extend(is_between(Payload::Icmpv6Type, first, last));
        expressions
    }

    /// Matches ICMPv6 messages of these types with hop limit 255, which were sent on this link (RFC 4861,
    /// 7.1).
    pub(super) fn neighbour_discovery(&self, first: u8, last: u8) -> Vec<Expression> {
        let mut expressions = self.icmpv6(first, last);
        expressions.extend([
            Expression::LoadPayload(Payload::HopLimit),
            Expression::Compare(Comparison::Equal, vec![255]),
        ]);
        expressions
    }

    /// Matches neighbour discovery that is no longer than necessary.
    pub(super) fn short_neighbour_discovery(&self, first: u8, last: u8) -> Vec<Expression> {
        let mut expressions = self.neighbour_discovery(first, last);
        expressions.extend(length(Comparison::AtMost, LONGEST_NEIGHBOUR_DISCOVERY));
        expressions
    }

    /// Matches if the target of neighbour discovery is an address behind the port.
    pub(super) fn has_own_target(&self) -> [Expression; 3] {
        in_own(Payload::NeighbourTarget, self.own_6)
    }

    /// Only the node sends router advertisements, redirects and multicast queries (semantics 32).
    pub(super) fn router_messages(&self, chain: &'static str) -> [Rule; 3] {
        let drop =
            |kind| self.icmpv6(kind, kind).into_iter().chain(drop_for(DropReason::RouterAdvertisement));
        [
            rule(chain, "drop router advertisements", drop(ROUTER_ADVERTISEMENT)),
            rule(chain, "drop redirects", drop(REDIRECT)),
            // A query for listeners makes a bridge forget the listeners behind other ports (RFC 4541, 2.1.1).
            rule(chain, "drop queries for multicast listeners", drop(LISTENER_QUERY)),
        ]
    }

    /// An IPv6 packet in fragments is reassembled only at later hooks, so nothing that is checked here may be
    /// fragmented. A fragment that does not show its type is part of such a packet, or follows a fragment
    /// that is dropped. Only echo messages pass: a neighbour discovery message in fragments is invalid (RFC
    /// 6980, 5), and an error never needs them (RFC 4443, 2.4).
    pub(super) fn fragments(&self, chain: &'static str) -> [Rule; 3] {
        let has_header = || {
            self.is_ipv6()
                .into_iter()
                .chain([Expression::LoadHasFragmentHeader, Expression::Compare(Comparison::Equal, vec![1])])
        };
        let later = has_header().chain([
            Expression::LoadFragmentOffset,
            Expression::Compare(Comparison::AtLeast, vec![0x00, 0x08]),
            Expression::Return,
        ]);
        let echo = has_header()
            .chain(is_between(Payload::Icmpv6Type, ECHO_REQUEST, ECHO_REPLY))
            .chain([Expression::Return]);
        [
            rule(chain, "return for later fragments", later),
            rule(chain, "return for echo messages", echo),
            rule(
                chain,
                "drop other ICMPv6 in fragments",
                has_header().chain(drop_for(DropReason::NeighbourDiscovery)),
            ),
        ]
    }

    /// Drops fragments: a fragment from an unbound port could complete a datagram of another sender.
    pub(super) fn no_fragments(&self, chain: &'static str) -> [Rule; 2] {
        let v4 = self.is_ipv4().into_iter().chain([
            Expression::LoadPayload(Payload::V4Fragment),
            // The flag "more fragments", and the offset.
            Expression::Bits { mask: u32::from_ne_bytes([0x3f, 0xff, 0, 0]), flip: 0 },
            Expression::Compare(Comparison::NotEqual, vec![0, 0]),
        ]);
        let v6 = self
            .is_ipv6()
            .into_iter()
            .chain([Expression::LoadHasFragmentHeader, Expression::Compare(Comparison::Equal, vec![1])]);
        [
            rule(chain, "drop a new port's IPv4 fragments", v4.chain(drop_for(DropReason::SpoofedSource))),
            rule(chain, "drop a new port's IPv6 fragments", v6.chain(drop_for(DropReason::SpoofedSource))),
        ]
    }

    /// Neighbour discovery is short, and advertises only addresses behind the port (semantics 31).
    pub(super) fn neighbour_discovery_rules(&self, chain: &'static str) -> [Rule; 2] {
        let long = self
            .neighbour_discovery(ROUTER_SOLICITATION, NEIGHBOUR_ADVERTISEMENT)
            .into_iter()
            .chain(length(Comparison::AtLeast, LONGEST_NEIGHBOUR_DISCOVERY + 1))
            .chain(drop_for(DropReason::NeighbourDiscovery));
        let forged = self
            .neighbour_discovery(NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_ADVERTISEMENT)
            .into_iter()
            .chain(port_key(Payload::NeighbourTarget))
            .chain([Expression::NotInSet(self.own_6.name)])
            .chain(drop_for(DropReason::SpoofedSource));
        [
            rule(chain, "drop neighbour discovery that is too long", long),
            rule(chain, "drop advertisements of other ports' addresses", forged),
        ]
    }

    /// Only the node sends IGMP membership queries (semantics 32).
    pub(super) fn membership_queries(&self, chain: &'static str) -> Rule {
        let query = is(Meta::Transport, &[IPPROTO_IGMP])
            .into_iter()
            .chain(is_between(Payload::IcmpType, MEMBERSHIP_QUERY, MEMBERSHIP_QUERY))
            .chain(drop_for(DropReason::RouterAdvertisement));
        rule(chain, "drop queries for multicast members", query)
    }

    /// Rules about ICMP (RFC 792). An error belongs to the connection of the packet that it quotes, and has
    /// its marks. So a pod may send errors only about packets that were sent to it. Other messages return to
    /// the chain that jumped here.
    pub(super) fn icmp_errors(&self, chain: &'static str) -> Vec<Rule> {
        let error = |first, last| {
            let family = self.is_ipv4().into_iter().filter(|_| self.mixes_families);
            family.chain(is_between(Payload::IcmpType, first, last))
        };
        let redirect = error(5, 5).chain(drop_for(DropReason::RouterAdvertisement));
        let mut rules = vec![rule(chain, "drop redirects", redirect)];
        // Destination unreachable and source quench; time exceeded and parameter problem.
        for (first, last) in [(3, 4), (11, 12)] {
            let quoted = in_own(Payload::QuotedV4Destination, self.own_4);
            rules.extend(errors(chain, error(first, last).collect(), quoted));
        }
        rules
    }

    /// Rules about ICMPv6 errors (RFC 4443, 3), as for ICMP.
    pub(super) fn icmpv6_errors(&self, chain: &'static str) -> [Rule; 2] {
        errors(chain, self.icmpv6(1, 4), in_own(Payload::QuotedV6Destination, self.own_6))
    }
}

/// Returns for errors that quote a packet which was sent to the pod, and drops others.
fn errors(chain: &'static str, error: Vec<Expression>, quotes_own: [Expression; 3]) -> [Rule; 2] {
    let own = error.clone().into_iter().chain(quotes_own).chain([Expression::Return]);
    let forged = error.into_iter().chain(drop_for(DropReason::SpoofedSource));
    [
        rule(chain, "return for errors about packets that were sent to the pod", own),
        rule(chain, "drop other errors", forged),
    ]
}

fn in_own(address: Payload, own: Set) -> [Expression; 3] {
    let [port, address] = port_key(address);
    [port, address, Expression::InSet(own.name)]
}

/// Loads the port where the packet entered, and an address.
pub(super) fn port_key(address: Payload) -> [Expression; 2] {
    [
        Expression::LoadKeyPart(KeyPart::Meta(Meta::Iif), 0),
        Expression::LoadKeyPart(KeyPart::Payload(address), 1),
    ]
}

/// Matches if this metadata has this value.
pub(super) fn is(meta: Meta, value: &[u8]) -> [Expression; 2] {
    [Expression::LoadMeta(meta), Expression::Compare(Comparison::Equal, value.to_vec())]
}

/// Matches if the interface is in the set.
pub(super) fn interface_in(interface: Meta, set: Set) -> [Expression; 2] {
    [Expression::LoadMeta(interface), Expression::InSet(set.name)]
}

/// Matches if a byte of the packet is from `first` to `last`.
fn is_between(byte: Payload, first: u8, last: u8) -> [Expression; 3] {
    [
        Expression::LoadPayload(byte),
        Expression::Compare(Comparison::AtLeast, vec![first]),
        Expression::Compare(Comparison::AtMost, vec![last]),
    ]
}

/// Compares the length from the network header on.
pub(super) fn length(comparison: Comparison, bytes: u32) -> [Expression; 3] {
    [
        Expression::LoadMeta(Meta::Length),
        // The kernel compares byte by byte, starting with the first.
        Expression::ToNetworkOrder,
        Expression::Compare(comparison, bytes.to_be_bytes().to_vec()),
    ]
}

/// Matches if the source is `::`.
pub(super) fn is_unspecified() -> [Expression; 2] {
    [
        Expression::LoadPayload(Payload::V6(Address::Source)),
        Expression::Compare(Comparison::Equal, vec![0; 16]),
    ]
}

/// Matches a protocol in which nodes carry pods' packets: one alternative for UDP ports, one for IP
/// protocols.
pub(super) fn overlay_transports(ports: Set, protocols: Set) -> [Vec<Expression>; 2] {
    let port = [Expression::LoadPayload(Payload::DestinationPort), Expression::InSet(ports.name)];
    [
        is(Meta::Transport, &[IPPROTO_UDP]).into_iter().chain(port).collect(),
        vec![Expression::LoadMeta(Meta::Transport), Expression::InSet(protocols.name)],
    ]
}

/// Drops the packet, and counts it under this reason.
pub(super) fn drop_for(reason: DropReason) -> [Expression; 1] {
    [Expression::Goto(drops::chain(reason))]
}

/// The kind of a veth device, as the kernel's meta expression returns it.
pub(super) fn veth() -> Vec<u8> {
    let mut kind = b"veth".to_vec();
    // `IFNAMSIZ`.
    kind.resize(16, 0);
    kind
}
