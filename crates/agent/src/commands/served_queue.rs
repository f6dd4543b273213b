//! Whether an agent serves the rules in the kernel.

use dataplane::queue_statistics::QueueStatistics;
use dataplane::queues::QueueNumber;
use dataplane::table::Table;

/// A queue of the rules that some program serves: then an agent is alive, whether or not it serves HTTP.
pub(super) fn served_queue() -> anyhow::Result<Option<QueueNumber>> {
    let Some(queues) = Table::queues_in_use()? else { return Ok(None) };
    let bound = QueueStatistics::read()?;
    Ok(queues.numbers().find(|number| bound.iter().any(|queue| queue.number == *number)))
}
