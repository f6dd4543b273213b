//! The interfaces of a network namespace and, for veth devices, the addresses of the other end, read over
//! rtnetlink.
//!
//! From: the kernel. To: [`Bindings`](super::Bindings).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_packet_core::DecodeError;
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoGeneve, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};

use super::link_local::is_link_local;
use crate::link::{FLANNELS_WIREGUARD, InterfaceIndex, Mac, Overlay};

/// How often the namespace of a new port is read.
const READ_INTERVAL: Duration = Duration::from_millis(4);
/// How long a port without addresses counts as new. CNI plugins set addresses within a fraction of a second.
const NEW_FOR: Duration = Duration::from_secs(3);
/// How often the namespace is read of a port that is slow to get addresses, or that sent a packet before it
/// had any.
const SLOW_READ_INTERVAL: Duration = Duration::from_millis(20);
/// A port that has no addresses after this time usually belongs to no pod.
const SLOW_FOR: Duration = Duration::from_secs(30);
/// How often the namespace of such a port is read. A packet of a port without bindings also triggers a read.
const IDLE_READ_INTERVAL: Duration = Duration::from_millis(500);

/// How long a port's addresses must stay the same to count as complete: CNI plugins set both families within
/// a few milliseconds, and return before a process of the pod runs.
pub(super) const SETTLE_TIME: Duration = Duration::from_millis(300);

/// The port of Flannel's UDP backend.
const FLANNELS_UDP: u16 = 8285;
/// The kernel's default port of VXLAN, for a device without the attribute.
const LINUX_VXLAN: u16 = 8472;
/// `IPPROTO_IPIP`.
const IPIP: u8 = 4;

/// The interfaces can't be read.
#[derive(Debug, thiserror::Error)]
pub enum InterfacesError {
    /// A call on the socket failed, or the kernel refused a request.
    #[error("rtnetlink: {call}")]
    Socket {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// An answer can't be decoded.
    #[error("rtnetlink: an answer can't be decoded")]
    Answer(#[source] DecodeError),
    /// Interfaces or addresses changed during every attempt to read them.
    #[error("rtnetlink: interfaces or addresses changed each time they were read")]
    Interrupted,
}

/// An interface of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its number.
    pub index: InterfaceIndex,
    /// Its name.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: InterfaceKind,
    /// For a bridge: whether br_netfilter passes its packets to IP's hooks regardless of the sysctls.
    pub netfilter: BridgeNetfilter,
    /// The bridge, or other device, that it is plugged into.
    pub master: Option<InterfaceIndex>,
    /// Its own addresses, canonical and sorted.
    pub addresses: Vec<IpAddr>,
    /// For a veth device: the id of the other end's namespace (`IFLA_LINK_NETNSID`), at least 0; `None` if
    /// both ends are in this namespace.
    pub peer_namespace: Option<i32>,
    /// The other end's index in its namespace.
    pub(super) peer: InterfaceIndex,
    /// The addresses of the other end, canonical and sorted.
    pub addresses_inside: Vec<IpAddr>,
    /// The hardware address of the other end.
    pub mac_inside: Mac,
    /// When it was first read; `None` if it existed before the agent started.
    pub(super) seen: Option<Instant>,
    /// When `addresses_inside` last changed; `None` before it contains any address that is not link-local.
    pub(super) changed: Option<Instant>,
    /// Whether `addresses_inside` contains all addresses that the CNI plugin sets.
    pub is_settled: bool,
}

/// The kinds of interfaces that bindings and overlays depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterfaceKind {
    /// One end of a veth pair.
    Veth,
    /// A bridge.
    Bridge,
    /// A tunnel between nodes.
    Overlay(Overlay),
    /// WireGuard.
    WireGuard,
    /// Any other.
    Other,
}

/// A bridge's own `nf_call_iptables` and `nf_call_ip6tables`. For each family either this or the sysctl
/// `net.bridge.bridge-nf-call-*` is sufficient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BridgeNetfilter {
    /// For IPv4.
    pub ipv4: bool,
    /// For IPv6.
    pub ipv6: bool,
}

