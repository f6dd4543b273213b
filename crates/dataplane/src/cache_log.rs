//! Records packets that the kernel decided from its caches: connections with a cached flow key, and packets
//! of cached denied flows. NFLOG delivers a copy of each such packet, which is evaluated again. Samples of
//! packets that rules dropped arrive in the same way.
//!
//! From: the chains `cached` and `denied-again`; their log prefix carries the generation in force. To: the
//! recorder. Invariant: each such connection is recorded, or counted as lost, exactly once. The same holds
//! for each packet of a denied flow that the rules' counter does not count. A record has the verdict of a
//! snapshot that could have been cached at that moment (see [`History`]).
//!
//! None of this is on the packet's path: the kernel buffers copies of packets, and a thread reads them some
//! hundredths of a second later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use policy::{Directions, Evaluation, Generation, Verdict};

use crate::drops::{DROP_PREFIX, DropReason, DropSample};
use crate::error_chain::ErrorChain;
use crate::netlink::{
    ACK, AttributeReader, Attributes, Header, Messages, NetlinkError, PortId, REQUEST, Received, Socket,
};
use crate::packet::{self, COPY_RANGE};
use crate::ports::{InterfaceIndex, Mac};
use crate::table::{DENIED_PREFIX, LOG_PREFIX};
use crate::worker::HOOK_INPUT;
pub use crate::worker::SocketOwner;

mod history;
pub use history::History;

/// `NFNL_SUBSYS_ULOG` in the high byte.
const ULOG: u16 = 4 << 8;
/// `NFULNL_MSG_PACKET`.
const PACKET: u16 = ULOG;
/// `NFULNL_MSG_CONFIG`.
const CONFIG: u16 = ULOG | 1;

// Attributes of a packet (`linux/netfilter/nfnetlink_log.h`).
const NFULA_PACKET_HDR: u16 = 1;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_IFINDEX_PHYSINDEV: u16 = 6;
const NFULA_HWADDR: u16 = 8;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_SEQ: u16 = 12;
const NFULA_VLAN: u16 = 19;
const NFULA_VLAN_PROTO: u16 = 1;

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
/// How long the reader continues at most once it is stopped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// An event of the cache log.
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// A connection that passed because its flow key is cached, or a packet that was dropped because its flow
    /// is cached as denied.
    Connection(Evaluation),
    /// A sample of the packets that rules dropped.
    Dropped(DropSample),
    /// This many packets were not read, because the reader was too slow, or could not be parsed or attributed
    /// to a snapshot.
    Lost(u64),
}

/// A listener on an NFLOG group. Dropping it reads the packets that are still buffered, and ends the
/// listener.
#[derive(Debug)]
pub struct CacheLog {
    stop: Arc<AtomicBool>,
    failure: Arc<OnceLock<CacheLogError>>,
    thread: Option<JoinHandle<()>>,
}

/// The NFLOG group can't be read, or no longer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CacheLogError {
    /// Another program has bound the group.
    #[error(
        "NFLOG group {group} is taken by {owner}: stop that program, or choose another number with \
         --nflog-group"
    )]
    Taken {
        /// The group.
        group: u16,
        /// The program, as far as it can be identified.
        owner: String,
    },
    /// The kernel refused to bind the group or to set it up.
    #[error(
        "NFLOG group {group} can't be set up (load the modules nft_log and nfnetlink_log, or start the agent \
         with --audit-log off)"
    )]
    Setup {
        /// The group.
        group: u16,
        /// What the kernel answered.
        source: NetlinkError,
    },
    /// The socket failed later.
    #[error("cannot receive from NFLOG group {group} (the agent tries to bind it again each second)")]
    Receive {
        /// The group.
        group: u16,
        /// What the kernel answered.
        source: NetlinkError,
    },
}

