//! Requests to rtnetlink, and notifications from it.
//!
//! `RTM_GETADDR` with `IFA_TARGET_NETNSID` lists addresses inside another namespace. It requires only
//! CAP_NET_ADMIN: neither a mount nor another privilege.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::interfaces::{Interface, Interfaces, InterfacesError, SETTLE_TIME, interface, mac_of};
use crate::link::{InterfaceIndex, Mac};

/// How often the namespace of a port that has addresses is read until the port is settled.
const SETTLE_READ_INTERVAL: Duration = Duration::from_millis(50);

/// How long the kernel may take to answer.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a dump is tried that changes interrupt.
const MAX_TRIES: usize = 16;

/// The length of `struct nlmsghdr`, in bytes.
const HEADER: usize = 16;

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`.
const GROUPS: [u32; 3] = [1, 5, 9];

/// A socket for requests about interfaces, or for notifications.
#[derive(Debug)]
pub(super) struct Rtnetlink {
    socket: Socket,
    sequence: u32,
    /// When the namespace of each port that has addresses, but is not settled, was read last.
    read_at: BTreeMap<InterfaceIndex, Instant>,
}

impl Rtnetlink {
    /// Opens a socket that is notified of changes of interfaces and of the node's own addresses. It is for
    /// [`Rtnetlink::drain`] only.
    pub(super) fn listen() -> Result<Self, InterfacesError> {
        Self::open(&GROUPS)
    }

    /// Opens a socket in the network namespace of the calling thread, in these multicast groups.
    pub(super) fn open(groups: &[u32]) -> Result<Self, InterfacesError> {
        let failed = |call| move |source| InterfacesError::Socket { call, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // Without it the kernel ignores the namespace in a request for addresses, and answers with the
        // current one's.
        socket.set_netlink_get_strict_chk(true).map_err(failed("setsockopt NETLINK_GET_STRICT_CHK"))?;
        for group in groups {
            socket.add_membership(*group).map_err(failed("setsockopt NETLINK_ADD_MEMBERSHIP"))?;
        }
        let timeout = TimeVal::microseconds(i64::try_from(RECEIVE_TIMEOUT.as_micros()).unwrap_or(i64::MAX));
        let set = setsockopt(&fd(&socket), sockopt::ReceiveTimeout, &timeout);
        set.map_err(|errno| InterfacesError::Socket {
            call: "setsockopt SO_RCVTIMEO",
            source: errno.into(),
        })?;
        // For bursts of pods that start and end. Without CAP_NET_ADMIN the default stays.
        let _ = setsockopt(&fd(&socket), sockopt::RcvBufForce, &(4 << 20));
        Ok(Self { socket, sequence: 0, read_at: BTreeMap::new() })
    }

    /// Reads and discards the buffered notifications. Returns whether there were any, including lost ones.
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

    /// The descriptor, to poll for notifications.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        fd(&self.socket)
    }

    /// Brings `interfaces` up to date: reads all links and own addresses, and the namespaces of veth devices
    /// that are not settled. Returns whether anything changed.
    ///
    /// # Errors
    /// As [`Rtnetlink::request`]; then `interfaces` is unchanged.
    pub(super) fn refresh(
        &mut self,
        interfaces: &mut Interfaces,
        now: Instant,
    ) -> Result<bool, InterfacesError> {
        let mut by_index = BTreeMap::new();
        for link in self.links()? {
            if let Some(interface) = interface(&link) {
                by_index.insert(interface.index, interface);
            }
        }
        for (index, address) in self.addresses(None, InterfaceIndex(0))? {
            // An interface that can't be parsed, or that is newer than the list of links, has addresses of
            // the node as well.
            by_index.entry(index).or_insert_with(|| Interface::unread(index)).addresses.push(address);
        }
        let before = std::mem::take(&mut interfaces.by_index);
        for (index, interface) in &mut by_index {
            // The same end of the same pair keeps the addresses inside.
            let same = before.get(index).filter(|before| {
                (before.peer_namespace, before.peer) == (interface.peer_namespace, interface.peer)
            });
            interface.seen = same.map_or(Some(now), |before| before.seen);
            if let Some(before) = same {
                interface.addresses_inside.clone_from(&before.addresses_inside);
                (interface.mac_inside, interface.changed, interface.is_settled) =
                    (before.mac_inside, before.changed, before.is_settled);
            }
        }
        interfaces.by_index = by_index;
        self.read_namespaces(interfaces, now);
        Ok(interfaces.by_index != before)
    }

    /// Reads the namespaces of veth devices that are not settled. Returns whether anything changed. If a
    /// namespace can't be read, its port keeps the addresses that were read before: the port will soon be
    /// removed, or the namespace is read again.
    pub(super) fn read_namespaces(&mut self, interfaces: &mut Interfaces, now: Instant) -> bool {
        self.read_at.retain(|_, read_at| now.saturating_duration_since(*read_at) < SETTLE_TIME);
        let mut is_changed = false;
        for interface in interfaces.by_index.values_mut().filter(|interface| interface.is_unsettled()) {
            let Some(namespace) = interface.peer_namespace else { continue };
            if interface.changed.is_some() {
                let read_at = self.read_at.get(&interface.index);
                if read_at
                    .is_some_and(|read_at| now.saturating_duration_since(*read_at) < SETTLE_READ_INTERVAL)
                {
                    continue;
                }
                self.read_at.insert(interface.index, now);
            }
            let Ok(addresses) = self.addresses(Some(namespace), interface.peer) else { continue };
            // Without addresses nothing is bound, so the hardware address is not needed.
            let mac = if addresses.is_empty() {
                None
            } else {
                self.mac(namespace, interface.peer).unwrap_or_default()
            };
            let addresses = addresses.into_iter().map(|(_, address)| address).collect();
            is_changed |= interface.update_addresses(addresses, mac, now);
        }
        is_changed
    }

    fn links(&mut self) -> Result<Vec<LinkMessage>, InterfacesError> {
        let answers = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// The hardware address of an interface in another namespace.
    fn mac(&mut self, namespace: i32, index: InterfaceIndex) -> Result<Option<Mac>, InterfacesError> {
        let mut request = LinkMessage::default();
        request.header.index = index.0;
        request.attributes.push(LinkAttribute::IfNetnsId(namespace));
        let answers = self.request(RouteNetlinkMessage::GetLink(request), 0)?;
        Ok(answers.into_iter().filter_map(link).find_map(|link| mac_of(&link)))
    }

    /// The addresses of this namespace, or of one interface of another, sorted, each with the index of its
    /// interface.
    fn addresses(
        &mut self,
        namespace: Option<i32>,
        index: InterfaceIndex,
    ) -> Result<Vec<(InterfaceIndex, IpAddr)>, InterfacesError> {
        let mut request = AddressMessage::default();
        request.header.index = index.0;
        request.attributes.extend(namespace.map(AddressAttribute::TargetNetNsId));
        let answers = self.request(RouteNetlinkMessage::GetAddress(request), NLM_F_DUMP)?;
        let mut addresses: Vec<_> = answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => {
                    // For a point-to-point interface, the local address is its own.
                    let local = message.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Local(address) => Some(*address),
                        _ => None,
                    });
                    let address = message.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    });
                    Some((InterfaceIndex(message.header.index), local.or(address)?.to_canonical()))
                }
                _ => None,
            })
            .collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Sends a request and returns its answers. A dump is repeated while changes interrupt it, because it may
    /// lack entries.
    ///
    /// # Errors
    /// [`InterfacesError::Socket`] if the socket fails, the kernel refuses the request or takes longer than
    /// [`RECEIVE_TIMEOUT`]; [`InterfacesError::Answer`] if the only answer can't be decoded;
    /// [`InterfacesError::Interrupted`] after [`MAX_TRIES`].
    pub(super) fn request(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, InterfacesError> {
        for _ in 0..MAX_TRIES {
            self.send(request.clone(), flags)?;
            if let Some(answers) = self.receive(flags & NLM_F_DUMP != 0)? {
                return Ok(answers);
            }
        }
        Err(InterfacesError::Interrupted)
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<(), InterfacesError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let sent = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0);
        sent.map(drop).map_err(|source| InterfacesError::Socket { call: "send", source })
    }

    /// Receives the answers to the last request; `None` for a dump that was interrupted.
    fn receive(&mut self, is_dump: bool) -> Result<Option<Vec<RouteNetlinkMessage>>, InterfacesError> {
        let mut answers = Vec::new();
        let mut is_interrupted = false;
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => {
                    received.map_err(|source| InterfacesError::Socket { call: "recv", source })?;
                }
            }
            for one in messages(&buffer).filter(|one| sequence_of(one) == self.sequence) {
                let answer = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
                    Ok(answer) => answer,
                    Err(error) if !is_dump => return Err(InterfacesError::Answer(error)),
                    // An interface with an attribute that the library can't decode must not hide the others.
                    Err(error) => {
                        tracing::debug!(%error, "an rtnetlink message can't be decoded");
                        continue;
                    }
                };
                is_interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    // The end of a dump carries 0, or the error that ended it early.
                    NetlinkPayload::Done(done) if done.code != 0 => return Err(refused(done.code)),
                    NetlinkPayload::Done(_) => return Ok((!is_interrupted).then_some(answers)),
                    NetlinkPayload::Error(error) => {
                        return error.code.map_or(Ok(Some(answers)), |code| Err(refused(code.get())));
                    }
                    NetlinkPayload::InnerMessage(message) => {
                        answers.push(message);
                        if !is_dump {
                            return Ok(Some(answers));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Reads the interfaces of the calling thread's network namespace, once. Their addresses count as settled.
///
/// # Errors
/// [`InterfacesError`] if the kernel does not answer.
pub fn read_interfaces() -> Result<Interfaces, InterfacesError> {
    let mut interfaces = Interfaces::default();
    Rtnetlink::open(&[])?.refresh(&mut interfaces, Instant::now())?;
    interfaces.settle();
    Ok(interfaces)
}

/// The complete messages of a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The sequence number of a complete message.
fn sequence_of(message: &[u8]) -> u32 {
    u32::from_ne_bytes([message[8], message[9], message[10], message[11]])
}

/// The error of an answer, which is a negative number.
fn refused(code: i32) -> InterfacesError {
    let source = io::Error::from_raw_os_error(code.wrapping_neg());
    InterfacesError::Socket { call: "request", source }
}

fn link(answer: RouteNetlinkMessage) -> Option<LinkMessage> {
    match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }
}

#[allow(unsafe_code)]
fn fd(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the socket's own and lives as long as the borrow of it.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}
