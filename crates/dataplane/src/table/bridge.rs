//! The table `bridge kube-verdict`: a frame is from the pod behind the port where it entered, and goes where its destination is.
//!
//! ```text
//!  hook         chain (priority)        before br_netfilter (0) shows the packet to the inet hooks
//!  prerouting   prerouting (-300)       source:       bound4, bound6 (maps)  -> accept, or one of the chains below
//!  forward      forward (filter)        destination:  deliver4, deliver6     -> accept, or open-ports for what has no one destination
//!  input        input (filter)          nothing to Ethernet's link-local groups, which go past the other two and teach the bridge
//!
//!  isolated4, isolated6   of a pod that isolates egress: no multicast, broadcast, link-local
//!  open4, open6           of a pod that does not
//!  link-local-...         from a link-local source, likewise: to none but link-local and multicast destinations
//!  icmp-errors, icmpv6-messages   what errors and neighbour discovery may say
//!  unmatched              ARP, unspecified sources, exempt pods; all else is forged, or of a port that is new
//! ```
//!
//! A packet of a port that is new goes on with a mark, by which the inet table's chain `prerouting` sends it to userspace: there it
//! waits until the port is known (`ports::PortQueue`). The bridge family itself can't queue on every kernel.
//!
//! The common case is one chain with one lookup each at prerouting and forward. A key is the port, the frame's source and protocol,
//! and the address; the protocol is read from the frame, where a VLAN tag shows. A port that is nobody's yet, and a bridge that is
//! not known, match nothing: so what is not known is not passed.
//!
//! Rules are written once; what changes are the sets' elements.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustables::{Chain, ChainPolicy, ChainType, Hook, HookClass, MsgType, sys};

use super::chains::{mark_packet, rule};
use super::drops::{self, Drops};
use super::origin::{OriginPolicy, Origins};
use crate::drops::DropReason;
use crate::marks::Marks;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::TableId;
use crate::nft::batch::{Batch, Part as BatchPart};
use crate::nft::expression::{Address, Comparison, Expression, Meta, Part, Payload};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, ElementVerdict, Elements, Key, KeyPart, Set};
use crate::ports::{
    Attachment, Bindings, InterfaceIndex, Mac, Overlay, Port, is_link_local as is_link_local_address,
};

/// The table.
pub(super) const TABLE: TableId = TableId::bridge(super::TABLE);

/// `NF_BR_PRI_FILTER_BRIDGED`.
const FILTER: i32 = -200;
/// Before br_netfilter (`NF_BR_PRI_BRNF`, 0) and ebtables' nat (-300) and filter alike.
const FIRST: i32 = -300;

const PREROUTING: &str = "prerouting";
const FORWARD: &str = "forward";
const INPUT: &str = "input";
const ISOLATED_4: &str = "isolated4";
const ISOLATED_6: &str = "isolated6";
const OPEN_4: &str = "open4";
const OPEN_6: &str = "open6";
const LINK_LOCAL_ISOLATED: &str = "link-local-isolated";
const LINK_LOCAL_OPEN: &str = "link-local-open";
const ICMP: &str = "icmp-errors";
const ICMPV6: &str = "icmpv6-messages";
const UNMATCHED: &str = "unmatched";
const EXEMPT: &str = "exempt";
const UNSPECIFIED: &str = "unspecified";
const CHAINS: [&str; 11] = [
    ISOLATED_4,
    ISOLATED_6,
    OPEN_4,
    OPEN_6,
    LINK_LOCAL_ISOLATED,
    LINK_LOCAL_OPEN,
    ICMP,
    ICMPV6,
    UNMATCHED,
    EXEMPT,
    UNSPECIFIED,
];

const REASONS: [DropReason; 7] = [
    DropReason::Overlay,
    DropReason::SpoofedSource,
    DropReason::EtherType,
    DropReason::RouterAdvertisement,
    DropReason::NeighbourDiscovery,
    DropReason::IsolatedScope,
    DropReason::UnboundDestination,
];
/// See [`Drops`].
pub(super) const DROPS: Drops = Drops::new(TABLE, 190, &REASONS);

const fn set(name: &'static str, id: u32, key: &'static [KeyPart], carries: Carries) -> Set {
    Set { table: TABLE, name, id, key, carries, size: None }
}

/// Port, source, protocol, IPv4 source: what becomes of the packet.
const BOUND_4: Set = set(
    "bound4",
    101,
    &[KeyPart::Interface, KeyPart::Mac, KeyPart::EtherType, KeyPart::Ipv4],
    Carries::Verdicts,
);
/// The same for IPv6.
const BOUND_6: Set = set(
    "bound6",
    102,
    &[KeyPart::Interface, KeyPart::Mac, KeyPart::EtherType, KeyPart::Ipv6],
    Carries::Verdicts,
);
/// Port, source, protocol, and the sender that ARP names: its hardware address and its IPv4 address, or 0.0.0.0 for a probe.
const BOUND_ARP: Set = set(
    "bound-arp",
    103,
    &[KeyPart::Interface, KeyPart::Mac, KeyPart::EtherType, KeyPart::Mac, KeyPart::Ipv4],
    Carries::Keys,
);
/// Port and IPv4 address: to what a packet that an error quotes was sent.
const OWN_4: Set = set("own4", 114, &[KeyPart::Interface, KeyPart::Ipv4], Carries::Keys);
/// Port and IPv6 address: likewise, and of what neighbour discovery may speak.
const OWN_6: Set = set("own6", 104, &[KeyPart::Interface, KeyPart::Ipv6], Carries::Keys);
/// Every address that is bound to a port, or the node's own.
const TAKEN_4: Set = set("taken4", 105, &[KeyPart::Ipv4], Carries::Keys);
/// The same for IPv6.
const TAKEN_6: Set = set("taken6", 106, &[KeyPart::Ipv6], Carries::Keys);
/// Port, protocol, IPv4 destination.
const DELIVER_4: Set =
    set("deliver4", 107, &[KeyPart::Interface, KeyPart::EtherType, KeyPart::Ipv4], Carries::Keys);
