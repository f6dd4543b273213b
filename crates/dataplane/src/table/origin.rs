//! Where packets enter: the chain `prerouting` of table `inet kube-verdict`, and what it shares with the bridge table.
//!
//! ```text
//!  prerouting (raw, -300)   before connection tracking sees a packet, and so before a forged one can change an entry
//!    from the pods' bridge                 the bridge table has looked at it: accept
//!    from a veth device       --goto-->    from-port       its source is bound to it (CNI plugin ptp), or it waits, or is forged
//!    from elsewhere                        not with one of the node's own addresses
//! ```
//!
//! A frame to one of Ethernet's link-local groups (01:80:c2:00:00:0x) goes past the bridge and comes up at the port itself: there
//! it is a packet of a bridged port at these hooks, and is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::chains::{FAMILIES, Family, rule};
use super::drops::{self, Drops};
use super::{OpenAddresses, TABLE, bridge};
use crate::drops::DropReason;
use crate::marks::Marks;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::TableId;
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Comparison, Expression, Meta, Part, Payload};
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, ElementVerdict, Elements, Key, KeyPart, Set};
use crate::ports::{Attachment, Bindings, InterfaceIndex, Overlay, PortState};

/// Looks at where packets enter.
pub(super) const PREROUTING: &str = "prerouting";
/// `NF_IP_PRI_RAW`: behind defragmentation, before connection tracking.
pub(super) const RAW: i32 = libc::NF_IP_PRI_RAW;
const FROM_PORT: &str = "from-port";
const FROM_ELSEWHERE: &str = "from-elsewhere";
const FROM_EXEMPT: &str = "from-exempt";
const ICMP: &str = "icmp-from-port";
const FROM_ISOLATED: &str = "from-isolated";
const QUEUE: &str = "queue-port";
const CHAINS: [&str; 6] = [FROM_PORT, FROM_ELSEWHERE, FROM_EXEMPT, ICMP, FROM_ISOLATED, QUEUE];

const REASONS: [DropReason; 9] = [
    DropReason::SpoofedSource,
    DropReason::NeighbourDiscovery,
    DropReason::RouterAdvertisement,
    DropReason::IsolatedScope,
    DropReason::Overlay,
    DropReason::ForeignOverlay,
    DropReason::LocalSource,
    DropReason::InvalidTcp,
    DropReason::Revoked,
];
const INET: TableId = TableId::inet(TABLE);
/// See [`Drops`].
pub(super) const DROPS: Drops = Drops::new(INET, 290, &REASONS);

const fn set(name: &'static str, id: u32, key: &'static [KeyPart], carries: Carries) -> Set {
    Set { table: INET, name, id, key, carries, size: None }
}

