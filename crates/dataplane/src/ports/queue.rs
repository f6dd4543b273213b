//! The queue that holds packets whose port has no bindings yet.
//!
//! From: NFQUEUE at IP's first hook, for bridged and routed ports. To: the kernel, once the port's bindings
//! are in the sets, with the verdict that the rules would have given ([`check`]). Invariant: no packet passes
//! that the rules would not accept, unless the operator allows packets of unknown pods.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nfq::{Message, Queue, Verdict};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;

use super::check::{PortState, PortVerdict, check};
use super::monitor::{MonitorWaker, PortMonitor};
use crate::drops::{DropReason, DropSample};
use crate::link::{InterfaceIndex, Mac};
use crate::marks::{Mark, Marks};
use crate::packet;
use crate::queues::QueueNumber;
use crate::worker::{Opened, WorkerError, open};

/// How many packets of one port may be held: what a starting pod sends at once.
const PORT_LIMIT: u32 = 64;

/// How many packets are received before held packets are checked again.
const BATCH: usize = 256;

/// The configuration of a [`PortQueue`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortQueueConfig {
    /// The queue's number.
    pub queue: QueueNumber,
    /// The marks by which the rules queue packets here.
    pub marks: Marks,
    /// How long a packet is held at most until its port is bound.
    pub timeout: Duration,
    /// How many packets of all ports are held at most.
    pub limit: u32,
    /// Whether packets whose port was not bound in time pass.
    pub pass_unknown: bool,
}

/// Counts of packets of new ports since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortQueueCounters {
    /// Packets received.
    pub queued: u64,
    /// Packets that were allowed once their port was bound.
    pub allowed: u64,
    /// Packets that were denied once their port was bound, because the rules would drop them.
    pub denied: u64,
    /// Packets that were allowed or denied by [`PortQueueConfig::pass_unknown`], because their port was not
    /// bound in time.
    pub expired: u64,
    /// Packets that were allowed or denied by [`PortQueueConfig::pass_unknown`] at once, because too many
    /// packets were held.
    pub over_limit: u64,
}

#[derive(Debug, Default)]
struct Counters {
    queued: AtomicU64,
    allowed: AtomicU64,
    denied: AtomicU64,
    expired: AtomicU64,
    over_limit: AtomicU64,
}

/// See the module. Dropping it gives the held packets their verdict, and ends the thread.
#[derive(Debug)]
pub struct PortQueue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    wake: EventFd,
    /// Ports whose bindings are in the kernel's sets.
    in_force: Mutex<BTreeMap<InterfaceIndex, PortState>>,
    counters: Counters,
}

impl PortQueue {
    /// Starts the thread in the calling thread's network namespace, and returns when the queue is bound. No
    /// rule may send packets to the queue before that. A packet of a port without bindings wakes `monitor`.
    /// `report` is called for each packet that is dropped, on the queue's thread.
    ///
    /// # Errors
    /// [`WorkerError`] if the queue can't be bound or set up, or the thread can't be started.
    pub fn start(
        config: PortQueueConfig,
        monitor: &PortMonitor,
        report: impl FnMut(DropSample) + Send + 'static,
    ) -> Result<Self, WorkerError> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| WorkerError::Open(errno.into()))?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            wake,
            in_force: Mutex::default(),
            counters: Counters::default(),
        });
        let length = config.limit.saturating_mul(2).max(PORT_LIMIT);
        let Opened { mut queue, socket, .. } = open(config.queue, length, false)?;
        queue.set_nonblocking(true);
        let monitor = monitor.waker();
        let held = PortHold {
            config,
            queue,
            socket,
            shared: Arc::clone(&shared),
            monitor,
            report,
            packets: VecDeque::new(),
        };
        let thread = thread::Builder::new()
            .name("port-queue".to_owned())
            .spawn(move || {
                // Signals are handled by other threads.
                let _ = SigSet::all().thread_block();
                held.run();
            })
            .map_err(|source| WorkerError::Thread { queue: config.queue, source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Checks the held packets again. Must be called with all ports after each change of the kernel's sets.
    pub fn release(&self, ports: BTreeMap<InterfaceIndex, PortState>) {
        *self.shared.in_force.lock().unwrap_or_else(PoisonError::into_inner) = ports;
        // An event counter that is full has woken the thread already.
        let _ = self.shared.wake.write(1);
    }

    /// The counts of packets so far.
    pub fn counters(&self) -> PortQueueCounters {
        let Counters { queued, allowed, denied, expired, over_limit } = &self.shared.counters;
        PortQueueCounters {
            queued: queued.load(Ordering::Relaxed),
            allowed: allowed.load(Ordering::Relaxed),
            denied: denied.load(Ordering::Relaxed),
            expired: expired.load(Ordering::Relaxed),
            over_limit: over_limit.load(Ordering::Relaxed),
        }
    }

    /// Whether the thread has ended on its own.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for PortQueue {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.shared.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed already.
            let _ = thread.join();
        }
    }
}

/// A held packet.
struct NewPortPacket {
    message: Message,
    port: InterfaceIndex,
    since: Instant,
}

struct PortHold<R> {
    config: PortQueueConfig,
    queue: Queue,
    socket: OwnedFd,
    shared: Arc<Shared>,
    monitor: MonitorWaker,
    report: R,
    /// Oldest first.
    packets: VecDeque<NewPortPacket>,
}

