//! The agent's methods about full queues: how many packets were lost, and which sender filled the queues.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use dataplane::drops::{DropPlace, DropReason};
use dataplane::queue_statistics::QueueStatistics;

use super::Agent;
use crate::status::FullQueue;

/// The kernel's counters at the last reading.
#[derive(Debug)]
pub(super) struct Counts<K>(BTreeMap<K, u64>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Counts<K> {
    /// How much each counter has grown since the last call. One that has decreased was reset to zero.
    fn grown(&mut self, now: BTreeMap<K, u64>) -> BTreeMap<K, u64> {
        let before = std::mem::replace(&mut self.0, now);
        let grown = self.0.iter().map(|(key, &count)| {
            let last = before.get(key).copied().filter(|last| *last <= count).unwrap_or_default();
            (*key, count - last)
        });
        grown.collect()
    }
}

/// The counters of the queues at the last check.
#[derive(Debug, Default)]
pub(super) struct QueueCounters {
    /// Packets that were dropped before a worker could receive them, by queue.
    dropped: Counts<u16>,
    /// Packets that were queued for workers, by sender.
    queued: Counts<IpAddr>,
}

impl Agent {
    /// Reports full queues in log, status and audit log, and names the sender of most packets since the last
    /// check.
    pub(super) fn record_full_queues(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.engine(), &self.snapshot) else { return };
        let Some(queues) = self.health.state().queues else { return };
        let rows = QueueStatistics::read().unwrap_or_default();
        let ours = rows.into_iter().filter(|row| queues.numbers().any(|number| number == row.number));
        let dropped = |row: QueueStatistics| {
            (row.number, u64::from(row.dropped_full) + u64::from(row.dropped_by_socket))
        };
        let packets: u64 = self.queue_counters.dropped.grown(ours.map(dropped).collect()).values().sum();
        let queued = engine.table().asking().unwrap_or_default();
        let most = self.queue_counters.queued.grown(queued).into_iter().max_by_key(|(_, packets)| *packets);
        if packets == 0 {
            return;
        }
        let sender = most.map(|(address, _)| match snapshot.pod_at(address) {
            Some(pod) => pod.to_string(),
            None if address.is_unspecified() => "addresses outside this node's pod CIDRs".to_owned(),
            None => address.to_string(),
        });
        let (address, queued) = most.unwrap_or((Ipv4Addr::UNSPECIFIED.into(), 0));
        tracing::warn!(packets, sender = sender.as_deref(), queued, "a queue was full");
        self.origins.drops.add((DropPlace::Source(address), DropReason::QueueFull), packets);
        let mut state = self.health.state();
        let before = state.status.full_queue.take().map_or(0, |full| full.packets);
        state.status.full_queue = Some(FullQueue { packets: before + packets, sender });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_returned_once_and_a_decreased_counter_was_reset_to_zero() {
        let mut drops = Counts::default();
        let mut grown =
            |rows: &[(u16, u64)]| -> u64 { drops.grown(rows.iter().copied().collect()).values().sum() };
        assert_eq!(grown(&[(100, 0), (101, 5)]), 5);
        assert_eq!(grown(&[(100, 0), (101, 5)]), 0);
        assert_eq!(grown(&[(100, 7), (101, 6)]), 8);
        assert_eq!(grown(&[(100, 3)]), 3);
    }
}