/// The same for IPv6.
const DELIVER_6: Set =
    set("deliver6", 108, &[KeyPart::Interface, KeyPart::EtherType, KeyPart::Ipv6], Carries::Keys);
/// Ports whose addresses are known.
const SETTLED: Set = set("settled-ports", 109, &[KeyPart::Interface], Carries::Keys);
/// Ports whose pods isolate no ingress.
const OPEN: Set = set("open-ports", 110, &[KeyPart::Interface], Carries::Keys);
/// Ports whose pods an administrator lets send from other addresses.
const EXEMPT_PORTS: Set = set("exempt-ports", 111, &[KeyPart::Interface], Carries::Keys);
/// Veth devices that are no pod's.
const OTHER_PORTS: Set = set("other-ports", 112, &[KeyPart::Interface], Carries::Keys);
/// UDP ports of the overlay.
const OVERLAY_PORTS: Set = set("overlay-ports", 115, &[KeyPart::Port], Carries::Keys);
/// IP protocols of the overlay.
const OVERLAY_PROTOCOLS: Set = set("overlay-protocols", 116, &[KeyPart::Protocol], Carries::Keys);
/// IPv4 addresses of nodes.
const NODES_4: Set = set("node-addresses4", 117, &[KeyPart::Ipv4], Carries::Keys);
/// IPv6 addresses of nodes.
const NODES_6: Set = set("node-addresses6", 118, &[KeyPart::Ipv6], Carries::Keys);
/// Bridges that are not the pods'.
const OTHER_BRIDGES: Set = set("other-bridges", 113, &[KeyPart::InterfaceName], Carries::Keys);
const SETS: [Set; 18] = [
    OVERLAY_PORTS,
    OVERLAY_PROTOCOLS,
    NODES_4,
    NODES_6,
    BOUND_4,
    BOUND_6,
    BOUND_ARP,
    OWN_4,
    OWN_6,
    TAKEN_4,
    TAKEN_6,
    DELIVER_4,
    DELIVER_6,
    SETTLED,
    OPEN,
    EXEMPT_PORTS,
    OTHER_PORTS,
    OTHER_BRIDGES,
];

/// `ETH_P_IP`, `ETH_P_IPV6`, `ETH_P_ARP` in network order.
const IP: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ARP: [u8; 2] = [0x08, 0x06];

/// An ARP message for IPv4 takes 28 bytes, and Ethernet pads a frame's content to 46.
const LONGEST_ARP: u32 = 46;
/// An IPv6 header, a neighbour solicitation or advertisement, and two options of 8 bytes (RFC 4861, RFC 7527's nonce).
const LONGEST_NEIGHBOUR_DISCOVERY: u32 = 40 + 24 + 2 * 8;

/// What the sets hold: by set, its elements.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct BridgeContents(BTreeMap<&'static str, Elements>);

impl BridgeContents {
    /// Contents for these bindings, where pods are isolated as `policy` says.
    pub(super) fn new(origins: &Origins) -> Self {
        let (bindings, policy) = (&origins.bindings, OriginPolicy(&origins.open));
        let mut contents = Self(SETS.into_iter().map(|set| (set.name, Elements::new())).collect());
        let bridged = bindings.ports.iter().filter(|(_, port)| port.attachment == Attachment::Bridged);
        for (index, port) in bridged {
            let addresses: Vec<IpAddr> = port.pod_addresses().collect();
            // ALL of the pod's addresses; a pod that is not known is not open.
            let is_known = !addresses.is_empty();
            let open_egress = is_known && addresses.iter().all(|address| policy.is_open_for_egress(*address));
            let open_ingress =
                is_known && addresses.iter().all(|address| policy.is_open_for_ingress(*address));
            for address in &port.addresses {
                contents.bind(*index, port.mac, *address, open_egress);
                let is_pods = addresses.contains(address);
                if is_pods || open_ingress {
                    contents.deliver(*index, *address);
                }
            }
            if !port.addresses.is_empty() {
                contents.arp(*index, port.mac, [0; 4]);
            }
            let port_key = || Key::default().with(&index.0.to_ne_bytes()).bytes();
            for (set, holds) in
                [(SETTLED, port.is_settled), (OPEN, open_ingress), (EXEMPT_PORTS, port.is_exempt)]
            {
                if holds {
                    contents.put(set, port_key(), None);
                }
            }
        }
        for address in &bindings.own_addresses {
            contents.take(*address);
        }
        // Only exempt pods are asked for these here: others have none but their own addresses, by which the inet table knows them.
        if bindings.ports.values().any(|port| port.is_exempt) {
            for address in origins.node_addresses.iter().chain(&bindings.own_addresses) {
                let set = if address.is_ipv4() { NODES_4 } else { NODES_6 };
                contents.put(set, Key::default().address(*address).bytes(), None);
            }
        }
        for overlay in bindings.overlays.iter().chain(&origins.more_overlays) {
            match overlay {
                Overlay::Udp(port) => contents.put(OVERLAY_PORTS, port.to_be_bytes().to_vec(), None),
                Overlay::Protocol(protocol) => contents.put(OVERLAY_PROTOCOLS, vec![*protocol], None),
            }
        }
        for index in &bindings.other_ports {
            contents.put(OTHER_PORTS, index.0.to_ne_bytes().to_vec(), None);
        }
        for name in &bindings.other_bridges {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(16, 0);
            contents.put(OTHER_BRIDGES, bytes, None);
        }
        contents
    }

