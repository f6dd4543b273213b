//! What the agent does while parts of its source are unknown: the state on disk replaces them, or files were
//! never parsed.
//!
//! From: the source's updates. To: health, status and log. Invariant: an agent that has only the state on
//! disk does not replace another agent that enforces and gives verdicts, since that one has the same policy
//! or a newer one.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use dataplane::queue_statistics::QueueStatistics;
use dataplane::table::Table;
use jiff::Timestamp;

use super::state::Agent;
use crate::health::Condition;

/// How long packets may wait in a queue that makes no progress, in addition to the time that an agent holds
/// packets until their pod is known.
const UNANSWERED: Duration = Duration::from_secs(2);

impl Agent {
    /// Reports which parts of the policy in force do not come from the source.
    pub(super) fn report_source_gaps(&mut self, restored: Option<SystemTime>, never_understood: &[PathBuf]) {
        self.report_restored(restored);
        self.report_never_understood(never_understood);
    }

    /// Reports whether the state on disk replaces parts of the source that are not known yet.
    fn report_restored(&mut self, restored: Option<SystemTime>) {
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

    /// Reports files without any version that could be parsed: pods that their policies isolate may be open.
    fn report_never_understood(&self, files: &[PathBuf]) {
        let mut state = self.health.state();
        let Some(first) = files.first() else { return state.met(Condition::Manifests) };
        let more = match files.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        state.not_ready(
            Condition::Manifests,
            format!(
                "{}{more} was never understood, so pods that policies in it isolate may be open: correct it \
                 or remove it; `kube-verdict doctor` says what is wrong",
                first.display()
            ),
        );
    }

    /// Why this agent leaves enforcing to another one; `None` if it must enforce itself, because the other
    /// agent has ended, or is stopped and gives no verdicts. `waits_for`: the part of the source that is not
    /// known yet.
    pub(super) fn defers_to_other_agent(&mut self, waits_for: Option<String>) -> Option<String> {
        let saved = self.restored?;
        let waits_for = waits_for?;
        let in_use = Table::queues_in_use().ok().flatten()?;
        let mut bound = QueueStatistics::read().unwrap_or_default();
        bound.retain(|queue| in_use.contains(queue.number));
        bound.first()?;
        let longest = self.config.hold.timeout + UNANSWERED;
        if let Some(number) = self.queue_progress.stuck_queue(&bound, longest, Instant::now()) {
            tracing::warn!(
                queue = number.0,
                "another agent has bound the queue and answers nothing: taking over from it"
            );
            return None;
        }
        let saved = shown(saved);
        Some(format!(
            "another agent enforces on this node, and this one knows only the state of {saved}: {waits_for}"
        ))
    }
}

/// A time as it is shown in logs and messages.
fn shown(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| format!("{time:.0}"))
}
