//! The kernel's counters of queues, and their growth.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::queues::QueueNumber;

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
    pub(super) fn grown(&mut self, now: BTreeMap<K, u64>) -> BTreeMap<K, u64> {
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
    pub(super) dropped: Counts<QueueNumber>,
    /// Packets that were queued for workers, by sender.
    pub(super) queued: Counts<IpAddr>,
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
