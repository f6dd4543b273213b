//! The writer thread, which serializes evaluations as lines.
//!
//! From: the rings of all recorders. To: the [`Destination`]. Invariant: every recorded evaluation is written
//! or counted as lost. The log reports lost records before any newer record.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use policy::{Evaluation, Generation, Labels, PolicyName, Tier, Verdict};

use crate::destination::{Destination, DestinationError, Sink};
use crate::fold::{Fold, Offered};
use crate::policy_verdicts::PolicyVerdicts;
use crate::policy_versions::PolicyVersions;
use crate::record::{
    Bypass, Connection, ConnectionEvent, Dropped, Event, Instance, LineBuffer, PolicyUpdate, PolicyVersion,
    Start, Stop,
};
use crate::recorder::{self, Recorded, Recorder, RevokedBy, Ring, Subject};

mod losses;
mod output;
mod seen_pods;
mod shared;

pub use self::output::BATCH;

use self::losses::Losses;
use self::output::Output;
use self::seen_pods::SeenPods;
use self::shared::Shared;

/// How long the writer sleeps between two polls of the rings. Recorders don't wake it: a wake-up would cost
/// the worker more than the record.
pub const POLL: Duration = Duration::from_millis(20);

/// How long [`Audit::stop`] waits for a destination that doesn't accept the last lines.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The audit log's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditConfig {
    /// The agent named in each record.
    pub instance: Instance,
    /// Where records go.
    pub destination: Destination,
    /// How many evaluations each recorder can hand over between two polls of the writer; at least 1. Each
    /// takes some 150 bytes.
    pub ring: usize,
    /// The time between two records of repeated denials of one flow. If it is zero, each has a record.
    pub fold: Duration,
}

/// The audit log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The destination can't be opened.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The system refused to start a thread.
    #[error("cannot start the audit writer's thread; check the limits on processes and memory")]
    Thread(#[source] io::Error),
}

/// The audit log's counters since its start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditCounters {
    /// Verdicts and other events that have been written, including those in folded records.
    pub written: u64,
    /// Verdicts and other events that were lost: their ring was full, or they could not be written.
    pub lost: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Why records can't be written, or not to the configured path; `None` if they can. The error of a failed
    /// write stays until a record has been written and no write has failed for a second.
    pub failing: Option<String>,
}

/// What the agent's threads send to the writer besides evaluations.
#[derive(Debug)]
enum Message {
    /// An event to record, and its time.
    Event(Timestamp, Event),
    /// The version of a policy from this generation on.
    PolicyVersion(Arc<PolicyName>, Generation, Option<Arc<PolicyVersion>>),
    /// The labels of a namespace; `None` if it is gone.
    Namespace(Arc<str>, Option<Labels>),
}

/// A running audit log. [`Audit::stop`] writes the remaining records, as does dropping it.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    new_rings: mpsc::Sender<Ring>,
    messages: mpsc::Sender<Message>,
    ring: usize,
    thread: Option<JoinHandle<()>>,
}

