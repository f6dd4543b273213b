//! Applies the newest snapshot, and sweeps connections.
//!
//! From: [`Agent::compile`]. To: the engine. Invariant: if applying the snapshot or a sweep fails, the
//! snapshot is applied again to all connections.

use dataplane::table::TableError;
use policy::Affected;

use super::compile_stats::CompileStats;
use super::state::Agent;
use crate::engine::EngineError;
use crate::health::Condition;
use crate::origins::overlay_flows;
use cluster::error_chain::chain;

impl Agent {
    /// Applies the newest snapshot again, and evaluates all connections.
    pub(super) fn reapply(&mut self) {
        self.apply(Affected::All, CompileStats::default());
    }

    /// Applies the newest snapshot, which affects these connections. Does nothing before the rules are
    /// installed.
    pub(super) fn apply(&mut self, mut affected: Affected, stats: CompileStats) {
        let is_superseded = self.phase.is_superseded();
        let (Some(engine), Some(snapshot)) = (self.phase.engine(), &self.snapshot) else { return };
        if !affected.is_none() || self.origins.depends_on_labels() {
            let (origins, unbound) = self.origins.derive(snapshot, self.compiler.inventory());
            engine.set_overlay(overlay_flows(&origins));
            let is_changed = engine.table().set_origins(origins);
            engine.reassign(unbound);
            if is_changed && affected.is_none() {
                affected = Affected::All;
            }
        }
        let generation = snapshot.generation().0;
        self.health.state().status.published_generation = generation;
        if is_superseded {
            // Packets in this agent's queues are evaluated under the newest policy. The kernel's state
            // belongs to the other agent.
            engine.publish(snapshot);
            return;
        }
        match engine.apply(snapshot, affected) {
            Ok(applied) => {
                self.must_reapply = false;
                self.watch.iter().for_each(|watch| watch.permit_state(true));
                self.release_ports();
                let policies = self.policies_in_force();
                self.record_policies(&policies);
                self.health.state().in_force(policies, self.compiler.inventory());
                let changed = std::mem::take(&mut self.changed_policies);
                // A separate log line names each refused policy.
                let policies = changed.difference(&self.refused).cloned().collect();
                self.report_applied(generation, policies, &stats, &applied);
                self.end_bypass();
            }
            Err(error) => {
                self.must_reapply = true;
                self.failed(generation, &error);
            }
        }
    }

    /// Starts a due sweep of affected connections, or takes the report of one that has ended.
    pub(super) fn sweep(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.enforcing(), &self.snapshot) else { return };
        // Applying the snapshot again also sweeps all connections.
        if self.must_reapply {
            return;
        }
        match engine.sweep(snapshot) {
            Ok(None) => {}
            Ok(Some(swept)) => self.report_sweep(&swept),
            Err(error) => {
                self.must_reapply = true;
                self.failed(snapshot.generation().0, &error);
            }
        }
    }

    /// Completes all due sweeps before the agent ends. Otherwise packets of affected connections would still
    /// be queued when no agent gives verdicts, even of those that policy allows.
    pub(super) fn finish_sweeps(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.enforcing(), &self.snapshot) else { return };
        if engine.sweep_at().is_some() {
            match engine.sweep_now(snapshot) {
                Ok(swept) => self.report_sweep(&swept),
                Err(error) if error.is_superseded() => self.superseded(),
                Err(error) => tracing::warn!(
                    error = %chain(&error),
                    "final sweep failed; affected connections stall until an agent starts"
                ),
            }
        }
    }

    pub(super) fn failed(&mut self, generation: u64, error: &EngineError) {
        match error {
            error if error.is_superseded() => self.superseded(),
            EngineError::Table(TableError::Missing) => self.rules_missing(),
            EngineError::Grace => self.health.state().status.dead = Some(chain(error)),
            _ => {}
        }
        if self.phase.is_enforcing() {
            let why = format!("generation {generation} is not wholly in force: {}", chain(error));
            self.health.state().not_ready(Condition::Change, why);
        }
    }
}
