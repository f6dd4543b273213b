//! Where packets enter: the chain `prerouting` of table `inet kube-verdict`, and what it shares with the
//! bridge table.
//!
//! ```text
//!  prerouting (-450)        before reassembly of fragments (-400), which netfilter does by addresses and
//!                           identifier only, and before connection tracking (-200), so a forged packet
//!                           changes no entry
//!    from the pods' bridge                 the bridge table has checked it: accept
//!    from a veth device       --goto-->    from-port       the source is bound to the port (CNI plugin
//!                                                          ptp), or the packet waits for a binding, or it
//!                                                          is forged
//!    from elsewhere           --goto-->    from-elsewhere  not with an address of the node or of its pods
//! ```
//!
//! A frame to one of Ethernet's link-local groups (01:80:c2:00:00:0x) bypasses the bridge and is received at
//! the port itself. At these hooks it is a packet of a bridged port, and is dropped.

mod contents;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub(super) use self::contents::{OriginContents, read_bindings};
pub(super) use self::rules::prerouting_rules;
use super::drops::Drops;
use super::family::{NODE_ADDRESSES_4, NODE_ADDRESSES_6};
use super::link_rules::Link;
use super::{OpenAddresses, TABLE};
use crate::drops::DropReason;
use crate::nft::TableId;
use crate::nft::batch::Batch;
use crate::nft::expression::Meta;
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyType, Set};
use crate::ports::{Attachment, Bindings, InterfaceIndex, Overlay, Port, PortState};

/// Checks packets where they enter.
pub(super) const PREROUTING: &str = "prerouting";
/// Before `NF_IP_PRI_CONNTRACK_DEFRAG` (-400): a reassembled datagram has the interface of its first
/// fragment.
pub(super) const BEFORE_DEFRAGMENTATION: i32 = libc::NF_IP_PRI_CONNTRACK_DEFRAG - 50;
const FROM_PORT: &str = "from-port";
const FROM_ELSEWHERE: &str = "from-elsewhere";
const FROM_EXEMPT: &str = "from-exempt";
const ICMP: &str = "icmp-from-port";
const FROM_ISOLATED: &str = "from-isolated";
pub(super) const NFQUEUE: &str = "queue-port";
const CHAINS: [&str; 6] = [FROM_PORT, FROM_ELSEWHERE, FROM_EXEMPT, ICMP, FROM_ISOLATED, NFQUEUE];

const REASONS: [DropReason; 11] = [
    DropReason::SpoofedSource,
    DropReason::NeighbourDiscovery,
    DropReason::RouterAdvertisement,
    DropReason::IsolatedScope,
    DropReason::Overlay,
    DropReason::ForeignOverlay,
    DropReason::LocalSource,
    DropReason::InvalidTcp,
    DropReason::Revoked,
    DropReason::DeniedFlow,
    DropReason::QueueQuota,
];
const INET: TableId = TableId::inet(TABLE);
/// The drop chains of this table.
pub(super) const DROPS: Drops = Drops::new(INET, 290, &REASONS);

const fn set(name: &'static str, id: u32, key: &'static [KeyType], carries: Carries) -> Set {
    Set { table: INET, name, id, key, carries, size: None }
}

/// Routed port and IPv4 source: accept, or the chain that continues.
const SOURCES_4: Set = set("port-sources4", 201, &[KeyType::Interface, KeyType::Ipv4], Carries::Verdicts);
/// Routed port and IPv6 source: accept, or the chain that continues.
const SOURCES_6: Set = set("port-sources6", 202, &[KeyType::Interface, KeyType::Ipv6], Carries::Verdicts);
/// Ports whose addresses are known. Bridged ones are among them, though they have no sources here.
pub(super) const SETTLED: Set = set("settled-ports", 203, &[KeyType::Interface], Carries::Keys);
/// Ports that may send from any address that is not taken.
const EXEMPT: Set = set("exempt-ports", 204, &[KeyType::Interface], Carries::Keys);
/// Veth devices that belong to no pod.
const OTHER_PORTS: Set = set("other-ports", 205, &[KeyType::Interface], Carries::Keys);
/// The node's own IPv4 addresses.
const OWN_4: Set = set("own-addresses4", 206, &[KeyType::Ipv4], Carries::Keys);
/// The node's own IPv6 addresses.
const OWN_6: Set = set("own-addresses6", 207, &[KeyType::Ipv6], Carries::Keys);
/// IPv4 addresses that are bound to a port.
const TAKEN_4: Set = set("taken4", 208, &[KeyType::Ipv4], Carries::Keys);
/// IPv6 addresses that are bound to a port.
const TAKEN_6: Set = set("taken6", 209, &[KeyType::Ipv6], Carries::Keys);
/// The IPv4 addresses of all nodes.
pub(super) const NODES_4: Set = set(NODE_ADDRESSES_4, 210, &[KeyType::Ipv4], Carries::Keys);
/// The IPv6 addresses of all nodes.
pub(super) const NODES_6: Set = set(NODE_ADDRESSES_6, 211, &[KeyType::Ipv6], Carries::Keys);
/// UDP ports of the overlay.
pub(super) const OVERLAY_PORTS: Set = set("overlay-ports", 212, &[KeyType::Port], Carries::Keys);
/// IP protocols of the overlay.
pub(super) const OVERLAY_PROTOCOLS: Set = set("overlay-protocols", 213, &[KeyType::Protocol], Carries::Keys);
/// Routed port and an IPv4 address behind it.
const BEHIND_4: Set = set("behind4", 214, &[KeyType::Interface, KeyType::Ipv4], Carries::Keys);
/// Routed port and an IPv6 address behind it.
const BEHIND_6: Set = set("behind6", 215, &[KeyType::Interface, KeyType::Ipv6], Carries::Keys);
/// The pods' bridges.
pub(super) const POD_BRIDGES: Set = set("pod-bridges", 216, &[KeyType::Interface], Carries::Keys);
/// UDP ports of overlays without authentication. Pods may not send to them outside the pod network either,
/// since a node may have the destination address.
pub(super) const FORGEABLE_PORTS: Set = set("forgeable-overlay-ports", 217, &[KeyType::Port], Carries::Keys);
/// IP protocols of overlays without authentication.
pub(super) const FORGEABLE_PROTOCOLS: Set =
    set("forgeable-overlay-protocols", 218, &[KeyType::Protocol], Carries::Keys);