impl Audit {
    /// Opens the destination and starts the writer. Calls `observe` on the writer's thread with every
    /// evaluation that was not lost in a ring, for statistics.
    pub fn start(
        config: AuditConfig,
        observe: impl FnMut(&Evaluation) + Send + 'static,
    ) -> Result<Self, AuditError> {
        let sink = Sink::open(config.destination)?;
        let shared = Arc::new(Shared::default());
        let (new_rings, rings_received) = mpsc::channel();
        let (messages, messages_received) = mpsc::channel();
        let receivers = (rings_received, messages_received);
        let lines = LineBuffer::new(config.instance, BATCH + (BATCH >> 4));
        let writer =
            Writer::new(lines, sink, receivers, Arc::clone(&shared), Fold::new(config.fold), observe);
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::Thread)?;
        Ok(Self { shared, new_rings, messages, ring: config.ring.max(1), thread: Some(thread) })
    }

    /// A recorder for one more worker. Its ring is freed once the recorder is dropped and all its evaluations
    /// are written.
    pub fn recorder(&self) -> Recorder {
        let (recorder, ring) = recorder::ring(self.ring);
        // The writer lives as long as `self`. If its thread panicked, the ring fills up and counts further
        // evaluations as lost.
        let _ = self.new_rings.send(ring);
        recorder
    }

    /// Queues a record of dropped packets. It allocates, so don't call it on the packet path.
    pub fn record_dropped(&self, time: Timestamp, dropped: Dropped) {
        self.send(Message::Event(time, Event::Dropped(Box::new(dropped))));
    }

    /// Queues a record of a period in which packets could pass unevaluated.
    pub fn record_bypass(&self, time: Timestamp, bypass: Bypass) {
        self.send(Message::Event(time, Event::Bypass(Box::new(bypass))));
    }

    /// Queues a record of policies that are in force now.
    pub fn record_policies(&self, time: Timestamp, update: PolicyUpdate) {
        self.send(Message::Event(time, Event::Policy(Box::new(update))));
    }

    /// Sets the version of a policy from this generation on; `None` if it has none or is gone. Call this
    /// before the generation's snapshot is published: then all of its records have the version.
    pub fn set_policy_version(
        &self,
        name: Arc<PolicyName>,
        from: Generation,
        version: Option<Arc<PolicyVersion>>,
    ) {
        self.send(Message::PolicyVersion(name, from, version));
    }

    /// Sets the labels of a namespace, for records of its pods; `None` if it is gone.
    pub fn set_namespace(&self, name: Arc<str>, labels: Option<Labels>) {
        self.send(Message::Namespace(name, labels));
    }

    fn send(&self, message: Message) {
        // This fails only if the writer's thread panicked; then there is no log.
        let _ = self.messages.send(message);
    }

    /// A handle that reads the log's counters from any thread.
    pub fn monitor(&self) -> AuditMonitor {
        AuditMonitor { shared: Arc::clone(&self.shared) }
    }

    /// A handle that makes the writer open the file again.
    pub fn reopener(&self) -> Reopener {
        Reopener { shared: Arc::clone(&self.shared) }
    }

    /// Writes all evaluations that were recorded before this call, and ends the thread. Gives up after five
    /// seconds if the destination doesn't accept them.
    pub fn stop(mut self) -> AuditCounters {
        self.finish();
        self.monitor().counters()
    }

    fn finish(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(POLL / 10);
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!("the audit log's destination does not accept the last records: they are lost");
        }
    }
}

/// Makes the writer open the log's file again, as daemons do on SIGHUP.
#[derive(Clone, Debug)]
pub struct Reopener {
    shared: Arc<Shared>,
}

impl Reopener {
    /// Returns at once; the writer opens the file before it writes the next records, and logs that.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
    }
}

/// Reads a log's counters while it is written, and after its end.
#[derive(Clone, Debug)]
pub struct AuditMonitor {
    shared: Arc<Shared>,
}

impl AuditMonitor {
    /// The counters now.
    pub fn counters(&self) -> AuditCounters {
        AuditCounters {
            written: self.shared.written.load(Relaxed),
            lost: self.shared.lost.load(Relaxed),
            write_errors: self.shared.write_errors.load(Relaxed),
            failing: self.shared.failing().clone(),
        }
    }

