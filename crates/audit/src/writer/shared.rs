//! What the writer thread shares with the handles of the audit log.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::policy_verdicts::PolicyVerdicts;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) stopping: AtomicBool,
    /// Whether the writer must open the file again.
    pub(super) reopen: AtomicBool,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) write_errors: AtomicU64,
    failing: Mutex<Option<String>>,
    pub(super) policy_verdicts: PolicyVerdicts,
}

impl Shared {
    /// Why records can't be written. A panic while the lock was held leaves a whole value.
    pub(super) fn failing(&self) -> MutexGuard<'_, Option<String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
