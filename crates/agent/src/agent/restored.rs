//! What the agent does while its source is not wholly known: the state on disk stands in, or files were never understood.
//!
//! From: the source's updates. To: health, status and log. Invariant: an agent that knows a state on disk alone replaces none that is
//! enforcing, since that one knows the same or more.

use std::path::PathBuf;
use std::time::SystemTime;

use cluster::{Connections, Watch};
use dataplane::queue_statistics::QueueStatistics;
use dataplane::table::Table;
use jiff::Timestamp;

use super::Agent;
use crate::health::Topic;

impl Agent {
    /// Takes note of how far the policy in force is the source's.
    pub(super) fn note_standing(&mut self, restored: Option<SystemTime>, never_understood: &[PathBuf]) {
        self.note_restored(restored);
        self.note_never_understood(never_understood);
    }

    /// Takes note of whether the state on disk stands in for what the source has not said yet.
    fn note_restored(&mut self, restored: Option<SystemTime>) {
        match (self.restored, restored) {
            (None, Some(saved)) => tracing::warn!(
                saved = %shown(saved),
                "policy follows the state on disk where the source does not answer or files are broken"
            ),
            (Some(_), None) => tracing::info!("policy follows the source alone again"),
            _ => {}
        }
        self.restored = restored;
        self.health.state().restored = restored;
    }

    /// Takes note of the files of which no version was ever understood: what their policies isolate may be open.
    fn note_never_understood(&self, files: &[PathBuf]) {
        let mut state = self.health.state();
        let Some(first) = files.first() else { return state.settled(Topic::Manifests) };
        let more = match files.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        state.not_ready(
            Topic::Manifests,
            format!(
                "{}{more} was never understood, so pods that policies in it isolate may be open: mend it or remove it; \
                 `kube-verdict doctor` says what is wrong",
                first.display()
            ),
        );
    }

    /// Why this agent leaves enforcing to another one, which knows more; `None` if it needn't.
    pub(super) fn leaves_enforcing(&self, watch: &Watch) -> Option<String> {
        let saved = self.restored?;
        let waits_for = watch.connections().and_then(Connections::waits_for)?;
        let in_use = Table::queues_in_use().ok().flatten()?;
        let bound = QueueStatistics::read().unwrap_or_default();
        // ANY of its queues.
        bound.iter().find(|queue| in_use.numbers().any(|number| number == queue.number))?;
        let saved = shown(saved);
        Some(format!(
            "another agent enforces on this node, and this one knows only the state of {saved}: {waits_for}"
        ))
    }
}

/// A time as people and logs write it.
fn shown(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| format!("{time:.0}"))
}