    fn put(&mut self, set: Set, key: Vec<u8>, verdict: Option<ElementVerdict>) {
        self.0.entry(set.name).or_default().insert(key, verdict);
    }

    fn bind(&mut self, index: InterfaceIndex, mac: Mac, address: IpAddr, is_open: bool) {
        let key = |ether_type: [u8; 2]| {
            Key::default()
                .with(&index.0.to_ne_bytes())
                .with(&mac.0)
                .with(&ether_type)
                .address(address)
                .bytes()
        };
        self.take(address);
        let own = Key::default().with(&index.0.to_ne_bytes()).address(address).bytes();
        match address {
            IpAddr::V4(v4) => {
                let chain = if is_open { OPEN_4 } else { ISOLATED_4 };
                self.put(BOUND_4, key(IP), Some(ElementVerdict::Goto(chain)));
                self.arp(index, mac, v4.octets());
                self.put(OWN_4, own, None);
            }
            IpAddr::V6(_) => {
                let chain = match (is_link_local_address(address), is_open) {
                    (false, true) => OPEN_6,
                    (false, false) => ISOLATED_6,
                    (true, true) => LINK_LOCAL_OPEN,
                    (true, false) => LINK_LOCAL_ISOLATED,
                };
                self.put(BOUND_6, key(IPV6), Some(ElementVerdict::Goto(chain)));
                self.put(OWN_6, own, None);
            }
        }
    }

    fn arp(&mut self, index: InterfaceIndex, mac: Mac, address: [u8; 4]) {
        let sent = Key::default().with(&index.0.to_ne_bytes()).with(&mac.0).with(&ARP);
        let key = sent.with(&mac.0).with(&address);
        self.put(BOUND_ARP, key.bytes(), None);
    }

    fn deliver(&mut self, index: InterfaceIndex, address: IpAddr) {
        let (set, ether_type) = if address.is_ipv4() { (DELIVER_4, IP) } else { (DELIVER_6, IPV6) };
        let key = Key::default().with(&index.0.to_ne_bytes()).with(&ether_type).address(address);
        self.put(set, key.bytes(), None);
    }

    fn take(&mut self, address: IpAddr) {
        let set = if address.is_ipv4() { TAKEN_4 } else { TAKEN_6 };
        self.put(set, Key::default().address(address).bytes(), None);
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

/// Adds the bindings that the kernel's sets hold now. Names of ports are not among them.
pub(super) fn read_bindings(socket: &mut Socket, bindings: &mut Bindings) -> Result<(), NetlinkError> {
    let settled = SETTLED.read(socket)?;
    for set in [BOUND_4, BOUND_6] {
        for key in set.read(socket)?.keys() {
            let (Some(index), Some(mac)) = (index_of(key), key.get(4..10)) else { continue };
            let Some(address) = key.get(16..).and_then(address_of) else { continue };
            let port = bindings.ports.entry(index).or_insert_with(|| unnamed(Attachment::Bridged));
            port.mac = Mac(mac.try_into().unwrap_or_default());
            port.addresses.insert(address);
            port.is_settled = settled.contains_key(&key[..4]);
        }
    }
    Ok(())
}

pub(super) fn index_of(key: &[u8]) -> Option<InterfaceIndex> {
    Some(InterfaceIndex(u32::from_ne_bytes(*key.first_chunk()?)))
}

pub(super) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

pub(super) fn unnamed(attachment: Attachment) -> Port {
    Port {
        name: "".into(),
        attachment,
        mac: Mac::default(),
        addresses: BTreeSet::new(),
        is_settled: false,
        is_exempt: false,
    }
}

/// How the table's rules are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BridgeRules {
    /// By which packets of new ports are known.
    pub marks: Marks,
    /// Where examples of dropped frames go.
    pub log_group: Option<u16>,
    /// Whether the kernel knows a port's bridge by name (`nft_meta_bridge`).
    pub knows_bridges: bool,
}

impl BridgeRules {
    /// Creates table, chains and sets where they don't exist, and writes all rules again.
    pub(super) fn install(&self, contents: &BridgeContents, batch: &mut Batch) {
        let table = TABLE.library();
        batch
            .library(BatchPart::plain(format!("table {TABLE}")), |library| library.add(&table, MsgType::Add));
        for (name, class, priority) in [
            (PREROUTING, HookClass::PreRouting, FIRST),
            (FORWARD, HookClass::Forward, FILTER),
            (INPUT, HookClass::In, FILTER),
        ] {
            let chain = Chain::new(&table)
                .with_name(name)
                .with_hook(Hook::new(class, priority))
                .with_type(ChainType::Filter)
                .with_policy(ChainPolicy::Accept);
            batch.library(BatchPart::plain(format!("chain {name} of table {TABLE}")), |library| {
                library.add(&chain, MsgType::Add);
            });
        }
        for name in CHAINS.into_iter().chain(DROPS.chains()) {
            let chain = Chain::new(&table).with_name(name);
            batch.library(BatchPart::plain(format!("chain {name} of table {TABLE}")), |library| {
                library.add(&chain, MsgType::Add);
            });
        }
        SETS.iter().for_each(|set| set.create(batch));
        DROPS.create(batch);
        let part = BatchPart::plain(format!("removal of the old rules of table {TABLE}"));
        batch.raw_in(TABLE.family, part, sys::NFT_MSG_DELRULE, 0, |rule| {
            rule.string(sys::NFTA_RULE_TABLE, TABLE.name);
        });
        contents.fill(batch);
        self.rules().iter().for_each(|rule| rule.add_to(TABLE, batch));
    }

