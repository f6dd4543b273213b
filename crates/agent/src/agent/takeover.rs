//! The agent's methods about takeovers: from its predecessor, and by its successor, which is another agent or
//! `kube-verdict cleanup`.
//!
//! From: the rules and queues in the kernel, once a second. To: the sweep, status and log. Invariant: all
//! connections are evaluated once after the predecessor's last verdict, and once after it has ended. A
//! superseded agent changes nothing in the kernel.

use dataplane::queue_statistics::QueueStatistics;
use dataplane::table::{Table, TableError};

use super::state::Agent;
use crate::health::Condition;
use crate::status::{self, Successor};
use cluster::error_chain::chain;

impl Agent {
    /// Makes all connections be evaluated when the predecessor has given verdicts on all its packets, since
    /// the kernel may have cached them. They are evaluated once more when it has ended: it may have been
    /// stopped (SIGSTOP) just before it changed a connection's mark, and continue later.
    pub(super) fn check_predecessor(&mut self) {
        let Some(predecessor) = self.predecessor else { return };
        let (is_due, rest) = predecessor.observe(&QueueStatistics::read().unwrap_or_default());
        self.predecessor = rest;
        self.must_reapply |= is_due;
    }

    /// Stops enforcing because the rules now name another agent's queues, or none. From here on, this agent
    /// only gives verdicts on packets in its queues.
    pub(super) fn superseded(&mut self) {
        self.must_reapply = false;
        self.phase.supersede();
        self.watch.iter().for_each(|watch| watch.permit_state(false));
        self.hand_over_rules();
        let mut state = self.health.state();
        state.status.phase = status::PhaseName::Superseded;
        // The rules in the kernel belong to the other agent.
        (state.status.table, state.status.origins) = (None, None);
        state.met(Condition::Change);
        state.met(Condition::Rules);
        state.met(Condition::Nflog);
        drop(state);
        self.report_successor();
    }

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
    if bound.iter().any(|queue| queues.contains(queue.number)) {
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
