//! The queues to which the queue rules send packets.

use super::config::{FailMode, OriginConfig, TableConfig};
use crate::nft::queue::Queue;
use crate::queues::QueueRange;

/// The queues to which chain `nfqueue` sends packets.
pub(super) fn queue_of(config: &TableConfig, queues: QueueRange) -> Queue {
    Queue { queues, bypass: config.fail_mode == FailMode::Open }
}

/// The queue in which packets of new ports wait.
pub(super) fn port_queue_of(config: &TableConfig, origin: &OriginConfig) -> Queue {
    queue_of(config, QueueRange { first: origin.queue, count: 1 })
}