    fn rules(&self) -> Vec<Rule> {
        let mut rules = self.prerouting();
        rules.extend(self.forward());
        rules.extend(self.input());
        rules.extend(isolated());
        rules.extend(icmp());
        rules.extend(icmpv6());
        rules.extend(unmatched(&self.marks));
        rules.extend(exempt());
        rules.extend(unspecified());
        rules.extend(DROPS.rules(self.log_group));
        rules
    }

    /// First match decides.
    fn prerouting(&self) -> Vec<Rule> {
        let bound = |address: Payload, map: Set| {
            source_key(address).into_iter().chain([Expression::VerdictOf(map.name)])
        };
        let mut rules = vec![
            rule(
                PREROUTING,
                "pass what comes from a bound IPv4 address",
                bound(Payload::V4(Address::Source), BOUND_4),
            ),
            rule(
                PREROUTING,
                "pass what comes from a bound IPv6 address",
                bound(Payload::V6(Address::Source), BOUND_6),
            ),
        ];
        rules.extend(self.not_pods(PREROUTING, Meta::Iif, Meta::IifKind, Meta::BridgeName));
        rules.push(rule(PREROUTING, "look at what a pod sends otherwise", [Expression::Goto(UNMATCHED)]));
        rules
    }

    /// Leaves alone what is no pod's port.
    fn not_pods(&self, chain: &'static str, index: Meta, kind: Meta, bridge: Meta) -> Vec<Rule> {
        let mut veth = b"veth".to_vec();
        veth.resize(16, 0);
        let not_veth =
            [Expression::LoadMeta(kind), Expression::Compare(Comparison::NotEqual, veth), Expression::Accept];
        let other_port =
            [Expression::LoadMeta(index), Expression::InSet(OTHER_PORTS.name), Expression::Accept];
        let mut rules = vec![
            rule(chain, "leave what is no pod's port", other_port),
            rule(chain, "leave what is no veth", not_veth),
        ];
        if self.knows_bridges {
            let other_bridge =
                [Expression::LoadMeta(bridge), Expression::InSet(OTHER_BRIDGES.name), Expression::Accept];
            rules.push(rule(chain, "leave other bridges", other_bridge));
        }
        rules
    }

    /// 01:80:c2:00:00:0x is for the bridge itself (IEEE 802.1D): such a frame meets no other hook, teaches the bridge where its source
    /// is, and comes up at the port as if it had no bridge. Pods have nothing to say there.
    fn input(&self) -> Vec<Rule> {
        let other = [
            Expression::LoadPayload(Payload::DestinationMacGroup),
            Expression::Compare(Comparison::NotEqual, vec![0x01, 0x80, 0xc2, 0x00, 0x00]),
            Expression::Accept,
        ];
        let mut rules = vec![rule(INPUT, "leave what is for the node", other)];
        rules.extend(self.not_pods(INPUT, Meta::Iif, Meta::IifKind, Meta::BridgeName));
        rules.push(rule(
            INPUT,
            "drop what is for the bridge",
            [Expression::Goto(drops::chain(DropReason::EtherType))],
        ));
        rules
    }

