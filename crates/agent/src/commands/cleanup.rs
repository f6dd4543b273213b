//! `kube-verdict cleanup`: takes the rules, and the marks on connections, out of the kernel.

use anyhow::bail;
use clap::Args;
use dataplane::conntrack::Conntrack;
use dataplane::marks::{Mark, Marks};
use dataplane::ports::set_link_local_learning;
use dataplane::queue_statistics::QueueStatistics;
use dataplane::sweep::clear_marks;
use dataplane::table::Table;
use serde::Serialize;

use super::Output;
use super::run::mark;
use crate::exit;
use crate::terminal::{self, text};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  After the agent was uninstalled:
    kube-verdict cleanup
  Although an agent still runs (it writes its rules anew within a second: end it first):
    kube-verdict cleanup --force

Exit codes: 0 nothing of kube-verdict is in the kernel any more, 1 something is wrong, 2 the command line is wrong.";

/// Removes kube-verdict's tables, inet and bridge, and its connection marks: neither policy nor the sources of packets are enforced on
/// this node any more, and connections that policy had cut pass again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Cleanup {
    /// Also while an agent runs.
    #[arg(long)]
    force: bool,

    /// The agent's --connection-marks.
    #[arg(long, value_name = "MASK", value_parser = mark, default_value_t = Marks::default().of_connections())]
    connection_marks: Mark,

    /// How to print what was done.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    /// Whether there were rules.
    rules_removed: bool,
    /// Connections that carried a mark.
    connections_cleared: u64,
}

impl Cleanup {
    /// Removes what is there.
    pub fn run(self) -> anyhow::Result<u8> {
        // Packets carry none when they leave the node; any other four bits do.
        let mut others = (0..8).map(|digit| Mark(0xf << (4 * digit)));
        let free = others.find(|packet| packet.0 & self.connection_marks.0 == 0);
        let marks = values::marks(free.unwrap_or(Mark(0xf)), self.connection_marks)?;
        if !self.force
            && let Some(queue) = served_queue()?
        {
            bail!("an agent serves queue {queue}, to which the rules point: end it first, or use --force");
        }
        // The rules first: while they stand, a connection without marks would be judged, and marked, again.
        let bridges = Table::bindings_in_force()?.pod_bridges;
        let rules_removed = Table::remove()?;
        for bridge in bridges {
            // One that is gone learns from nothing.
            let _ = set_link_local_learning(bridge, true);
        }
        let connections_cleared = clear_marks(&mut Conntrack::open()?, &marks)?;
        let done = Done { rules_removed, connections_cleared };
        match self.output {
            Output::Text => {
                let rules = if rules_removed { "removed the rules" } else { "there were no rules" };
                text!("{rules}; cleared the marks of {connections_cleared} connections").print()?;
            }
            Output::Json => terminal::print_json(&done)?,
        }
        Ok(exit::FINE)
    }
}

/// A queue to which the rules point and that some program serves: an agent is alive, whether or not it serves HTTP.
pub(super) fn served_queue() -> anyhow::Result<Option<u16>> {
    let Some(queues) = Table::queues_in_use()? else { return Ok(None) };
    let bound = QueueStatistics::read()?;
    Ok(queues.numbers().find(|number| bound.iter().any(|queue| queue.number == *number)))
}
