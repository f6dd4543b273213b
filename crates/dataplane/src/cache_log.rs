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
use policy::{Directions, Evaluation};

use crate::drops::DropSample;
use crate::error_chain::ErrorChain;
use crate::netlink::{NetlinkError, Received, Socket};
use crate::packet;
use crate::worker::HOOK_INPUT;
pub use crate::worker::SocketOwner;

mod error;
mod group;
mod history;
mod logged;
pub use error::CacheLogError;
pub use history::History;
use logged::{ETH_P_IP, ETH_P_IPV6, Logged};

/// `NFULNL_MSG_PACKET`, with `NFNL_SUBSYS_ULOG` in the high byte.
const PACKET: u16 = 4 << 8;

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

impl CacheLog {
    /// Binds `group` in the calling thread's network namespace, and returns once it is bound. No rule may log
    /// to it before that. `report` is called on the listener's thread.
    pub fn start(
        group: u16,
        history: Arc<History>,
        report: impl FnMut(LogEvent) + Send + 'static,
    ) -> Result<Self, CacheLogError> {
        let socket = group::open(group)?;
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

#[cfg(test)]
mod tests {
    use super::logged::NFULA_SEQ;
    use super::*;
    use crate::netlink::{Header, Messages, PortId};

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
