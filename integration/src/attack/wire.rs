//! Sends frames through an interface, as a process with CAP_NET_RAW can, and datagrams, as any process can.

use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, sendto, setsockopt, socket,
    sockopt,
};

use crate::namespace::NetworkNamespace;

/// The addresses of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// The link-layer address for sending frames, which includes the index of the interface.
    pub link: LinkAddr,
    /// The hardware address.
    pub mac: [u8; 6],
    /// The link-local address; unspecified if it has none.
    pub link_local: std::net::Ipv6Addr,
}

/// The interface of this name in a namespace.
pub fn interface(namespace: &NetworkNamespace, name: &str) -> Result<Interface> {
    let doing = || format!("reading the interface {name} of {}", namespace.name());
    let entries = namespace.run(|| getifaddrs().map(Iterator::collect::<Vec<_>>))?.with_context(doing)?;
    let mut link = None;
    let mut link_local = None;
    for entry in entries.iter().filter(|entry| entry.interface_name == name) {
        let Some(address) = entry.address else { continue };
        link = link.or(address.as_link_addr().copied());
        let v6 = address.as_sockaddr_in6().map(|address| address.ip());
        link_local = link_local.or(v6.filter(|ip| ip.is_unicast_link_local()));
    }
    let link = link.context("it does not exist").with_context(doing)?;
    let mac = link.addr().context("it has no hardware address").with_context(doing)?;
    Ok(Interface { link, mac, link_local: link_local.unwrap_or(std::net::Ipv6Addr::UNSPECIFIED) })
}

/// Sends frames through an interface of a namespace, one after the other.
pub fn send_frames(namespace: &NetworkNamespace, interface: &Interface, frames: &[Vec<u8>]) -> Result<()> {
    namespace.run(|| -> Result<()> {
        let socket = packet_socket()?;
        for frame in frames {
            sendto(socket.as_raw_fd(), frame, &interface.link, MsgFlags::empty())
                .with_context(|| format!("sending a frame of {} bytes", frame.len()))?;
        }
        Ok(())
    })?
}

/// Sends a frame through an interface repeatedly, as fast as possible, until it is stopped. Counts the frames
/// in `sent`.
pub fn flood(
    namespace: &NetworkNamespace,
    interface: &Interface,
    frame: &[u8],
    is_stopped: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    namespace.run(|| -> Result<()> {
        let socket = packet_socket()?;
        while !is_stopped.load(Ordering::Relaxed) {
            sendto(socket.as_raw_fd(), frame, &interface.link, MsgFlags::empty())
                .with_context(|| format!("sending a frame of {} bytes", frame.len()))?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })?
}

/// Sends a datagram by an unprivileged socket.
pub fn send_datagram(
    namespace: &NetworkNamespace,
    source_port: u16,
    to: SocketAddr,
    data: &[u8],
) -> Result<()> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    namespace.run(|| -> Result<()> {
        let socket = UdpSocket::bind((any, source_port))?;
        socket.set_broadcast(true)?;
        socket.send_to(data, to).with_context(|| format!("sending a datagram to {to}"))?;
        Ok(())
    })?
}

/// Sends a datagram from an address that the sender does not have. For IPv6, the kernel requires no privilege
/// for that. IP_FREEBIND sets the same flag of the socket as IPV6_FREEBIND.
pub fn send_freebound(
    namespace: &NetworkNamespace,
    from: SocketAddr,
    to: SocketAddr,
    data: &[u8],
) -> Result<()> {
    let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    namespace.run(|| -> Result<()> {
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).with_context(|| format!("binding {from}"))?;
        UdpSocket::from(socket).send_to(data, to).with_context(|| format!("sending from {from} to {to}"))?;
        Ok(())
    })?
}

/// A link-local address and port on an interface.
pub fn scoped(address: std::net::Ipv6Addr, port: u16, interface: &Interface) -> SocketAddr {
    let scope = u32::try_from(interface.link.ifindex()).unwrap_or_default();
    SocketAddrV6::new(address, port, 0, scope).into()
}

/// A socket that sends whole frames and receives none.
fn packet_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
}
