//! The agent's methods about full queues: how many packets were lost, and which sender filled the queues.

use std::net::Ipv4Addr;

use dataplane::drops::{DropOrigin, DropReason};
use dataplane::queue_statistics::QueueStatistics;

use super::state::Agent;
use crate::status::FullQueue;

impl Agent {
    /// Reports full queues in log, status and audit log, and names the sender of most packets since the last
    /// check.
    pub(super) fn record_full_queues(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.engine(), &self.snapshot) else { return };
        let Some(queues) = self.health.state().queues else { return };
        let rows = QueueStatistics::read().unwrap_or_default();
        let ours = rows.into_iter().filter(|row| queues.contains(row.number));
        let dropped = |row: QueueStatistics| {
            (row.number, u64::from(row.dropped_full) + u64::from(row.dropped_by_socket))
        };
        let packets: u64 = self.queue_counters.dropped.grown(ours.map(dropped).collect()).values().sum();
        let queued = engine.table().queued_by_sender().unwrap_or_default();
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
        self.origins.drops.add((DropOrigin::Source(address), DropReason::QueueFull), packets);
        let mut state = self.health.state();
        let before = state.status.full_queue.take().map_or(0, |full| full.packets);
        state.status.full_queue = Some(FullQueue { packets: before + packets, sender });
    }
}