/// Routed port and IPv4 source: what becomes of the packet.
const SOURCES_4: Set = set("port-sources4", 201, &[KeyPart::Interface, KeyPart::Ipv4], Carries::Verdicts);
/// The same for IPv6.
const SOURCES_6: Set = set("port-sources6", 202, &[KeyPart::Interface, KeyPart::Ipv6], Carries::Verdicts);
/// Ports whose addresses are known; bridged ones are among them, and have no sources here.
pub(super) const SETTLED: Set = set("settled-ports", 203, &[KeyPart::Interface], Carries::Keys);
/// Ports that may send from any address that is not taken.
const EXEMPT: Set = set("exempt-ports", 204, &[KeyPart::Interface], Carries::Keys);
/// Veth devices that are no pod's.
const OTHER_PORTS: Set = set("other-ports", 205, &[KeyPart::Interface], Carries::Keys);
/// The node's own IPv4 addresses.
const OWN_4: Set = set("own-addresses4", 206, &[KeyPart::Ipv4], Carries::Keys);
/// The node's own IPv6 addresses.
const OWN_6: Set = set("own-addresses6", 207, &[KeyPart::Ipv6], Carries::Keys);
/// IPv4 addresses that are bound to a port.
const TAKEN_4: Set = set("taken4", 208, &[KeyPart::Ipv4], Carries::Keys);
/// IPv6 addresses that are bound to a port.
const TAKEN_6: Set = set("taken6", 209, &[KeyPart::Ipv6], Carries::Keys);
/// The IPv4 addresses of all nodes.
pub(super) const NODES_4: Set = set("node-addresses4", 210, &[KeyPart::Ipv4], Carries::Keys);
/// The IPv6 addresses of all nodes.
pub(super) const NODES_6: Set = set("node-addresses6", 211, &[KeyPart::Ipv6], Carries::Keys);
/// UDP ports of the overlay.
pub(super) const OVERLAY_PORTS: Set = set("overlay-ports", 212, &[KeyPart::Port], Carries::Keys);
/// IP protocols of the overlay.
pub(super) const OVERLAY_PROTOCOLS: Set = set("overlay-protocols", 213, &[KeyPart::Protocol], Carries::Keys);
/// Routed port and IPv4 address behind it.
const BEHIND_4: Set = set("behind4", 214, &[KeyPart::Interface, KeyPart::Ipv4], Carries::Keys);
/// Routed port and IPv6 address behind it.
const BEHIND_6: Set = set("behind6", 215, &[KeyPart::Interface, KeyPart::Ipv6], Carries::Keys);
/// The pods' bridges.
pub(super) const POD_BRIDGES: Set = set("pod-bridges", 216, &[KeyPart::Interface], Carries::Keys);
const SETS: [Set; 16] = [
    POD_BRIDGES,
    BEHIND_4,
    BEHIND_6,
    SOURCES_4,
    SOURCES_6,
    SETTLED,
    EXEMPT,
    OTHER_PORTS,
    OWN_4,
    OWN_6,
    TAKEN_4,
    TAKEN_6,
    NODES_4,
    NODES_6,
    OVERLAY_PORTS,
    OVERLAY_PROTOCOLS,
];

/// See [`super::bridge`].
const LONGEST_NEIGHBOUR_DISCOVERY: u32 = 40 + 24 + 2 * 8;

/// Where packets may come from and go to, by port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origins {
    /// Which addresses are behind which port.
    pub bindings: Bindings,
    /// Pods that no policy isolates, whether or not their packets are evaluated all the same.
    pub open: OpenAddresses,
    /// The addresses of all nodes, this one's among them.
    pub node_addresses: BTreeSet<IpAddr>,
    /// What else carries an overlay than the devices of this node tell.
    pub more_overlays: BTreeSet<Overlay>,
}

impl Origins {
    /// Each port as the queue of new ports has to know it.
    pub fn port_states(&self) -> BTreeMap<InterfaceIndex, PortState> {
        let policy = OriginPolicy(&self.open);
        let state = |port: &crate::ports::Port| {
            let mut pods = port.pod_addresses().peekable();
            PortState {
                mac: (port.attachment == Attachment::Bridged).then_some(port.mac),
                addresses: port.addresses.clone(),
                is_settled: port.is_settled,
                isolates_egress: pods.peek().is_none()
                    || !pods.all(|address| policy.is_open_for_egress(address)),
            }
        };
        self.bindings.ports.iter().map(|(index, port)| (*index, state(port))).collect()
    }
}

/// How the rules about origins are written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginConfig {
    /// The queue in which packets of new ports wait: see [`PortQueue`](crate::ports::PortQueue).
    pub queue: u16,
    /// The NFLOG group that gets an example a second of what is dropped; `None` if nobody listens.
    pub log_group: Option<u16>,
    /// Whether overlay packets from addresses that are no node's are dropped.
    pub overlay_sources_are_nodes: bool,
    /// Where packets may come from to begin with.
    pub origins: Origins,
}

/// Which pods are isolated, by address.
#[derive(Clone, Copy, Debug)]
pub(super) struct OriginPolicy<'a>(pub &'a OpenAddresses);

impl OriginPolicy<'_> {
    pub(super) fn is_open_for_egress(&self, address: IpAddr) -> bool {
        self.0.egress.contains(&address)
    }

    pub(super) fn is_open_for_ingress(&self, address: IpAddr) -> bool {
        self.0.ingress.contains(&address)
    }
}

