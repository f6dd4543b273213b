//! The interfaces of a network namespace and, for veth devices, what is at the other end: read over rtnetlink.
//!
//! From: the kernel. To: [`Bindings`](super::Bindings). `RTM_GETADDR` with `IFA_TARGET_NETNSID` lists addresses inside another
//! namespace to a process that has CAP_NET_ADMIN and nothing else, so no mount and no other privilege is needed.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoGeneve, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::bindings::is_link_local;
use super::{InterfaceIndex, Mac, Overlay};

/// How long a port's addresses must have stayed the same to count as all of them: CNI plugins set both families within a few
/// milliseconds, and return before a process of the pod runs.
const SETTLING: Duration = Duration::from_millis(300);

/// How often the namespace of a port that has addresses is asked until it is settled.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How long the kernel may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`.
const GROUPS: [u32; 3] = [1, 5, 9];

/// The ports of WireGuard as Flannel sets it up, which rtnetlink does not tell.
const FLANNELS_WIREGUARD: [u16; 2] = [51820, 51821];
/// The port of Flannel's UDP backend.
const FLANNELS_UDP: u16 = 8285;
/// `VXLAN_PORT` of the kernel (8472), where a device doesn't say.
const LINUX_VXLAN: u16 = 8472;
/// `IPPROTO_IPIP`.
const IPIP: u8 = 4;

/// What the kernel says of interfaces can't be read.
#[derive(Debug, thiserror::Error)]
pub enum InterfacesError {
    /// The socket.
    #[error("rtnetlink: {call}: {source}")]
    Socket {
        /// The call.
        call: &'static str,
        /// What it answered.
        source: io::Error,
    },
    /// An answer that is not understood.
    #[error("rtnetlink: an answer is not understood: {0}")]
    Answer(DecodeError),
}

/// An interface of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its number.
    pub index: InterfaceIndex,
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: Kind,
    /// Of a bridge: whether br_netfilter shows its packets to the hooks of IP whatever the sysctls say.
    pub netfilter: BridgeNetfilter,
    /// The bridge, or other device, that it is plugged into.
    pub master: Option<InterfaceIndex>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// The number by which this namespace knows that of the other end; `None` if both ends are here.
    pub peer_namespace: Option<i32>,
    /// The other end's number there.
    peer: u32,
    /// The addresses of the other end, in its namespace.
    pub addresses_inside: Vec<IpAddr>,
    /// The hardware address of the other end.
    pub mac_inside: Mac,
    /// When the addresses inside last changed; `None` before there are any but link-local ones.
    changed: Option<Instant>,
    /// Whether the addresses inside are all that the CNI plugin sets.
    pub is_settled: bool,
}

/// The kinds of interfaces that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One end of a pair.
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

/// A bridge's own `nf_call_iptables` and `nf_call_ip6tables`: each counts as much as the sysctl `net.bridge.bridge-nf-call-*` of that
/// family, either of which is enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BridgeNetfilter {
    /// For IPv4.
    pub ipv4: bool,
    /// For IPv6.
    pub ipv6: bool,
}

impl Interface {
    /// One without addresses; a veth device whose other end is in another namespace.
    #[cfg(test)]
    pub(super) fn for_tests(index: u32, name: &str, kind: Kind) -> Self {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut interface = interface(&link).expect("it has a name");
        (interface.kind, interface.peer_namespace) = (kind, (kind == Kind::Veth).then_some(0));
        interface
    }

    /// Whether it is one end of a pair.
    pub fn is_veth(&self) -> bool {
        self.kind == Kind::Veth
    }

    /// Whether it is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.kind == Kind::Bridge
    }

    /// Whether its namespace should be asked again soon.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_veth() && self.peer_namespace.is_some() && !self.is_settled
    }

    fn take_addresses(&mut self, addresses: Vec<IpAddr>, mac: Option<Mac>, now: Instant) {
        if addresses != self.addresses_inside {
            let has_pods = addresses.iter().any(|address| !is_link_local(*address));
            self.changed = has_pods.then_some(now);
            self.addresses_inside = addresses;
        }
        self.mac_inside = mac.unwrap_or(self.mac_inside);
        self.is_settled =
            self.changed.is_some_and(|changed| now.saturating_duration_since(changed) >= SETTLING);
    }
}

