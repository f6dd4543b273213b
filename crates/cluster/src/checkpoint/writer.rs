//! The thread that writes checkpoints: always the newest, and not too often.
//!
//! From: a source. To: the state file. Invariants: a source never waits here, except for a lock that is held
//! only to swap a value. Nothing is written before policy is in force, or after another agent has taken over.
//! A change of policy is on disk within some milliseconds, unless there was one every second just before.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use super::contents::Checkpoint;
use super::file::{self, Header, WriteError};
use super::status::StateStatus;
use crate::error_chain::chain;

/// The average time from one write to the next...
const PAUSE: Duration = Duration::from_secs(1);

/// ... and how far the writes may be ahead of it, so the first changes after a while are written immediately.
const ADVANCE: Duration = Duration::from_secs(4);

/// The most bytes per second that are written because of changes of pods alone. Pods come and go all the
/// time, and each write has the whole state.
const PODS_RATE: u64 = 256 << 10;

/// The longest time between two writes of any size.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The kinds of objects that changed since the last write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum ChangeClass {
    /// Only pods.
    PodsOnly,
    /// Policies, namespaces or nodes too.
    Policy,
}

/// The handle of the writer's thread. When it is dropped, a waiting checkpoint is written.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    status: StateStatus,
    thread: Option<JoinHandle<()>>,
}

/// Controls whether a source's state may be written. It may be while the agent enforces.
#[derive(Clone, Debug)]
pub struct WritePermit(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    waiting: Option<(Checkpoint, ChangeClass)>,
    is_permitted: bool,
    ends: bool,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WritePermit {
    /// Grants or revokes the permit.
    pub fn set(&self, is_permitted: bool) {
        let mut slot = self.0.slot();
        if slot.is_permitted != is_permitted {
            slot.is_permitted = is_permitted;
            self.0.changed.notify_all();
        }
    }
}

impl Writer {
    /// Starts the thread. If that fails, nothing is written, and the status says so.
    pub(super) fn start(folder: PathBuf, header: Header, status: StateStatus) -> Self {
        let shared = Arc::new(Shared::default());
        let (theirs, said) = (Arc::clone(&shared), status.clone());
        let run = move || run(&theirs, &folder, &header, &said);
        let thread = thread::Builder::new().name("state".into()).spawn(run);
        let thread = thread.map_err(|error| {
            status.failed(format!("no thread could be started to write the state: {error}"))
        });
        Self { shared, status, thread: thread.ok() }
    }

    /// Replaces the waiting checkpoint.
    pub(crate) fn offer(&self, checkpoint: Checkpoint, change: ChangeClass) {
        let mut slot = self.shared.slot();
        let change = slot.waiting.as_ref().map_or(change, |(_, before)| change.max(*before));
        slot.waiting = Some((checkpoint, change));
        self.shared.changed.notify_all();
    }

    pub(crate) fn permit(&self) -> WritePermit {
        WritePermit(Arc::clone(&self.shared))
    }

    pub(crate) fn status(&self) -> &StateStatus {
        &self.status
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.slot().ends = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When the next write is due, as a token bucket of [`ADVANCE`] / [`PAUSE`] writes.
struct Pace {
    /// When the writes so far are paid for, at one per [`PAUSE`].
    paid: Instant,
    /// When a write because of pods alone is due.
    pods: Instant,
}

fn run(shared: &Shared, folder: &Path, header: &Header, status: &StateStatus) {
    file::tidy(folder, SystemTime::now());
    let started = Instant::now();
    let mut pace = Pace { paid: started, pods: started };
    while let Some(checkpoint) = next(shared, &pace) {
        let at = Instant::now();
        let mut pods_wait = PAUSE;
        // Written again when the next write is due, unless something newer waits.
        let again = (checkpoint.clone(), ChangeClass::Policy);
        let now = SystemTime::now();
        let mut paid = pace.paid.max(at) + PAUSE;
        match file::write(folder, header, &checkpoint, now) {
            Ok(bytes) => {
                tracing::debug!(bytes, micros = at.elapsed().as_micros(), "state written");
                status.saved(now);
                pods_wait = Duration::from_secs(bytes / PODS_RATE).clamp(PAUSE, LONGEST_PAUSE);
            }
            Err(WriteError::Yields(reason)) => status.failed(reason),
            Err(error) => {
                status.failed(failure(&error, folder));
                if matches!(error, WriteError::TooLarge) {
                    paid = Instant::now() + ADVANCE + LONGEST_PAUSE;
                }
                let mut slot = shared.slot();
                if !slot.ends {
                    slot.waiting.get_or_insert(again);
                }
            }
        }
        pace = Pace { paid, pods: at + pods_wait };
    }
}

/// The effect of a state that can't be written, and what to do.
fn failure(error: &WriteError, folder: &Path) -> String {
    let folder = folder.display();
    match error {
        WriteError::TooLarge => format!(
            "{error} and is not written to {folder}: an agent that starts while its source does not answer \
             enforces the last written state; writing is retried each minute; check whether a namespace has \
             very many pods or policies, and limit them with a ResourceQuota"
        ),
        _ => format!(
            "the state can't be written to {folder}: {}: check that this user may write there and that the \
             disk is not full",
            chain(error)
        ),
    }
}

/// Waits for the next checkpoint to write; `None` at the end.
fn next(shared: &Shared, pace: &Pace) -> Option<Checkpoint> {
    let mut slot = shared.slot();
    loop {
        let now = Instant::now();
        let policy = pace.paid.checked_sub(ADVANCE).unwrap_or(now);
        let due = match &slot.waiting {
            _ if !slot.is_permitted => None,
            None => None,
            Some((_, ChangeClass::Policy)) => Some(policy),
            Some((_, ChangeClass::PodsOnly)) => Some(policy.max(pace.pods)),
        };
        if due.is_some_and(|due| due <= now || slot.ends) {
            return slot.waiting.take().map(|(checkpoint, _)| checkpoint);
        }
        if slot.ends {
            return None;
        }
        slot = match due {
            None => shared.changed.wait(slot).unwrap_or_else(PoisonError::into_inner),
            Some(due) => {
                shared.changed.wait_timeout(slot, due - now).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}