/// What the sets hold: by set, its elements.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct OriginContents(BTreeMap<&'static str, Elements>);

impl OriginContents {
    pub(super) fn new(origins: &Origins) -> Self {
        let Origins { bindings, open, node_addresses, more_overlays } = origins;
        let policy = OriginPolicy(open);
        let mut contents = Self(SETS.into_iter().map(|set| (set.name, Elements::new())).collect());
        for (index, port) in &bindings.ports {
            let index = index.0.to_ne_bytes();
            for (set, holds) in [(SETTLED, port.is_settled), (EXEMPT, port.is_exempt)] {
                if holds {
                    contents.put(set, index.to_vec());
                }
            }
            let mut pods = port.pod_addresses().peekable();
            // ALL of the pod's addresses; a pod that is not known is not open.
            let is_open = pods.peek().is_some() && pods.all(|address| policy.is_open_for_egress(address));
            for address in &port.addresses {
                contents.put_address((TAKEN_4, TAKEN_6), *address);
                if port.attachment == Attachment::Routed {
                    let set = if address.is_ipv4() { SOURCES_4 } else { SOURCES_6 };
                    let verdict =
                        if is_open { ElementVerdict::Accept } else { ElementVerdict::Goto(FROM_ISOLATED) };
                    let key = Key::default().with(&index).address(*address).bytes();
                    contents.put(if address.is_ipv4() { BEHIND_4 } else { BEHIND_6 }, key.clone());
                    contents.0.entry(set.name).or_default().insert(key, Some(verdict));
                }
            }
        }
        for index in &bindings.pod_bridges {
            contents.put(POD_BRIDGES, index.0.to_ne_bytes().to_vec());
        }
        for index in &bindings.other_ports {
            contents.put(OTHER_PORTS, index.0.to_ne_bytes().to_vec());
        }
        for address in &bindings.own_addresses {
            contents.put_address((OWN_4, OWN_6), *address);
        }
        for address in node_addresses.iter().chain(&bindings.own_addresses) {
            contents.put_address((NODES_4, NODES_6), *address);
        }
        for overlay in bindings.overlays.iter().chain(more_overlays) {
            match overlay {
                Overlay::Udp(port) => {
                    contents.put(OVERLAY_PORTS, port.to_be_bytes().to_vec());
                }
                Overlay::Protocol(protocol) => {
                    contents.put(OVERLAY_PROTOCOLS, vec![*protocol]);
                }
            }
        }
        contents
    }

    fn put(&mut self, set: Set, key: Vec<u8>) {
        self.0.entry(set.name).or_default().insert(key, None);
    }

    fn put_address(&mut self, (v4, v6): (Set, Set), address: IpAddr) {
        self.put(if address.is_ipv4() { v4 } else { v6 }, Key::default().address(address).bytes());
    }

    fn of(&self, set: &Set) -> &Elements {
        static NONE: Elements = Elements::new();
        self.0.get(set.name).unwrap_or(&NONE)
    }

    /// Makes the sets hold this, whatever they hold.
    pub(super) fn fill(&self, batch: &mut Batch) {
        SETS.iter().for_each(|set| set.fill(self.of(set), batch));
    }

    /// Turns sets that hold `old` into sets that hold this.
    pub(super) fn change_from(&self, old: &Self, batch: &mut Batch) {
        SETS.iter().for_each(|set| set.change(old.of(set), self.of(set), batch));
    }
}

/// Adds the bindings of routed ports that the kernel's sets hold now.
pub(super) fn read_bindings(socket: &mut Socket, bindings: &mut Bindings) -> Result<(), NetlinkError> {
    bindings.pod_bridges = POD_BRIDGES.read(socket)?.keys().filter_map(|key| bridge::index_of(key)).collect();
    let settled = SETTLED.read(socket)?;
    for set in [SOURCES_4, SOURCES_6] {
        for key in set.read(socket)?.keys() {
            let Some(index) = bridge::index_of(key) else { continue };
            let Some(address) = key.get(4..).and_then(bridge::address_of) else { continue };
            let port = bindings.ports.entry(index).or_insert_with(|| bridge::unnamed(Attachment::Routed));
            port.addresses.insert(address);
            port.is_settled = settled.contains_key(&key[..4]);
        }
    }
    Ok(())
}

