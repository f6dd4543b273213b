//! Changes the conntrack table through ctnetlink, in the network namespace of the calling thread.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `NFNL_SUBSYS_CTNETLINK`, and its messages `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_DELETE`.
const NEW: u16 = 1 << 8;
const DELETE: u16 = (1 << 8) | 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const NESTED: u16 = 1 << 15;
const AF_INET: u8 = 2;

/// The connection mark of entries that [`fill`] adds: a bit that no agent uses.
const FILLER: u32 = 1;

/// Deletes all connections.
pub fn flush() -> Result<()> {
    exchange(&message(DELETE, REQUEST | ACK, 0, &[])).context("deleting all connections")
}

/// Adds `count` connections, or as many as the table has room for. They are answered datagrams ("assured"),
/// which the kernel does not evict, between addresses that no host has. They expire after `seconds`.
pub fn fill(count: u32, seconds: u32) -> Result<()> {
    const SEEN_REPLY_ASSURED_CONFIRMED: u32 = 0b1110;
    for first in (0..count).step_by(1_000) {
        let mut messages = Vec::new();
        let last = (first + 1_000).min(count) - 1;
        for number in first..=last {
            let (client, server) = (0xc633_6400 + number / 60_000, 0xcb00_7101);
            let port = 2_000 + (number % 60_000) as u16;
            let mut entry = nested(1, &tuple((client, port), (server, 9)));
            entry.extend(nested(2, &tuple((server, 9), (client, port))));
            entry.extend(be32(3, SEEN_REPLY_ASSURED_CONFIRMED));
            entry.extend(be32(7, seconds));
            entry.extend(be32(8, FILLER));
            // Only the last message of a batch is acknowledged. It is refused if the table is full.
            let ack = if number == last { ACK } else { 0 };
            messages.extend(message(NEW, REQUEST | CREATE | ack, AF_INET, &entry));
        }
        match exchange(&messages) {
            // The table is full (`__nf_conntrack_alloc`). Each refused message is answered, and the answers
            // may exceed the socket's buffer.
            Err(error) if matches!(error.downcast_ref(), Some(Errno::ENOMEM | Errno::ENOBUFS)) => {
                return Ok(());
            }
            result => result.context("adding connections")?,
        }
    }
    Ok(())
}

/// Deletes the connections that [`fill`] added.
pub fn drain() -> Result<()> {
    let entry = [be32(8, FILLER), be32(21, FILLER)].concat();
    exchange(&message(DELETE, REQUEST | ACK, AF_INET, &entry))
        .context("deleting the connections that filled the table")
}

/// Sends messages and waits for the first answer. The kernel answers each message that it refuses, and the
/// one with the flag `NLM_F_ACK`.
fn exchange(messages: &[u8]) -> Result<()> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
            .context("opening a netlink socket")?;
    sendto(socket.as_raw_fd(), messages, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 8192];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // NLMSG_ERROR: a negative errno, or 0 for success.
    let code = answer.get(16..20).filter(|_| length >= 20 && answer[4..6] == 2u16.to_ne_bytes());
    match code.and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(Errno::from_raw(-code).into()),
    }
}

/// A netlink message with the header of nfnetlink (`nlmsghdr`, `nfgenmsg`).
fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port.
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend([family, 0, 0, 0]);
    message.extend(attributes);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, value)
}

fn be32(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// `CTA_TUPLE_IP` with both addresses, and `CTA_TUPLE_PROTO` with protocol (UDP) and both ports.
fn tuple(source: (u32, u16), destination: (u32, u16)) -> Vec<u8> {
    let addresses = [be32(1, source.0), be32(2, destination.0)].concat();
    let ports = [
        attribute(1, &[17]),
        attribute(2, &source.1.to_be_bytes()),
        attribute(3, &destination.1.to_be_bytes()),
    ]
    .concat();
    [nested(1, &addresses), nested(2, &ports)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::NetworkNamespace;

    #[test]
    fn the_table_is_filled_and_drained() {
        let namespace = NetworkNamespace::create("conntrack").unwrap();
        let tracked = || namespace.read_sysctl("net.netfilter.nf_conntrack_count").unwrap();
        namespace.run(|| fill(2_500, 600)).unwrap().unwrap();
        assert_eq!(tracked(), "2500");
        namespace.run(drain).unwrap().unwrap();
        assert_eq!(tracked(), "0");
        namespace.run(|| fill(10, 600)).unwrap().unwrap();
        namespace.run(flush).unwrap().unwrap();
        assert_eq!(tracked(), "0");
    }
}