impl CacheLog {
    /// Binds `group` in the calling thread's network namespace, and returns once it is bound. No rule may log
    /// to it before that. `report` is called on the listener's thread.
    pub fn start(
        group: u16,
        history: Arc<History>,
        report: impl FnMut(LogEvent) + Send + 'static,
    ) -> Result<Self, CacheLogError> {
        let socket = open(group)?;
        let stop = Arc::<AtomicBool>::default();
        let failure = Arc::<OnceLock<CacheLogError>>::default();
        let reader = Reader { group, socket, history, stop: Arc::clone(&stop), next: 0, report };
        let failed = Arc::clone(&failure);
        let thread = std::thread::Builder::new()
            .name("cached".to_owned())
            .spawn(move || {
                // Signals are for other threads.
                let _ = SigSet::all().thread_block();
                if let Err(error) = reader.run() {
                    tracing::error!(
                        error = %ErrorChain(&error),
                        "connections with a cached flow key are no longer recorded"
                    );
                    let _ = failed.set(error);
                }
            })
            .map_err(|error| CacheLogError::Setup {
                group,
                source: NetlinkError::Socket {
                    call: "starting a thread",
                    errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
                },
            })?;
        Ok(Self { stop, failure, thread: Some(thread) })
    }

    /// Why the listener has ended, if it has.
    pub fn failure(&self) -> Option<&CacheLogError> {
        self.failure.get()
    }
}

impl Drop for CacheLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed already.
            let _ = thread.join();
        }
    }
}

struct Reader<R> {
    group: u16,
    socket: Socket,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    /// The expected number of the next packet.
    next: u32,
    report: R,
}

impl<R: FnMut(LogEvent)> Reader<R> {
    fn run(mut self) -> Result<(), CacheLogError> {
        let mut ending: Option<Instant> = None;
        loop {
            if ending.is_none() && self.stop.load(Ordering::Acquire) {
                ending = Some(Instant::now());
            }
            let Self { socket, history, next, report, .. } = &mut self;
            let received = socket.receive(|message| {
                if let Ok(message) = message
                    && message.kind == PACKET
                {
                    report_packet(&message, history, next, report);
                }
            });
            match received.map_err(NetlinkError::errno) {
                Ok(_) if ending.is_some_and(|since| since.elapsed() > DRAIN_TIMEOUT) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EAGAIN) if ending.is_some() => return Ok(()),
                Err(Errno::EAGAIN) => self.history.expire(Instant::now()),
                // The socket's buffer was full: the next packet's number shows how many are lost.
                Err(Errno::ENOBUFS | Errno::ENOMEM) => {}
                Err(errno) => {
                    let source = NetlinkError::Socket { call: "recv", errno };
                    return Err(CacheLogError::Receive { group: self.group, source });
                }
            }
        }
    }
}

/// Reports one packet, and how many are missing before it.
fn report_packet(
    message: &Received<'_>,
    history: &History,
    next: &mut u32,
    report: &mut impl FnMut(LogEvent),
) {
    let logged = Logged::parse(message);
    let number = logged.number.unwrap_or(*next);
    let missing = number.wrapping_sub(*next);
    *next = number.wrapping_add(1);
    if missing > 0 {
        report(LogEvent::Lost(missing.into()));
    }
    let packet = logged.payload.and_then(|bytes| packet::parse(bytes).ok());
    if let Some(reason) = logged.dropped {
        let Logged { interface, mac, ether_type, .. } = logged;
        let packet = packet.filter(|_| matches!(ether_type, None | Some(ETH_P_IP | ETH_P_IPV6)));
        let is_by_interface = i32::from(message.family) == libc::NFPROTO_BRIDGE;
        let sample = DropSample { reason, interface, mac, ether_type, packet, is_by_interface };
        return report(LogEvent::Dropped(sample));
    }
    let evaluated = packet.zip(logged.cached).and_then(|(packet, (verdict, generation))| {
        let directions = if logged.hook == Some(HOOK_INPUT) { Directions::Egress } else { Directions::Both };
        let (snapshot, decision) = history.find(verdict, generation, &packet, directions)?;
        let at = SystemTime::now();
        Some(Evaluation {
            at,
            packet: Some(packet),
            decision,
            elapsed: Duration::ZERO,
            snapshot,
            held: None,
            cached: true,
        })
    });
    report(evaluated.map_or(LogEvent::Lost(1), LogEvent::Connection));
}

/// A packet as the kernel logged it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Logged<'a> {
    number: Option<u32>,
    /// The verdict that was cached, and the generation in force.
    cached: Option<(Verdict, Generation)>,
    dropped: Option<DropReason>,
    hook: Option<u8>,
    interface: InterfaceIndex,
    mac: Option<Mac>,
    ether_type: Option<u16>,
    payload: Option<&'a [u8]>,
}

/// `ETH_P_IP` and `ETH_P_IPV6`.
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