/// Chains without a hook.
pub(super) fn plain_chains() -> impl Iterator<Item = &'static str> {
    CHAINS.into_iter().chain(DROPS.chains())
}

/// Creates the sets where they don't exist.
pub(super) fn create_sets(batch: &mut Batch) {
    SETS.iter().for_each(|set| set.create(batch));
    DROPS.create(batch);
}

/// The rule in front of all: the bridge table has looked at what comes from the pods' bridges. Written again when these change.
pub(super) fn first_rules(
    pod_bridges: &BTreeSet<InterfaceIndex>,
    marks: &Marks,
    has_bridge_table: bool,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    let is_new = |comparison| {
        [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: marks.questions().0, flip: 0 },
            Expression::Compare(comparison, marks.new_port().0.to_ne_bytes().to_vec()),
        ]
    };
    for bridge in pod_bridges.iter().filter(|_| has_bridge_table) {
        let from_bridge = [
            Expression::LoadMeta(Meta::Iif),
            Expression::Compare(Comparison::Equal, bridge.0.to_ne_bytes().to_vec()),
        ];
        let passed = from_bridge.into_iter().chain(is_new(Comparison::NotEqual)).chain([Expression::Accept]);
        rules.push(rule(PREROUTING, "pass what the bridge table has passed", passed));
    }
    // By whatever bridge it came.
    let wait = is_new(Comparison::Equal).into_iter().chain([Expression::Goto(QUEUE)]);
    rules.push(rule(PREROUTING, "let a new port's packet wait", wait));
    for bridge in pod_bridges.iter().filter(|_| !has_bridge_table) {
        let unchecked = [
            Expression::LoadMeta(Meta::Iif),
            Expression::Compare(Comparison::Equal, bridge.0.to_ne_bytes().to_vec()),
            Expression::Goto(FROM_EXEMPT),
        ];
        rules.push(rule(PREROUTING, "believe what comes from a bridge that can't be checked", unchecked));
    }
    let mut veth = b"veth".to_vec();
    veth.resize(16, 0);
    let from_veth = [
        Expression::LoadMeta(Meta::IifKind),
        Expression::Compare(Comparison::Equal, veth),
        Expression::Goto(FROM_PORT),
    ];
    rules.push(rule(PREROUTING, "look at what enters by a veth device", from_veth));
    rules.push(rule(PREROUTING, "look at what comes from elsewhere", [Expression::Goto(FROM_ELSEWHERE)]));
    rules
}

/// The rules of all other chains: written once.
pub(super) fn rules(queue: Queue, form: QueueForm, log_group: Option<u16>) -> Vec<Rule> {
    let mut rules = from_port();
    rules.extend(icmp_errors());
    rules.extend(from_elsewhere());
    rules.extend(from_isolated());
    rules.push(rule(QUEUE, "wait for the port to be known", [Expression::Queue(queue, form)]));
    rules.extend(DROPS.rules(log_group));
    rules
}

fn family(number: i32) -> [Expression; 2] {
    [Expression::LoadMeta(Meta::Family), Expression::Compare(Comparison::Equal, vec![number as u8])]
}

fn port_key(address: Payload) -> [Expression; 2] {
    [Expression::LoadPart(Part::Meta(Meta::Iif), 0), Expression::LoadPart(Part::Payload(address), 1)]
}

fn icmpv6_of(from: u8, to: u8) -> Vec<Expression> {
    let mut expressions = family(libc::NFPROTO_IPV6).to_vec();
    expressions.extend([
        Expression::LoadMeta(Meta::Transport),
        Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_ICMPV6 as u8]),
        Expression::LoadPayload(Payload::Icmpv6Type),
        Expression::Compare(Comparison::AtLeast, vec![from]),
        Expression::Compare(Comparison::AtMost, vec![to]),
    ]);
    expressions
}