    /// First match decides.
    fn forward(&self) -> Vec<Rule> {
        let delivered = |address: Payload, set: Set| {
            [
                Expression::LoadPart(Part::Meta(Meta::Oif), 0),
                Expression::LoadPart(Part::Meta(Meta::Protocol), 1),
                Expression::LoadPart(Part::Payload(address), 2),
                Expression::InSet(set.name),
                Expression::Accept,
            ]
        };
        let mut rules = vec![
            rule(
                FORWARD,
                "pass to where the IPv4 address is",
                delivered(Payload::V4(Address::Destination), DELIVER_4),
            ),
            rule(
                FORWARD,
                "pass to where the IPv6 address is",
                delivered(Payload::V6(Address::Destination), DELIVER_6),
            ),
        ];
        rules.extend(self.not_pods(FORWARD, Meta::Oif, Meta::OifKind, Meta::OutBridgeName));
        let to_exempt =
            [Expression::LoadMeta(Meta::Oif), Expression::InSet(EXEMPT_PORTS.name), Expression::Accept];
        let arp = is(Meta::Protocol, &ARP).into_iter().chain([Expression::Accept]);
        let solicitation = is_neighbour_discovery(135, 136).into_iter().chain([Expression::Accept]);
        let to_open = |goes: Vec<Expression>| {
            let open = [Expression::LoadMeta(Meta::Oif), Expression::InSet(OPEN.name)];
            open.into_iter().chain(goes).chain([Expression::Accept])
        };
        let new_port = |protocol: &[u8], address: Payload, taken: Set| {
            let unsettled = [Expression::LoadMeta(Meta::Oif), Expression::NotInSet(SETTLED.name)];
            let free =
                [Expression::LoadPayload(address), Expression::NotInSet(taken.name), Expression::Accept];
            unsettled.into_iter().chain(is(Meta::Protocol, protocol)).chain(free)
        };
        rules.extend([
            rule(FORWARD, "pass ARP", arp),
            rule(FORWARD, "pass neighbour solicitations and advertisements", solicitation),
        ]);
        // These are for bridge and node alone, and every pod sends them when it starts: no news.
        let igmp = is(Meta::Protocol, &IP)
            .into_iter()
            .chain(is(Meta::Transport, &[libc::IPPROTO_IGMP as u8]))
            .chain([Expression::Drop]);
        rules.push(rule(FORWARD, "drop IGMP to other pods", igmp));
        for (from, to) in [(131, 133), (143, 143)] {
            let multicast = is_icmpv6(from, to).into_iter().chain(is_multicast6()).chain([Expression::Drop]);
            rules.push(rule(
                FORWARD,
                "drop listeners' reports and router solicitations to other pods",
                multicast,
            ));
        }
        rules.extend([
            rule(FORWARD, "pass IPv4 multicast to pods that isolate no ingress", to_open(is_multicast4())),
            rule(FORWARD, "pass IPv6 multicast to pods that isolate no ingress", to_open(is_multicast6())),
        ]);
        for is_multicast in [is_multicast4(), is_multicast6()] {
            let drop =
                is_multicast.into_iter().chain([Expression::Goto(drops::chain(DropReason::IsolatedScope))]);
            rules.push(rule(FORWARD, "drop multicast to others", drop));
        }
        let link_local = is(Meta::Protocol, &IPV6)
            .into_iter()
            .chain(is_link_local())
            .chain([Expression::Goto(drops::chain(DropReason::IsolatedScope))]);
        rules.extend([
            rule(FORWARD, "drop what goes to a link-local address elsewhere", link_local),
            rule(FORWARD, "pass to exempt pods", to_exempt),
            rule(FORWARD, "pass to a new port", new_port(&IP, Payload::V4(Address::Destination), TAKEN_4)),
            rule(FORWARD, "pass to a new port", new_port(&IPV6, Payload::V6(Address::Destination), TAKEN_6)),
            rule(
                FORWARD,
                "drop what goes elsewhere",
                [Expression::Goto(drops::chain(DropReason::UnboundDestination))],
            ),
        ]);
        rules
    }
}

/// Loads port, source and protocol of the frame, and an address.
fn source_key(address: Payload) -> [Expression; 4] {
    [
        Expression::LoadPart(Part::Meta(Meta::Iif), 0),
        Expression::LoadPart(Part::Payload(Payload::SourceMac), 1),
        Expression::LoadPart(Part::Payload(Payload::EtherType), 3),
        Expression::LoadPart(Part::Payload(address), 4),
    ]
}

fn is(meta: Meta, value: &[u8]) -> [Expression; 2] {
    [Expression::LoadMeta(meta), Expression::Compare(Comparison::Equal, value.to_vec())]
}

fn at_most(meta: Meta, value: u32) -> [Expression; 3] {
    // The kernel compares as big-endian numbers.
    [
        Expression::LoadMeta(meta),
        Expression::ToNetworkOrder,
        Expression::Compare(Comparison::AtMost, value.to_be_bytes().to_vec()),
    ]
}

/// Goes on for a request or reply that is no longer than one is.
fn is_short_arp() -> Vec<Expression> {
    let mut expressions = at_most(Meta::Length, LONGEST_ARP).to_vec();
    expressions.extend([
        Expression::LoadPayload(Payload::ArpOperation),
        Expression::Compare(Comparison::AtLeast, vec![0, 1]),
        Expression::Compare(Comparison::AtMost, vec![0, 2]),
    ]);
    expressions
}

/// Goes on for ICMPv6 of these types with hop limit 255: sent on this link (RFC 4861, 7.1).
fn is_neighbour_discovery(from: u8, to: u8) -> Vec<Expression> {
    let mut expressions = is_icmpv6(from, to);
    expressions.extend([
        Expression::LoadPayload(Payload::HopLimit),
        Expression::Compare(Comparison::Equal, vec![255]),
    ]);
    expressions
}

fn is_icmpv6(from: u8, to: u8) -> Vec<Expression> {
    let mut expressions = is(Meta::Protocol, &IPV6).to_vec();
    expressions.extend(is(Meta::Transport, &[libc::IPPROTO_ICMPV6 as u8]));
    expressions.extend([
        Expression::LoadPayload(Payload::Icmpv6Type),
        Expression::Compare(Comparison::AtLeast, vec![from]),
        Expression::Compare(Comparison::AtMost, vec![to]),
    ]);
    expressions
}

/// IPv4 multicast (224.0.0.0/4), what is reserved behind it, and broadcast.
fn is_multicast4() -> Vec<Expression> {
    let mut expressions = is(Meta::Protocol, &IP).to_vec();
    expressions.extend([
        Expression::LoadPayload(Payload::V4DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![224]),
    ]);
    expressions
}

/// ff00::/8.
fn is_multicast6() -> Vec<Expression> {
    let mut expressions = is(Meta::Protocol, &IPV6).to_vec();
    expressions.extend([
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![0xff, 0x00]),
    ]);
    expressions
}

