//! The audit log's handles. Its thread is in `thread`.
//!
//! From: the agent. To: the thread, by rings, messages and shared state. Invariant: every recorded evaluation
//! is written or counted as lost.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use policy::{Evaluation, Generation, Labels, PolicyName};

use crate::destination::{Destination, DestinationError, Sink};
use crate::fold::Fold;
use crate::policy_verdicts::PolicyVerdicts;
use crate::policy_versions::PolicyVersion;
use crate::record::{Bypass, Dropped, Event, Instance, LineBuffer, PolicyUpdate};
use crate::recorder::{self, Recorder, Ring};

mod losses;
mod message;
mod output;
mod seen_pods;
mod shared;
mod thread;

pub use self::output::BATCH;
pub use self::thread::POLL;

use self::message::Message;
use self::shared::{Failure, Shared};
use self::thread::Writer;

/// How long [`Audit::stop`] waits for a destination that doesn't accept the last lines.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A write that takes longer is reported as a failure. Its records are not lost yet, but the rings fill up.
const SLOW_WRITE: Duration = Duration::from_secs(3);

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
    /// What to do about `failing`.
    pub remedy: Option<String>,
    /// Closed files that were removed, because there were too many or because they were too large.
    pub removed_files: u64,
    /// Why closed files can't be compressed or removed; `None` if they can.
    pub upkeep_problem: Option<String>,
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
        let shared = Arc::new(Shared::new(Arc::clone(sink.upkeep())));
        let (new_rings, rings_received) = mpsc::channel();
        let (messages, messages_received) = mpsc::channel();
        let receivers = (rings_received, messages_received);
        let lines = LineBuffer::new(config.instance, BATCH + (BATCH >> 4));
        let writer =
            Writer::new(lines, sink, receivers, Arc::clone(&shared), Fold::new(config.fold), observe);
        let thread = std::thread::Builder::new()
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
            std::thread::sleep(POLL / 10);
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

    /// Verdicts by policy, and default denies by namespace.
    pub fn policy_verdicts(&self) -> &PolicyVerdicts {
        &self.shared.policy_verdicts
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.finish();
    }
}
