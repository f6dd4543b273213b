//! Who receives what: a sniffer in every pod and outside, and sockets on every node.
//!
//! A pod has received whatever arrives at its interface, also frames for others. A node has received what its own sockets
//! get: a sniffer would see packets that its rules drop afterwards.

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

/// Groups that a node is a member of, so that it would receive what is sent to them.
const GROUPS4: [Ipv4Addr; 2] = [Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(239, 1, 1, 1)];
const GROUPS6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 1)];

/// A frame that this namespace itself sends (PACKET_OUTGOING).
const OUTGOING: u8 = 4;

/// The first frame or packet in which each mark came to each receiver.
type Heard = BTreeMap<(Mark, String), Vec<u8>>;

/// All receivers. They stop when this goes.
#[derive(Debug)]
pub struct Ears {
    heard: Arc<Mutex<Heard>>,
    /// Members of groups, kept open.
    _members: Vec<UdpSocket>,
    /// Closing it wakes the thread and ends it.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// One socket.
struct Ear {
    owner: String,
    socket: OwnedFd,
    is_sniffer: bool,
}

impl Ears {
    /// Opens them in every pod, node and outside.
    pub fn open(testbed: &Testbed) -> Result<Self> {
        let mut ears = Vec::new();
        let mut members = Vec::new();
        let pods = testbed.cluster().pods.iter().filter(|pod| !pod.host_network);
        for name in pods.map(|pod| pod.full_name()).chain([OUTSIDE.to_owned()]) {
            let socket = testbed.namespace(&name)?.run(sniffer)?.context("opening a sniffer")?;
            ears.push(Ear { owner: name, socket, is_sniffer: true });
        }
        for node in &testbed.cluster().nodes {
            let namespace = testbed.namespace(&node.name)?;
            let sockets = namespace.run(raw_sockets)?.context("opening raw sockets")?;
            let ear = |socket| Ear { owner: node.name.clone(), socket, is_sniffer: false };
            ears.extend(sockets.into_iter().map(ear));
            members.extend(namespace.run(group_members)?.context("joining groups")?);
        }
        let heard = Arc::<Mutex<Heard>>::default();
        let shared = Arc::clone(&heard);
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let thread = thread::Builder::new().name("ears".into()).spawn(move || {
            listen(&ears, &stopped, &shared);
        })?;
        Ok(Self { heard, _members: members, stop: Some(stop), thread: Some(thread) })
    }

    /// Whether a mark has arrived at a pod, a node or outside.
    pub fn heard(&self, mark: Mark, at: &str) -> bool {
        self.first(mark, at).is_some()
    }

    /// What arrived there with the mark first: the frame at a pod or outside, the packet at a node.
    pub fn first(&self, mark: Mark, at: &str) -> Option<Vec<u8>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(&(mark, at.to_owned())).cloned()
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(ears: &[Ear], stopped: &OwnedFd, heard: &Mutex<Heard>) {
    loop {
        let mut fds = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        fds.extend(ears.iter().map(|ear| PollFd::new(ear.socket.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready.first() == Some(&true) {
            return;
        }
        for ear in ears.iter().zip(&ready[1..]).filter_map(|(ear, ready)| ready.then_some(ear)) {
            while let Some(bytes) = ear.next() {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                for mark in Mark::found_in(&bytes) {
                    heard.entry((mark, ear.owner.clone())).or_insert_with(|| bytes.clone());
                }
            }
        }
    }
}

impl Ear {
    /// The next packet that came; an empty one if it was sent from here. `None` if there is no more.
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
        // A port of a bridge has no address, and receives no IP.
        let Some(address) = address else { continue };
        let socket4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let socket6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        for group in GROUPS4 {
            // Routed interfaces share one address, and a socket is a member but once by it.
            let _ = socket4.join_multicast_v4(&group, &address);
        }
        for group in GROUPS6 {
            socket6.join_multicast_v6(&group, interface.index())?;
        }
        members.extend([socket4, socket6]);
    }
    Ok(members)
}