/// An IPv6 destination in fe80::/10.
fn is_link_local() -> [Expression; 3] {
    [
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![0xfe, 0x80]),
        Expression::Compare(Comparison::AtMost, vec![0xfe, 0xbf]),
    ]
}

/// Not for a group of stations.
fn is_for_one_station() -> [Expression; 3] {
    [
        Expression::LoadPayload(Payload::DestinationMacStart),
        Expression::Bits { mask: u32::from_ne_bytes([1, 0, 0, 0]), flip: 0 },
        Expression::Compare(Comparison::Equal, vec![0]),
    ]
}

/// What comes from a bound source of a pod that isolates egress: what goes to one place goes on to be evaluated by its addresses.
fn isolated() -> Vec<Rule> {
    let drop = || [Expression::Goto(drops::chain(DropReason::IsolatedScope))];
    let unicast4 = is_for_one_station().into_iter().chain([
        Expression::LoadPayload(Payload::V4DestinationStart),
        Expression::Compare(Comparison::AtMost, vec![223]),
        Expression::Accept,
    ]);
    let igmp = is(Meta::Transport, &[libc::IPPROTO_IGMP as u8])
        .into_iter()
        .chain(is_multicast4())
        .chain([Expression::Accept]);
    let icmp = is(Meta::Transport, &[libc::IPPROTO_ICMP as u8]).into_iter().chain([Expression::Jump(ICMP)]);
    let icmpv6 =
        is(Meta::Transport, &[libc::IPPROTO_ICMPV6 as u8]).into_iter().chain([Expression::Jump(ICMPV6)]);
    let link_local = is_link_local().into_iter().chain(drop());
    let stays = [
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![0xfe, 0x80]),
        Expression::Accept,
    ];
    let unicast6 = is_for_one_station().into_iter().chain([
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtMost, vec![0xfe, 0xff]),
        Expression::Accept,
    ]);
    vec![
        rule(ISOLATED_4, "look at ICMP", icmp.clone()),
        rule(OPEN_4, "look at ICMP", icmp),
        rule(OPEN_4, "pass all else", [Expression::Accept]),
        rule(ISOLATED_4, "pass what goes to one place", unicast4),
        rule(ISOLATED_4, "pass IGMP", igmp),
        rule(ISOLATED_4, "drop multicast and broadcast", drop()),
        rule(ISOLATED_6, "look at ICMPv6", icmpv6.clone()),
        rule(ISOLATED_6, "drop link-local", link_local),
        rule(ISOLATED_6, "pass what goes to one place", unicast6),
        rule(ISOLATED_6, "drop multicast", drop()),
        rule(OPEN_6, "look at ICMPv6", icmpv6.clone()),
        rule(OPEN_6, "pass all else", [Expression::Accept]),
        rule(LINK_LOCAL_ISOLATED, "look at ICMPv6", icmpv6.clone()),
        rule(LINK_LOCAL_ISOLATED, "drop all else", drop()),
        rule(LINK_LOCAL_OPEN, "look at ICMPv6", icmpv6),
        // To other destinations it could only be evaluated by an address that is no pod's.
        rule(LINK_LOCAL_OPEN, "pass what stays on the link", stays),
        rule(LINK_LOCAL_OPEN, "drop all else", drop()),
    ]
}

/// An error has the connection of the packet that it quotes, and so its marks: a pod may speak of packets that were sent to it, and of
/// no others. The rest comes back to the chain it came from.
fn icmp() -> Vec<Rule> {
    let error = |kinds: (u8, u8)| {
        [
            Expression::LoadPayload(Payload::IcmpType),
            Expression::Compare(Comparison::AtLeast, vec![kinds.0]),
            Expression::Compare(Comparison::AtMost, vec![kinds.1]),
        ]
    };
    let to = |reason| [Expression::Goto(drops::chain(reason))];
    let redirect = error((5, 5)).into_iter().chain(to(DropReason::RouterAdvertisement));
    let mut rules = vec![rule(ICMP, "drop redirects", redirect)];
    // Destination unreachable, source quench; time exceeded, parameter problem (RFC 792).
    for kinds in [(3, 4), (11, 12)] {
        let own = error(kinds).into_iter().chain(quotes(Payload::QuotedV4Destination, OWN_4));
        rules.push(rule(
            ICMP,
            "leave errors about a packet that was sent there",
            own.chain([Expression::Return]),
        ));
        let forged = error(kinds).into_iter().chain(to(DropReason::SpoofedSource));
        rules.push(rule(ICMP, "drop other errors", forged));
    }
    rules
}

