//! The status of the state on disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The status of the state on disk, shared between the source and its consumer.
#[derive(Clone, Debug)]
pub struct StateStatus {
    pub(super) shared: Arc<Mutex<Shown>>,
}

/// A snapshot of the status of the state on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// When the state was last written; `None` if there is none.
    pub saved: Option<SystemTime>,
    /// Why it can't be read or written, and what to do.
    pub error: Option<String>,
}

impl StateStatus {
    /// The current status.
    pub fn now(&self) -> Shown {
        self.lock().clone()
    }

    pub(crate) fn saved(&self, at: SystemTime) {
        let mut shown = self.lock();
        shown.saved = Some(at);
        if shown.error.take().is_some() {
            tracing::info!("state on disk is current again");
        }
    }

    pub(crate) fn failed(&self, error: String) {
        let mut shown = self.lock();
        if shown.error.as_ref() != Some(&error) {
            tracing::warn!(
                error,
                "state on disk is not current; an agent that starts without its source lacks recent changes"
            );
            shown.error = Some(error);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