impl Interface {
    /// An interface without addresses. The other end of a veth device is in another namespace.
    #[cfg(test)]
    pub(super) fn for_tests(index: u32, name: &str, kind: InterfaceKind) -> Self {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut interface = interface(&link).expect("it has a name");
        (interface.kind, interface.peer_namespace) = (kind, (kind == InterfaceKind::Veth).then_some(0));
        interface
    }

    /// An interface whose index is known and nothing else.
    pub(super) fn unread(index: InterfaceIndex) -> Self {
        Self {
            index,
            name: format!("interface {index}").into(),
            kind: InterfaceKind::Other,
            netfilter: BridgeNetfilter::default(),
            master: None,
            addresses: Vec::new(),
            peer_namespace: None,
            peer: InterfaceIndex(0),
            addresses_inside: Vec::new(),
            mac_inside: Mac::default(),
            seen: None,
            changed: None,
            is_settled: false,
        }
    }

    /// Whether it is one end of a veth pair.
    pub fn is_veth(&self) -> bool {
        self.kind == InterfaceKind::Veth
    }

    /// Whether it is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.kind == InterfaceKind::Bridge
    }

    /// Whether its other end's namespace must be read again.
    pub(super) fn is_unsettled(&self) -> bool {
        self.is_veth() && self.peer_namespace.is_some() && !self.is_settled
    }

    /// How soon its other end's namespace must be read again; `None` if it need not be.
    pub(super) fn next_read(&self, now: Instant) -> Option<Duration> {
        let age = self.seen.map_or(Duration::MAX, |seen| now.saturating_duration_since(seen));
        self.is_unsettled().then_some(match age {
            _ if self.changed.is_some() => READ_INTERVAL,
            age if age < NEW_FOR => READ_INTERVAL,
            age if age < SLOW_FOR => SLOW_READ_INTERVAL,
            _ => IDLE_READ_INTERVAL,
        })
    }

    /// Updates the addresses inside to those that were read. Returns whether anything changed.
    pub(super) fn update_addresses(
        &mut self,
        addresses: Vec<IpAddr>,
        mac: Option<Mac>,
        now: Instant,
    ) -> bool {
        let before = (self.mac_inside, self.is_settled);
        let is_new = addresses != self.addresses_inside;
        if is_new {
            let has_pods = addresses.iter().any(|address| !is_link_local(*address));
            self.changed = has_pods.then_some(now);
            self.addresses_inside = addresses;
        }
        self.mac_inside = mac.unwrap_or(self.mac_inside);
        self.is_settled =
            self.changed.is_some_and(|changed| now.saturating_duration_since(changed) >= SETTLE_TIME);
        is_new || before != (self.mac_inside, self.is_settled)
    }
}

/// All interfaces of a network namespace, at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interfaces {
    pub(super) by_index: BTreeMap<InterfaceIndex, Interface>,
}

impl Interfaces {
    /// In the order of their indexes.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.by_index.values()
    }

    /// The node's own addresses: those of its interfaces, without loopback and link-local ones, and without
    /// the service addresses that kube-proxy in IPVS mode puts on the device `kube-ipvs0`.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self
            .iter()
            .filter(|interface| &*interface.name != "kube-ipvs0")
            .flat_map(|interface| interface.addresses.iter().copied());
        all.filter(|address| !address.is_loopback() && !is_link_local(*address))
    }

    /// The overlays of its devices.
    pub fn overlays(&self) -> impl Iterator<Item = Overlay> + '_ {
        self.iter().flat_map(|interface| match interface.kind {
            InterfaceKind::Overlay(overlay) => vec![overlay],
            InterfaceKind::WireGuard => FLANNELS_WIREGUARD.map(Overlay::Udp).to_vec(),
            _ => Vec::new(),
        })
    }

    /// The devices that carry pods' packets to other nodes.
    pub fn overlay_devices(&self) -> impl Iterator<Item = InterfaceIndex> + '_ {
        let is_overlay = |interface: &&Interface| {
            matches!(interface.kind, InterfaceKind::Overlay(_) | InterfaceKind::WireGuard)
        };
        self.iter().filter(is_overlay).map(|interface| interface.index)
    }

    /// Reads unsettled ports more often, because a port without bindings has sent a packet: it soon has
    /// addresses.
    pub(super) fn expect_addresses(&mut self, now: Instant) {
        for interface in self.by_index.values_mut().filter(|interface| interface.is_unsettled()) {
            interface.seen = interface.seen.max(now.checked_sub(NEW_FOR));
        }
    }

    /// How soon namespaces must be read again; `None` if ALL veth devices are settled.
    pub(super) fn next_read(&self, now: Instant) -> Option<Duration> {
        self.iter().filter_map(|interface| interface.next_read(now)).min()
    }

    /// Marks interfaces with addresses as settled, because they existed before the agent started. Those
    /// without usually belong to no pod.
    pub(super) fn settle(&mut self) {
        for interface in self.by_index.values_mut() {
            interface.seen = None;
            interface.is_settled = interface.addresses_inside.iter().any(|address| !is_link_local(*address));
        }
    }
}