impl<R: FnMut(DropSample)> PortHold<R> {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            self.wait();
            if self.shared.wake.read().is_ok() {
                self.release();
            }
            self.receive();
            self.expire();
        }
        self.end();
    }

    fn wait(&self) {
        let deadline = self.packets.front().map(|held| held.since + self.config.timeout);
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up: a poll that ends early would spin.
            let pause = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX)
        });
        let mut descriptors = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted poll counts as one that ended early.
        let _ = poll(&mut descriptors, timeout);
    }

    /// Receives the queued packets, at most [`BATCH`]: a port that floods the queue must not delay other
    /// ports' packets.
    fn receive(&mut self) {
        for _ in 0..BATCH {
            match self.queue.recv() {
                Ok(message) => self.accept(message),
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => {}
                    Some(libc::EAGAIN) => return,
                    _ => {
                        tracing::error!(%error, "cannot receive packets of new ports");
                        thread::sleep(Duration::from_millis(100));
                        return;
                    }
                },
            }
        }
    }

    /// Answers a received packet, or holds it.
    fn accept(&mut self, message: Message) {
        self.shared.counters.queued.fetch_add(1, Ordering::Relaxed);
        let port = match (message.get_physindev(), message.get_indev()) {
            (0, index) | (index, _) => InterfaceIndex(index),
        };
        let Some(message) = self.answer_if_bound(message, port) else { return };
        let of_port = self.packets.iter().filter(|held| held.port == port).count();
        if of_port == 0 {
            // Once for each port with held packets: a flood must not keep the monitor busy.
            self.monitor.wake();
        }
        if of_port >= PORT_LIMIT as usize || self.packets.len() >= self.config.limit as usize {
            self.shared.counters.over_limit.fetch_add(1, Ordering::Relaxed);
            return self.answer_unbound(message, port);
        }
        self.packets.push_back(NewPortPacket { message, port, since: Instant::now() });
    }

    /// Answers a packet if its port is bound; otherwise returns it.
    fn answer_if_bound(&mut self, message: Message, port: InterfaceIndex) -> Option<Message> {
        let bytes = message.get_payload();
        let verdict = match packet::parse(bytes) {
            Ok(packet) => {
                let ports = self.shared.in_force.lock().unwrap_or_else(PoisonError::into_inner);
                check(ports.get(&port), mac_of(&message), &packet, bytes, message.get_original_len())
            }
            // A packet that can't be parsed has no source that could be bound.
            Err(_) => PortVerdict::Drop(DropReason::SpoofedSource),
        };
        match verdict {
            PortVerdict::Wait => return Some(message),
            PortVerdict::Pass => {
                self.shared.counters.allowed.fetch_add(1, Ordering::Relaxed);
                self.pass(message);
            }
            PortVerdict::Drop(reason) => {
                self.shared.counters.denied.fetch_add(1, Ordering::Relaxed);
                self.drop(message, port, reason);
            }
        }
        None
    }

    /// Checks all held packets again.
    fn release(&mut self) {
        for NewPortPacket { message, port, since } in std::mem::take(&mut self.packets) {
            if let Some(message) = self.answer_if_bound(message, port) {
                self.packets.push_back(NewPortPacket { message, port, since });
            }
        }
    }

    /// Answers the packets whose timeout has passed.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(held) = self.packets.pop_front() {
            if held.since + self.config.timeout > now {
                self.packets.push_front(held);
                return;
            }
            self.shared.counters.expired.fetch_add(1, Ordering::Relaxed);
            self.answer_unbound(held.message, held.port);
        }
    }

    /// Passes or drops a packet whose port is not bound, by [`PortQueueConfig::pass_unknown`].
    fn answer_unbound(&mut self, message: Message, port: InterfaceIndex) {
        if self.config.pass_unknown {
            self.pass(message);
        } else {
            self.drop(message, port, DropReason::UnboundPort);
        }
    }

    /// Passes a packet, without the mark by which it was queued.
    fn pass(&mut self, mut message: Message) {
        let mark = Mark(message.get_nfmark()) & !self.config.marks.queue_reason_mask();
        message.set_nfmark(mark.0);
        self.answer(message, Verdict::Accept);
    }

    fn drop(&mut self, message: Message, port: InterfaceIndex, reason: DropReason) {
        let sample = DropSample {
            reason,
            interface: port,
            mac: mac_of(&message),
            ether_type: Some(message.get_hw_protocol()),
            packet: packet::parse(message.get_payload()).ok(),
            is_by_interface: true,
        };
        self.answer(message, Verdict::Drop);
        (self.report)(sample);
    }

    fn answer(&mut self, mut message: Message, verdict: Verdict) {
        message.set_verdict(verdict);
        if let Err(error) = self.queue.verdict(message) {
            // ENOENT: the kernel had dropped it, because its device or a chain was removed.
            if error.raw_os_error() != Some(libc::ENOENT) {
                tracing::warn!(%error, "the kernel refused the verdict on a packet of a new port");
            }
        }
    }

    /// Answers the packets that are still held, which the kernel would otherwise drop. A sender that
    /// retransmits reaches the next agent.
    fn end(&mut self) {
        self.receive();
        for held in std::mem::take(&mut self.packets) {
            self.answer_unbound(held.message, held.port);
        }
        if let Err(error) = self.queue.unbind(self.config.queue.0) {
            tracing::warn!(
                queue = self.config.queue.0,
                %error,
                "cannot unbind the queue of new ports: it is free once this process ends"
            );
        }
    }
}

/// The frame's source; `None` where there is no Ethernet header.
fn mac_of(message: &Message) -> Option<Mac> {
    let bytes = message.get_hw_addr()?;
    Some(Mac(bytes.get(..6)?.try_into().ok()?))
}
