//! One queue's thread: the kernel asks about a packet, the current snapshot answers.
//!
//! From: NFQUEUE. To: the kernel as a verdict with the packet's mark, and then the recorder. Invariant: every packet that
//! is received gets exactly one verdict, under the snapshot that is current when its turn comes; nothing on the way
//! allocates, locks, or waits for anybody but the kernel.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nfq::{Message, Queue, Verdict as KernelVerdict};
use policy::{Decision, Directions, Judgement, Reader, Verdict};

use crate::marks::Mark;
use crate::packet;
use crate::queue_statistics::QueueStatistics;

mod counters;
mod error;
mod setup;
mod socket;

pub use counters::Counters;
pub(crate) use counters::SharedCounters;
pub use error::WorkerError;
pub(crate) use setup::{open, pin};
pub use socket::Owner;
pub(crate) use socket::Wake;

/// `NF_INET_LOCAL_IN`: packets to the node itself.
const HOOK_INPUT: u8 = 1;
/// A queue that is being given up counts as empty when nothing has come for this long: a packet that saw the rules before
/// they turned elsewhere is in its queue by then.
const QUIET: Duration = Duration::from_millis(10);
/// A queue that is being given up is given up at last.
const PATIENCE: Duration = Duration::from_secs(1);

/// One queue and what its packets need.
pub(crate) struct Worker<R> {
    pub(crate) queue: Queue,
    pub(crate) number: u16,
    /// The netlink port by which the kernel knows the queue's socket.
    pub(crate) port_id: u32,
    pub(crate) reader: Reader,
    /// Added to the mark of an allowed packet.
    pub(crate) verdict_mark: Mark,
    pub(crate) counters: Arc<SharedCounters>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) record: R,
}

impl<R: FnMut(Judgement)> Worker<R> {
    /// Answers the kernel until told to stop; then answers what is still queued and gives the queue up.
    pub(crate) fn run(mut self) -> Result<(), WorkerError> {
        while !self.stop.load(Ordering::Acquire) {
            match self.queue.recv() {
                Ok(message) => self.answer(message)?,
                Err(error) => self.endure(error)?,
            }
        }
        self.drain()?;
        // The kernel drops what is in a queue that is unbound: nothing is by now, or the patience is at its end.
        self.queue.unbind(self.number).map_err(|source| WorkerError::Receive { queue: self.number, source })
    }

    /// From the kernel's question to its verdict, and then the record.
    fn answer(&mut self, mut message: Message) -> Result<(), WorkerError> {
        let at = SystemTime::now();
        let pass = self.reader.enter();
        // On its way here the verdict's bit says that the packet is a reply: its connection is judged.
        let is_reply = message.get_nfmark() & self.verdict_mark.0 != 0;
        let parsed = packet::parse(message.get_payload())
            .map(|packet| if is_reply { packet.reversed() } else { packet });
        let decision = match &parsed {
            Ok(packet) => pass.judge(packet, directions(message.get_hook())),
            Err(_) => Decision::UNPARSABLE,
        };
        // A clock that is set back within these microseconds costs a record its duration, and nothing else.
        let elapsed = at.elapsed().unwrap_or_default();
        let verdict = decision.verdict();
        match verdict {
            Verdict::Allow => {
                // The verdict's mark replaces the packet's whole mark: keep all bits that it came with.
                message.set_nfmark(message.get_nfmark() | self.verdict_mark.0);
                message.set_verdict(KernelVerdict::Accept);
            }
            Verdict::Deny => message.set_verdict(KernelVerdict::Drop),
        }
        let snapshot = Arc::clone(&pass);
        // The kernel takes the packet through the rest of the hook within this call.
        let sent = self.queue.verdict(message);
        drop(pass);
        self.counters.count(verdict, parsed.is_err());
        (self.record)(Judgement { at, packet: parsed.ok(), decision, elapsed, snapshot, remembered: false });
        sent.or_else(|error| self.endure(error))
    }

    /// Takes what the socket may say beside packets. Only what can't be endured is an error.
    fn endure(&self, error: std::io::Error) -> Result<(), WorkerError> {
        match error.raw_os_error() {
            // A signal, or a call to stop: the loop looks by itself.
            Some(libc::EINTR | libc::EAGAIN) | Some(socket::WAKE) => Ok(()),
            // The kernel's answer to a verdict on a packet that it had dropped: a base chain or a device went away.
            Some(libc::ENOENT) => {
                self.counters.gone();
                Ok(())
            }
            // Too little memory for a message either way. What it cost is in the kernel's own statistics.
            Some(libc::ENOBUFS | libc::ENOMEM) => {
                self.counters.enobufs();
                Ok(())
            }
            _ => Err(WorkerError::Receive { queue: self.number, source: error }),
        }
    }

    /// Answers what is still queued. The rules have turned elsewhere before, so this comes to an end.
    fn drain(&mut self) -> Result<(), WorkerError> {
        self.queue.set_nonblocking(true);
        let started = Instant::now();
        let mut latest = started;
        loop {
            match self.queue.recv() {
                Ok(message) => {
                    self.answer(message)?;
                    latest = Instant::now();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.endure(error)?;
                    continue;
                }
            }
            if (latest.elapsed() >= QUIET && !self.is_waiting()) || started.elapsed() >= PATIENCE {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the kernel still waits for a verdict on a packet of this queue.
    fn is_waiting(&self) -> bool {
        let statistics = QueueStatistics::of(self.number).ok().flatten();
        statistics.is_some_and(|queue| queue.port_id == self.port_id && queue.waiting > 0)
    }
}

/// Which directions a packet at this hook is judged in: on its way to the node itself the sender's egress alone.
fn directions(hook: u8) -> Directions {
    if hook == HOOK_INPUT { Directions::Egress } else { Directions::Both }
}
