//! The thread that turns evaluations into lines.
//!
//! From: the rings of all recorders. To: the [`Destination`]. Invariant: every evaluation handed over is written or counted as
//! lost, and the log says how many were lost before it says anything newer.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use policy::Evaluation;
use serde::Serialize;

use crate::destination::{Destination, DestinationError, Sink};
use crate::record::{Bypass, Dropped, Lines, Lost, Record};
use crate::recorder::{self, Recorder, Ring};
use crate::tallies::Tallies;

mod output;

use output::Output;

/// How long the writer sleeps between two looks into the rings. Nobody wakes it: a wake-up costs the worker more than the
/// record does.
pub const POLL: Duration = Duration::from_millis(20);

/// So many bytes of lines are gathered at most before they are written.
pub const BATCH: usize = 1 << 16;

/// How long [`Audit::stop`] waits for a destination that doesn't take the last lines.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What the writer needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditConfig {
    /// The node named in each record.
    pub node: Arc<str>,
    /// Where records go.
    pub destination: Destination,
    /// How many evaluations each recorder can hand over between two looks of the writer; at least 1. Some 130 bytes each.
    pub ring: usize,
}

/// An audit log that can't begin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The destination can't be opened.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The system gives no thread.
    #[error("cannot start the audit writer's thread: {0}; look at the limits on processes and memory")]
    Thread(io::Error),
}

/// The numbers of the audit log since its start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Records written.
    pub written: u64,
    /// Records lost: their ring was full, or they could not be written.
    pub lost: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Why records can't be written, or not where they should be; `None` while all is well. A failed write stands here until a record
    /// has been written, and nothing has failed for a second.
    pub failing: Option<String>,
}

/// A line that is no verdict's.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Event {
    Dropped(Box<Dropped>),
    Bypass(Box<Bypass>),
}

/// A running audit log. [`Audit::stop`] writes what is left; dropping it does the same.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    register: mpsc::Sender<Ring>,
    events: mpsc::Sender<Event>,
    ring: usize,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    /// The file is to be opened again.
    reopen: AtomicBool,
    written: AtomicU64,
    lost: AtomicU64,
    write_errors: AtomicU64,
    failing: Mutex<Option<String>>,
    tallies: Tallies,
}

impl Audit {
    /// Opens the destination and starts the writer. `observe` sees every evaluation that was not lost in a ring, on the writer's
    /// thread: the place for statistics.
    pub fn start(
        config: AuditConfig,
        observe: impl FnMut(&Evaluation) + Send + 'static,
    ) -> Result<Self, AuditError> {
        let sink = Sink::open(config.destination)?;
        let shared = Arc::new(Shared::default());
        let (register, registered) = mpsc::channel();
        let (events, queued) = mpsc::channel();
        let writer = Writer::new(config.node, sink, (registered, queued), Arc::clone(&shared), observe);
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::Thread)?;
        Ok(Self { shared, register, events, ring: config.ring.max(1), thread: Some(thread) })
    }

    /// A recorder for one more worker. Its ring is given back once the recorder is dropped and all of it is written.
    pub fn recorder(&self) -> Recorder {
        let (recorder, ring) = recorder::ring(self.ring);
        // The writer lives as long as `self`; if its thread died, what is recorded is counted as lost by the ring.
        let _ = self.register.send(ring);
        recorder
    }

    /// Has a line written about dropped packets. Not for a packet's path: it allocates.
    pub fn record_dropped(&self, dropped: Dropped) {
        // Without a writer there is no log that could lack it.
        let _ = self.events.send(Event::Dropped(Box::new(dropped)));
    }

    /// Has a line written about a time in which packets could pass unevaluated.
    pub fn record_bypass(&self, bypass: Bypass) {
        // Likewise.
        let _ = self.events.send(Event::Bypass(Box::new(bypass)));
    }

    /// A way to look at the log from elsewhere.
    pub fn monitor(&self) -> Monitor {
        Monitor { shared: Arc::clone(&self.shared) }
    }

    /// A way to have the file opened again from elsewhere.
    pub fn reopener(&self) -> Reopener {
        Reopener { shared: Arc::clone(&self.shared) }
    }

    /// Writes what the recorders handed over before this call, and ends. Gives up on a destination that takes nothing for five
    /// seconds.
    pub fn stop(mut self) -> Counters {
        self.finish();
        self.monitor().counters()
    }

    fn finish(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return };
        let give_up = Instant::now() + STOP_PATIENCE;
        while !thread.is_finished() && Instant::now() < give_up {
            thread::sleep(POLL / 10);
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!("the audit log's destination does not take the last records: they are lost");
        }
    }
}

