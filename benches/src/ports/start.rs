//! One start of a pod: its interface is plugged in and gets its addresses, and a process in it connects at
//! once.
//!
//! The process waits for the kernel's notification of the address, and so begins some ten microseconds after
//! it is set. Another thread waits for the notification that the binding is in the kernel's set, which is
//! sent once the change is in force. Polling the set would distort the figures: closing a netlink socket
//! waits for changes in progress, ten milliseconds and more.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dataplane::ports::InterfaceIndex;
use dataplane::table::Table;
use integration::Family;
use integration::command::ip;
use integration::namespace::NetworkNamespace;
use nix::ifaddrs::getifaddrs;
use nix::libc::{
    NFNL_SUBSYS_NFTABLES, NFNLGRP_NFTABLES, NFT_MSG_NEWSETELEM, RTM_NEWADDR, RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
};
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::order::Order;

/// The time limit for a connection and a binding: TCP retransmits a lost packet after one second.
pub(super) const TIMEOUT: Duration = Duration::from_secs(4);
/// The sets with bindings of IPv4 addresses and of IPv6 addresses.
const BOUND: [&str; 2] = ["bound4", "bound6"];
/// The type of nf_tables' notifications of added elements.
const NEW_ELEMENTS: u16 = ((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWSETELEM) as u16;
/// The pause between two checks whether the interface is running.
const RUNNING_POLL_INTERVAL: Duration = Duration::from_micros(100);

/// A pod to start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod {
    /// Its number, which is in the names of its namespace and its interface.
    pub number: usize,
    /// Its addresses, with the prefix lengths of its node's networks.
    pub addresses: [(IpAddr, u8); 2],
}

/// The result of a start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// How long the connection took until it was established or given up.
    pub connect: Duration,
    /// From the address being set until it is in the kernel's set; `None` without an agent.
    pub bound: Option<Duration>,
}

impl Pod {
    /// Starts it on a node, where its process connects to `server`, and removes it.
    pub(super) fn start(
        self,
        node: &NetworkNamespace,
        order: Order,
        family: Family,
        server: SocketAddr,
        is_bound: bool,
    ) -> Result<Outcome> {
        let namespace = NetworkNamespace::create(&format!("new-{}", self.number))?;
        let device = format!("vethnew{}", self.number);
        // In the order of the CNI plugin bridge. Hairpin mode is on, as the CNI plugin flannel configures it.
        let plug = format!(
            "link add {device} type veth peer name eth0 netns {}\n\
             link set {device} master cni0 up\n\
             link set {device} type bridge_slave hairpin on\n",
            namespace.name()
        );
        ip(node, &plug).context("plugging it in")?;
        ip(&namespace, "link set lo up\n")?;
        if order == Order::UpFirst {
            ip(&namespace, "link set eth0 up\n")?;
            namespace.wait_for_links()?;
            node.wait_for_links()?;
        }
        let outcome = self.measure(&namespace, node, &device, order, family, server, is_bound);
        ip(node, &format!("link del {device}\n")).context("removing it")?;
        outcome
    }

    #[expect(clippy::too_many_arguments, reason = "the values of its only caller, and what that has created")]
    fn measure(
        self,
        namespace: &NetworkNamespace,
        node: &NetworkNamespace,
        device: &str,
        order: Order,
        family: Family,
        server: SocketAddr,
        is_bound: bool,
    ) -> Result<Outcome> {
        let address = family.of(self.addresses.map(|(address, _)| address));
        let (listens, listening) = mpsc::channel();
        let look = is_bound.then(|| {
            let (device, listens) = (device.to_owned(), listens.clone());
            node.spawn(move || wait_until_bound(address, &device, listens))
        });
        let look = look.transpose()?;
        let process = namespace.spawn(move || connect_when_set(address, server, listens))?;
        // Both listen, or have ended: their errors are returned below.
        while listening.recv_timeout(TIMEOUT).is_ok() {}
        ip(namespace, &self.addresses_text(order)).context("setting its addresses")?;
        let bound_at = look.map(join).transpose();
        let (set_at, connect) = join(process)?;
        let bound = bound_at?.map(|bound_at| bound_at.saturating_duration_since(set_at));
        Ok(Outcome { connect, bound })
    }