impl<'a> Logged<'a> {
    /// Fields that are missing or can't be parsed are `None`.
    fn parse(message: &Received<'a>) -> Self {
        let mut logged = Self::default();
        for (kind, value) in AttributeReader::new(message.attributes) {
            match kind {
                NFULA_SEQ => logged.number = value.try_into().ok().map(u32::from_be_bytes),
                NFULA_PREFIX => {
                    (logged.cached, logged.dropped) = (cached(value), dropped(value));
                }
                // `struct nfulnl_msg_packet_hdr`: protocol, hook, padding.
                NFULA_PACKET_HDR => {
                    logged.ether_type = logged.ether_type.or(be16(value));
                    logged.hook = value.get(2).copied();
                }
                NFULA_VLAN => {
                    let tag = AttributeReader::new(value).find(|(kind, _)| *kind == NFULA_VLAN_PROTO);
                    logged.ether_type = tag.and_then(|(_, value)| be16(value)).or(logged.ether_type);
                }
                NFULA_IFINDEX_INDEV if logged.interface.0 == 0 => logged.interface = interface(value),
                NFULA_IFINDEX_PHYSINDEV => logged.interface = interface(value),
                // `struct nfulnl_msg_packet_hw`: length, padding, address.
                NFULA_HWADDR if be16(value) == Some(6) => {
                    logged.mac = value.get(4..10).and_then(|bytes| Some(Mac(bytes.try_into().ok()?)));
                }
                NFULA_PAYLOAD => logged.payload = Some(value),
                _ => {}
            }
        }
        logged
    }
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*value.first_chunk()?))
}

fn interface(value: &[u8]) -> InterfaceIndex {
    InterfaceIndex(value.try_into().map(u32::from_be_bytes).unwrap_or_default())
}

fn dropped(prefix: &[u8]) -> Option<DropReason> {
    let text = std::str::from_utf8(prefix.strip_suffix(&[0]).unwrap_or(prefix)).ok()?;
    DropReason::from_code(text.strip_prefix(DROP_PREFIX)?)
}

fn cached(prefix: &[u8]) -> Option<(Verdict, Generation)> {
    let text = std::str::from_utf8(prefix.strip_suffix(&[0]).unwrap_or(prefix)).ok()?;
    let text = text.strip_prefix(LOG_PREFIX)?;
    let (verdict, generation) = match text.strip_prefix(DENIED_PREFIX) {
        Some(generation) => (Verdict::Deny, generation),
        None => (Verdict::Allow, text),
    };
    Some((verdict, Generation(generation.parse().ok()?)))
}

/// Opens a socket that is bound to the group and completely configured.
fn open(group: u16) -> Result<Socket, CacheLogError> {
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
        mode[..4].copy_from_slice(&(COPY_RANGE as u32).to_be_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_carries_the_generation() {
        assert_eq!(cached(b"kube-verdict 17\0"), Some((Verdict::Allow, Generation(17))));
        assert_eq!(cached(b"kube-verdict denied 17\0"), Some((Verdict::Deny, Generation(17))));
        for other in [
            &b"kube-verdict \0"[..],
            b"kube-verdict 17 \0",
            b"kube-verdict denied\0",
            b"someone else",
            b"kube-verdict \xff",
            b"",
        ] {
            assert_eq!(cached(other), None, "{other:?}");
        }
        assert_eq!(dropped(b"kube-verdict drop spoofed-source\0"), Some(DropReason::SpoofedSource));
        assert_eq!(dropped(b"kube-verdict drop something\0"), None);
        assert_eq!(dropped(b"kube-verdict 17\0"), None);
    }

    #[test]
    fn missing_numbers_and_unreadable_packets_are_reported_as_lost() {
        let history = History::default();
        let mut next = u32::MAX;
        let mut lost = Vec::new();
        for number in [u32::MAX, 0, 3] {
            let mut message = Messages::default();
            message.push(Header { kind: PACKET, flags: 0, sequence: 0, family: 2 }, |packet| {
                packet.be32(NFULA_SEQ, number);
            });
            let attributes = &message.as_bytes()[20..];
            let message = Received { kind: PACKET, sequence: 0, port: PortId(0), family: 2, attributes };
            report_packet(&message, &history, &mut next, &mut |event| match event {
                LogEvent::Lost(number) => lost.push(number),
                event => panic!("a packet without bytes: {event:?}"),
            });
        }
        assert_eq!(lost, [1, 1, 2, 1]);
        assert_eq!(next, 4);
    }
}
