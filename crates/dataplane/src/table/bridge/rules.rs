//! The rules of the three base chains: where a frame enters, where it leaves, and frames to the bridge
//! itself.

use super::matches::{is_link_local, is_multicast4, is_multicast6};
use super::names::{ARP, FORWARD, INPUT, IP, IPV6, LINK, PREROUTING, UNMATCHED};
use super::sets::{
    BOUND_4, BOUND_6, DELIVER_4, DELIVER_6, EXEMPT_PORTS, OPEN, OTHER_BRIDGES, OTHER_PORTS, SETTLED, TAKEN_4,
    TAKEN_6,
};
use crate::drops::DropReason;
use crate::marks::Marks;
use crate::nft::expression::{Address, Comparison, Expression, KeyPart, Meta, Payload};
use crate::nft::rule::Rule;
use crate::nft::set::Set;
use crate::numbers::IPPROTO_IGMP;
use crate::table::link_rules::{
    NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, ROUTER_SOLICITATION, drop_for, interface_in, is, veth,
};
use crate::table::rule::rule;

/// What the table's rules depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::table) struct BridgeRules {
    /// The marks for packets of new ports.
    pub marks: Marks,
    /// The NFLOG group for examples of dropped frames; `None` for no examples.
    pub log_group: Option<u16>,
    /// Whether rules can match a port's bridge by name (`nft_meta_bridge`).
    pub knows_bridges: bool,
}

impl BridgeRules {
    /// First match decides.
    pub(super) fn prerouting(&self) -> Vec<Rule> {
        let bound = |address: Payload, map: Set| {
            source_key(address).into_iter().chain([Expression::VerdictOf(map.name)])
        };
        let (v4, v6) = (Payload::V4(Address::Source), Payload::V6(Address::Source));
        let mut rules = vec![
            rule(PREROUTING, "continue by bound IPv4 source", bound(v4, BOUND_4)),
            rule(PREROUTING, "continue by bound IPv6 source", bound(v6, BOUND_6)),
        ];
        rules.extend(self.accept_others(PREROUTING, Meta::Iif, Meta::IifKind, Meta::BridgeName));
        rules.push(rule(PREROUTING, "check frames from unbound sources", [Expression::Goto(UNMATCHED)]));
        rules
    }

    /// Accepts frames of interfaces that are not pods' ports.
    fn accept_others(&self, chain: &'static str, index: Meta, kind: Meta, bridge: Meta) -> Vec<Rule> {
        let other_port = interface_in(index, OTHER_PORTS).into_iter().chain([Expression::Accept]);
        let not_veth = [
            Expression::LoadMeta(kind),
            Expression::Compare(Comparison::NotEqual, veth()),
            Expression::Accept,
        ];
        let mut rules = vec![
            rule(chain, "accept frames of ports without a pod", other_port),
            rule(chain, "accept frames of devices other than veth", not_veth),
        ];
        if self.knows_bridges {
            let other_bridge = interface_in(bridge, OTHER_BRIDGES).into_iter().chain([Expression::Accept]);
            rules.push(rule(chain, "accept frames of other bridges", other_bridge));
        }
        rules
    }

    /// 01:80:c2:00:00:0x is for the bridge itself (IEEE 802.1D). Such a frame meets no other hook, teaches
    /// the bridge where its source is, and is received at the port as if the port had no bridge. Pods have no
    /// use for it.
    pub(super) fn input(&self) -> Vec<Rule> {
        let other = [
            Expression::LoadPayload(Payload::DestinationMacGroup),
            Expression::Compare(Comparison::NotEqual, vec![0x01, 0x80, 0xc2, 0x00, 0x00]),
            Expression::Accept,
        ];
        let mut rules = vec![rule(INPUT, "accept frames to the node", other)];
        rules.extend(self.accept_others(INPUT, Meta::Iif, Meta::IifKind, Meta::BridgeName));
        rules.push(rule(INPUT, "drop frames to the bridge itself", drop_for(DropReason::EtherType)));
        rules
    }

