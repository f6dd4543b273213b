//! Sockets for which the standard library has no constructor: SCTP and ping. All are in the namespace of the
//! calling thread.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    listen, send, setsockopt, socket, sockopt,
};

use crate::port::Transport;

/// Whether this kernel has SCTP sockets.
pub fn has_sctp() -> bool {
    stream_socket(AddressFamily::Inet, Transport::Sctp).is_ok()
}

/// Listens for connections. SCTP's one-to-one sockets work exactly as TCP's (RFC 6458, section 4).
pub fn listener(transport: Transport, address: SocketAddr) -> io::Result<TcpListener> {
    let fd = stream_socket(family(address.ip()), transport)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(1024)?)?;
    Ok(TcpListener::from(fd))
}

/// Enlarges the receive buffer to some thousands of datagrams, beyond the system's limit, so that none is
/// lost while the machine is too busy to run the reader.
pub fn keep_many_datagrams(socket: &UdpSocket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::RcvBufForce, &(4 << 20))?)
}

/// The local address of a connection or ping, and its outcome.
#[derive(Debug)]
pub struct SocketOutcome<T> {
    /// The client's address and port. For a ping, the port is the identifier.
    pub local: SocketAddr,
    /// The outcome.
    pub outcome: io::Result<T>,
}

/// Connects within `timeout`.
pub fn connection(
    transport: Transport,
    to: SocketAddr,
    timeout: Duration,
) -> io::Result<SocketOutcome<TcpStream>> {
    let fd = stream_socket(family(to.ip()), transport)?;
    let begun = connect(fd.as_raw_fd(), &SockaddrStorage::from(to));
    let stream = TcpStream::from(fd);
    let local = stream.local_addr()?;
    let outcome = match begun {
        Ok(()) => Ok(()),
        Err(Errno::EINPROGRESS) if wait(&stream, PollFlags::POLLOUT, timeout)? => {
            stream.take_error().and_then(|error| error.map_or(Ok(()), Err))
        }
        Err(Errno::EINPROGRESS) => Err(ErrorKind::TimedOut.into()),
        Err(errno) => Err(errno.into()),
    };
    let outcome = outcome.and_then(|()| stream.set_nonblocking(false)).map(|()| stream);
    Ok(SocketOutcome { local, outcome })
}

/// Sends one ICMP or ICMPv6 echo request and waits for its reply. The sysctl `net.ipv4.ping_group_range` must
/// include the process's group.
pub fn ping(to: IpAddr, timeout: Duration) -> io::Result<SocketOutcome<()>> {
    /// ICMP type "echo" (RFC 792).
    const ECHO: u8 = 8;
    /// ICMPv6 type "echo request" (RFC 4443).
    const ECHO_V6: u8 = 128;
    let (protocol, kind) = match to {
        IpAddr::V4(_) => (SockProtocol::Icmp, ECHO),
        IpAddr::V6(_) => (SockProtocol::IcmpV6, ECHO_V6),
    };
    let fd = socket(family(to), SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0)))?;
    // Type, code, checksum and identifier (both are set by the kernel), sequence number.
    let request = [kind, 0, 0, 0, 0, 0, 0, 1];
    let sent = send(fd.as_raw_fd(), &request, MsgFlags::empty());
    // The standard library can read the address of any internet socket.
    let socket = UdpSocket::from(fd);
    let local = socket.local_addr()?;
    let outcome = match sent {
        Err(errno) => Err(errno.into()),
        Ok(_) if wait(&socket, PollFlags::POLLIN, timeout)? => socket.recv(&mut [0; 64]).map(drop),
        Ok(_) => Err(ErrorKind::TimedOut.into()),
    };
    Ok(SocketOutcome { local, outcome })
}

/// Waits until ANY of `events` is ready; false after `timeout`.
pub(crate) fn wait(fd: &impl AsFd, events: PollFlags, timeout: Duration) -> io::Result<bool> {
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Rounded up, so that the last millisecond is not spent in a busy loop.
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), events)], left) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn stream_socket(family: AddressFamily, transport: Transport) -> io::Result<OwnedFd> {
    let protocol = match transport {
        Transport::Tcp => SockProtocol::Tcp,
        Transport::Sctp => SockProtocol::Sctp,
        Transport::Udp => return Err(io::Error::new(ErrorKind::InvalidInput, "UDP has no connections")),
    };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?)
}
