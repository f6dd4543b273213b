//! The writer's thread, which serializes evaluations and events as lines.
//!
//! From: the rings of all recorders, and messages. To: the [`Output`]. Invariant: each number of a record is
//! in the log, or in the range of a loss that the log reports. A loss is reported before any newer record.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use policy::{Evaluation, Verdict};

use super::losses::Losses;
use super::message::Message;
use super::output::{BATCH, Output};
use super::seen_pods::SeenPods;
use super::shared::Shared;
use crate::destination::{Batch, FileStart, Sink};
use crate::fold::{Fold, Offered};
use crate::policy_versions::PolicyVersions;
use crate::record::{Connection, ConnectionEvent, Event, LineBuffer, Lost, LostReason, Start, Stop};
use crate::recorder::{Recorded, RevokedBy, Ring, Subject};

/// How long the writer sleeps between two polls of the rings. Recorders don't wake it: a wake-up would cost
/// the worker more than the record.
pub const POLL: Duration = Duration::from_millis(20);

/// How long the last lines to a stream wait for its reader when the log ends. Less than the time that
/// [`Audit::stop`](super::Audit::stop) waits, so that the lines that it didn't take are counted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);

/// The state of the writer's thread. Callers pass in the time, so that tests need not wait.
pub(super) struct Writer<F> {
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
    pub(super) fn new(
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

    pub(super) fn run(mut self) {
        self.start(Timestamp::now());
        loop {
            // Read this before the rings, so that evaluations recorded before the stop are still written.
            let stopping = self.shared.stopping.load(Relaxed);
            self.poll(Instant::now(), Timestamp::now());
            if stopping {
                self.stop(Instant::now(), Timestamp::now());
                return self.drain();
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
        // A log that was removed for good is not created again only for this.
        if self.output.sink.is_missing() {
            return;
        }
        let (recorded, lost) = (self.shared.written.load(Relaxed), self.losses.total());
        self.event(time, Event::Stop(Stop { recorded, lost }));
        self.write(now, time);
    }

    /// Waits for a stream's reader, and counts what it did not take.
    fn drain(&mut self) {
        let end = Instant::now() + DRAIN_TIMEOUT;
        while self.output.sink.is_pending() && Instant::now() < end {
            thread::sleep(POLL / 10);
            self.output.flush(Instant::now());
        }
        self.output.sink.lose_pending();
        self.count_lost_in_stream();
        self.shared.lost.store(self.losses.total(), Relaxed);
    }

    /// Moves records from the written to the lost ones that a stream had accepted and its reader didn't take.
    fn count_lost_in_stream(&mut self) {
        if let Some(lost) = self.output.sink.take_lost() {
            self.losses.lost_after_write(lost);
            self.pods.lost_after_write();
            self.shared.written.fetch_sub(lost, Relaxed);
        }
    }

    /// Reads every ring once and writes all records.
    fn poll(&mut self, now: Instant, time: Timestamp) {
        self.rings.extend(self.new_rings.try_iter());
        self.output.follow(now, false);
        self.output.flush(now);
        self.count_lost_in_stream();
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
                self.shared.policy_verdicts.count(&evaluation);
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
        // After a failure, what was cut off is reported with the next lines.
        let has_news = self.output.sink.has_news() && self.shared.failing().is_none();
        if self.lines.bytes.is_empty() && !has_news {
            self.first_seq = self.lines.head.next_seq();
            return;
        }
        // A file may begin more than once during a write; it always begins with the same lines.
        let mut began: Option<Vec<u8>> = None;
        let (head, pods) = (&self.lines.head, &self.pods);
        let mut begin = |start: &FileStart, lines: &mut Vec<u8>| {
            if start.cut_lines > 0 {
                let (count, reason) = (start.cut_lines, LostReason::PartialLine);
                head.push(lines, time, Event::Lost(Lost { count, from_seq: None, to_seq: None, reason }));
            }
            let first = began.get_or_insert_with(|| {
                let mut first = Vec::new();
                pods.named_before().for_each(|pod| head.push(&mut first, time, Event::Pod(Box::new(pod))));
                first
            });
            lines.extend_from_slice(first);
        };
        let batch = Batch { lines: &self.lines.bytes, records: self.records, time };
        let written = self.output.write(&batch, now, &mut begin);
        let numbers = (self.first_seq, self.lines.head.next_seq() - 1);
        match written {
            Ok(()) => {
                self.shared.written.fetch_add(self.records, Relaxed);
                self.losses.written(numbers);
                self.pods.written(began.is_some());
            }
            Err(_) => {
                self.losses.write_failed(numbers, self.records);
                self.pods.write_failed();
            }
        }
        self.lines.bytes.clear();
        self.records = 0;
        self.first_seq = self.lines.head.next_seq();
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
