//! One queue's thread: evaluates each queued packet under the current snapshot.
//!
//! From: NFQUEUE. To: the kernel, as a verdict with the packet's mark, and then the recorder. Invariant:
//! every packet that is received gets exactly one verdict, under the snapshot that is current when the packet
//! is evaluated. Evaluating a packet does not allocate or lock, and waits only for the kernel.
//!
//! A packet whose decision is provisional is evaluated later: it is held until a newer snapshot gives a final
//! decision, or until the hold timeout. No other thread waits for it: no evaluation is in progress while it
//! is held, so it does not extend a grace period.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nfq::{Message, Queue, Verdict as KernelVerdict};
use policy::{Decision, Directions, Evaluation, Generation, Packet, Reader, Snapshot, Verdict};

use crate::marks::{DeniedFlow, Mark, Marks, QueueReason};
use crate::netlink::PortId;
use crate::packet;
use crate::queue_statistics::QueueStatistics;
use crate::queues::QueueNumber;

mod counters;
mod error;
mod hold;
mod packet_counts;
mod permits;
mod setup;
mod socket;

pub(crate) use counters::SharedCounters;
pub use counters::{Counters, HoldCounters};
pub use error::WorkerError;
pub(crate) use hold::Hold;
pub use hold::HoldLimits;
use hold::{HeldPacket, HoldOutcome};
pub use packet_counts::{FamilyClass, PacketClass, PacketCounts, ProtocolClass};
pub(crate) use permits::Permits;
pub(crate) use setup::{Opened, open, pin};
pub use socket::SocketOwner;
pub(crate) use socket::Waker;

/// `NF_INET_LOCAL_IN`: packets to the node itself.
pub(crate) const HOOK_INPUT: u8 = 1;
/// While a worker stops, its queue counts as empty once no packet has come for this long. By then, every
/// packet that the rules sent here before they switched to other queues has arrived.
const DRAIN_IDLE: Duration = Duration::from_millis(10);
/// How long a stopping worker drains its queue at most.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// One queue, and what is needed to evaluate its packets.
pub(crate) struct Worker<R> {
    pub(crate) queue: Queue,
    pub(crate) number: QueueNumber,
    /// The netlink port of the queue's socket.
    pub(crate) port_id: PortId,
    /// That socket.
    pub(crate) socket: OwnedFd,
    pub(crate) reader: Reader,
    pub(crate) marks: Marks,
    /// Whether denied packets are reinjected, so that the rules cache their flows.
    pub(crate) caches_denied: bool,
    pub(crate) hold: Hold,
    pub(crate) counters: Arc<SharedCounters>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) record: R,
}

impl<R: FnMut(Evaluation)> Worker<R> {
    /// Evaluates packets until it is stopped. Then it evaluates the packets that are still queued, and
    /// unbinds the queue.
    pub(crate) fn run(mut self) -> Result<(), WorkerError> {
        while !self.stop.load(Ordering::Acquire) {
            match self.receive() {
                Ok(message) => self.answer(message)?,
                Err(error) => self.handle_recv_error(error)?,
            }
            if !self.hold.is_empty() {
                self.reevaluate_held()?;
            }
        }
        self.drain()?;
        // The kernel drops the packets of a queue that is unbound: it is empty by now, or the timeout has
        // passed.
        self.queue.unbind(self.number.0).map_err(|source| WorkerError::Receive { queue: self.number, source })
    }

