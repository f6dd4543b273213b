//! What the agent says of its work, in log, status and metrics.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster::RefusedPolicy;
use dataplane::sweep::SweepReport;
use policy::{PolicyName, Snapshot};

use super::Agent;
use crate::engine::Applied;
use crate::health::Topic;
use crate::metrics::observe;
use crate::status;

/// Policies beyond a budget that are logged at once, at most.
const MOST_LOGGED: usize = 100;
/// How many policies a line names that says what was applied.
const NAMED_POLICIES: usize = 10;

impl Agent {
    /// Says in log, status and metrics that a snapshot is in force, and these policies with it.
    pub(super) fn note(
        &self,
        generation: u64,
        (changes, policies): (u64, BTreeSet<PolicyName>),
        compile: Duration,
        applied: &Applied,
    ) {
        let change = status::Change {
            generation,
            changes,
            compile_micros: micros(compile),
            grace_micros: micros(applied.grace),
            table_micros: micros(applied.table),
        };
        observe(&self.health.durations().apply, applied.whole);
        let mut state = self.health.state();
        state.status.applied_generation = generation;
        state.status.last_change = Some(change);
        state.settled(Topic::Change);
        drop(state);
        let more_policies = policies.len().saturating_sub(NAMED_POLICIES);
        let names: Vec<String> = policies.iter().take(NAMED_POLICIES).map(ToString::to_string).collect();
        tracing::info!(
            generation,
            changes,
            policies = (!names.is_empty()).then(|| debug(names)),
            more_policies = (more_policies > 0).then_some(more_policies),
            compile_micros = change.compile_micros,
            grace_micros = change.grace_micros,
            table_micros = change.table_micros,
            "policy applied"
        );
        if let Some(swept) = &applied.swept {
            self.note_sweep(swept);
        }
    }

    /// Says in log, status and metrics what a sweep did.
    pub(super) fn note_sweep(&self, swept: &SweepReport) {
        observe(&self.health.durations().sweep, swept.elapsed);
        let last = status::Sweep {
            connections: swept.entries,
            revoked: swept.revoked,
            restored: swept.restored,
            micros: micros(swept.elapsed),
        };
        self.health.state().status.sweeps.add(last);
        tracing::info!(
            connections = last.connections,
            revoked = last.revoked,
            restored = last.restored,
            micros = last.micros,
            "connections swept"
        );
    }

    /// Says in status what is wrong with the source's objects, and which policies are beyond their namespace's budget. The source has
    /// logged its own problems.
    pub(super) fn note_problems(&mut self) {
        let mut problems: Vec<status::Problem> = self.problems.iter().map(status::Problem::from).collect();
        let before = std::mem::take(&mut self.refused);
        let mut logged = 0;
        for refusal in self.compiler.refusals() {
            let problem = status::Problem::from(&refusal);
            if !before.contains(&refusal.policy) {
                if let Some(watch) = &self.watch {
                    let (name, message) = (refusal.policy.clone(), problem.text.clone());
                    watch.refuse(RefusedPolicy { name, message });
                }
                logged += 1;
                // More lines than this say no more, and could fill a disk.
                if logged <= MOST_LOGGED {
                    tracing::warn!(
                        policy = %refusal.policy,
                        entries = refusal.cost,
                        rulesets = refusal.rulesets,
                        namespace_entries = refusal.namespace,
                        limit = refusal.limit,
                        "policy exceeds its namespace's budget: it isolates its pods and allows nothing"
                    );
                }
            }
            problems.push(problem);
            self.refused.insert(refusal.policy);
        }
        self.health.state().status.problems = problems;
    }

    /// Says in status what the newest snapshot was made from.
    pub(super) fn describe(&self, snapshot: &Snapshot) {
        let inventory = self.compiler.inventory();
        let count = |objects: usize| objects as u64;
        let mut state = self.health.state();
        state.status.pod_cidrs = snapshot.pod_cidrs().iter().map(ToString::to_string).collect();
        state.status.inventory = status::Inventory {
            pods: count(inventory.pods.len()),
            namespaces: count(inventory.namespaces.len()),
            nodes: count(inventory.nodes.len()),
            policies: count(inventory.policies.len()),
        };
    }
}

/// Whole microseconds.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