    /// Verdicts by policy.
    pub fn policy_verdicts(&self) -> &PolicyVerdicts {
        &self.shared.policy_verdicts
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The state of the writer's thread. Callers pass in the time, so that tests need not wait.
struct Writer<F> {
    output: Output,
    rings: Vec<Ring>,
    new_rings: mpsc::Receiver<Ring>,
    messages: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    observe: F,
    versions: PolicyVersions,
    fold: Fold,
    pods: SeenPods,
    /// Whole lines that are not written yet.
    lines: LineBuffer,
    /// The number of the first record among them.
    first_seq: u64,
    /// How many evaluations and other events they record, other than losses, pods, starts and stops.
    records: u64,
    losses: Losses,
}

impl<F: FnMut(&Evaluation)> Writer<F> {
    fn new(
        lines: LineBuffer,
        sink: Sink,
        (new_rings, messages): (mpsc::Receiver<Ring>, mpsc::Receiver<Message>),
        shared: Arc<Shared>,
        fold: Fold,
        observe: F,
    ) -> Self {
        Self {
            output: Output::new(lines.head.clone(), sink, Arc::clone(&shared)),
            rings: Vec::new(),
            new_rings,
            messages,
            shared,
            observe,
            versions: PolicyVersions::default(),
            fold,
            pods: SeenPods::default(),
            first_seq: lines.head.next_seq(),
            lines,
            records: 0,
            losses: Losses::default(),
        }
    }

    fn run(mut self) {
        self.start(Timestamp::now());
        loop {
            // Read this before the rings, so that evaluations recorded before the stop are still written.
            let stopping = self.shared.stopping.load(Relaxed);
            self.poll(Instant::now(), Timestamp::now());
            if stopping {
                return self.stop(Instant::now(), Timestamp::now());
            }
            thread::sleep(POLL);
        }
    }

    fn start(&mut self, time: Timestamp) {
        let start = Start { version: env!("CARGO_PKG_VERSION").into(), pid: std::process::id() };
        self.event(time, Event::Start(start));
    }

    /// Records what was counted so far, and the end.
    fn stop(&mut self, now: Instant, time: Timestamp) {
        while let Some(folded) = self.fold.take_any() {
            self.folded(&folded, now, time);
        }
        self.write(now, time);
        let (recorded, lost) = (self.shared.written.load(Relaxed), self.losses.total());
        self.event(time, Event::Stop(Stop { recorded, lost }));
        self.write(now, time);
    }

    /// Reads every ring once and writes all records.
    fn poll(&mut self, now: Instant, time: Timestamp) {
        self.rings.extend(self.new_rings.try_iter());
        self.output.follow(now, false);
        self.report_lost(now, time);
        // Take no more than the rings hold now: a busy worker must not delay the records of other workers.
        // Messages that belong to these evaluations have been sent before them.
        let held: Vec<usize> = self.rings.iter().map(|ring| ring.evaluations.slots()).collect();
        while let Ok(message) = self.messages.try_recv() {
            self.receive(message);
        }
        for (ring, held) in held.into_iter().enumerate() {
            for _ in 0..held {
                let Ok(recorded) = self.rings[ring].evaluations.pop() else { break };
                self.record(recorded, now, time);
            }
        }
        while let Some(folded) = self.fold.take_due(now) {
            self.folded(&folded, now, time);
        }
        self.write(now, time);
        let losses = &mut self.losses;
        self.rings.retain(|ring| {
            // The order matters: a ring grows no more once its recorder has been dropped.
            let done = ring.evaluations.is_abandoned() && ring.evaluations.is_empty();
            if done {
                losses.free(&ring.lost);
            }
            !done
        });
        self.shared.lost.store(self.losses.total(), Relaxed);
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Event(time, event) => {
                if self.event(time, event) {
                    self.records += 1;
                }
            }
            Message::PolicyVersion(name, from, version) => self.versions.set(&name, from, version),
            Message::Namespace(name, labels) => self.pods.set_namespace(&name, labels),
        }
    }

    /// Adds a line, if there is a log.
    fn event(&mut self, time: Timestamp, event: Event) -> bool {
        let has_log = !self.output.is_off();
        if has_log {
            self.lines.push(time, event);
        }
        has_log
    }

    /// Records an evaluation.
    fn record(&mut self, recorded: Recorded, now: Instant, time: Timestamp) {
        let Recorded { evaluation, subject } = recorded;
        let mut connection = Connection::new(&evaluation, &self.versions);
        let at = Timestamp::try_from(evaluation.at).unwrap_or_default();
        let event = match subject {
            Subject::Packet => ConnectionEvent::Connection,
            Subject::Revoked(_) => ConnectionEvent::Revoked,
            Subject::Restored => ConnectionEvent::Restored,
        };
        match subject {
            Subject::Packet => {
                (self.observe)(&evaluation);
                if let Some(policy) = &connection.policy {
                    let tier = connection.tier.unwrap_or(Tier::NetworkPolicy);
                    self.shared.policy_verdicts.count(&policy.name, tier, connection.verdict);
                }
            }
            Subject::Revoked(RevokedBy::Overlay) => connection.deny_overlay(),
            Subject::Revoked(RevokedBy::Policy) | Subject::Restored => {}
        }
        if self.output.is_off() {
            return;
        }
        if subject == Subject::Packet {
            if connection.verdict == Verdict::Deny {
                let Offered { is_recorded, evicted } = self.fold.offer(at, now, &connection);
                if let Some(evicted) = evicted {
                    self.folded(&evicted, now, time);
                }
                if !is_recorded {
                    return;
                }
            }
        } else {
            connection.nanoseconds = None;
        }
        if let Some(packet) = &evaluation.packet {
            for address in [packet.source(), packet.destination()] {
                let pod = evaluation.snapshot.shared_pod(address).and_then(|pod| self.pods.name(pod));
                if let Some(pod) = pod {
                    self.lines.push(at, Event::Pod(Box::new(pod)));
                }
            }
        }
        self.lines.push_connection(at, event, &connection);
        self.added(1, now, time);
    }

    /// Records denials that were folded.
    fn folded(&mut self, denials: &Connection, now: Instant, time: Timestamp) {
        for end in [&denials.source, &denials.destination].into_iter().flatten() {
            let pod = end.pod_name().and_then(|pod| self.pods.name_again(&pod));
            if let Some(pod) = pod {
                self.lines.push(time, Event::Pod(Box::new(pod)));
            }
        }
        let at = denials.last.unwrap_or(time);
        self.lines.push_connection(at, ConnectionEvent::Connection, denials);
        self.added(denials.evaluations(), now, time);
    }

    fn added(&mut self, evaluations: u64, now: Instant, time: Timestamp) {
        self.records += evaluations;
        if self.lines.bytes.len() >= BATCH {
            self.write(now, time);
        }
    }

    fn report_lost(&mut self, now: Instant, time: Timestamp) {
        let rings = self.rings.iter().map(|ring| &*ring.lost);
        self.losses.count(rings, self.lines.head.numbers());
        if self.output.is_off() {
            return self.losses.discard();
        }
        let losses = self.losses.report();
        let lost: u64 = losses.iter().map(|lost| lost.count).sum();
        let Some(reason) = losses.last().map(|last| last.reason.sentence()) else { return };
        for lost in losses {
            self.lines.push(time, Event::Lost(lost));
        }
        if self.output.may_log(now) {
            tracing::warn!(lost, reason, "audit records lost");
        }
    }

    fn write(&mut self, now: Instant, time: Timestamp) {
        if self.lines.bytes.is_empty() {
            self.first_seq = self.lines.head.next_seq();
            return;
        }
        // A file may begin more than once during a write; it always begins with the same lines.
        let mut began: Option<Vec<u8>> = None;
        let (head, pods) = (&self.lines.head, &self.pods);
        let mut begin = |lines: &mut Vec<u8>| {
            let first = began.get_or_insert_with(|| {
                let mut first = Vec::new();
                pods.named_before().for_each(|pod| head.push(&mut first, time, Event::Pod(Box::new(pod))));
                first
            });
            lines.extend_from_slice(first);
        };
        match self.output.write(&self.lines.bytes, self.records, (now, time), &mut begin) {
            Ok(()) => {
                self.shared.written.fetch_add(self.records, Relaxed);
                self.losses.written();
                self.pods.written(began.is_some());
            }
            Err(_) => {
                self.losses.write_failed((self.first_seq, self.lines.head.next_seq() - 1), self.records);
                self.pods.write_failed();
            }
        }
        self.lines.bytes.clear();
        self.records = 0;
        self.first_seq = self.lines.head.next_seq();
    }
}

#[cfg(test)]
mod tests;