    /// Receives the next packet. While packets are held it waits only until the first of them expires.
    fn receive(&mut self) -> io::Result<Message> {
        let Some(deadline) = self.hold.first_deadline() else { return self.queue.recv() };
        self.queue.set_nonblocking(true);
        let mut received = self.queue.recv();
        if received.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            received =
                socket::wait_readable(&self.socket, deadline.saturating_duration_since(Instant::now()))
                    .and_then(|()| self.queue.recv());
        }
        self.queue.set_nonblocking(false);
        received
    }

    /// Gives a received packet its verdict, or holds it.
    fn answer(&mut self, message: Message) -> Result<(), WorkerError> {
        let at = SystemTime::now();
        let packet = packet::parse(message.get_payload()).ok();
        let is_reply = self.marks.queue_reason(mark_of(&message)) == QueueReason::EstablishedReply;
        let packet = packet.map(|packet| if is_reply { packet.reversed() } else { packet });
        let pending = PendingPacket { message, packet, since: None };
        let Evaluated::Provisional(message, packet, generation) =
            self.evaluate(at, pending, self.hold.is_open())?
        else {
            return Ok(());
        };
        match self.hold.try_hold(message, packet, generation) {
            HoldOutcome::Held => {
                self.counters.hold(self.hold.len());
                Ok(())
            }
            HoldOutcome::Repeated(mut message) => {
                self.counters.repeated();
                message.set_verdict(KernelVerdict::Drop);
                self.queue.verdict(message).or_else(|error| self.handle_recv_error(error))
            }
            HoldOutcome::OverLimit(message) => {
                self.counters.over_limit();
                let pending = PendingPacket { message, packet: Some(packet), since: None };
                self.evaluate(SystemTime::now(), pending, false).map(drop)
            }
        }
    }

    /// Evaluates held packets again: ALL of them if there is a newer snapshot, otherwise those that have
    /// expired.
    fn reevaluate_held(&mut self) -> Result<(), WorkerError> {
        // The count of held packets was written before this: either a publisher sees the count, or this
        // thread sees the published snapshot.
        let current = self.reader.enter().generation();
        let is_newer = current != self.hold.generation();
        let now = Instant::now();
        // Packets that stay go to the end of the queue, so each is evaluated once.
        for _ in 0..self.hold.len() {
            if !is_newer && self.hold.first_deadline().is_none_or(|deadline| deadline > now) {
                break;
            }
            let Some(HeldPacket { message, entry }) = self.hold.next() else { break };
            let may_wait = self.hold.deadline(&entry) > now;
            let pending = PendingPacket { message, packet: Some(entry.packet), since: Some(entry.since) };
            match self.evaluate(SystemTime::now(), pending, may_wait)? {
                Evaluated::Provisional(message, ..) => self.hold.keep(HeldPacket { message, entry }),
                Evaluated::Answered(decision) => {
                    self.hold.release(entry);
                    let verdict = (!decision.is_provisional()).then(|| decision.verdict());
                    self.counters.release(verdict, self.hold.len());
                }
            }
        }
        if is_newer {
            self.hold.set_generation(current);
        }
        Ok(())
    }

    /// Evaluates a packet, sends the verdict to the kernel, and records it. If the decision is provisional
    /// and the packet `may_wait`, the packet is returned without a verdict instead.
    #[inline]
    fn evaluate(
        &mut self,
        at: SystemTime,
        pending: PendingPacket,
        may_wait: bool,
    ) -> Result<Evaluated, WorkerError> {
        let PendingPacket { mut message, packet, since } = pending;
        let pass = self.reader.enter();
        let decision = match &packet {
            Some(packet) => {
                let directions = directions(message.get_hook());
                match self.marks.queue_reason(mark_of(&message)) {
                    // It is unknown which end opened the connection (semantics 34).
                    QueueReason::UnprovenReply => pass.evaluate_unproven(packet, directions),
                    QueueReason::First if packet.is_mid_stream => pass.evaluate_unproven(packet, directions),
                    _ => pass.evaluate(packet, directions),
                }
            }
            None => Decision::UNPARSABLE,
        };
        if may_wait
            && decision.is_provisional()
            && let Some(packet) = packet
        {
            return Ok(Evaluated::Provisional(message, packet, pass.generation()));
        }
        // If the clock is set back within these microseconds, only the record's duration is lost.
        let elapsed = at.elapsed().unwrap_or_default();
        let verdict = decision.verdict();
        match verdict {
            Verdict::Allow => {
                let (mark, kernel_verdict) = allow(&self.marks, mark_of(&message));
                message.set_nfmark(mark.0);
                message.set_verdict(kernel_verdict);
            }
            Verdict::Deny => {
                let cached = packet.filter(|_| self.caches_denied);
                let flow =
                    cached.and_then(|packet| denied_flow(&pass, &decision, &packet, &self.marks, &message));
                match flow {
                    Some(flow) => {
                        let (mark, kernel_verdict) = deny(&self.marks, mark_of(&message), flow);
                        message.set_nfmark(mark.0);
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
        self.counters.count(&decision, packet.as_ref());
        let held = since.map(|since| since.elapsed());
        (self.record)(Evaluation { at, packet, decision, elapsed, held, snapshot, cached: false });
        sent.or_else(|error| self.handle_recv_error(error))?;
        Ok(Evaluated::Answered(decision))
    }

    /// Handles an error of the socket. Only an error that ends the queue's service is returned.
    fn handle_recv_error(&self, error: std::io::Error) -> Result<(), WorkerError> {
        match error.raw_os_error() {
            // A signal, a request to stop, a newer snapshot, or a held packet that expired: the caller's loop
            // checks for each.
            Some(libc::EINTR | libc::EAGAIN) | Some(socket::WAKE) => Ok(()),
            // The kernel's answer to a verdict on a packet that it had dropped: a base chain or a device went
            // away.
            Some(libc::ENOENT) => {
                self.counters.gone();
                Ok(())
            }
            // There was no memory for a message in either direction. The kernel's own statistics count the
            // lost packets.
            Some(libc::ENOBUFS | libc::ENOMEM) => {
                self.counters.enobufs();
                Ok(())
            }
            _ => Err(WorkerError::Receive { queue: self.number, source: error }),
        }
    }

    /// Evaluates the packets that are still queued. This ends, because the rules already send packets
    /// elsewhere.
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
                    self.handle_recv_error(error)?;
                    continue;
                }
            }
            if (latest.elapsed() >= DRAIN_IDLE && !self.has_queued()) || started.elapsed() >= DRAIN_TIMEOUT {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Evaluates the held packets for the last time. Afterwards no packet is held.
    fn end_hold(&mut self) -> Result<(), WorkerError> {
        self.hold.close();
        self.reevaluate_held()
    }

    /// Whether the kernel still waits for a verdict on a packet of this queue.
    fn has_queued(&self) -> bool {
        let statistics = QueueStatistics::of(self.number).ok().flatten();
        statistics.is_some_and(|queue| queue.port_id == self.port_id && queue.waiting > 0)
    }
}

/// A packet without a verdict.
struct PendingPacket {
    message: Message,
    /// `None` if it could not be parsed.
    packet: Option<Packet>,
    /// Since when it is held; `None` if it was just received.
    since: Option<Instant>,
}

/// The packet mark with which a packet was queued.
#[inline]
fn mark_of(message: &Message) -> Mark {
    Mark(message.get_nfmark())
}

/// The answer that allows a packet with this mark: the packet's new mark, and the verdict for the kernel.
///
/// The packet is reinjected into the chain that queued it, which marks its connection. A packet for which
/// neither a connection nor a set records that it is queued continues behind that chain instead: the chain
/// would not know it again, and would queue it in a loop.
#[inline]
pub fn allow(marks: &Marks, mark: Mark) -> (Mark, KernelVerdict) {
    let others = mark & !marks.queue_reason_mask();
    match marks.queue_reason(mark) {
        QueueReason::Untracked => (others, KernelVerdict::Accept),
        _ => ((others ^ marks.verdict_bit()) | marks.agent_bits(), KernelVerdict::Repeat),
    }
}

/// The answer that denies the flow of a packet with this mark. The packet is reinjected as by [`allow`], but
/// the rules drop it once they have added its flow key to the set.
#[inline]
pub fn deny(marks: &Marks, mark: Mark, flow: DeniedFlow) -> (Mark, KernelVerdict) {
    let others = mark & !marks.queue_reason_mask();
    ((others ^ marks.verdict_bit()) | marks.agent_bits() | marks.denied(flow), KernelVerdict::Repeat)
}

/// The flow to cache for a denied packet, if this snapshot denies ALL packets of the flow. `None` if that
/// decision is provisional, or if the packet has no connection by which the rules could recognise it after it
/// is reinjected.
#[inline]
fn denied_flow(
    snapshot: &Snapshot,
    decision: &Decision,
    packet: &Packet,
    marks: &Marks,
    message: &Message,
) -> Option<DeniedFlow> {
    let is_denied = |decision: &Decision| decision.verdict() == Verdict::Deny && !decision.is_provisional();
    let is_unproven = match marks.queue_reason(mark_of(message)) {
        QueueReason::First => packet.is_mid_stream,
        QueueReason::UnprovenReply => true,
        QueueReason::UntrackedFlow => false,
        // The connection of such a packet was evaluated before, and the sweep revokes it.
        QueueReason::Established | QueueReason::EstablishedReply | QueueReason::Untracked => return None,
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

/// The result of an evaluation.
enum Evaluated {
    /// The kernel has the verdict.
    Answered(Decision),
    /// The decision is provisional under this snapshot, and the packet may wait.
    Provisional(Message, Packet, Generation),
}

/// The directions in which a packet at this hook is evaluated: for a packet to the node itself, only the
/// sender's egress.
fn directions(hook: u8) -> Directions {
    if hook == HOOK_INPUT { Directions::Egress } else { Directions::Both }
}
