//! The agent's steps from its start until it enforces policy.

use std::sync::Arc;

use cluster::WatchStatuses;
use dataplane::preflight::{self, CheckState};
use dataplane::queues::QueueRange;

use super::message::Message;
use super::phase::Phase;
use super::state::Agent;
use crate::health::Condition;
use crate::nodes;
use crate::sync::lock;
use cluster::error_chain::chain;

impl Agent {
    /// Takes the next steps towards enforcing, until one of them has to wait.
    pub(super) fn start(&mut self) {
        let Some(watch) = &self.watch else { return self.open_source() };
        let Some(snapshot) = self.snapshot.clone() else {
            if let Some(why) = watch.watch_statuses().and_then(WatchStatuses::waits_for) {
                self.health.state().not_ready(Condition::Source, why);
            }
            return;
        };
        let waits_for = watch.watch_statuses().and_then(WatchStatuses::waits_for);
        if let Some(why) = self.defers_to_other_agent(waits_for) {
            return self.health.state().not_ready(Condition::Source, why);
        }
        let mut state = self.health.state();
        state.met(Condition::Source);
        if snapshot.pod_cidrs().is_empty() {
            state.not_ready(
                Condition::Node,
                nodes::without_pod_cidr(&self.config.node, self.compiler.inventory()),
            );
            return;
        }
        state.met(Condition::Node);
        drop(state);
        if !self.run_preflight(&self.config.queues) {
            return;
        }
        match self.install(&snapshot) {
            Ok(engine) => {
                self.phase = Phase::Enforcing(engine);
                self.health.state().met(Condition::Install);
                // This adopts established connections.
                self.reapply();
                self.health.state().met(Condition::Started);
            }
            Err(why) => self.health.state().not_ready(Condition::Install, format!("{why:#}")),
        }
    }

    /// Runs the preflight checks. The agent is not ready while any of them fails. Returns whether policy can
    /// be enforced, at least in part. `queues` must be free or be served by an agent.
    pub(super) fn run_preflight(&self, queues: &[QueueRange]) -> bool {
        let pod_cidrs = self.snapshot.as_ref().map_or(&[][..], |snapshot| snapshot.pod_cidrs());
        let checks = preflight::check(&self.config.preflight(pod_cidrs, queues));
        let wrong: Vec<String> = checks
            .iter()
            .filter_map(|check| match &check.state {
                CheckState::Wrong { what, todo, .. } => Some(format!("{}: {what}: {todo}", check.name)),
                CheckState::Fine { .. } | CheckState::Warning { .. } => None,
            })
            .collect();
        let mut state = self.health.state();
        if wrong.is_empty() {
            state.met(Condition::Preflight);
        } else {
            state.not_ready(Condition::Preflight, wrong.join("; "));
        }
        !checks.iter().any(|check| check.state.prevents_enforcing())
    }

    /// Starts to watch the source. Its first update comes when all of the source is known.
    fn open_source(&mut self) {
        let (outbox, latest) = (self.outbox.clone(), Arc::clone(&self.latest_update));
        // At most one message is queued, with the newest version of each policy, however often the source
        // changes.
        let publish = move |update| {
            let mut latest = lock(&latest);
            match &mut *latest {
                Some(before) => before.then(update),
                None => {
                    *latest = Some(update);
                    // This fails only if the agent has ended.
                    drop(outbox.send(Message::Update));
                }
            }
        };
        let state_dir = self.config.state_dir.as_ref();
        let opened = self.config.source.watch(state_dir, publish);
        let mut state = self.health.state();
        match opened {
            Ok(watch) => {
                state.connections = watch.watch_statuses().cloned();
                state.saved = watch.state().cloned();
                state.met(Condition::Source);
                drop(state);
                self.watch = Some(watch);
            }
            Err(error) => {
                state.not_ready(Condition::Source, format!("the source can't be read: {}", chain(&error)));
            }
        }
    }
}
