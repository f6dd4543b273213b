//! Receivers of marks: a sniffer in every pod and outside, and sockets on every node.
//!
//! A pod receives every frame that arrives at its interface, also frames for others. A node receives what
//! reaches its own sockets, since a sniffer would also see packets that its rules drop afterwards.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::unistd::pipe2;

use super::mark::Mark;
use crate::cluster::OUTSIDE;
use crate::testbed::Testbed;

/// Multicast groups that every node joins, so that it receives packets for them.
const GROUPS4: [Ipv4Addr; 2] = [Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(239, 1, 1, 1)];
const GROUPS6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 1)];

/// The type of frames that this namespace itself sends (PACKET_OUTGOING).
const OUTGOING: u8 = 4;

/// The first frame or packet with which each mark arrived at each receiver.
type Received = BTreeMap<(Mark, String), Vec<u8>>;

/// All receivers. They stop when this is dropped.
#[derive(Debug)]
pub struct Receivers {
    received: Arc<Mutex<Received>>,
    /// The sockets that joined the groups, kept open.
    _members: Vec<UdpSocket>,
    /// Closing this end of a pipe wakes the thread and ends it.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// One receiving socket.
struct Receiver {
    owner: String,
    socket: OwnedFd,
    is_sniffer: bool,
}

impl Receivers {
    /// Opens receivers in every pod, on every node and outside.
    pub fn open(testbed: &Testbed) -> Result<Self> {
        let mut receivers = Vec::new();
        let mut members = Vec::new();
        let pods = testbed.cluster().pods.iter().filter(|pod| !pod.host_network);
        for name in pods.map(|pod| pod.full_name()).chain([OUTSIDE.to_owned()]) {
            let socket = testbed.namespace(&name)?.run(sniffer)?.context("opening a sniffer")?;
            receivers.push(Receiver { owner: name, socket, is_sniffer: true });
        }
        for node in &testbed.cluster().nodes {
            let namespace = testbed.namespace(&node.name)?;
            let sockets = namespace.run(raw_sockets)?.context("opening raw sockets")?;
            let receiver = |socket| Receiver { owner: node.name.clone(), socket, is_sniffer: false };
            receivers.extend(sockets.into_iter().map(receiver));
            members.extend(namespace.run(group_members)?.context("joining groups")?);
        }
        let received = Arc::<Mutex<Received>>::default();
        let shared = Arc::clone(&received);
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let thread = thread::Builder::new().name("ears".into()).spawn(move || {
            listen(&receivers, &stopped, &shared);
        })?;
        Ok(Self { received, _members: members, stop: Some(stop), thread: Some(thread) })
    }

    /// Whether a mark has arrived at a pod, a node or outside.
    pub fn received(&self, mark: Mark, at: &str) -> bool {
        self.first(mark, at).is_some()
    }

    /// The first frame (at a pod or outside) or packet (at a node) with which a mark arrived.
    pub fn first(&self, mark: Mark, at: &str) -> Option<Vec<u8>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).get(&(mark, at.to_owned())).cloned()
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(receivers: &[Receiver], stopped: &OwnedFd, received: &Mutex<Received>) {
    loop {
        let mut fds = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        fds.extend(receivers.iter().map(|receiver| PollFd::new(receiver.socket.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready.first() == Some(&true) {
            return;
        }
        for receiver in
            receivers.iter().zip(&ready[1..]).filter_map(|(receiver, ready)| ready.then_some(receiver))
        {
            while let Some(bytes) = receiver.next() {
                let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
                for mark in Mark::found_in(&bytes) {
                    received.entry((mark, receiver.owner.clone())).or_insert_with(|| bytes.clone());
                }
            }
        }
    }
}

impl Receiver {
    /// The next received packet; an empty one if this namespace sent it. `None` if there is no other.
    fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let length = if self.is_sniffer {
            let (length, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer).ok()?;
            if from.is_none_or(|from| from.pkttype() == OUTGOING) { 0 } else { length }
        } else {
            recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?
        };
        buffer.truncate(length);
        Some(buffer)
    }
}

/// A socket that receives every frame of the namespace.
fn sniffer() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20))?;
    Ok(socket)
}

/// Sockets that receive every packet of TCP, UDP and ICMP that the namespace accepts.
fn raw_sockets() -> nix::Result<Vec<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let wanted = [
        (AddressFamily::Inet, SockProtocol::Tcp),
        (AddressFamily::Inet, SockProtocol::Udp),
        (AddressFamily::Inet, SockProtocol::Icmp),
        (AddressFamily::Inet6, SockProtocol::Tcp),
        (AddressFamily::Inet6, SockProtocol::Udp),
        (AddressFamily::Inet6, SockProtocol::IcmpV6),
    ];
    wanted.into_iter().map(|(family, protocol)| socket(family, SockType::Raw, flags, protocol)).collect()
}

/// Makes every interface of a node towards its pods a member of the groups.
fn group_members() -> Result<Vec<UdpSocket>> {
    let mut members = Vec::new();
    for interface in nix::net::if_::if_nameindex()?.iter() {
        let name = interface.name().to_string_lossy().into_owned();
        if name != "cni0" && !name.starts_with("veth") {
            continue;
        }
        let address = nix::ifaddrs::getifaddrs()?
            .filter(|entry| entry.interface_name == name)
            .find_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()));
        // A port of a bridge has no address, and receives no IP packets.
        let Some(address) = address else { continue };
        let socket4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let socket6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        for group in GROUPS4 {
            // Routed interfaces share one address, through which a socket can join a group only once.
            let _ = socket4.join_multicast_v4(&group, &address);
        }
        for group in GROUPS6 {
            socket6.join_multicast_v6(&group, interface.index())?;
        }
        members.extend([socket4, socket6]);
    }
    Ok(members)
}
