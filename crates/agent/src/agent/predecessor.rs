//! The agent's predecessor, whose last verdicts and marks are evaluated again.
//!
//! From: the kernel's queues, once a second. To: a sweep of all connections. Invariant: all connections are
//! evaluated once after the predecessor's last verdict, and once after it has ended.

use dataplane::queue_statistics::QueueStatistics;
use dataplane::queues::QueueRange;

/// The agent from which this one took over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Predecessor {
    queues: QueueRange,
    /// Whether its queues have been seen empty, so that it has given verdicts on all its packets.
    has_answered: bool,
}

impl Predecessor {
    /// The agent that has bound these queues.
    pub(super) fn new(queues: QueueRange) -> Self {
        Self { queues, has_answered: false }
    }

    /// Observes the bound queues. Returns whether all connections must be evaluated again, and the
    /// predecessor if it still has to be watched.
    pub(super) fn observe(self, bound: &[QueueStatistics]) -> (bool, Option<Self>) {
        let is_its_own = |row: &&QueueStatistics| self.queues.contains(row.number);
        let mut rows = bound.iter().filter(is_its_own).peekable();
        if rows.peek().is_none() {
            return (true, None);
        }
        // ANY of its queues.
        let is_waiting = rows.any(|row| row.waiting > 0);
        let has_answered = self.has_answered || !is_waiting;
        (has_answered && !self.has_answered, Some(Self { has_answered, ..self }))
    }
}

#[cfg(test)]
mod tests {
    use dataplane::queues::QueueNumber;

    use super::*;

    #[test]
    fn all_connections_are_evaluated_after_the_predecessors_last_verdict_and_after_its_end() {
        let row = |number, waiting| QueueStatistics {
            number: QueueNumber(number),
            waiting,
            ..QueueStatistics::default()
        };
        let mut predecessor = Some(Predecessor::new(QueueRange { first: QueueNumber(100), count: 2 }));
        let mut is_due = |bound: &[QueueStatistics]| {
            let (is_due, rest) = predecessor.expect("it is watched").observe(bound);
            predecessor = rest;
            is_due
        };
        assert!(!is_due(&[row(100, 0), row(101, 3), row(200, 0)]));
        assert!(is_due(&[row(100, 0), row(101, 0), row(200, 7)]));
        assert!(!is_due(&[row(100, 0), row(101, 0)]), "once");
        assert!(is_due(&[row(200, 7)]));
        assert_eq!(predecessor, None);
    }

    #[test]
    fn a_predecessor_that_has_already_ended_is_followed_by_one_sweep() {
        assert_eq!(
            Predecessor::new(QueueRange { first: QueueNumber(100), count: 2 }).observe(&[]),
            (true, None)
        );
    }
}