/// Goes on for messages with hop limit 255: sent on this link (RFC 4861, 7.1).
fn hop_limit_is_255(mut messages: Vec<Expression>) -> Vec<Expression> {
    messages.extend([
        Expression::LoadPayload(Payload::HopLimit),
        Expression::Compare(Comparison::Equal, vec![255]),
    ]);
    messages
}

/// Goes on for neighbour discovery of these types that is no longer than it needs to be.
fn discovery(from: u8, to: u8) -> Vec<Expression> {
    let mut expressions = hop_limit_is_255(icmpv6_of(from, to));
    expressions.extend([
        Expression::LoadMeta(Meta::Length),
        Expression::ToNetworkOrder,
        Expression::Compare(Comparison::AtMost, LONGEST_NEIGHBOUR_DISCOVERY.to_be_bytes().to_vec()),
    ]);
    expressions
}

/// Goes on for a source in fe80::/10.
fn from_link_local() -> [Expression; 5] {
    let [load, compare] = family(libc::NFPROTO_IPV6);
    [
        load,
        compare,
        Expression::LoadPayload(Payload::V6SourceStart),
        Expression::Compare(Comparison::AtLeast, vec![0xfe, 0x80]),
        Expression::Compare(Comparison::AtMost, vec![0xfe, 0xbf]),
    ]
}

fn from_port() -> Vec<Rule> {
    let to = |reason| [Expression::Goto(drops::chain(reason))];
    let in_set =
        |set: Set, then: Expression| [Expression::LoadMeta(Meta::Iif), Expression::InSet(set.name), then];
    let source = |number, address, set: Set| {
        family(number).into_iter().chain(port_key(address)).chain([Expression::VerdictOf(set.name)])
    };
    let taken = |number, address, set: Set| {
        in_set(EXEMPT, Expression::LoadMeta(Meta::Family))
            .into_iter()
            .chain([Expression::Compare(Comparison::Equal, vec![number as u8])])
            .chain([Expression::LoadPayload(address), Expression::InSet(set.name)])
            .chain(to(DropReason::SpoofedSource))
    };
    let is_unspecified = [
        Expression::LoadPayload(Payload::V6(Address::Source)),
        Expression::Compare(Comparison::Equal, vec![0; 16]),
    ];
    let unspecified = |expressions: Vec<Expression>| {
        expressions.into_iter().chain(is_unspecified.clone()).chain([Expression::Accept])
    };
    let mut duplicates = discovery(135, 135);
    duplicates.extend(port_key(Payload::NeighbourTarget));
    duplicates.push(Expression::InSet(BEHIND_6.name));
    let settled = in_set(SETTLED, Expression::Goto(drops::chain(DropReason::SpoofedSource)));
    let mut rules = vec![rule(
        FROM_PORT,
        "look at what comes from elsewhere",
        in_set(OTHER_PORTS, Expression::Goto(FROM_ELSEWHERE)),
    )];
    let icmp = |number, protocol: i32| {
        family(number).into_iter().chain([
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![protocol as u8]),
            Expression::Jump(ICMP),
        ])
    };
    rules.push(rule(FROM_PORT, "look at ICMP", icmp(libc::NFPROTO_IPV4, libc::IPPROTO_ICMP)));
    rules.push(rule(FROM_PORT, "look at ICMPv6", icmp(libc::NFPROTO_IPV6, libc::IPPROTO_ICMPV6)));
    rules.extend([134, 137].map(|kind| {
        let router = icmpv6_of(kind, kind).into_iter().chain(to(DropReason::RouterAdvertisement));
        rule(FROM_PORT, "drop router advertisements and redirects", router)
    }));
    let beyond_the_link = from_link_local().into_iter().chain([
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtMost, vec![0xfe, 0x7f]),
        Expression::Goto(drops::chain(DropReason::IsolatedScope)),
    ]);
    rules.push(rule(FROM_PORT, "drop what goes beyond the link from a link-local address", beyond_the_link));
    rules.extend([
        rule(
            FROM_PORT,
            "pass what comes from a bound IPv4 address",
            source(libc::NFPROTO_IPV4, Payload::V4(Address::Source), SOURCES_4),
        ),
        rule(
            FROM_PORT,
            "pass what comes from a bound IPv6 address",
            source(libc::NFPROTO_IPV6, Payload::V6(Address::Source), SOURCES_6),
        ),
        rule(FROM_PORT, "pass detection of duplicates", unspecified(duplicates)),
        rule(FROM_PORT, "pass router solicitations", unspecified(discovery(133, 133))),
        rule(FROM_PORT, "pass reports of multicast listeners", unspecified(icmpv6_of(143, 143))),
        rule(
            FROM_PORT,
            "drop another's IPv4 address",
            taken(libc::NFPROTO_IPV4, Payload::V4(Address::Source), TAKEN_4),
        ),
        rule(
            FROM_PORT,
            "drop another's IPv6 address",
            taken(libc::NFPROTO_IPV6, Payload::V6(Address::Source), TAKEN_6),
        ),
        rule(FROM_PORT, "pass what exempt pods send", in_set(EXEMPT, Expression::Goto(FROM_EXEMPT))),
        rule(FROM_PORT, "drop what has another source", settled),
        rule(FROM_PORT, "let a new port wait", [Expression::Goto(QUEUE)]),
    ]);
    rules
}