fn quotes(destination: Payload, own: Set) -> [Expression; 3] {
    [
        Expression::LoadPart(Part::Meta(Meta::Iif), 0),
        Expression::LoadPart(Part::Payload(destination), 1),
        Expression::InSet(own.name),
    ]
}

/// What of ICMPv6 is about the link itself; the rest comes back to the chain it came from.
fn icmpv6() -> Vec<Rule> {
    let to = |reason| [Expression::Goto(drops::chain(reason))];
    let router = |kind| is_icmpv6(kind, kind).into_iter().chain(to(DropReason::RouterAdvertisement));
    let long = is_neighbour_discovery(133, 136).into_iter().chain([
        Expression::LoadMeta(Meta::Length),
        Expression::ToNetworkOrder,
        Expression::Compare(Comparison::AtLeast, (LONGEST_NEIGHBOUR_DISCOVERY + 1).to_be_bytes().to_vec()),
    ]);
    let forged = is_neighbour_discovery(136, 136).into_iter().chain([
        Expression::LoadPart(Part::Meta(Meta::Iif), 0),
        Expression::LoadPart(Part::Payload(Payload::NeighbourTarget), 1),
        Expression::NotInSet(OWN_6.name),
    ]);
    let discovery = is_neighbour_discovery(133, 136).into_iter().chain([Expression::Accept]);
    // RFC 4443, 3: errors.
    let quotes_own = is_icmpv6(1, 4)
        .into_iter()
        .chain(quotes(Payload::QuotedV6Destination, OWN_6))
        .chain([Expression::Return]);
    let listener =
        |from, to| is_icmpv6(from, to).into_iter().chain(is_multicast6()).chain([Expression::Accept]);
    vec![
        rule(ICMPV6, "drop router advertisements", router(134)),
        rule(ICMPV6, "drop redirects", router(137)),
        rule(ICMPV6, "drop what is too long", long.chain(to(DropReason::NeighbourDiscovery))),
        rule(ICMPV6, "drop advertisements of another's address", forged.chain(to(DropReason::SpoofedSource))),
        rule(ICMPV6, "pass neighbour discovery", discovery),
        rule(ICMPV6, "pass reports of multicast listeners", listener(131, 132)),
        rule(ICMPV6, "pass reports of multicast listeners", listener(143, 143)),
        rule(ICMPV6, "leave errors about a packet that was sent there", quotes_own),
        rule(ICMPV6, "drop other errors", is_icmpv6(1, 4).into_iter().chain(to(DropReason::SpoofedSource))),
    ]
}

/// What comes from a pod's port, and not from an address that is bound to it.
fn unmatched(marks: &Marks) -> Vec<Rule> {
    let arp = [
        Expression::LoadPart(Part::Meta(Meta::Iif), 0),
        Expression::LoadPart(Part::Payload(Payload::SourceMac), 1),
        Expression::LoadPart(Part::Payload(Payload::EtherType), 3),
        Expression::LoadPart(Part::Payload(Payload::ArpSenderMac), 4),
        Expression::LoadPart(Part::Payload(Payload::ArpSenderAddress), 6),
        Expression::InSet(BOUND_ARP.name),
        Expression::Accept,
    ];
    let arp = is_short_arp().into_iter().chain(arp);
    let exempt =
        [Expression::LoadMeta(Meta::Iif), Expression::InSet(EXEMPT_PORTS.name), Expression::Jump(EXEMPT)];
    let ether_type = |value: [u8; 2]| {
        [
            Expression::LoadPayload(Payload::EtherType),
            Expression::Compare(Comparison::NotEqual, value.to_vec()),
        ]
    };
    let other = [IP, IPV6, ARP]
        .into_iter()
        .flat_map(ether_type)
        .chain([Expression::Goto(drops::chain(DropReason::EtherType))]);
    let unspecified = [
        Expression::LoadPayload(Payload::EtherType),
        Expression::Compare(Comparison::Equal, IPV6.to_vec()),
        Expression::LoadPayload(Payload::V6(Address::Source)),
        Expression::Compare(Comparison::Equal, vec![0; 16]),
        Expression::Jump(UNSPECIFIED),
    ];
    let settled = [
        Expression::LoadMeta(Meta::Iif),
        Expression::InSet(SETTLED.name),
        Expression::Goto(drops::chain(DropReason::SpoofedSource)),
    ];
    let is_arp =
        [Expression::LoadPayload(Payload::EtherType), Expression::Compare(Comparison::Equal, ARP.to_vec())];
    let taken_arp = is_arp.clone().into_iter().chain([
        Expression::LoadPayload(Payload::ArpSenderAddress),
        Expression::InSet(TAKEN_4.name),
        Expression::Goto(drops::chain(DropReason::SpoofedSource)),
    ]);
    let new_arp = is_arp.into_iter().chain(is_short_arp()).chain([Expression::Accept]);
    let long_arp =
        [Expression::LoadPayload(Payload::EtherType), Expression::Compare(Comparison::Equal, ARP.to_vec())]
            .into_iter()
            .chain([Expression::Goto(drops::chain(DropReason::NeighbourDiscovery))]);
    let new_port = mark_packet(marks.questions(), marks.new_port()).into_iter().chain([Expression::Accept]);
    vec![
        rule(UNMATCHED, "pass ARP from a bound sender", arp),
        rule(UNMATCHED, "drop what is neither IP nor ARP", other),
        rule(UNMATCHED, "look at unspecified sources", unspecified),
        rule(UNMATCHED, "look at exempt pods", exempt),
        rule(UNMATCHED, "drop what has another source", settled),
        rule(UNMATCHED, "drop ARP of a new port for another's address", taken_arp),
        rule(UNMATCHED, "pass ARP of a new port", new_arp),
        rule(UNMATCHED, "drop ARP that means nothing", long_arp),
        rule(UNMATCHED, "let a new port's packet wait", new_port),
    ]
}