    /// First match decides.
    pub(super) fn forward(&self) -> Vec<Rule> {
        let delivered = |address: Payload, set: Set| {
            [
                Expression::LoadKeyPart(KeyPart::Meta(Meta::Oif), 0),
                Expression::LoadKeyPart(KeyPart::Meta(Meta::Protocol), 1),
                Expression::LoadKeyPart(KeyPart::Payload(address), 2),
                Expression::InSet(set.name),
                Expression::Accept,
            ]
        };
        let (v4, v6) = (Payload::V4(Address::Destination), Payload::V6(Address::Destination));
        let to_bound = || {
            [
                rule(FORWARD, "accept if the IPv4 destination is behind the port", delivered(v4, DELIVER_4)),
                rule(FORWARD, "accept if the IPv6 destination is behind the port", delivered(v6, DELIVER_6)),
            ]
        };
        let mut rules = to_bound().to_vec();
        rules.extend(self.accept_others(FORWARD, Meta::Oif, Meta::OifKind, Meta::OutBridgeName));
        let arp = is(Meta::Protocol, &ARP).into_iter().chain([Expression::Accept]);
        let neighbours = LINK
            .neighbour_discovery(NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT)
            .into_iter()
            .chain([Expression::Accept]);
        rules.extend([
            rule(FORWARD, "accept ARP", arp),
            rule(FORWARD, "accept neighbour solicitations and advertisements", neighbours),
        ]);
        rules.extend(scope_rules());
        let exempt = interface_in(Meta::Oif, EXEMPT_PORTS).into_iter().chain([Expression::Accept]);
        let new_port = |protocol: &[u8], address: Payload, taken: Set| {
            let unsettled = [Expression::LoadMeta(Meta::Oif), Expression::NotInSet(SETTLED.name)];
            let free =
                [Expression::LoadPayload(address), Expression::NotInSet(taken.name), Expression::Accept];
            unsettled.into_iter().chain(is(Meta::Protocol, protocol)).chain(free)
        };
        rules.extend([
            rule(FORWARD, "accept frames to exempt pods", exempt),
            rule(FORWARD, "accept frames to new ports", new_port(&IP, v4, TAKEN_4)),
            rule(FORWARD, "accept frames to new ports", new_port(&IPV6, v6, TAKEN_6)),
        ]);
        // Again: between two rules, the address may have been bound to this very port. Sets change while
        // packets pass.
        rules.extend(to_bound());
        rules.push(rule(
            FORWARD,
            "drop frames to unbound destinations",
            drop_for(DropReason::UnboundDestination),
        ));
        rules
    }
}

/// Multicast and link-local destinations reach only pods that isolate no ingress (semantics 31).
fn scope_rules() -> Vec<Rule> {
    // Every pod sends these when it starts, for the bridge and the node only. They are dropped without a
    // count.
    let igmp = is(Meta::Protocol, &IP)
        .into_iter()
        .chain(is(Meta::Transport, &[IPPROTO_IGMP]))
        .chain([Expression::Drop]);
    let mut rules = vec![rule(FORWARD, "drop IGMP to other pods", igmp)];
    // Listener reports (RFC 2710, RFC 3810) and router solicitations.
    for (first, last) in [(131, ROUTER_SOLICITATION), (143, 143)] {
        let multicast = LINK.icmpv6(first, last).into_iter().chain(is_multicast6()).chain([Expression::Drop]);
        rules.push(rule(FORWARD, "drop listener reports and router solicitations to other pods", multicast));
    }
    let to_open = |multicast: Vec<Expression>| {
        interface_in(Meta::Oif, OPEN).into_iter().chain(multicast).chain([Expression::Accept])
    };
    let drop = || drop_for(DropReason::IsolatedScope);
    let link_local = is(Meta::Protocol, &IPV6).into_iter().chain(is_link_local()).chain(drop());
    rules.extend([
        rule(FORWARD, "accept IPv4 multicast to pods that isolate no ingress", to_open(is_multicast4())),
        rule(FORWARD, "accept IPv6 multicast to pods that isolate no ingress", to_open(is_multicast6())),
        rule(FORWARD, "drop multicast to other pods", is_multicast4().into_iter().chain(drop())),
        rule(FORWARD, "drop multicast to other pods", is_multicast6().into_iter().chain(drop())),
        rule(FORWARD, "drop frames to unbound link-local destinations", link_local),
    ]);
    rules
}

/// Loads the port, the frame's source and protocol, and an address.
fn source_key(address: Payload) -> [Expression; 4] {
    [
        Expression::LoadKeyPart(KeyPart::Meta(Meta::Iif), 0),
        Expression::LoadKeyPart(KeyPart::Payload(Payload::SourceMac), 1),
        Expression::LoadKeyPart(KeyPart::Payload(Payload::EtherType), 3),
        Expression::LoadKeyPart(KeyPart::Payload(address), 4),
    ]
}