#[cfg(test)]
impl FromIterator<Interface> for Interfaces {
    fn from_iter<I: IntoIterator<Item = Interface>>(interfaces: I) -> Self {
        Self { by_index: interfaces.into_iter().map(|interface| (interface.index, interface)).collect() }
    }
}

pub(super) fn mac_of(link: &LinkMessage) -> Option<Mac> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => Some(Mac(bytes.as_slice().try_into().ok()?)),
        _ => None,
    })
}

/// Parses an interface; `None` if it has no name.
pub(super) fn interface(link: &LinkMessage) -> Option<Interface> {
    let (mut name, mut master, mut peer_namespace, mut kind) = (None, None, None, InterfaceKind::Other);
    let mut peer = InterfaceIndex(0);
    let mut netfilter = BridgeNetfilter::default();
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(Arc::<str>::from(text.as_str())),
            LinkAttribute::Controller(index) => master = Some(InterfaceIndex(*index)),
            LinkAttribute::Link(index) => peer = InterfaceIndex(*index),
            LinkAttribute::LinkNetNsId(id) => peer_namespace = Some(*id),
            LinkAttribute::LinkInfo(info) => (kind, netfilter) = (kind_of(info), netfilter_of(info)),
            _ => {}
        }
    }
    let name = name?;
    if kind == InterfaceKind::Other && &*name == "flannel0" {
        // The tun device of Flannel's UDP backend.
        kind = InterfaceKind::Overlay(Overlay::Udp(FLANNELS_UDP));
    }
    Some(Interface {
        name,
        kind,
        netfilter,
        master: master.filter(|master| master.0 != 0),
        peer_namespace: peer_namespace.filter(|id| *id >= 0),
        peer,
        ..Interface::unread(InterfaceIndex(link.header.index))
    })
}

fn netfilter_of(info: &[LinkInfo]) -> BridgeNetfilter {
    let mut netfilter = BridgeNetfilter::default();
    let attributes = info.iter().filter_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(attributes)) => Some(attributes),
        _ => None,
    });
    for attribute in attributes.flatten() {
        match attribute {
            InfoBridge::NfCallIpTables(on) => netfilter.ipv4 = *on,
            InfoBridge::NfCallIp6Tables(on) => netfilter.ipv6 = *on,
            _ => {}
        }
    }
    netfilter
}

fn kind_of(info: &[LinkInfo]) -> InterfaceKind {
    let kind = info.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    match (kind, data) {
        (Some(InfoKind::Veth), _) => InterfaceKind::Veth,
        (Some(InfoKind::Bridge), _) => InterfaceKind::Bridge,
        (Some(InfoKind::Wireguard), _) => InterfaceKind::WireGuard,
        (Some(InfoKind::IpIp), _) => InterfaceKind::Overlay(Overlay::Protocol(IPIP)),
        (Some(InfoKind::Vxlan), data) => {
            let port = match data {
                Some(InfoData::Vxlan(data)) => data.iter().find_map(|info| match info {
                    InfoVxlan::Port(port) => Some(*port),
                    _ => None,
                }),
                _ => None,
            };
            InterfaceKind::Overlay(Overlay::Udp(port.unwrap_or(LINUX_VXLAN)))
        }
        (Some(InfoKind::Geneve), Some(InfoData::Geneve(data))) => {
            let port = data.iter().find_map(|info| match info {
                InfoGeneve::Port(port) => Some(*port),
                _ => None,
            });
            port.map_or(InterfaceKind::Other, |port| InterfaceKind::Overlay(Overlay::Udp(port)))
        }
        _ => InterfaceKind::Other,
    }
}
