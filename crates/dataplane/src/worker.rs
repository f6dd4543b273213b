//! One queue's thread: the kernel asks about a packet, the current snapshot answers.
//!
//! From: NFQUEUE. To: the kernel as a verdict with the packet's mark, and then the recorder. Invariant: every packet that
//! is received gets exactly one verdict, under the snapshot that is current when its turn comes; nothing on the way
//! allocates, locks, or waits for anybody but the kernel.
//!
//! A packet of which the snapshot is unsure has its turn later: it is held until a newer snapshot is sure, or for as long as
//! it may. Nobody waits with it: it is inside no verdict, so a grace period does not see it.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nfq::{Message, Queue, Verdict as KernelVerdict};
use policy::{Decision, Directions, Evaluation, Generation, Packet, Reader, Snapshot, Verdict};

use crate::marks::{DeniedFlow, Marks, Question as Kind};
use crate::packet;
use crate::queue_statistics::QueueStatistics;

mod counters;
mod error;
mod hold;
mod permits;
mod setup;
mod socket;

pub(crate) use counters::SharedCounters;
pub use counters::{Counters, HoldCounters};
pub use error::WorkerError;
pub(crate) use hold::Hold;
pub use hold::HoldLimits;
use hold::{Held, Offered};
pub(crate) use permits::Permits;
pub(crate) use setup::{Opened, open, pin};
pub use socket::Owner;
pub(crate) use socket::Wake;

/// `NF_INET_LOCAL_IN`: packets to the node itself.
pub(crate) const HOOK_INPUT: u8 = 1;
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
    /// That socket.
    pub(crate) socket: OwnedFd,
    pub(crate) reader: Reader,
    pub(crate) marks: Marks,
    /// Whether the rules take packets back that are denied, to cache their flows.
    pub(crate) caches_denied: bool,
    pub(crate) hold: Hold,
    pub(crate) counters: Arc<SharedCounters>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) record: R,
}

impl<R: FnMut(Evaluation)> Worker<R> {
    /// Answers the kernel until told to stop; then answers what is still queued and gives the queue up.
    pub(crate) fn run(mut self) -> Result<(), WorkerError> {
        while !self.stop.load(Ordering::Acquire) {
            match self.receive() {
                Ok(message) => self.answer(message)?,
                Err(error) => self.endure(error)?,
            }
            if !self.hold.is_empty() {
                self.look_after_held()?;
            }
        }
        self.drain()?;
        // The kernel drops what is in a queue that is unbound: nothing is by now, or the patience is at its end.
        self.queue.unbind(self.number).map_err(|source| WorkerError::Receive { queue: self.number, source })
    }