/// The devices of overlays.
pub(super) const OVERLAY_DEVICES: Set = set("overlay-devices", 219, &[KeyType::Interface], Carries::Keys);
const SETS: [Set; 19] = [
    FORGEABLE_PORTS,
    FORGEABLE_PROTOCOLS,
    OVERLAY_DEVICES,
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

/// How this table's rules match families, and where they find a routed port's addresses.
const LINK: Link = Link {
    family: Meta::Family,
    ipv4: &[libc::NFPROTO_IPV4 as u8],
    ipv6: &[libc::NFPROTO_IPV6 as u8],
    mixes_families: true,
    own_4: BEHIND_4,
    own_6: BEHIND_6,
};

/// Where packets may come from and go to, by port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origins {
    /// The addresses behind each port.
    pub bindings: Bindings,
    /// Pods that no policy isolates. Their packets may be evaluated nevertheless, so that they are recorded.
    pub open: OpenAddresses,
    /// The addresses of all nodes, including this one.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The pod CIDRs of all nodes.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// Overlays besides those of this node's devices.
    pub more_overlays: BTreeSet<Overlay>,
}

impl Origins {
    /// What the queue of new ports checks packets against, by port.
    pub fn port_states(&self) -> BTreeMap<InterfaceIndex, PortState> {
        let state = |port: &Port| PortState {
            mac: (port.attachment == Attachment::Bridged).then_some(port.mac),
            addresses: port.addresses.clone(),
            is_settled: port.is_settled,
            isolates_egress: !self.is_open_for_egress(port),
        };
        self.bindings.ports.iter().map(|(index, port)| (*index, state(port))).collect()
    }

    /// Whether the pod behind a port is known and no policy isolates its egress.
    pub(super) fn is_open_for_egress(&self, port: &Port) -> bool {
        is_open(port, &self.open.egress)
    }

    /// Whether the pod behind a port is known and no policy isolates its ingress.
    pub(super) fn is_open_for_ingress(&self, port: &Port) -> bool {
        is_open(port, &self.open.ingress)
    }
}

/// ALL of the pod's addresses must be open. A port without addresses has no known pod, and is not open.
fn is_open(port: &Port, open: &BTreeSet<IpAddr>) -> bool {
    let mut addresses = port.pod_addresses().peekable();
    addresses.peek().is_some() && addresses.all(|address| open.contains(&address))
}

/// What the rules about origins depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginConfig {
    /// The queue in which packets of new ports wait: see [`PortQueue`](crate::ports::PortQueue).
    pub queue: u16,
    /// The NFLOG group for examples of dropped packets, at most one per second for each reason and sender;
    /// `None` for no examples.
    pub log_group: Option<u16>,
    /// Whether overlay packets are dropped if their source is not a node's address.
    pub overlay_sources_are_nodes: bool,
    /// What the sets contain at first.
    pub origins: Origins,
}

/// Chains without a hook.
pub(super) fn regular_chains() -> impl Iterator<Item = &'static str> {
    CHAINS.into_iter().chain(DROPS.chains())
}

/// Creates the sets if they don't exist.
pub(super) fn create_sets(batch: &mut Batch) {
    SETS.iter().for_each(|set| set.create(batch));
    DROPS.create(batch);
}

/// The rules of all chains except [`PREROUTING`], written once. Examples of dropped packets go to
/// `log_group`.
pub(super) fn rules(queue: Queue, form: QueueForm, log_group: Option<u16>) -> Vec<Rule> {
    let mut rules = rules::rules(queue, form);
    rules.extend(DROPS.rules(log_group));
    rules
}