    fn addresses_text(self, order: Order) -> String {
        let [(v4, length4), (v6, length6)] = self.addresses;
        let up = if order == Order::AddressFirst { "link set eth0 up\n" } else { "" };
        format!("addr add {v4}/{length4} dev eth0\naddr add {v6}/{length6} dev eth0 nodad\n{up}")
    }
}

fn join<T>(thread: JoinHandle<Result<Result<T>>>) -> Result<T> {
    let Ok(result) = thread.join() else { bail!("a thread of a pod's start panicked") };
    result?
}

/// Waits until this address is set in the calling thread's namespace, and connects at once. Returns when it
/// was set, and how long the connection took. The kernel itself drops packets that are sent before the
/// interface is running.
fn connect_when_set(
    address: IpAddr,
    server: SocketAddr,
    listens: mpsc::Sender<()>,
) -> Result<(Instant, Duration)> {
    let notifications = listen(SockProtocol::NetlinkRoute, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)?;
    drop(listens);
    let mut message = [0; 4096];
    loop {
        let length = recv(notifications.as_raw_fd(), &mut message, MsgFlags::empty())
            .with_context(|| format!("waiting for {address}"))?;
        if announces(&message[..length], address) {
            break;
        }
    }
    let set_at = Instant::now();
    wait_until_running(set_at)?;
    loop {
        let begun = Instant::now();
        match TcpStream::connect_timeout(&server, TIMEOUT) {
            Ok(_) => return Ok((set_at, begun.elapsed())),
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok((set_at, begun.elapsed())),
            // An IPv6 address has its route a moment later.
            Err(error)
                if matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable)
                    && set_at.elapsed() < TIMEOUT =>
            {
                sleep(RUNNING_POLL_INTERVAL);
            }
            Err(error) => return Err(error).with_context(|| format!("connecting to {server}")),
        }
    }
}

/// A socket for notifications of these groups (bits) in the calling thread's namespace.
fn listen(protocol: SockProtocol, groups: i32) -> Result<OwnedFd> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT.as_secs().cast_signed()))?;
    Ok(fd)
}

/// Whether rtnetlink's message announces that this address is set. The octets of a pod's address occur
/// nowhere else in it.
fn announces(message: &[u8], address: IpAddr) -> bool {
    kind(message) == Some(RTM_NEWADDR) && contains(message, &octets(address))
}

/// Whether one of nf_tables' messages announces that this address is bound to the interface with this index.
/// A key begins with the interface and ends with the address, and elements that are added together are in one
/// message.
fn binds(messages: &[u8], address: IpAddr, index: u32) -> bool {
    let set = BOUND[usize::from(address.is_ipv6())].as_bytes();
    let (index, address) = (index.to_ne_bytes(), octets(address));
    each_message(messages).any(|message| {
        kind(message) == Some(NEW_ELEMENTS)
            && contains(message, set)
            && contains(message, &index)
            && contains(message, &address)
    })
}

/// Splits the received bytes into messages, each with its header, by the lengths in the headers.
fn each_message(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length).filter(|message| !message.is_empty())?;
        // Aligned to four bytes; the last message need not be.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The message type, which follows the length in the header.
fn kind(message: &[u8]) -> Option<u16> {
    message.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)
}