/// All interfaces of a network namespace, at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interfaces {
    by_index: BTreeMap<InterfaceIndex, Interface>,
}

impl Interfaces {
    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.by_index.values()
    }

    /// The node's own addresses: those of its interfaces, without loopback and link-local ones.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.iter().flat_map(|interface| interface.addresses.iter().copied());
        all.filter(|address| !address.is_loopback() && !is_link_local(*address))
    }

    /// What carries packets between nodes, by its devices.
    pub fn overlays(&self) -> impl Iterator<Item = Overlay> + '_ {
        self.iter().flat_map(|interface| match interface.kind {
            Kind::Overlay(overlay) => vec![overlay],
            Kind::WireGuard => FLANNELS_WIREGUARD.map(Overlay::Udp).to_vec(),
            _ => Vec::new(),
        })
    }

    /// Whether any port's addresses are still to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.iter().any(Interface::is_waiting)
    }

    /// All interfaces count as settled: they were there before the reader was.
    pub(super) fn settle(&mut self) {
        for interface in self.by_index.values_mut() {
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

/// Reads the interfaces of the calling thread's network namespace, once.
pub fn read_interfaces() -> Result<Interfaces, InterfacesError> {
    let mut interfaces = Interfaces::default();
    Rtnetlink::open(&[])?.refresh(&mut interfaces, Instant::now())?;
    interfaces.settle();
    Ok(interfaces)
}

/// A way to ask for, and to be notified of, interfaces.
#[derive(Debug)]
pub(super) struct Rtnetlink {
    socket: Socket,
    sequence: u32,
    /// When the namespace of each port that has addresses, but is not settled, was asked last.
    asked: BTreeMap<InterfaceIndex, Instant>,
}

impl Rtnetlink {
    /// A socket that hears of changes of interfaces and of the node's own addresses, and is asked nothing.
    pub(super) fn listen() -> Result<Self, InterfacesError> {
        Self::open(&GROUPS)
    }

    /// A socket in the network namespace of the calling thread, in these multicast groups.
    pub(super) fn open(groups: &[u32]) -> Result<Self, InterfacesError> {
        let failed = |call| move |source| InterfacesError::Socket { call, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // Without it the kernel ignores the namespace in a request for addresses, and answers with its own.
        socket.set_netlink_get_strict_chk(true).map_err(failed("setsockopt NETLINK_GET_STRICT_CHK"))?;
        for group in groups {
            socket.add_membership(*group).map_err(failed("setsockopt NETLINK_ADD_MEMBERSHIP"))?;
        }
        let timeout = TimeVal::microseconds(i64::try_from(TIMEOUT.as_micros()).unwrap_or(i64::MAX));
        let set = setsockopt(&fd(&socket), sockopt::ReceiveTimeout, &timeout);
        set.map_err(|errno| InterfacesError::Socket {
            call: "setsockopt SO_RCVTIMEO",
            source: errno.into(),
        })?;
        // Bursts of pods that come and go; without CAP_NET_ADMIN the default stays.
        let _ = setsockopt(&fd(&socket), sockopt::RcvBufForce, &(4 << 20));
        Ok(Self { socket, sequence: 0, asked: BTreeMap::new() })
    }

    /// Takes the notifications that wait, whatever they say. Returns whether there were any; `true` as well where some were
    /// lost.
    pub(super) fn drain(&mut self) -> Result<bool, InterfacesError> {
        let mut any = false;
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => any = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(InterfacesError::Socket { call: "recv", source }),
            }
        }
    }

    /// The descriptor, to wait for notifications with.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        fd(&self.socket)
    }

    /// Brings `interfaces` up to date: reads all links and own addresses, and the namespaces of veth devices whose addresses are
    /// still to come.
    pub(super) fn refresh(
        &mut self,
        interfaces: &mut Interfaces,
        now: Instant,
    ) -> Result<(), InterfacesError> {
        let mut by_index = BTreeMap::new();
        for link in self.links()? {
            if let Some(interface) = interface(&link) {
                by_index.insert(interface.index, interface);
            }
        }
        for (index, address) in self.addresses(None, 0)? {
            if let Some(interface) = by_index.get_mut(&InterfaceIndex(index)) {
                interface.addresses.push(address);
            }
        }
        let before = std::mem::take(&mut interfaces.by_index);
        for (index, interface) in &mut by_index {
            // The same end of the same pair: what was inside is known.
            let same = before.get(index).filter(|before| {
                (before.peer_namespace, before.peer) == (interface.peer_namespace, interface.peer)
            });
            if let Some(before) = same {
                interface.addresses_inside.clone_from(&before.addresses_inside);
                (interface.mac_inside, interface.changed, interface.is_settled) =
                    (before.mac_inside, before.changed, before.is_settled);
            }
        }
        interfaces.by_index = by_index;
        self.look_inside(interfaces, now)
    }

    /// Asks the namespaces of veth devices whose addresses are still to come.
    pub(super) fn look_inside(
        &mut self,
        interfaces: &mut Interfaces,
        now: Instant,
    ) -> Result<(), InterfacesError> {
        self.asked.retain(|_, asked| now.saturating_duration_since(*asked) < SETTLING);
        for interface in interfaces.by_index.values_mut().filter(|interface| interface.is_waiting()) {
            let Some(namespace) = interface.peer_namespace else { continue };
            if interface.changed.is_some() {
                let asked = self.asked.get(&interface.index);
                if asked.is_some_and(|asked| now.saturating_duration_since(*asked) < ASK_AGAIN) {
                    continue;
                }
                self.asked.insert(interface.index, now);
            }
            // A namespace that goes meanwhile has no addresses, and its port will soon be gone.
            let addresses = self.addresses(Some(namespace), interface.peer).unwrap_or_default();
            let mac = self.mac(namespace, interface.peer).unwrap_or_default();
            interface.take_addresses(addresses.into_iter().map(|(_, address)| address).collect(), mac, now);
        }
        Ok(())
    }

    fn links(&mut self) -> Result<Vec<LinkMessage>, InterfacesError> {
        let answers = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// The hardware address of an interface in another namespace.
    fn mac(&mut self, namespace: i32, index: u32) -> Result<Option<Mac>, InterfacesError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        request.attributes.push(LinkAttribute::IfNetnsId(namespace));
        let answers = self.ask(RouteNetlinkMessage::GetLink(request), 0)?;
        Ok(answers.into_iter().filter_map(link).find_map(|link| mac_of(&link)))
    }

    /// Addresses of this namespace, or of one interface of another, in order, each with the number of its interface.
    fn addresses(
        &mut self,
        namespace: Option<i32>,
        index: u32,
    ) -> Result<Vec<(u32, IpAddr)>, InterfacesError> {
        let mut request = AddressMessage::default();
        request.header.index = index;
        request.attributes.extend(namespace.map(AddressAttribute::TargetNetNsId));
        let answers = self.ask(RouteNetlinkMessage::GetAddress(request), NLM_F_DUMP)?;
        let mut addresses: Vec<_> = answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => {
                    // Of a point-to-point interface the local one is its own.
                    let local = message.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Local(address) => Some(*address),
                        _ => None,
                    });
                    let address = message.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    });
                    Some((message.header.index, local.or(address)?.to_canonical()))
                }
                _ => None,
            })
            .collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Sends a request and returns its answers.
    pub(super) fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, InterfacesError> {
        let failed = |call| move |source| InterfacesError::Socket { call, source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(failed("send"))?;
        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0).map_err(failed("recv"))?;
            let mut rest = &buffer[..];
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if length < 16 || length > rest.len() {
                    break;
                }
                let (one, tail) = rest.split_at(length);
                rest = tail.get(length.next_multiple_of(4) - length..).unwrap_or_default();
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one);
                let answer = match answer {
                    Ok(answer) if answer.header.sequence_number == self.sequence => answer,
                    Ok(_) => continue,
                    // One interface with an attribute that the library does not know must not hide the others.
                    Err(error) => {
                        tracing::debug!(%error, "an rtnetlink message is not understood");
                        continue;
                    }
                };
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(code) => {
                                let source = io::Error::from_raw_os_error(-code.get());
                                Err(InterfacesError::Socket { call: "request", source })
                            }
                        };
                    }
                    NetlinkPayload::InnerMessage(message) => {
                        answers.push(message);
                        if flags & NLM_F_DUMP == 0 {
                            return Ok(answers);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

fn link(answer: RouteNetlinkMessage) -> Option<LinkMessage> {
    match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }
}

fn mac_of(link: &LinkMessage) -> Option<Mac> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => Some(Mac(bytes.as_slice().try_into().ok()?)),
        _ => None,
    })
}

