//! The progress of another agent's queues.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dataplane::queue_statistics::QueueStatistics;
use dataplane::queues::QueueNumber;

/// The progress of another agent's queues. An agent that is stopped (SIGSTOP, a frozen cgroup) has bound its
/// queues and gives no verdicts.
#[derive(Debug, Default)]
pub(super) struct QueueProgress {
    /// By queue: how many packets had a verdict, and since when that number has not changed while packets
    /// wait.
    seen: BTreeMap<QueueNumber, (u32, Instant)>,
}

impl QueueProgress {
    /// A queue in which packets wait and none had a verdict for at least `longest`.
    pub(super) fn stuck_queue(
        &mut self,
        bound: &[QueueStatistics],
        longest: Duration,
        now: Instant,
    ) -> Option<QueueNumber> {
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
                    number: QueueNumber(100),
                    port_id: dataplane::netlink::PortId(1),
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