fn contains(message: &[u8], bytes: &[u8]) -> bool {
    message.windows(bytes.len()).any(|window| window == bytes)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn wait_until_running(since: Instant) -> Result<()> {
    loop {
        let runs = getifaddrs()?.any(|interface| {
            interface.interface_name == "eth0" && interface.flags.contains(InterfaceFlags::IFF_RUNNING)
        });
        if runs {
            return Ok(());
        }
        ensure!(since.elapsed() < TIMEOUT, "eth0 does not run");
        sleep(RUNNING_POLL_INTERVAL);
    }
}

/// Waits until the kernel's set binds this address to this interface of the calling thread's namespace.
/// Returns when it did.
fn wait_until_bound(address: IpAddr, device: &str, listens: mpsc::Sender<()>) -> Result<Instant> {
    let index = if_nametoindex(device).with_context(|| format!("the index of {device}"))?;
    let notifications = listen(SockProtocol::NetlinkNetFilter, 1 << (NFNLGRP_NFTABLES - 1))?;
    drop(listens);
    let mut messages = vec![0; 1 << 16];
    loop {
        let length = recv(notifications.as_raw_fd(), &mut messages, MsgFlags::empty())
            .with_context(|| format!("waiting for {address} to be bound to {device}"))?;
        if binds(&messages[..length], address, index) {
            break;
        }
    }
    let bound_at = Instant::now();
    // A change during the dump may make it fail.
    let is_there = (0..10).any(|_| {
        let bindings = Table::bindings_in_force();
        bindings
            .is_ok_and(|bindings| bindings.addresses().any(|bound| bound == (address, InterfaceIndex(index))))
    });
    ensure!(is_there, "{address} was announced but is not bound to {device}");
    Ok(bound_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header (length, type, flags, sequence, port) and the payload.
    fn message(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut bytes = (16 + content.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(content);
        bytes
    }

    #[test]
    fn a_notification_names_its_address() {
        let pod: IpAddr = "10.244.1.100".parse().unwrap();
        // ifaddrmsg: family, length, flags, scope, index; IFA_ADDRESS.
        let content = [2, 24, 0, 0, 2, 0, 0, 0, 8, 0, 1, 0, 10, 244, 1, 100];
        assert!(announces(&message(RTM_NEWADDR, &[&content]), pod));
        assert!(!announces(&message(RTM_NEWADDR, &[&content]), "10.244.1.101".parse().unwrap()));
        assert!(!announces(&message(RTM_NEWADDR + 1, &[&content]), pod), "it is removed");
        assert!(!announces(&[], pod));
    }

    #[test]
    fn a_binding_is_matched_by_port_and_set() {
        let pod: IpAddr = "10.244.1.100".parse().unwrap();
        let element = [&b"kube-verdict\0bound4\0"[..], &7u32.to_ne_bytes(), &[10, 244, 1, 100]];
        let taken = [&b"kube-verdict\0taken4\0"[..], &7u32.to_ne_bytes(), &[10, 244, 1, 100]];
        let mut all = message(NEW_ELEMENTS, &taken);
        all.resize(all.len().next_multiple_of(4), 0);
        assert!(!binds(&all, pod, 7), "it belongs to another set");
        all.extend(message(NEW_ELEMENTS, &element));
        assert!(binds(&all, pod, 7));
        assert!(!binds(&all, pod, 8), "it belongs to another port");
        assert!(!binds(&message(NEW_ELEMENTS + 2, &element), pod, 7), "it is removed");
        // Invalid lengths end the iteration.
        assert_eq!(each_message(&[0; 16]).count(), 0);
        assert_eq!(each_message(&[255; 16]).count(), 0);
    }

    #[test]
    fn the_interface_is_up_last_if_the_address_is_first() {
        let addresses = [("10.244.1.100".parse().unwrap(), 24), ("fd00::100".parse().unwrap(), 64)];
        let pod = Pod { number: 1, addresses };
        assert_eq!(
            pod.addresses_text(Order::UpFirst),
            "addr add 10.244.1.100/24 dev eth0\naddr add fd00::100/64 dev eth0 nodad\n"
        );
        assert!(pod.addresses_text(Order::AddressFirst).ends_with("nodad\nlink set eth0 up\n"));
    }
}
