//! Binds an NFLOG group and configures it.

use std::time::Duration;

use nix::errno::Errno;

use super::error::CacheLogError;
use crate::netlink::{ACK, Attributes, Header, Messages, NetlinkError, PortId, REQUEST, Socket};
use crate::packet::COPY_LENGTH;
use crate::worker::SocketOwner;

/// `NFULNL_MSG_CONFIG`, with `NFNL_SUBSYS_ULOG` in the high byte.
const CONFIG: u16 = (4 << 8) | 1;

// Attributes of a configuration.
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_NLBUFSIZ: u16 = 3;
const NFULA_CFG_TIMEOUT: u16 = 4;
const NFULA_CFG_QTHRESH: u16 = 5;
const NFULA_CFG_FLAGS: u16 = 6;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
/// Packets are numbered: a gap shows how many did not fit the socket's buffer.
const NFULNL_CFG_F_SEQ: u16 = 1;

/// The kernel delivers packets when this many are buffered: each takes some 250 bytes of [`BUFFER`]...
const BATCH: u32 = 64;
/// ... or when the first of them has waited this long, in hundredths of a second.
const BATCH_TIMEOUT: u32 = 1;
/// The kernel's buffer for these packets, in bytes: less than the buffer of [`Socket::receive`].
const BUFFER: u32 = 32 * 1024;

/// How long the reader waits for a packet. Once it is stopped, it ends when none has come for this long.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(100);

/// Opens a socket that is bound to the group and completely configured.
pub(super) fn open(group: u16) -> Result<Socket, CacheLogError> {
    let setup = |source| CacheLogError::Setup { group, source };
    let mut socket = Socket::open().map_err(setup)?;
    socket.set_receive_timeout(RECEIVE_TIMEOUT).map_err(setup)?;
    configure(&mut socket, group, |config| {
        config.u8(NFULA_CFG_CMD, NFULNL_CFG_CMD_BIND);
    })
    .map_err(|source| match source.errno() {
        // The kernel's answer if another socket has bound the group.
        Errno::EPERM | Errno::EBUSY => match owner(group) {
            Some(owner) => CacheLogError::Taken { group, owner: owner.to_string() },
            None => setup(source),
        },
        _ => setup(source),
    })?;
    configure(&mut socket, group, |config| {
        // `struct nfulnl_msg_config_mode`: number of bytes, copy mode, padding.
        let mut mode = [0; 6];
        mode[..4].copy_from_slice(&u32::from(COPY_LENGTH).to_be_bytes());
        mode[4] = NFULNL_COPY_PACKET;
        config
            .bytes(NFULA_CFG_MODE, &mode)
            .be32(NFULA_CFG_NLBUFSIZ, BUFFER)
            .be32(NFULA_CFG_TIMEOUT, BATCH_TIMEOUT)
            .be32(NFULA_CFG_QTHRESH, BATCH)
            .be16(NFULA_CFG_FLAGS, NFULNL_CFG_F_SEQ);
    })
    .map_err(setup)?;
    Ok(socket)
}

fn configure(
    socket: &mut Socket,
    group: u16,
    fill: impl FnOnce(&mut Attributes<'_>),
) -> Result<(), NetlinkError> {
    let sequence = socket.next_sequence();
    let mut request = Messages::default();
    request.push(Header { kind: CONFIG, flags: REQUEST | ACK, sequence, family: 0 }, fill);
    request.set_resource(group);
    socket.send_and_wait(request.as_bytes(), sequence)
}

/// The owner of the group's socket, from its row `group portid waiting mode range timeout uses`.
fn owner(group: u16) -> Option<SocketOwner> {
    let rows = std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_log").ok()?;
    let port = rows.lines().map(str::split_ascii_whitespace).find_map(|mut row| {
        let is_group = row.next()?.parse() == Ok(group);
        is_group.then(|| row.next()?.parse().ok())?
    })?;
    Some(SocketOwner::of_port(PortId(port)))
}
