//! The results of `kube-verdict doctor`.

use cluster::ReadCounts;
use dataplane::preflight::{Check, InstalledTables};
use serde::Serialize;

use crate::status::{AuditStatus, PhaseName, ProblemStatus, Protection, SavedState};

/// Results of all checks.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    #[serde(rename = "needs")]
    pub(super) checks: Vec<Check>,
    /// Null if no agent answers.
    pub(super) agent: Option<AgentFindings>,
    /// The agent's tables in the kernel, which stay when it exits; null if they cannot be read.
    pub(super) tables: Option<InstalledTables>,
    /// Whether any agent serves the queues of the rules in the kernel. During a takeover, the agent that
    /// answers may not be the one that enforces.
    pub(super) rules_served: bool,
    /// Whether the rules in the kernel let packets pass while no agent serves them; null if there are no
    /// rules, or if they cannot be read.
    pub(super) passes_unserved: Option<bool>,
    /// Counts of what --source contains, or else of what the running agent has read. Null if there is
    /// neither.
    pub(super) read: Option<ReadCounts>,
    /// Problems in the same source.
    pub(super) problems: Vec<ProblemStatus>,
}

#[derive(Debug, Serialize)]
pub(super) struct AgentFindings {
    pub(super) pid: u32,
    pub(super) phase: PhaseName,
    pub(super) ready: bool,
    pub(super) not_ready: Vec<String>,
    /// The agent's protections against spoofed packets. Empty before it has rules, and once another agent has
    /// taken over.
    pub(super) protections: Vec<Protection>,
    /// The state on disk; null without --state-dir.
    pub(super) state: Option<SavedState>,
    /// The audit log.
    pub(super) audit: AuditStatus,
}

impl Findings {
    /// Whether nothing is wrong.
    pub(super) fn are_healthy(&self) -> bool {
        self.checks.iter().all(|check| !check.state.is_wrong())
            && self.agent.as_ref().is_none_or(|agent| agent.ready || self.has_handed_over(agent))
            && self.agent.as_ref().is_none_or(|agent| agent.audit.failing.is_none())
            && self.problems.is_empty()
            && !self.are_rules_unserved()
    }

    /// Whether there are rules in the kernel and no agent serves their queues.
    pub(super) fn are_rules_unserved(&self) -> bool {
        let has_rules = self.tables.is_some_and(|tables| tables.inet || tables.bridge);
        has_rules && !self.rules_served && self.agent.as_ref().is_none_or(|agent| !agent.ready)
    }

    /// Whether another agent enforces in place of this one.
    pub(super) fn has_handed_over(&self, agent: &AgentFindings) -> bool {
        agent.phase == PhaseName::Superseded && self.rules_served
    }
}
