//! What the agent does while parts of its source are unknown: the state on disk replaces them, or files were
//! never parsed.
//!
//! From: the source's updates. To: health, status and log. Invariant: an agent that has only the state on
//! disk does not replace another agent that enforces and gives verdicts, since that one has the same policy
//! or a newer one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use dataplane::queue_statistics::QueueStatistics;
use dataplane::table::Table;
use jiff::Timestamp;

use super::Agent;
use crate::health::Condition;

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
        bound.retain(|queue| in_use.numbers().any(|number| number == queue.number));
        bound.first()?;
        let longest = self.config.hold.time + UNANSWERED;
        if let Some(number) = self.queue_progress.stuck_queue(&bound, longest, Instant::now()) {
            tracing::warn!(
                queue = number,
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

/// How long packets may wait in a queue that makes no progress, in addition to the time that an agent holds
/// packets until their pod is known.
const UNANSWERED: Duration = Duration::from_secs(2);

/// The progress of another agent's queues. An agent that is stopped (SIGSTOP, a frozen cgroup) has bound its
/// queues and gives no verdicts.
#[derive(Debug, Default)]
pub(super) struct QueueProgress {
    /// By queue: how many packets had a verdict, and since when that number has not changed while packets
    /// wait.
    seen: BTreeMap<u16, (u32, Instant)>,
}

impl QueueProgress {
    /// A queue in which packets wait and none had a verdict for at least `longest`.
    fn stuck_queue(&mut self, bound: &[QueueStatistics], longest: Duration, now: Instant) -> Option<u16> {
        let before = std::mem::take(&mut self.seen);
        // An empty queue can't make progress.
        for queue in bound.iter().filter(|queue| queue.waiting > 0) {
            let unanswered = queue.waiting.wrapping_add(queue.dropped_by_socket);
            let answered = queue.last_packet.wrapping_sub(unanswered);
            let since = before.get(&queue.number).filter(|(before, _)| *before == answered);
            self.seen.insert(queue.number, (answered, since.map_or(now, |(_, since)| *since)));
        }
        let is_stuck = |(_, since): &(u32, Instant)| now.duration_since(*since) >= longest;
        self.seen.iter().find(|(_, seen)| is_stuck(seen)).map(|(number, _)| *number)
    }
}

/// A time as it is shown in logs and messages.
fn shown(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| format!("{time:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For each second: the packets that wait, those that the socket dropped, and the number of the last
    /// packet.
    type Rows = &'static [(u32, u32, u32)];

    #[test]
    fn a_queue_is_stuck_if_packets_wait_in_it_and_none_gets_a_verdict() {
        let start = Instant::now();
        let scenarios: [(&str, Rows, bool); 6] = [
            ("nothing waits", &[(0, 0, 7), (0, 0, 7), (0, 0, 7), (0, 0, 7)], false),
            ("it is busy", &[(3, 0, 10), (3, 0, 20), (3, 0, 30), (3, 0, 40)], false),
            ("it was stopped after some verdicts", &[(3, 0, 10), (2, 0, 20), (2, 0, 20), (2, 0, 20)], false),
            ("it is stopped", &[(3, 0, 10), (3, 0, 10), (3, 0, 10), (3, 0, 10)], true),
            ("it is stopped while packets arrive", &[(3, 0, 10), (5, 0, 12), (5, 1, 13), (9, 4, 20)], true),
            ("the packet numbers wrap around", &[(2, 0, u32::MAX), (5, 0, 2), (6, 0, 3), (7, 0, 4)], true),
        ];
        for (scenario, rows, expected) in scenarios {
            let mut progress = QueueProgress::default();
            let mut stuck = None;
            for (second, (waiting, dropped_by_socket, last_packet)) in rows.iter().copied().enumerate() {
                let queue = QueueStatistics {
                    number: 100,
                    port_id: 1,
                    waiting,
                    copy_mode: 2,
                    copy_range: 128,
                    dropped_full: 0,
                    dropped_by_socket,
                    last_packet,
                };
                let now = start + Duration::from_secs(second as u64);
                stuck = progress.stuck_queue(&[queue], Duration::from_secs(3), now);
                assert!(stuck.is_none() || second == 3, "{scenario}");
            }
            assert_eq!(stuck.is_some(), expected, "{scenario}");
        }
    }
}
