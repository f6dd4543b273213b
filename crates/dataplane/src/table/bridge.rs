//! The table `bridge kube-verdict`: checks that a frame comes from the pod behind the port where it enters,
//! and leaves by the port behind which its destination is.
//!
//! ```text
//!  hook         chain (priority)    before br_netfilter (0) passes the packet to the inet hooks
//!  prerouting   prerouting (-300)   source:       bound4, bound6 (maps)  -> one of the chains below
//!  forward      forward (filter)    destination:  deliver4, deliver6     -> accept
//!                                   multicast to open-ports only
//!  input        input (filter)      drops frames to Ethernet's link-local groups, which meet no other chain
//!
//!  isolated4, isolated6           of a pod that isolates egress: no multicast, broadcast, link-local
//!  open4, open6                   of a pod that does not
//!  link-local-...                 from a link-local source: only to link-local and multicast destinations
//!  icmp-errors, icmpv6-messages   restrict errors and neighbour discovery
//!  unmatched                      ARP, unspecified sources, exempt pods, new ports; other frames are forged
//! ```
//!
//! A packet of a new port continues with a mark. By that mark the inet table's chain `prerouting` sends it to
//! userspace, where it waits until the port is bound (`ports::PortQueue`). Not every kernel can queue from
//! the bridge family itself.
//!
//! The common case is one chain with one lookup at each of prerouting and forward. A key is the port, the
//! frame's source and protocol, and the address. The protocol is read from the frame, so that a VLAN tag is
//! seen. Unbound ports and unknown bridges match nothing, so unknown traffic does not pass.
//!
//! Rules are written once, at installation. Afterwards only the sets' elements change. They may change
//! between two lookups for one frame, so a rule that drops an address bound to another port checks last
//! whether it is bound to this port.

mod contents;
mod rules;
mod senders;

use rustables::{Chain, ChainPolicy, ChainType, Hook, HookClass, MsgType, sys};

pub(super) use self::contents::{BridgeContents, read_bindings};
use super::drops::Drops;
use super::link_rules::{Link, is};
use super::rule::rule;
use crate::drops::DropReason;
use crate::marks::Marks;
use crate::nft::TableId;
use crate::nft::batch::{Batch, Subject};
use crate::nft::expression::{Comparison, Expression, Meta, Payload};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyType, Set};

/// The table: see the module.
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
/// The drop chains of this table.
pub(super) const DROPS: Drops = Drops::new(TABLE, 190, &REASONS);

const fn set(name: &'static str, id: u32, key: &'static [KeyType], carries: Carries) -> Set {
    Set { table: TABLE, name, id, key, carries, size: None }
}

/// Port, frame's source, protocol, IPv4 source: the chain that continues.
const BOUND_4: Set = set(
    "bound4",
    101,
    &[KeyType::Interface, KeyType::Mac, KeyType::EtherType, KeyType::Ipv4],
    Carries::Verdicts,
);
/// Port, frame's source, protocol, IPv6 source: the chain that continues.
const BOUND_6: Set = set(
    "bound6",
    102,
    &[KeyType::Interface, KeyType::Mac, KeyType::EtherType, KeyType::Ipv6],
    Carries::Verdicts,
);
/// Port, frame's source, protocol, and the sender that ARP names: its hardware address and its IPv4 address,
/// or 0.0.0.0 for a probe.
const BOUND_ARP: Set = set(
    "bound-arp",
    103,
    &[KeyType::Interface, KeyType::Mac, KeyType::EtherType, KeyType::Mac, KeyType::Ipv4],
    Carries::Keys,
);
/// Port and an IPv4 address behind it. The packet that an ICMP error quotes must have been sent to such an
/// address.
const OWN_4: Set = set("own4", 114, &[KeyType::Interface, KeyType::Ipv4], Carries::Keys);
/// Port and an IPv6 address behind it. The packet that an ICMPv6 error quotes must have been sent to such an
/// address, and neighbour discovery may advertise only such addresses.
const OWN_6: Set = set("own6", 104, &[KeyType::Interface, KeyType::Ipv6], Carries::Keys);
/// IPv4 addresses that are bound to a port, and the node's own.
const TAKEN_4: Set = set("taken4", 105, &[KeyType::Ipv4], Carries::Keys);
/// IPv6 addresses that are bound to a port, and the node's own.
const TAKEN_6: Set = set("taken6", 106, &[KeyType::Ipv6], Carries::Keys);
/// Port, protocol, IPv4 destination.
const DELIVER_4: Set =
    set("deliver4", 107, &[KeyType::Interface, KeyType::EtherType, KeyType::Ipv4], Carries::Keys);
/// Port, protocol, IPv6 destination.
const DELIVER_6: Set =
    set("deliver6", 108, &[KeyType::Interface, KeyType::EtherType, KeyType::Ipv6], Carries::Keys);
