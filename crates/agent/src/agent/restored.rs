//! What the agent does while its source is not wholly known: the state on disk stands in, or files were never understood.
//!
//! From: the source's updates. To: health, status and log. Invariant: an agent that knows a state on disk alone replaces none that
//! enforces and answers, since that one knows the same or more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

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

    /// Why this agent leaves enforcing to another one, which knows more; `None` if it needn't: the other one has ended, or was stopped and
    /// answers nothing. `waits_for`: what the source has not said yet.
    pub(super) fn leaves_enforcing(&mut self, waits_for: Option<String>) -> Option<String> {
        let saved = self.restored?;
        let waits_for = waits_for?;
        let in_use = Table::queues_in_use().ok().flatten()?;
        let mut bound = QueueStatistics::read().unwrap_or_default();
        bound.retain(|queue| in_use.numbers().any(|number| number == queue.number));
        bound.first()?;
        let longest = self.config.hold.time + UNANSWERED;
        if let Some(number) = self.answers.none_since(&bound, longest, Instant::now()) {
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

/// How long packets may wait in a queue of which none is answered, besides those that an agent holds until their pod is known.
const UNANSWERED: Duration = Duration::from_secs(2);

/// How far the answers of another agent's queues are: one that was stopped (SIGSTOP, a frozen cgroup) has its queues bound, and answers
/// nothing.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// By queue: how many packets were answered, and since when it is that many while others wait.
    seen: BTreeMap<u16, (u32, Instant)>,
}

impl Answers {
    /// A queue in which packets wait, and of which none was answered for `longest`.
    fn none_since(&mut self, bound: &[QueueStatistics], longest: Duration, now: Instant) -> Option<u16> {
        let before = std::mem::take(&mut self.seen);
        // Where nothing waits, there is nothing to answer.
        for queue in bound.iter().filter(|queue| queue.waiting > 0) {
            let gone = queue.waiting.wrapping_add(queue.dropped_by_socket);
            let answered = queue.last_packet.wrapping_sub(gone);
            let since = before.get(&queue.number).filter(|(before, _)| *before == answered);
            self.seen.insert(queue.number, (answered, since.map_or(now, |(_, since)| *since)));
        }
        let is_stuck = |(_, since): &(u32, Instant)| now.duration_since(*since) >= longest;
        self.seen.iter().find(|(_, seen)| is_stuck(seen)).map(|(number, _)| *number)
    }
}

/// A time as people and logs write it.
fn shown(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| format!("{time:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets that wait, that the socket dropped, and the number of the last, second by second.
    type Rows = &'static [(u32, u32, u32)];

    #[test]
    fn an_agent_answers_nothing_whose_queue_has_packets_that_wait_while_none_is_answered() {
        let start = Instant::now();
        let scenarios: [(&str, Rows, bool); 6] = [
            ("nothing waits", &[(0, 0, 7), (0, 0, 7), (0, 0, 7), (0, 0, 7)], false),
            ("it is busy", &[(3, 0, 10), (3, 0, 20), (3, 0, 30), (3, 0, 40)], false),
            ("it answered, and was stopped", &[(3, 0, 10), (2, 0, 20), (2, 0, 20), (2, 0, 20)], false),
            ("it is stopped", &[(3, 0, 10), (3, 0, 10), (3, 0, 10), (3, 0, 10)], true),
            ("more packets come to it", &[(3, 0, 10), (5, 0, 12), (5, 1, 13), (9, 4, 20)], true),
            ("the numbers begin again", &[(2, 0, u32::MAX), (5, 0, 2), (6, 0, 3), (7, 0, 4)], true),
        ];
        for (scenario, rows, expected) in scenarios {
            let mut answers = Answers::default();
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
                stuck = answers.none_since(&[queue], Duration::from_secs(3), now);
                assert!(stuck.is_none() || second == 3, "{scenario}");
            }
            assert_eq!(stuck.is_some(), expected, "{scenario}");
        }
    }
}
