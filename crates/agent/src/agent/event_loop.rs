//! The agent's event loop: receives messages, runs periodic checks, and ends in order.
//!
//! Invariant: if something is missing, the agent stays live, reports in one sentence what it waits for, and
//! retries. Rules that are in the kernel stay there when it ends.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use dataplane::ports::PortQueue;
use dataplane::table::{FailMode, TableError};

use super::message::{Message, MessageBatch};
use super::phase::Phase;
use super::state::Agent;
use crate::health::Condition;
use crate::status::Successor;
use crate::sync::lock;
use cluster::error_chain::chain;

/// How often the agent checks its state and the kernel's.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the agent retries to start enforcing, and repeats a failed preflight check.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How often policies from the backlog are compiled, at least, while other changes arrive.
const BACKLOG_INTERVAL: Duration = Duration::from_millis(100);

/// How often an enforcing agent runs the preflight checks.
const PREFLIGHT_INTERVAL: Duration = Duration::from_secs(10);

impl Agent {
    /// Runs until it receives [`Message::Stop`].
    pub(crate) fn run(mut self) {
        let now = Instant::now();
        let (mut start_at, mut check_at, mut preflight_at) =
            (now, now + CHECK_INTERVAL, now + RETRY_INTERVAL);
        let mut backlog_at = now;
        loop {
            let now = Instant::now();
            if self.phase.is_starting() && now >= start_at {
                self.start();
                start_at = Instant::now() + RETRY_INTERVAL;
            }
            if now >= check_at {
                self.check();
                self.log_repeated_problems();
                check_at = now + CHECK_INTERVAL;
            }
            if now >= preflight_at && self.phase.is_enforcing() {
                // This agent has bound its queues, so they need not be free.
                self.run_preflight(&[]);
                // A failed check is repeated soon, so that an operator sees the effect of a repair.
                let has_failed = self.health.state().is_not_ready(Condition::Preflight);
                preflight_at = now + if has_failed { RETRY_INTERVAL } else { PREFLIGHT_INTERVAL };
            }
            self.sweep();
            if self.phase.is_enforcing() {
                self.restore_rules();
            }
            self.record_ended_bypass();
            let wake = match &self.phase {
                _ if self.has_backlog() => Instant::now(),
                Phase::Starting => check_at.min(start_at),
                Phase::Enforcing(engine) if !self.must_reapply => {
                    engine.sweep_at().map_or(check_at, |at| check_at.min(at))
                }
                Phase::Enforcing(_) | Phase::Superseded(_) => check_at,
            };
            let wake = self.rules.wake_at(Instant::now()).map_or(wake, |at| wake.min(at));
            match self.inbox.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(message) => {
                    let Some(MessageBatch { foreign_change, interfaces, update }) = self.receive_all(message)
                    else {
                        break;
                    };
                    // Rules come first: packets may pass unevaluated.
                    if let Some(change) = foreign_change {
                        self.rules_changed(change);
                    }
                    // New ports come before policy: their packets are held.
                    if let Some(interfaces) = interfaces {
                        self.origins.set_interfaces(interfaces);
                        self.refresh_origins();
                    }
                    if let Some(update) = update {
                        self.update(update);
                        // The update may bring what the agent waits for.
                        start_at = Instant::now();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => backlog_at = now,
            }
            // A steady stream of messages must not delay the backlog.
            if Instant::now() >= backlog_at {
                self.compile_backlog();
                backlog_at = Instant::now() + BACKLOG_INTERVAL;
            }
        }
        self.end();
    }

    /// Merges `first` and all messages in the inbox; `None` if the agent must end.
    fn receive_all(&self, first: Message) -> Option<MessageBatch> {
        let mut batch = MessageBatch::default();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Update => match (&mut batch.update, lock(&self.latest_update).take()) {
                    (Some(before), Some(update)) => before.then(update),
                    (None, update) => batch.update = update,
                    (Some(_), None) => {}
                },
                Message::Interfaces => {
                    batch.interfaces = lock(&self.latest_interfaces).take().or(batch.interfaces)
                }
                // The first change tells when the bypass began. Restoring the rules once undoes all changes.
                Message::RulesChanged(change) => drop(batch.foreign_change.get_or_insert(change)),
                Message::Stop => return None,
            }
            next = self.inbox.try_recv().ok();
        }
        Some(batch)
    }

    /// Checks the agent's state and the kernel's, once a second.
    fn check(&mut self) {
        self.heap_trimmer.trim_if_grown();
        if let Some(why) = self.health.dead_worker() {
            let mut state = self.health.state();
            state.not_ready(Condition::Workers, why.clone());
            state.status.dead = Some(why);
        }
        if !self.phase.is_enforcing() {
            return self.report_successor();
        }
        self.check_nflog();
        self.record_full_queues();
        self.record_drops();
        if self.port_queue.as_ref().is_some_and(PortQueue::has_ended) {
            self.health.state().not_ready(
                Condition::Workers,
                "the thread for packets of new ports has ended: restart the agent",
            );
        }
        if self.rules.has_ended() {
            self.health.state().not_ready(
                Condition::Workers,
                "the thread that watches for changes of the rules has ended: restart the agent",
            );
        }
        self.check_predecessor();
        match self.phase.enforcing().map(|engine| engine.table().superseded()) {
            Some(Ok(true)) => self.superseded(),
            Some(Err(TableError::Missing)) => self.rules_missing(),
            // The rules enforce policy even if they can't be read.
            Some(Err(error)) => tracing::warn!(error = %chain(&error), "cannot read the rules"),
            Some(Ok(false)) if !self.rules.is_damaged() => self.rules.seen(),
            Some(Ok(false)) | None => {}
        }
        self.restore_rules();
        if self.must_reapply {
            self.reapply();
        }
    }

    /// Ends in order: stops the updates, gives verdicts on all queued packets, and records all evaluations.
    /// The rules stay.
    fn end(mut self) {
        self.finish_sweeps();
        self.log_rest_of_problems();
        self.record_rest_of_bypass();
        self.rules.end();
        let superseded = self.phase.is_superseded();
        let mut state = self.health.state();
        let successor = state.status.successor;
        state.stopping();
        drop(state);
        self.watch = None;
        // The next agent must evaluate new connections at once, not only after cached verdicts expire.
        match self.phase.engine().map(|engine| engine.table().invalidate_cache()) {
            Some(Err(error)) if !superseded => {
                tracing::warn!(error = %chain(&error), "cached verdicts stay until they expire")
            }
            _ => {}
        }
        let installed = !self.phase.is_starting();
        self.phase = Phase::Starting;
        self.health.set_workers(None);
        (self.port_queue, self.monitor) = (None, None);
        self.nflog.end();
        let audit = self.audit.stop();
        let rules = match (installed, superseded, self.config.fail_mode) {
            (false, ..) => "none of this agent's",
            (true, true, _) => match successor {
                Some(Successor::RulesRemoved) => "removed, as by `kube-verdict cleanup`: nothing is enforced",
                Some(Successor::AgentGone) => "those of another agent, which is gone",
                Some(Successor::Agent) | None => "another agent's",
            },
            (true, false, FailMode::Open) => {
                "stay: new connections pass unevaluated until an agent runs again"
            }
            (true, false, FailMode::Closed) => {
                "stay: new connections that need a verdict are dropped until an agent runs again"
            }
        };
        tracing::info!(records = audit.written, lost = audit.lost, rules, "ended");
    }
}
