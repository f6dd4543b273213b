//! The state of a log's closed files, which the writer and the compressor update and the status reports.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// What is done with closed files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Task {
    Compress,
    Remove,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    removed: AtomicU64,
    has_logged_removal: AtomicBool,
    /// Why each task failed when it was last tried: compressing, removing.
    problems: Mutex<[Option<String>; 2]>,
}

impl Upkeep {
    /// How many closed files were removed, because there were too many or because they were too large.
    pub(crate) fn removed(&self) -> u64 {
        self.removed.load(Relaxed)
    }

    /// Why closed files can't be compressed or removed; `None` if they can.
    pub(crate) fn problem(&self) -> Option<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let [compress, remove] = &*problems;
        let remove = remove.as_ref().map(|why| format!("the oldest closed files can't be removed: {why}"));
        remove.or_else(|| compress.as_ref().map(|why| format!("closed files can't be compressed: {why}")))
    }

    /// Counts files that were removed, and logs the first removal because of the size.
    pub(super) fn count_removed(&self, by_count: usize, by_size: usize) {
        self.removed.fetch_add((by_count + by_size) as u64, Relaxed);
        if by_size > 0 && !self.has_logged_removal.swap(true, Relaxed) {
            tracing::warn!(
                files = by_size,
                "the oldest audit files are removed to stay below --audit-total-size; this is logged once, \
                 and `kube-verdict status` counts them"
            );
        }
    }

    /// Sets or clears a task's problem, and logs when it begins and ends.
    pub(super) fn set_problem(&self, task: Task, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut problems[task as usize];
        match (&problem, &*known) {
            (Some(error), None) => tracing::warn!(?task, %error, "closed audit files can't be maintained"),
            (None, Some(_)) => tracing::info!(?task, "closed audit files can be maintained again"),
            _ => {}
        }
        *known = problem;
    }
}