fn from_elsewhere() -> Vec<Rule> {
    let lo = [
        Expression::LoadMeta(Meta::Iif),
        // Loopback is the first interface of each network namespace (`LOOPBACK_IFINDEX`).
        Expression::Compare(Comparison::Equal, 1_u32.to_ne_bytes().to_vec()),
        Expression::Accept,
    ];
    let own = |number, address, set: Set| {
        family(number).into_iter().chain([
            Expression::LoadPayload(address),
            Expression::InSet(set.name),
            Expression::Goto(drops::chain(DropReason::LocalSource)),
        ])
    };
    // What this node's pods send enters by their ports, and nowhere else.
    let pods = |family: &Family| {
        family.is_it().into_iter().chain([
            Expression::LoadPayload((family.payload)(Address::Source)),
            Expression::InSet(family.pod_cidrs),
            Expression::Goto(drops::chain(DropReason::SpoofedSource)),
        ])
    };
    let name = "drop what has one of the node's own addresses";
    let mut rules = vec![rule(FROM_ELSEWHERE, "pass what the node sends to itself", lo)];
    // By whatever source: the rules behind evaluation know pods by their addresses.
    for family in &FAMILIES {
        let transports = [
            vec![
                Expression::LoadMeta(Meta::Transport),
                Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_UDP as u8]),
                Expression::LoadPayload(Payload::DestinationPort),
                Expression::InSet(OVERLAY_PORTS.name),
            ],
            vec![Expression::LoadMeta(Meta::Transport), Expression::InSet(OVERLAY_PROTOCOLS.name)],
        ];
        rules.extend(transports.map(|transport| {
            let to_node = [
                Expression::LoadPayload((family.payload)(Address::Destination)),
                Expression::InSet(family.node_addresses),
                Expression::Goto(drops::chain(DropReason::Overlay)),
            ];
            rule(
                FROM_EXEMPT,
                "drop overlay packets to nodes",
                family.is_it().into_iter().chain(transport).chain(to_node),
            )
        }));
    }
    for chain in [FROM_ELSEWHERE, FROM_EXEMPT] {
        rules.push(rule(chain, name, own(libc::NFPROTO_IPV4, Payload::V4(Address::Source), OWN_4)));
        rules.push(rule(chain, name, own(libc::NFPROTO_IPV6, Payload::V6(Address::Source), OWN_6)));
    }
    let of_pods = FAMILIES
        .iter()
        .map(|family| rule(FROM_ELSEWHERE, "drop what has a local pod's address", pods(family)));
    rules.extend(of_pods);
    rules
}