/// A pod that may send from other addresses: not from one that is another port's, nor the node's.
fn exempt() -> Vec<Rule> {
    let to = |reason| [Expression::Goto(drops::chain(reason))];
    let taken = |protocol: [u8; 2], address: Payload, set: Set| {
        is(Meta::Protocol, &protocol)
            .into_iter()
            .chain([Expression::LoadPayload(address), Expression::InSet(set.name)])
            .chain(to(DropReason::SpoofedSource))
    };
    let overlay = |protocol: [u8; 2], destination: Payload, nodes: Set| {
        let transports = [
            vec![
                Expression::LoadMeta(Meta::Transport),
                Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_UDP as u8]),
                Expression::LoadPayload(Payload::DestinationPort),
                Expression::InSet(OVERLAY_PORTS.name),
            ],
            vec![Expression::LoadMeta(Meta::Transport), Expression::InSet(OVERLAY_PROTOCOLS.name)],
        ];
        transports.map(|transport| {
            let to_node = [Expression::LoadPayload(destination), Expression::InSet(nodes.name)];
            let dropped = is(Meta::Protocol, &protocol)
                .into_iter()
                .chain(transport)
                .chain(to_node)
                .chain(to(DropReason::Overlay));
            rule(EXEMPT, "drop overlay packets to nodes", dropped)
        })
    };
    let ipv6 = is(Meta::Protocol, &IPV6)
        .into_iter()
        .chain(is(Meta::Transport, &[libc::IPPROTO_ICMPV6 as u8]))
        .chain([Expression::Jump(ICMPV6)]);
    let mut rules = overlay(IP, Payload::V4(Address::Destination), NODES_4).to_vec();
    rules.extend(overlay(IPV6, Payload::V6(Address::Destination), NODES_6));
    rules.extend([
        rule(EXEMPT, "drop another's IPv4 address", taken(IP, Payload::V4(Address::Source), TAKEN_4)),
        rule(EXEMPT, "drop another's IPv6 address", taken(IPV6, Payload::V6(Address::Source), TAKEN_6)),
        rule(EXEMPT, "drop another's address in ARP", taken(ARP, Payload::ArpSenderAddress, TAKEN_4)),
        rule(EXEMPT, "look at ICMPv6", ipv6),
        rule(EXEMPT, "pass all else", [Expression::Accept]),
    ]);
    rules
}

/// IPv6 from ::, as a host speaks that has no address yet (RFC 4862, RFC 3810): solicitations for an address that is its own, and
/// reports of listeners. A port that is new waits with all else.
fn unspecified() -> Vec<Rule> {
    let own = is_neighbour_discovery(135, 135)
        .into_iter()
        .chain(at_most(Meta::Length, LONGEST_NEIGHBOUR_DISCOVERY))
        .chain([
            Expression::LoadPart(Part::Meta(Meta::Iif), 0),
            Expression::LoadPart(Part::Payload(Payload::NeighbourTarget), 1),
            Expression::InSet(OWN_6.name),
            Expression::Accept,
        ]);
    let solicitation = is_neighbour_discovery(133, 133)
        .into_iter()
        .chain(at_most(Meta::Length, LONGEST_NEIGHBOUR_DISCOVERY))
        .chain([Expression::Accept]);
    let listener =
        |from, to| is_icmpv6(from, to).into_iter().chain(is_multicast6()).chain([Expression::Accept]);
    vec![
        rule(UNSPECIFIED, "pass detection of duplicates", own),
        rule(UNSPECIFIED, "pass router solicitations", solicitation),
        rule(UNSPECIFIED, "pass reports of multicast listeners", listener(131, 132)),
        rule(UNSPECIFIED, "pass reports of multicast listeners", listener(143, 143)),
    ]
}

/// Whether the kernel has what the table needs, tried with a batch that is never committed.
pub(super) fn trial() -> Batch {
    trial_with("match a veth device", [Expression::LoadMeta(Meta::IifKind)])
}

/// Whether the kernel knows a port's bridge by name, likewise.
pub(super) fn trial_of_names() -> Batch {
    trial_with("know a bridge", [Expression::LoadMeta(Meta::BridgeName)])
}

fn trial_with(purpose: &'static str, expressions: impl IntoIterator<Item = Expression>) -> Batch {
    const TRIAL: TableId = TableId::bridge("kube-verdict-trial");
    let mut batch = Batch::default();
    let table = TRIAL.library();
    let chain = Chain::new(&table).with_name("trial");
    batch.library(BatchPart::plain("table of family bridge"), |library| library.add(&table, MsgType::Add));
    batch.library(BatchPart::plain("chain of family bridge"), |library| library.add(&chain, MsgType::Add));
    rule("trial", purpose, expressions).add_to(TRIAL, &mut batch);
    batch
}
