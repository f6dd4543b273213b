//! Reports the agent's progress in log, status and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use cluster::RefusedPolicy;
use dataplane::sweep::SweepReport;
use policy::{PolicyKind, PolicyName, Refusal, Snapshot};

use super::compile_stats::CompileStats;
use super::problem_log::{LogLine, ProblemKey};
use super::state::Agent;
use crate::durations::observe;
use crate::engine::ApplyStats;
use crate::health::Condition;
use crate::status;

/// How many policies a `policy applied` line names at most.
const NAMED_POLICIES: usize = 10;

impl Agent {
    /// Reports in log, status and metrics that a snapshot is in force, and these policies with it.
    pub(super) fn report_applied(
        &self,
        generation: u64,
        policies: BTreeSet<PolicyName>,
        compiled: &CompileStats,
        applied: &ApplyStats,
    ) {
        let change = status::ChangeStatus {
            generation,
            changes: compiled.changes,
            compile_micros: micros(compiled.elapsed),
            grace_micros: micros(applied.grace),
            table_micros: micros(applied.table),
        };
        observe(&self.health.durations().apply, applied.whole);
        let mut state = self.health.state();
        state.status.applied_generation = generation;
        state.status.last_change = Some(change);
        state.met(Condition::Change);
        drop(state);
        if let Some(swept) = &applied.swept {
            self.report_sweep(swept);
        }
        if policies.is_empty() {
            // Changes of pods are frequent.
            let micros = change.compile_micros + change.grace_micros + change.table_micros;
            tracing::debug!(generation, changes = change.changes, micros, "inventory applied");
            return;
        }
        let more_policies = policies.len().saturating_sub(NAMED_POLICIES);
        let names: Vec<String> = policies.iter().take(NAMED_POLICIES).map(ToString::to_string).collect();
        tracing::info!(
            generation,
            changes = change.changes,
            policies = debug(names),
            more_policies = (more_policies > 0).then_some(more_policies),
            compile_micros = change.compile_micros,
            grace_micros = change.grace_micros,
            table_micros = change.table_micros,
            "policy applied"
        );
    }

    /// Reports the result of a sweep in log, status and metrics.
    pub(super) fn report_sweep(&self, swept: &SweepReport) {
        observe(&self.health.durations().sweep, swept.elapsed);
        let last = status::SweepStatus {
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

    /// Reports problems of the source's objects, and policies that exceed their namespace's budget: all of
    /// them in the status, new and resolved ones in the log.
    pub(super) fn report_problems(&mut self) {
        // There may be very many problems, and most changes don't affect them.
        let mut hasher = DefaultHasher::new();
        self.compiler.refusals().for_each(|refusal| refusal.hash(&mut hasher));
        self.compiler.more_refusals().for_each(|more| more.hash(&mut hasher));
        let refusals = std::mem::replace(&mut self.reported_refusals, hasher.finish());
        if !std::mem::take(&mut self.has_new_problems) && refusals == self.reported_refusals {
            return;
        }
        let mut current = BTreeMap::new();
        let mut problems = Vec::with_capacity(self.problems.len());
        for problem in &*self.problems {
            problems.push(status::ProblemStatus::from(problem));
            let (namespace, text) = (problem.namespace().to_owned(), problem.without_version());
            current.insert(ProblemKey { namespace, text }, Cause::Object(problem));
        }
        let before = std::mem::take(&mut self.refused);
        for refusal in self.compiler.refusals() {
            let problem = status::ProblemStatus::from(&refusal);
            if let Some(watch) = &self.watch
                && !before.contains(&refusal.policy)
            {
                let (name, message) = (refusal.policy.clone(), problem.text.clone());
                watch.refuse(RefusedPolicy { name, message });
            }
            problems.push(problem);
            self.refused.insert(refusal.policy.clone());
            let namespace = refusal.policy.namespace.to_string();
            let text = format!("NetworkPolicy {}: it exceeds its namespace's budget", refusal.policy);
            current.insert(ProblemKey { namespace, text }, Cause::Budget(refusal));
        }
        for (namespace, more) in self.compiler.more_refusals() {
            problems.push(status::ProblemStatus::more_refusals(namespace, more));
        }
        let lines = self.problem_log.change(current.keys().cloned().collect(), Instant::now());
        for line in &lines {
            match line {
                LogLine::New(problem) => current.get(problem).into_iter().for_each(Cause::log),
                other => log_change(other),
            }
        }
        self.health.state().status.problems = problems;
    }

    /// Logs how often problems appeared and were resolved without a separate line.
    pub(super) fn log_repeated_problems(&mut self) {
        self.problem_log.due(Instant::now()).iter().for_each(log_change);
    }

    /// Logs the counts that [`Agent::log_repeated_problems`] would log later, since the agent ends.
    pub(super) fn log_rest_of_problems(&mut self) {
        self.problem_log.flush(Instant::now()).iter().for_each(log_change);
    }

    /// Reports in the status the objects from which the newest snapshot was compiled.
    pub(super) fn report_inventory(&self, snapshot: &Snapshot) {
        let inventory = self.compiler.inventory();
        let count = |objects: usize| objects as u64;
        let of_kind = |kind: PolicyKind| {
            count(
                inventory
                    .policies
                    .range(PolicyName::first(kind)..)
                    .take_while(|(name, _)| name.kind == kind)
                    .count(),
            )
        };
        let mut state = self.health.state();
        state.status.pod_cidrs = snapshot.pod_cidrs().iter().map(ToString::to_string).collect();
        state.status.inventory = status::InventoryStatus {
            pods: count(inventory.pods.len()),
            namespaces: count(inventory.namespaces.len()),
            nodes: count(inventory.nodes.len()),
            policies: count(inventory.policies.len()),
            cluster_network_policies: of_kind(PolicyKind::ClusterNetworkPolicy),
            admin_network_policies: of_kind(PolicyKind::AdminNetworkPolicy),
            baseline_admin_network_policies: of_kind(PolicyKind::BaselineAdminNetworkPolicy),
        };
    }
}

/// The cause of a problem.
enum Cause<'a> {
    /// An object, or a file, of the source.
    Object(&'a cluster::Problem),
    /// A policy that exceeds its namespace's budget.
    Budget(Refusal),
}

impl Cause<'_> {
    /// Logs a warning.
    fn log(&self) {
        match self {
            Self::Object(problem) => problem.log(),
            Self::Budget(refusal) => tracing::warn!(
                policy = %refusal.policy,
                entries = refusal.cost,
                rulesets = refusal.rulesets,
                namespace_entries = refusal.namespace,
                limit = refusal.limit,
                "policy exceeds its namespace's budget: it isolates its pods and allows nothing"
            ),
        }
    }
}

/// Logs a line for which the problem's [`Cause`] isn't needed.
fn log_change(line: &LogLine) {
    match line {
        LogLine::New(problem) => tracing::warn!(problem = problem.text, "problem found"),
        LogLine::Resolved(problem) => tracing::info!(problem = problem.text, "problem resolved"),
        LogLine::Repeated { problem, changes, is_current } => tracing::warn!(
            problem = problem.text,
            changes,
            is_current,
            "problem found and resolved again and again: counted, not logged one by one"
        ),
        LogLine::Unnamed { new, resolved } => {
            tracing::warn!(found = new, resolved, "more problems changed: `doctor` lists all current ones");
        }
    }
}

/// Whole microseconds.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
