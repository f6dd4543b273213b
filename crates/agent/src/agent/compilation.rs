//! Compiles the source's updates.
//!
//! From: the source's updates, and the backlog. To: [`Agent::apply`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use cluster::{ResourceVersion, Update};
use policy::{Affected, Change, Compilation, PolicyName};

use super::compile_stats::CompileStats;
use super::state::Agent;
use super::vacated_addresses::PreviousOwners;
use crate::health::{Condition, PolicyState};
use crate::memory;
use crate::nodes;

impl Agent {
    /// Compiles a change of the source, and applies the snapshot if the rules are installed.
    pub(super) fn update(&mut self, mut update: Update) {
        let first = self.snapshot.is_none();
        let mut changes = std::mem::take(&mut update.changes);
        let lacks_node = first && self.lacks_node(&changes);
        if first {
            changes.splice(0..0, self.config.pod_cidrs.first());
            self.health.state().met(Condition::Source);
        }
        self.policy_uids.extend(std::mem::take(&mut update.uids));
        for (name, state) in policy_states(&changes, std::mem::take(&mut update.versions)) {
            state.replace_in(&mut self.policy_states, name);
        }
        if !first {
            changes = self.backlog.defer(changes);
        }
        if let Some(cni) = update.cni_ports.take() {
            self.origins.set_cni(cni);
            if changes.is_empty() && !first {
                self.refresh_origins();
            }
        }
        self.has_new_problems |= self.problems != update.problems;
        self.problems = update.problems;
        self.health.state().status.read = Some(update.read);
        let (restored, never_understood) = (update.restored, update.never_understood);
        if changes.is_empty() && !first {
            self.report_source_gaps(restored, &never_understood);
            self.report_problems();
            // Policies whose version changed and whose content did not are already in force.
            if self.phase.is_enforcing() && !self.must_reapply {
                self.send_policy_versions();
                let policies = self.policies_in_force();
                self.record_policies(&policies);
                self.health.state().in_force(policies, self.compiler.inventory());
            }
            return;
        }
        self.compile(changes);
        // This comes last: what the status attributes to the source must be in force.
        self.report_source_gaps(restored, &never_understood);
        if lacks_node {
            let node = &*self.config.node;
            let known = nodes::others(node, self.compiler.inventory());
            tracing::warn!(
                node,
                known,
                "the source has Nodes, but none of this name: correct --node if it is misspelt"
            );
        }
    }

    /// Whether the source's first changes have Nodes, but not this agent's. Checked only with `--pod-cidr`:
    /// without it, the agent is not ready and reports the missing Node. If the agent may not read Nodes, the
    /// source has none.
    fn lacks_node(&self, changes: &[Change]) -> bool {
        let mut names = changes.iter().filter_map(|change| match change {
            Change::Node(node) => Some(&node.name),
            _ => None,
        });
        let has_pod_cidr_flag = self.config.pod_cidrs.first().is_some();
        has_pod_cidr_flag
            && names.next().is_some_and(|first| {
                *first != self.config.node && names.all(|name| *name != self.config.node)
            })
    }

    /// Whether policies remain to be compiled.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.compiler.is_behind()
    }

    /// Compiles some policies of the backlog, if there are any.
    pub(super) fn compile_backlog(&mut self) {
        if self.has_backlog() {
            let changes = self.backlog.next();
            self.compile(changes);
            // Large objects were read and compiled.
            memory::trim();
        }
    }

    /// The changed policies that are in force with the newest snapshot: all but those in the backlog.
    pub(super) fn policies_in_force(&mut self) -> BTreeMap<PolicyName, PolicyState> {
        let (deferred, in_force) = std::mem::take(&mut self.policy_states)
            .into_iter()
            .partition(|(name, _)| self.backlog.holds(name));
        self.policy_states = deferred;
        in_force
    }

    /// Compiles the changes, and applies the snapshot if the rules are installed.
    fn compile(&mut self, changes: Vec<Change>) {
        let (started, count) = (Instant::now(), changes.len() as u64);
        self.changed_policies.extend(changes.iter().filter_map(|change| match change {
            Change::Policy(policy) => Some(policy.name.clone()),
            Change::PolicyGone(name) => Some(name.clone()),
            _ => None,
        }));
        let monitor = self.audit.monitor();
        for change in &changes {
            match change {
                Change::PolicyGone(policy) => monitor.policy_verdicts().remove(policy),
                Change::Namespace(namespace) => {
                    self.audit.set_namespace(Arc::clone(&namespace.name), Some(namespace.labels.clone()));
                }
                Change::NamespaceGone(name) => {
                    monitor.policy_verdicts().remove_namespace(name);
                    self.audit.set_namespace(Arc::clone(name), None);
                }
                _ => {}
            }
        }
        let before = PreviousOwners::new(&changes, self.compiler.inventory(), self.snapshot.as_deref());
        let pod_cidrs = &self.config.pod_cidrs;
        let changes = changes.into_iter().map(|change| pod_cidrs.apply(change));
        let Compilation { snapshot, affected } = self.compiler.apply(changes);
        // An earlier change that is not in force yet may affect other connections.
        let mut affected = if self.must_reapply { Affected::All } else { affected };
        self.changed_policies.extend(self.compiler.readmitted().iter().cloned());
        self.report_problems();
        if let Some(engine) = self.phase.engine() {
            let reassigned = self.vacated_addresses.reassigned(before, &snapshot, &affected);
            affected = affected.or(Affected::any_peer(reassigned.iter().copied()));
            engine.reassign(reassigned);
        }
        self.report_inventory(&snapshot);
        self.snapshot = Some(snapshot);
        // This comes before the snapshot is published: its first record must have the versions.
        self.send_policy_versions();
        self.apply(affected, CompileStats { changes: count, elapsed: started.elapsed() });
    }
}

/// The states of policies after these changes. A policy's version can change while its content stays the
/// same.
fn policy_states(
    changes: &[Change],
    versions: Vec<(PolicyName, Option<ResourceVersion>)>,
) -> impl Iterator<Item = (PolicyName, PolicyState)> {
    let changed = changes.iter().filter_map(|change| match change {
        Change::Policy(policy) => Some((policy.name.clone(), PolicyState::Present(None))),
        Change::PolicyGone(name) => Some((name.clone(), PolicyState::Removed)),
        _ => None,
    });
    let versions = versions.into_iter().map(|(name, version)| match version {
        Some(version) => (name, PolicyState::Present(Some(version))),
        None => (name, PolicyState::Removed),
    });
    changed.chain(versions)
}