/// An interface by what the kernel says of it; `None` for one without a name.
fn interface(link: &LinkMessage) -> Option<Interface> {
    let (mut name, mut master, mut peer, mut peer_namespace, mut kind) = (None, None, 0, None, Kind::Other);
    let mut netfilter = BridgeNetfilter::default();
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(Arc::<str>::from(text.as_str())),
            LinkAttribute::Controller(index) => master = Some(InterfaceIndex(*index)),
            LinkAttribute::Link(index) => peer = *index,
            LinkAttribute::LinkNetNsId(id) => peer_namespace = Some(*id),
            LinkAttribute::LinkInfo(info) => (kind, netfilter) = (kind_of(info), netfilter_of(info)),
            _ => {}
        }
    }
    let name = name?;
    if kind == Kind::Other && &*name == "flannel0" {
        // The UDP backend's, a tun device.
        kind = Kind::Overlay(Overlay::Udp(FLANNELS_UDP));
    }
    Some(Interface {
        index: InterfaceIndex(link.header.index),
        name,
        kind,
        netfilter,
        master: master.filter(|master| master.0 != 0),
        addresses: Vec::new(),
        peer_namespace: peer_namespace.filter(|id| *id >= 0),
        peer,
        addresses_inside: Vec::new(),
        mac_inside: Mac::default(),
        changed: None,
        is_settled: false,
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

fn kind_of(info: &[LinkInfo]) -> Kind {
    let kind = info.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    match (kind, data) {
        (Some(InfoKind::Veth), _) => Kind::Veth,
        (Some(InfoKind::Bridge), _) => Kind::Bridge,
        (Some(InfoKind::Wireguard), _) => Kind::WireGuard,
        (Some(InfoKind::IpIp), _) => Kind::Overlay(Overlay::Protocol(IPIP)),
        (Some(InfoKind::Vxlan), data) => {
            let port = match data {
                Some(InfoData::Vxlan(data)) => data.iter().find_map(|info| match info {
                    InfoVxlan::Port(port) => Some(*port),
                    _ => None,
                }),
                _ => None,
            };
            Kind::Overlay(Overlay::Udp(port.unwrap_or(LINUX_VXLAN)))
        }
        (Some(InfoKind::Geneve), Some(InfoData::Geneve(data))) => {
            let port = data.iter().find_map(|info| match info {
                InfoGeneve::Port(port) => Some(*port),
                _ => None,
            });
            port.map_or(Kind::Other, |port| Kind::Overlay(Overlay::Udp(port)))
        }
        _ => Kind::Other,
    }
}

#[allow(unsafe_code)]
fn fd(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the socket's own and lives as long as the borrow of it.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}
