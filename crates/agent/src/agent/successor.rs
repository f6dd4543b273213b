//! The agent's methods about its successor: another agent that has taken over, or `kube-verdict cleanup`,
//! which has removed the rules.
//!
//! From: the rules in the kernel, once a second. To: status and log. Invariant: nothing in the kernel is
//! changed here.

use dataplane::queue_statistics::QueueStatistics;
use dataplane::table::{Table, TableError};

use super::Agent;
use crate::error_chain::chain;
use crate::health::Condition;
use crate::status::Successor;

impl Agent {
    /// Reports the successor of a superseded agent.
    pub(super) fn report_successor(&self) {
        if !self.phase.is_superseded() {
            return;
        }
        let mut state = self.health.state();
        match find_successor() {
            Ok((successor, reason)) => {
                state.status.successor = Some(successor);
                state.not_ready(Condition::NotSuperseded, reason);
            }
            Err(error) => {
                tracing::debug!(
                    error = %chain(&error),
                    "cannot read the rules of the agent that has taken over"
                );
                if !state.is_not_ready(Condition::NotSuperseded) {
                    state.not_ready(
                        Condition::NotSuperseded,
                        "superseded: another agent has taken over on this node; this one can be ended",
                    );
                }
            }
        }
    }
}

/// The successor, and the reason why this agent isn't ready.
fn find_successor() -> Result<(Successor, String), TableError> {
    let Some(queues) = Table::queues_in_use()?.filter(|_| !Table::is_retired().unwrap_or_default()) else {
        let reason = "superseded: the rules were removed from this node, as `kube-verdict cleanup` does, and \
                      nothing is enforced: end this agent, or restart it to enforce policy";
        return Ok((Successor::RulesRemoved, reason.to_owned()));
    };
    let bound = QueueStatistics::read().unwrap_or_default();
    // ANY of its queues.
    if bound.iter().any(|queue| queues.numbers().any(|number| number == queue.number)) {
        let reason = format!(
            "superseded: another agent has taken over on this node (queues {queues}); this one can be ended"
        );
        Ok((Successor::Agent, reason))
    } else {
        let reason = "superseded: another agent had taken over on this node and is gone, and no agent serves \
                      its rules: restart this agent";
        Ok((Successor::AgentGone, reason.to_owned()))
    }
}
