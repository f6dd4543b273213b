//! What the writer thread shares with the handles of the audit log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::destination::Upkeep;
use crate::policy_verdicts::PolicyVerdicts;

/// Why records can't be written, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    pub(super) remedy: String,
}

/// The time from which `Shared` counts.
#[derive(Debug)]
struct Started(Instant);

impl Default for Started {
    fn default() -> Self {
        Self(Instant::now())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) stopping: AtomicBool,
    /// Whether the writer must open the file again.
    pub(super) reopen: AtomicBool,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) write_errors: AtomicU64,
    failing: Mutex<Option<Failure>>,
    /// The state of the closed files.
    pub(super) upkeep: Arc<Upkeep>,
    /// When the write in progress began, in milliseconds since `started`, plus one; 0 if there is none.
    writing_since: AtomicU64,
    started: Started,
    pub(super) policy_verdicts: PolicyVerdicts,
}

impl Shared {
    /// The state of a log whose closed files have this state.
    pub(super) fn new(upkeep: Arc<Upkeep>) -> Self {
        Self { upkeep, ..Self::default() }
    }

    /// Why records can't be written. A panic while the lock was held leaves a whole value.
    pub(super) fn failing(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call this when a write begins (`true`) and ends.
    pub(super) fn set_writing(&self, is_writing: bool) {
        let since = if is_writing { self.millis().saturating_add(1) } else { 0 };
        self.writing_since.store(since, Relaxed);
    }

    /// How long the write in progress has taken; zero if there is none.
    pub(super) fn writing_for(&self) -> Duration {
        match self.writing_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.millis().saturating_sub(since - 1)),
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
