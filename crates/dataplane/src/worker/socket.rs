//! The netlink socket of a queue, which the library `nfq` does not expose: it is found by its port. So its
//! receive buffer can match the queue's length, its reader can wait with a timeout or be woken, and errors
//! can name the owner of a queue.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeSpec;

use crate::netlink::PortId;
use crate::numbers::NLMSG_ERROR;

/// The netlink sockets of the calling thread's network namespace.
const SOCKETS: &str = "/proc/thread-self/net/netlink";
/// `NETLINK_NETFILTER`.
const NETFILTER: &str = "12";
/// How many bytes of the socket's buffer a waiting packet takes, with a margin: a message with 128 bytes of
/// packet was charged 832 bytes (`skb->truesize`). The kernel doubles the requested size.
const BYTES_PER_PACKET: usize = 1024;

/// The error of a worker's `recv` when it was woken.
pub(super) const WAKE: i32 = libc::ECANCELED;

/// A second descriptor of the socket with this port, which must belong to this process. The socket lives as
/// long as either descriptor.
pub(super) fn of_port(port_id: PortId) -> io::Result<OwnedFd> {
    let missing =
        || io::Error::new(io::ErrorKind::NotFound, "the queue's socket is not among this process's files");
    let inode = inode_of_port(port_id)?.ok_or_else(missing)?;
    let fd = descriptor_of(Path::new("/proc/self/fd"), inode).ok_or_else(missing)?;
    // SAFETY: the descriptor is that of the caller's queue, which stays open for the duration of this call.
    #[allow(unsafe_code)]
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fd.try_clone_to_owned()
}

/// Enlarges the socket's receive buffer to the queue's length. The default buffer holds some 250 packets, and
/// more are dropped regardless of the queue's length.
pub(super) fn enlarge_receive_buffer(socket: &OwnedFd, queue_length: u32) -> io::Result<()> {
    let size =
        usize::try_from(queue_length).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_PACKET).min(1 << 30);
    setsockopt(socket, sockopt::RcvBufForce, &size).map_err(io::Error::from)
}

/// Waits until the socket is readable, at most for `timeout`.
pub(super) fn wait_readable(socket: &OwnedFd, timeout: Duration) -> io::Result<()> {
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut sockets, Some(TimeSpec::from_duration(timeout)), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Wakes workers that wait for a packet: a netlink error message that is sent to the worker's socket makes
/// its `recv` fail with [`WAKE`]. This adds no cost per packet.
#[derive(Debug)]
pub(crate) struct Waker {
    socket: OwnedFd,
}

impl Waker {
    /// For workers in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Self { socket })
    }

    /// Wakes the worker whose socket has this port. A worker with a full buffer is awake already.
    pub(crate) fn wake(&self, port_id: PortId) -> io::Result<()> {
        // struct nlmsghdr { length, type NLMSG_ERROR, flags, sequence, port }, struct nlmsgerr { error,
        // struct nlmsghdr }.
        let mut message = [0; 36];
        message[0..4].copy_from_slice(&36u32.to_ne_bytes());
        message[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        message[16..20].copy_from_slice(&(-WAKE).to_ne_bytes());
        let to = NetlinkAddr::new(port_id.0, 0);
        match sendto(self.socket.as_raw_fd(), &message, &to, MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The owner of a netlink socket, as far as this process can identify it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketOwner {
    /// The netlink port.
    pub port_id: PortId,
    /// The process and its name; `None` if it is not visible (another process namespace, or missing
    /// permission).
    pub process: Option<(u32, String)>,
}

impl SocketOwner {
    /// Looks for the process that holds the socket with this port.
    pub(crate) fn of_port(port_id: PortId) -> Self {
        let process = inode_of_port(port_id).ok().flatten().and_then(|inode| {
            let pids = fs::read_dir("/proc")
                .ok()?
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            pids.into_iter().find_map(|pid: u32| {
                let process = PathBuf::from(format!("/proc/{pid}"));
                descriptor_of(&process.join("fd"), inode)?;
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                Some((pid, name.trim_end().to_owned()))
            })
        });
        Self { port_id, process }
    }
}

impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((pid, name)) => write!(f, "process {pid} ({name})"),
            None => write!(f, "another program (netlink port {})", self.port_id),
        }
    }
}

/// The inode of the netfilter socket with this port, from its row `sk Eth Pid Groups Rmem Wmem Dump Locks
/// Drops Inode`.
fn inode_of_port(port_id: PortId) -> io::Result<Option<u64>> {
    let port = port_id.to_string();
    Ok(fs::read_to_string(SOCKETS)?.lines().find_map(|row| {
        let mut fields = row.split_ascii_whitespace().skip(1);
        (fields.next()? == NETFILTER && fields.next()? == port).then(|| fields.last()?.parse().ok())?
    }))
}

/// The descriptor of the socket with this inode, among those in a `/proc/PID/fd`.
fn descriptor_of(folder: &Path, inode: u64) -> Option<RawFd> {
    let socket = format!("socket:[{inode}]");
    fs::read_dir(folder).ok()?.find_map(|entry| {
        let entry = entry.ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        (target.as_os_str() == socket.as_str()).then(|| entry.file_name().to_str()?.parse().ok())?
    })
}