/// Ports whose addresses are known.
const SETTLED: Set = set("settled-ports", 109, &[KeyType::Interface], Carries::Keys);
/// Ports whose pods isolate no ingress.
const OPEN: Set = set("open-ports", 110, &[KeyType::Interface], Carries::Keys);
/// Ports whose pods may send from other addresses, by the administrator's choice.
const EXEMPT_PORTS: Set = set("exempt-ports", 111, &[KeyType::Interface], Carries::Keys);
/// Veth devices that belong to no pod.
const OTHER_PORTS: Set = set("other-ports", 112, &[KeyType::Interface], Carries::Keys);
/// UDP ports of the overlay.
const OVERLAY_PORTS: Set = set("overlay-ports", 115, &[KeyType::Port], Carries::Keys);
/// IP protocols of the overlay.
const OVERLAY_PROTOCOLS: Set = set("overlay-protocols", 116, &[KeyType::Protocol], Carries::Keys);
/// IPv4 addresses of nodes.
const NODES_4: Set = set("node-addresses4", 117, &[KeyType::Ipv4], Carries::Keys);
/// IPv6 addresses of nodes.
const NODES_6: Set = set("node-addresses6", 118, &[KeyType::Ipv6], Carries::Keys);
/// Bridges that do not belong to the pods.
const OTHER_BRIDGES: Set = set("other-bridges", 113, &[KeyType::InterfaceName], Carries::Keys);
/// Hardware addresses that are bound to a port.
const TAKEN_MACS: Set = set("taken-macs", 119, &[KeyType::Mac], Carries::Keys);
/// Port and the hardware address that is bound to it.
const OWN_MACS: Set = set("own-macs", 120, &[KeyType::Interface, KeyType::Mac], Carries::Keys);
const SETS: [Set; 20] = [
    TAKEN_MACS,
    OWN_MACS,
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

/// How this table's rules match families, and where they look up a port's addresses.
const LINK: Link = Link {
    family: Meta::Protocol,
    ipv4: &IP,
    ipv6: &IPV6,
    mixes_families: false,
    own_4: OWN_4,
    own_6: OWN_6,
};

/// What the table's rules depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BridgeRules {
    /// The marks for packets of new ports.
    pub marks: Marks,
    /// The NFLOG group for examples of dropped frames; `None` for no examples.
    pub log_group: Option<u16>,
    /// Whether rules can match a port's bridge by name (`nft_meta_bridge`).
    pub knows_bridges: bool,
}

impl BridgeRules {
    /// Creates the table, chains and sets if they don't exist, and writes all rules again.
    pub(super) fn install(&self, contents: &BridgeContents, batch: &mut Batch) {
        let table = TABLE.library();
        let awake = TABLE.library().with_flags(0_u32);
        batch.library(Subject::plain(format!("table {TABLE}")), |library| library.add(&awake, MsgType::Add));
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
            batch.library(Subject::plain(format!("chain {name} of table {TABLE}")), |library| {
                library.add(&chain, MsgType::Add);
            });
        }
        for name in CHAINS.into_iter().chain(DROPS.chains()) {
            let chain = Chain::new(&table).with_name(name);
            batch.library(Subject::plain(format!("chain {name} of table {TABLE}")), |library| {
                library.add(&chain, MsgType::Add);
            });
        }
        SETS.iter().for_each(|set| set.create(batch));
        DROPS.create(batch);
        let subject = Subject::plain(format!("removal of the old rules of table {TABLE}"));
        batch.raw_in(TABLE.family, subject, sys::NFT_MSG_DELRULE, 0, |rule| {
            rule.string(sys::NFTA_RULE_TABLE, TABLE.name);
        });
        contents.fill(batch);
        self.rules().iter().for_each(|rule| rule.add_to(TABLE, batch));
    }

    fn rules(&self) -> Vec<Rule> {
        let mut rules = self.prerouting();
        rules.extend(self.forward());
        rules.extend(self.input());
        rules.extend(senders::bound());
        rules.extend(senders::icmp_messages());
        rules.extend(senders::unmatched(&self.marks));
        rules.extend(senders::exempt());
        rules.extend(senders::unspecified());
        rules.extend(DROPS.rules(self.log_group));
        rules
    }
}

/// Matches IPv4 multicast (224.0.0.0/4), the reserved addresses after it, and broadcast.
fn is_multicast4() -> Vec<Expression> {
    let mut expressions = is(Meta::Protocol, &IP).to_vec();
    expressions.extend([
        Expression::LoadPayload(Payload::V4DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![224]),
    ]);
    expressions
}

/// Matches ff00::/8.
fn is_multicast6() -> Vec<Expression> {
    let mut expressions = is(Meta::Protocol, &IPV6).to_vec();
    expressions.extend([
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![0xff, 0x00]),
    ]);
    expressions
}

/// Matches an IPv6 destination in fe80::/10.
fn is_link_local() -> [Expression; 3] {
    [
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![0xfe, 0x80]),
        Expression::Compare(Comparison::AtMost, vec![0xfe, 0xbf]),
    ]
}

/// A batch that a kernel accepts if it has what the table needs. It is never committed.
pub(super) fn trial() -> Batch {
    trial_with("match a veth device", [Expression::LoadMeta(Meta::IifKind)])
}

/// A batch that a kernel accepts if rules can match a port's bridge by name. It is never committed.
pub(super) fn trial_of_names() -> Batch {
    trial_with("match a bridge by name", [Expression::LoadMeta(Meta::BridgeName)])
}

fn trial_with(purpose: &'static str, expressions: impl IntoIterator<Item = Expression>) -> Batch {
    const TRIAL: TableId = TableId::bridge("kube-verdict-trial");
    let mut batch = Batch::default();
    let table = TRIAL.library();
    let chain = Chain::new(&table).with_name("trial");
    batch.library(Subject::plain("table of family bridge"), |library| library.add(&table, MsgType::Add));
    batch.library(Subject::plain("chain of family bridge"), |library| library.add(&chain, MsgType::Add));
    rule("trial", purpose, expressions).add_to(TRIAL, &mut batch);
    batch
}
