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
use policy::{Evaluation, Tier};
use serde::Serialize;

use crate::destination::{Batch, Destination, DestinationError, FileStart, Sink};
use crate::policy_verdicts::PolicyVerdicts;
use crate::record::{Bypass, Dropped, LineBuffer, Lost, Record};
use crate::recorder::{self, Recorder, Ring};

mod json_line;
mod output;
mod shared;

pub use self::output::BATCH;

use self::json_line::append;
use self::output::Output;
use self::shared::{Failure, Shared};

/// How long the writer sleeps between two polls of the rings. Recorders don't wake it: a wake-up would cost
/// the worker more than the record.
pub const POLL: Duration = Duration::from_millis(20);

/// How long [`Audit::stop`] waits for a destination that doesn't accept the last lines.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last lines to a stream wait for its reader when the log ends. Less than [`STOP_TIMEOUT`], so
/// that the lines that it didn't take are counted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);

/// A write that takes longer is reported as a failure. Its records are not lost yet, but the rings fill up.
const SLOW_WRITE: Duration = Duration::from_secs(3);

/// The audit log's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditConfig {
    /// The node named in each record.
    pub node: Arc<str>,
    /// Where records go.
    pub destination: Destination,
    /// How many evaluations each recorder can hand over between two polls of the writer; at least 1. Each
    /// takes some 130 bytes.
    pub ring: usize,
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
    /// Records written.
    pub written: u64,
    /// Records lost: their ring was full, or they could not be written.
    pub lost: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Why records can't be written, or not to the configured path; `None` if they can. The error of a failed
    /// write stays until a record has been written and no write has failed for a second.
    pub failing: Option<String>,
    /// What to do about `failing`.
    pub remedy: Option<String>,
    /// Closed files that were removed, because there were too many or because they were too large.
    pub removed_files: u64,
    /// Why closed files can't be compressed or removed; `None` if they can.
    pub upkeep_problem: Option<String>,
}

/// A line that is not a verdict.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Event {
    Dropped(Box<Dropped>),
    Bypass(Box<Bypass>),
}