/// As the bridge table's chains `icmp-errors` and `icmpv6-messages`: an error of a pod quotes a packet that was sent to it.
fn icmp_errors() -> Vec<Rule> {
    let to = |reason| [Expression::Goto(drops::chain(reason))];
    let icmp = |from: u8, to: u8| {
        family(libc::NFPROTO_IPV4).into_iter().chain([
            Expression::LoadPayload(Payload::IcmpType),
            Expression::Compare(Comparison::AtLeast, vec![from]),
            Expression::Compare(Comparison::AtMost, vec![to]),
        ])
    };
    let quotes = |destination, own: Set| {
        port_key(destination).into_iter().chain([Expression::InSet(own.name), Expression::Return])
    };
    let leave = "leave errors about a packet that was sent there";
    let mut rules = vec![rule(ICMP, "drop redirects", icmp(5, 5).chain(to(DropReason::RouterAdvertisement)))];
    for (first, last) in [(3, 4), (11, 12)] {
        let own = icmp(first, last).chain(quotes(Payload::QuotedV4Destination, BEHIND_4));
        rules.push(rule(ICMP, leave, own));
        rules.push(rule(ICMP, "drop other errors", icmp(first, last).chain(to(DropReason::SpoofedSource))));
    }
    let long = hop_limit_is_255(icmpv6_of(133, 136)).into_iter().chain([
        Expression::LoadMeta(Meta::Length),
        Expression::ToNetworkOrder,
        Expression::Compare(Comparison::AtLeast, (LONGEST_NEIGHBOUR_DISCOVERY + 1).to_be_bytes().to_vec()),
    ]);
    let another = hop_limit_is_255(icmpv6_of(136, 136))
        .into_iter()
        .chain(port_key(Payload::NeighbourTarget))
        .chain([Expression::NotInSet(BEHIND_6.name)]);
    rules.push(rule(ICMP, "drop what is too long", long.chain(to(DropReason::NeighbourDiscovery))));
    rules.push(rule(
        ICMP,
        "drop advertisements of another's address",
        another.chain(to(DropReason::SpoofedSource)),
    ));
    let own = icmpv6_of(1, 4).into_iter().chain(quotes(Payload::QuotedV6Destination, BEHIND_6));
    rules.push(rule(ICMP, leave, own));
    rules.push(rule(
        ICMP,
        "drop other errors",
        icmpv6_of(1, 4).into_iter().chain(to(DropReason::SpoofedSource)),
    ));
    rules
}

/// From a routed pod that isolates egress: no multicast, broadcast or link-local but what the link itself needs.
fn from_isolated() -> Vec<Rule> {
    let drop = || [Expression::Goto(drops::chain(DropReason::IsolatedScope))];
    let start = |number, start: Payload, most: Vec<u8>| {
        family(number).into_iter().chain([
            Expression::LoadPayload(start),
            Expression::Compare(Comparison::AtMost, most),
            Expression::Accept,
        ])
    };
    let igmp = [
        Expression::LoadMeta(Meta::Transport),
        Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_IGMP as u8]),
        Expression::Accept,
    ];
    let discovery = discovery(133, 136).into_iter().chain([Expression::Accept]);
    let listener = icmpv6_of(143, 143).into_iter().chain([Expression::Accept]);
    let one_place6 = start(libc::NFPROTO_IPV6, Payload::V6DestinationStart, vec![0xfe, 0x7f]);
    vec![
        rule(
            FROM_ISOLATED,
            "pass what goes to one place",
            start(libc::NFPROTO_IPV4, Payload::V4DestinationStart, vec![223]),
        ),
        rule(FROM_ISOLATED, "pass IGMP", igmp),
        rule(FROM_ISOLATED, "pass neighbour discovery", discovery),
        rule(FROM_ISOLATED, "pass reports of multicast listeners", listener),
        rule(FROM_ISOLATED, "pass what goes to one place", one_place6),
        rule(FROM_ISOLATED, "drop multicast, broadcast and link-local", drop()),
    ]
}