/// Has the log's file opened again, as daemons do on SIGHUP.
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

/// Looks at a log while it is written, and after its end.
#[derive(Clone, Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
}

impl Monitor {
    /// The numbers now.
    pub fn counters(&self) -> Counters {
        let failing = self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Counters {
            written: self.shared.written.load(Relaxed),
            lost: self.shared.lost.load(Relaxed),
            write_errors: self.shared.write_errors.load(Relaxed),
            failing,
        }
    }

    /// Verdicts by policy.
    pub fn tallies(&self) -> &Tallies {
        &self.shared.tallies
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The writer's own state. Time is passed in, so that tests need not wait.
struct Writer<F> {
    node: Arc<str>,
    output: Output,
    rings: Vec<Ring>,
    registered: mpsc::Receiver<Ring>,
    events: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
    observe: F,
    /// Whole lines, not yet written.
    lines: Lines,
    /// How many records are among them.
    records: u64,
    /// Lost in rings that are gone by now.
    lost_in_old_rings: u64,
    /// Lost because a write failed.
    lost_in_writes: u64,
    /// How many of all that were lost the log has told of.
    told: u64,
    /// What `told` becomes once `lines` are written.
    telling: u64,
}

impl<F: FnMut(&Evaluation)> Writer<F> {
    fn new(
        node: Arc<str>,
        sink: Sink,
        (registered, events): (mpsc::Receiver<Ring>, mpsc::Receiver<Event>),
        shared: Arc<Shared>,
        observe: F,
    ) -> Self {
        Self {
            output: Output::new(Arc::clone(&node), sink, Arc::clone(&shared)),
            node,
            rings: Vec::new(),
            registered,
            events,
            shared,
            observe,
            lines: Lines::with_capacity(BATCH + (BATCH >> 4)),
            records: 0,
            lost_in_old_rings: 0,
            lost_in_writes: 0,
            told: 0,
            telling: 0,
        }
    }

    fn run(mut self) {
        loop {
            // Read before the rings are: what was handed over before the stop is then still seen.
            let stopping = self.shared.stopping.load(Relaxed);
            self.round(Instant::now(), Timestamp::now());
            if stopping {
                return;
            }
            thread::sleep(POLL);
        }
    }

    /// One look into every ring, and all of it written.
    fn round(&mut self, now: Instant, time: Timestamp) {
        self.rings.extend(self.registered.try_iter());
        self.output.look_after(now, false);
        self.tell_lost(now, time);
        while let Ok(event) = self.events.try_recv() {
            if !self.output.is_off() {
                append(&mut self.lines.bytes, &event);
                self.records += 1;
            }
        }
        for ring in 0..self.rings.len() {
            // Not more than lies there now: a busy worker must not keep the others' records waiting.
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
            // In this order: after a recorder is dropped nothing is added to its ring any more.
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
            self.shared.tallies.count(policy, record.verdict);
        }
        if !self.output.is_off() {
            self.lines.push(&record);
            self.records += 1;
        }
    }

    /// All that were lost so far.
    fn lost(&self) -> u64 {
        let in_rings: u64 = self.rings.iter().map(|ring| ring.lost.load(Relaxed)).sum();
        in_rings + self.lost_in_old_rings + self.lost_in_writes
    }

    fn tell_lost(&mut self, now: Instant, time: Timestamp) {
        let lost = self.lost();
        if lost == self.told {
            return;
        }
        if self.output.is_off() {
            self.told = lost;
            return;
        }
        append(&mut self.lines.bytes, &Lost { lost: lost - self.told, time, node: Arc::clone(&self.node) });
        self.telling = lost;
        if self.output.may_complain(now) {
            tracing::warn!(
                lost = lost - self.told,
                "audit records lost: the log is slower than the verdicts"
            );
        }
    }

    fn write(&mut self, now: Instant, time: Timestamp) {
        if self.lines.bytes.is_empty() {
            return;
        }
        match self.output.write(&self.lines.bytes, self.records, (now, time)) {
            Ok(()) => {
                self.shared.written.fetch_add(self.records, Relaxed);
                self.told = self.told.max(self.telling);
            }
            Err(_) => {
                self.lost_in_writes += self.records;
                self.telling = self.told;
            }
        }
        self.lines.bytes.clear();
        self.records = 0;
    }
}

/// Adds one line.
fn append(lines: &mut Vec<u8>, value: &impl serde::Serialize) {
    let before = lines.len();
    match serde_json::to_writer(&mut *lines, value) {
        Ok(()) => lines.push(b'\n'),
        // Nothing in our types can fail to be written to memory; if it could, half a line must not stay.
        Err(_) => lines.truncate(before),
    }
}

#[cfg(test)]
mod tests;