/// A running audit log. [`Audit::stop`] writes the remaining records, as does dropping it.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    new_rings: mpsc::Sender<Ring>,
    events: mpsc::Sender<Event>,
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
        let shared = Arc::new(Shared::new(Arc::clone(sink.upkeep())));
        let (new_rings, rings_received) = mpsc::channel();
        let (events, events_received) = mpsc::channel();
        let receivers = (rings_received, events_received);
        let writer = Writer::new(config.node, sink, receivers, Arc::clone(&shared), observe);
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::Thread)?;
        Ok(Self { shared, new_rings, events, ring: config.ring.max(1), thread: Some(thread) })
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

    /// Queues a line about dropped packets. It allocates, so don't call it on the packet path.
    pub fn record_dropped(&self, dropped: Dropped) {
        // This fails only if the writer's thread panicked; then there is no log.
        let _ = self.events.send(Event::Dropped(Box::new(dropped)));
    }

    /// Queues a line about a period in which packets could pass unevaluated.
    pub fn record_bypass(&self, bypass: Bypass) {
        // This fails only if the writer's thread panicked; then there is no log.
        let _ = self.events.send(Event::Bypass(Box::new(bypass)));
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
        let (failing, remedy) = match (self.shared.failing().clone(), self.shared.writing_for()) {
            (Some(Failure { why, remedy }), _) => (Some(why), Some(remedy)),
            (None, time) if time >= SLOW_WRITE => {
                let why = format!("a write has not ended for {} s", time.as_secs());
                (Some(why), Some("check the disk, or the server of the file system".to_owned()))
            }
            (None, _) => (None, None),
        };
        AuditCounters {
            written: self.shared.written.load(Relaxed),
            lost: self.shared.lost.load(Relaxed),
            write_errors: self.shared.write_errors.load(Relaxed),
            failing,
            remedy,
            removed_files: self.shared.upkeep.removed(),
            upkeep_problem: self.shared.upkeep.problem(),
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
    node: Arc<str>,
    output: Output,
    rings: Vec<Ring>,
    new_rings: mpsc::Receiver<Ring>,
    events: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
    observe: F,
    /// Whole lines that are not written yet.
    lines: LineBuffer,
    /// How many records are among them.
    records: u64,
    /// How many were lost in rings that have been freed.
    lost_in_old_rings: u64,
    /// How many were lost because a write failed.
    lost_in_writes: u64,
    /// How many lost records the written [`Lost`] lines report.
    reported: u64,
    /// The value of `reported` once `lines` are written.
    reported_after_write: u64,
    /// The value of `reported` before the last successful write, which a stream may still lose.
    reported_before_write: u64,
}

impl<F: FnMut(&Evaluation)> Writer<F> {
    fn new(
        node: Arc<str>,
        sink: Sink,
        (new_rings, events): (mpsc::Receiver<Ring>, mpsc::Receiver<Event>),
        shared: Arc<Shared>,
        observe: F,
    ) -> Self {
        Self {
            output: Output::new(Arc::clone(&node), sink, Arc::clone(&shared)),
            node,
            rings: Vec::new(),
            new_rings,
            events,
            shared,
            observe,
            lines: LineBuffer::with_capacity(BATCH + (BATCH >> 4)),
            records: 0,
            lost_in_old_rings: 0,
            lost_in_writes: 0,
            reported: 0,
            reported_after_write: 0,
            reported_before_write: 0,
        }
    }

    fn run(mut self) {
        loop {
            // Read this before the rings, so that evaluations recorded before the stop are still written.
            let stopping = self.shared.stopping.load(Relaxed);
            self.poll(Instant::now(), Timestamp::now());
            if stopping {
                return self.drain();
            }
            thread::sleep(POLL);
        }
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
        self.shared.lost.store(self.lost(), Relaxed);
    }

    /// Moves records from the written to the lost ones that a stream had accepted and its reader didn't take.
    fn count_lost_in_stream(&mut self) {
        if let Some(lost) = self.output.sink.take_lost() {
            self.lost_in_writes += lost;
            self.shared.written.fetch_sub(lost, Relaxed);
            self.reported = self.reported_before_write;
        }
    }

    /// Reads every ring once and writes all records.
    fn poll(&mut self, now: Instant, time: Timestamp) {
        self.rings.extend(self.new_rings.try_iter());
        self.output.follow(now, false);
        self.output.flush(now);
        self.count_lost_in_stream();
        self.report_lost(now, time);
        while let Ok(event) = self.events.try_recv() {
            if !self.output.is_off() {
                append(&mut self.lines.bytes, &event);
                self.records += 1;
            }
        }
        for ring in 0..self.rings.len() {
            // Take no more than the ring holds now: a busy worker must not delay the records of other
            // workers.
            for _ in 0..self.rings[ring].evaluations.slots() {
                let Ok(evaluation) = self.rings[ring].evaluations.pop() else { break };
                self.line(&evaluation);
                if self.lines.bytes.len() >= BATCH {
                    self.write(now, time);
                }
            }
        }
        self.write(now, time);
        let lost_in_old_rings = &mut self.lost_in_old_rings;
        self.rings.retain(|ring| {
            // The order matters: a ring grows no more once its recorder has been dropped.
            let done = ring.evaluations.is_abandoned() && ring.evaluations.is_empty();
            if done {
                *lost_in_old_rings += ring.lost.load(Relaxed);
            }
            !done
        });
        self.shared.lost.store(self.lost(), Relaxed);
    }

    fn line(&mut self, evaluation: &Evaluation) {
        (self.observe)(evaluation);
        let record = Record::new(&self.node, evaluation);
        if let Some(policy) = &record.policy {
            let tier = record.tier.unwrap_or(Tier::NetworkPolicy);
            self.shared.policy_verdicts.count(policy, tier, record.verdict);
        }
        if !self.output.is_off() {
            self.lines.push(&record);
            self.records += 1;
        }
    }

    /// The number of all records lost so far.
    fn lost(&self) -> u64 {
        let in_rings: u64 = self.rings.iter().map(|ring| ring.lost.load(Relaxed)).sum();
        in_rings + self.lost_in_old_rings + self.lost_in_writes
    }

    fn report_lost(&mut self, now: Instant, time: Timestamp) {
        let lost = self.lost();
        if lost == self.reported {
            return;
        }
        if self.output.is_off() {
            self.reported = lost;
            return;
        }
        append(
            &mut self.lines.bytes,
            &Lost { lost: lost - self.reported, time, node: Arc::clone(&self.node) },
        );
        self.reported_after_write = lost;
        if self.output.may_log(now) {
            tracing::warn!(
                lost = lost - self.reported,
                "audit records lost: the log is slower than the verdicts"
            );
        }
    }

    fn write(&mut self, now: Instant, time: Timestamp) {
        // After a failure, what was cut off is reported with the next lines.
        let has_news = self.output.sink.has_news() && self.shared.failing().is_none();
        if self.lines.bytes.is_empty() && !has_news {
            return;
        }
        let batch = Batch { lines: &self.lines.bytes, records: self.records, time };
        let node = &self.node;
        let written = self.output.write(&batch, now, &mut |start: &FileStart, lines: &mut Vec<u8>| {
            if start.cut_lines > 0 {
                append(lines, &Lost { lost: start.cut_lines, time, node: Arc::clone(node) });
            }
        });
        match written {
            Ok(()) => {
                self.shared.written.fetch_add(self.records, Relaxed);
                self.reported_before_write = self.reported;
                self.reported = self.reported.max(self.reported_after_write);
            }
            Err(_) => {
                self.lost_in_writes += self.records;
                self.reported_after_write = self.reported;
            }
        }
        self.lines.bytes.clear();
        self.records = 0;
    }
}

#[cfg(test)]
mod tests;