    /// The kernel's next question. While packets are held it is waited for only until the first of them is to end.
    fn receive(&mut self) -> io::Result<Message> {
        let Some(end) = self.hold.first_end() else { return self.queue.recv() };
        self.queue.set_nonblocking(true);
        let mut received = self.queue.recv();
        if received.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            received = socket::wait_readable(&self.socket, end.saturating_duration_since(Instant::now()))
                .and_then(|()| self.queue.recv());
        }
        self.queue.set_nonblocking(false);
        received
    }

    /// From the kernel's question to its verdict, or into the hold.
    fn answer(&mut self, message: Message) -> Result<(), WorkerError> {
        let at = SystemTime::now();
        let packet = packet::parse(message.get_payload()).ok();
        let is_reply = self.marks.asks(message.get_nfmark()) == Kind::EstablishedReply;
        let packet = packet.map(|packet| if is_reply { packet.reversed() } else { packet });
        let question = Question { message, packet, since: None };
        let Evaluated::Unsure(message, packet, generation) =
            self.evaluate(at, question, self.hold.is_open())?
        else {
            return Ok(());
        };
        match self.hold.offer(message, packet, generation) {
            Offered::Taken => {
                self.counters.hold(self.hold.len());
                Ok(())
            }
            Offered::Repeated(mut message) => {
                self.counters.repeated();
                message.set_verdict(KernelVerdict::Drop);
                self.queue.verdict(message).or_else(|error| self.endure(error))
            }
            Offered::NoRoom(message) => {
                self.counters.no_room();
                let question = Question { message, packet: Some(packet), since: None };
                self.evaluate(SystemTime::now(), question, false).map(drop)
            }
        }
    }

    /// Evaluates held packets anew: all of them under a snapshot that they have not seen, else those that have waited as long as
    /// they may.
    fn look_after_held(&mut self) -> Result<(), WorkerError> {
        // The count of held packets was written before this: a publisher sees it, or this sees what it published.
        let current = self.reader.enter().generation();
        let anew = current != self.hold.generation();
        let now = Instant::now();
        // Those that stay go to the end, so each is looked at once.
        for _ in 0..self.hold.len() {
            if !anew && self.hold.first_end().is_none_or(|end| end > now) {
                break;
            }
            let Some(Held { message, ticket }) = self.hold.next() else { break };
            let may_wait = self.hold.end(&ticket) > now;
            let question = Question { message, packet: Some(ticket.packet), since: Some(ticket.since) };
            match self.evaluate(SystemTime::now(), question, may_wait)? {
                Evaluated::Unsure(message, ..) => self.hold.keep(Held { message, ticket }),
                Evaluated::Told(decision) => {
                    self.hold.release(ticket);
                    let verdict = (!decision.is_provisional()).then(|| decision.verdict());
                    self.counters.release(verdict, self.hold.len());
                }
            }
        }
        if anew {
            self.hold.set_generation(current);
        }
        Ok(())
    }

    /// Evaluates a packet, tells the kernel, and then the recorder. One of which the snapshot is unsure comes back instead if it
    /// `may_wait`.
    #[inline]
    fn evaluate(
        &mut self,
        at: SystemTime,
        question: Question,
        may_wait: bool,
    ) -> Result<Evaluated, WorkerError> {
        let Question { mut message, packet, since } = question;
        let pass = self.reader.enter();
        let decision = match &packet {
            Some(packet) => {
                let directions = directions(message.get_hook());
                match self.marks.asks(message.get_nfmark()) {
                    // Who opened the connection is not known (semantics 34).
                    Kind::UnprovenReply => pass.evaluate_unproven(packet, directions),
                    Kind::First if packet.is_mid_stream => pass.evaluate_unproven(packet, directions),
                    _ => pass.evaluate(packet, directions),
                }
            }
            None => Decision::UNPARSABLE,
        };
        if may_wait
            && decision.is_provisional()
            && let Some(packet) = packet
        {
            return Ok(Evaluated::Unsure(message, packet, pass.generation()));
        }
        // A clock that is set back within these microseconds costs a record its duration, and nothing else.
        let elapsed = at.elapsed().unwrap_or_default();
        let verdict = decision.verdict();
        match verdict {
            Verdict::Allow => {
                let (mark, kernel_verdict) = allow(&self.marks, message.get_nfmark());
                message.set_nfmark(mark);
                message.set_verdict(kernel_verdict);
            }
            Verdict::Deny => {
                let cached = packet.filter(|_| self.caches_denied);
                let flow =
                    cached.and_then(|packet| denied_flow(&pass, &decision, &packet, &self.marks, &message));
                match flow {
                    Some(flow) => {
                        let (mark, kernel_verdict) = deny(&self.marks, message.get_nfmark(), flow);
                        message.set_nfmark(mark);
                        message.set_verdict(kernel_verdict);
                    }
                    None => message.set_verdict(KernelVerdict::Drop),
                }
            }
        }
        let snapshot = Arc::clone(&pass);
        // The kernel takes the packet through the rest of the hook within this call.
        let sent = self.queue.verdict(message);
        drop(pass);
        self.counters.count(verdict, packet.is_none());
        let held = since.map(|since| since.elapsed());
        (self.record)(Evaluation { at, packet, decision, elapsed, held, snapshot, cached: false });
        sent.or_else(|error| self.endure(error))?;
        Ok(Evaluated::Told(decision))
    }

    /// Takes what the socket may say beside packets. Only what can't be endured is an error.
    fn endure(&self, error: std::io::Error) -> Result<(), WorkerError> {
        match error.raw_os_error() {
            // A signal, a call to stop, a newer snapshot, or the time of a held packet is over: the loop looks by itself.
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
        self.end_hold()?;
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

    /// Evaluates what is held for the last time. From here on nothing waits.
    fn end_hold(&mut self) -> Result<(), WorkerError> {
        self.hold.close();
        self.look_after_held()
    }

    /// Whether the kernel still waits for a verdict on a packet of this queue.
    fn is_waiting(&self) -> bool {
        let statistics = QueueStatistics::of(self.number).ok().flatten();
        statistics.is_some_and(|queue| queue.port_id == self.port_id && queue.waiting > 0)
    }
}

/// A packet that the kernel asks about.
struct Question {
    message: Message,
    /// `None` if it could not be parsed.
    packet: Option<Packet>,
    /// Since when it is held; `None` if it has just come.
    since: Option<Instant>,
}

/// How the kernel is told that a packet with this mark is allowed: the mark that replaces the whole of it, and where it goes on.
///
/// Once more to the chain that asked, which marks its connection; where there is none, behind it.
#[inline]
pub fn allow(marks: &Marks, mark: u32) -> (u32, KernelVerdict) {
    let others = mark & !marks.questions().0;
    match marks.asks(mark) {
        Kind::Untracked => (others, KernelVerdict::Accept),
        _ => ((others ^ marks.answer().0) | marks.turn().0, KernelVerdict::Repeat),
    }
}

/// The answer that denies the flow of a packet with this mark: as [`allow`], but the rules drop the packet once they have added its flow
/// key to the set.
#[inline]
pub fn deny(marks: &Marks, mark: u32, flow: DeniedFlow) -> (u32, KernelVerdict) {
    let others = mark & !marks.questions().0;
    ((others ^ marks.answer().0) | marks.turn().0 | marks.denied(flow).0, KernelVerdict::Repeat)
}

/// The flow of a denied packet all of whose packets this snapshot denies; `None` if it is not sure of that, or if the packet has no
/// connection by which the rules could tell that it was answered.
#[inline]
fn denied_flow(
    snapshot: &Snapshot,
    decision: &Decision,
    packet: &Packet,
    marks: &Marks,
    message: &Message,
) -> Option<DeniedFlow> {
    let is_denied = |decision: &Decision| decision.verdict() == Verdict::Deny && !decision.is_provisional();
    let is_unproven = match marks.asks(message.get_nfmark()) {
        Kind::First => packet.is_mid_stream,
        Kind::UnprovenReply => true,
        Kind::UntrackedFlow => false,
        // The connection of such a packet was evaluated before, and the sweep revokes it.
        Kind::Established | Kind::EstablishedReply | Kind::Untracked => return None,
    };
    if !is_unproven {
        return is_denied(decision).then_some(DeniedFlow::Forward);
    }
    let directions = directions(message.get_hook());
    if is_denied(&snapshot.evaluate(packet, directions)) {
        return Some(DeniedFlow::Forward);
    }
    let reversed = || snapshot.evaluate(&packet.reversed(), directions);
    (directions == Directions::Both && is_denied(&reversed())).then_some(DeniedFlow::Reverse)
}

/// What came of a question.
enum Evaluated {
    /// The kernel has its verdict.
    Told(Decision),
    /// This snapshot is unsure, and the packet is to wait.
    Unsure(Message, Packet, Generation),
}

/// Which directions a packet at this hook is evaluated in: on its way to the node itself the sender's egress alone.
fn directions(hook: u8) -> Directions {
    if hook == HOOK_INPUT { Directions::Egress } else { Directions::Both }
}
