//! Records verdicts that the kernel gives from its cache, and examples of packets that rules drop.
//!
//! From: an NFLOG group, and the kernel's count of such connections. To: the audit log. Invariant: each
//! connection that the kernel allows from its cache is recorded or counted as lost. Policy is enforced in
//! either case: while the group can't be bound, the rules don't log, the agent is not ready, and it retries
//! each second.

use std::sync::Arc;

use dataplane::cache_log::{CacheLog, CacheLogError, LogEvent};
use dataplane::queues::QueueRange;
use dataplane::table::TableError;

use super::state::Agent;
use crate::health::Condition;
use cluster::error_chain::chain;

impl Agent {
    /// Binds the NFLOG group that belongs to these queues, if one is configured. If that fails, the agent is
    /// not ready.
    pub(super) fn listen_to_nflog(&mut self, queues: QueueRange) {
        // Unbind the group before binding it again.
        self.nflog.log = None;
        let Some(group) = self.config.log_group(queues) else { return };
        let mut recorder = self.audit.recorder();
        let sample = self.origins.sampler(false);
        let record = move |heard| match heard {
            LogEvent::Connection(evaluation) => recorder.record(evaluation),
            LogEvent::Dropped(example) => sample(example),
            LogEvent::Lost(number) => recorder.lose(number),
        };
        match CacheLog::start(group, Arc::clone(&self.history), record) {
            Ok(log) => self.nflog.log = Some(log),
            Err(error) => self.report_nflog_error(&error),
        }
    }

    fn report_nflog_error(&self, error: &CacheLogError) {
        let lost = match self.config.verdict_cache {
            Some(_) => "connections that the kernel allows from its cache are counted as lost, and ",
            None => "",
        };
        let why = format!(
            "policy is enforced, but some records are missing: {lost}records of packets that rules dropped \
             have no example: {}",
            chain(error)
        );
        self.health.state().not_ready(Condition::Nflog, why);
    }

    /// Counts connections that were not recorded, and retries to bind the group. Call this once a second.
    pub(super) fn check_nflog(&mut self) {
        let queues = self.health.state().queues;
        let Some((queues, wanted)) = queues.and_then(|queues| Some((queues, self.config.log_group(queues)?)))
        else {
            return;
        };
        if let Some(error) = self.nflog.log.as_ref().and_then(CacheLog::failure).cloned() {
            self.nflog.log = None;
            self.report_nflog_error(&error);
        }
        let was_recorded = self.nflog.log.is_some() && self.nflog.group == Some(wanted);
        if self.config.verdict_cache.is_some() {
            let connections = self.nflog.count();
            if !was_recorded && connections > 0 {
                let audit = &self.audit;
                self.nflog.lost.get_or_insert_with(|| audit.recorder()).lose(connections);
            }
        }
        if was_recorded {
            // The rules may have been restored for another reason, and log to the group since then.
            return self.health.state().met(Condition::Nflog);
        }
        if self.must_reapply {
            return;
        }
        if self.nflog.log.is_none() {
            self.listen_to_nflog(queues);
        }
        if self.nflog.log.is_some() {
            self.add_group_to_rules(queues, wanted);
        }
    }

    /// Makes the rules log to the group, which is bound now. If another program has changed the rules,
    /// [`Agent::restore_rules`] restores them with the group. A change whose notification is still to come is
    /// recorded then: this method does not mark it as undone.
    fn add_group_to_rules(&mut self, queues: QueueRange, wanted: u16) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        if self.rules.is_damaged() {
            return;
        }
        if self.nflog.group != Some(wanted) {
            let (origins, _) = self.origins.derive(&snapshot, self.compiler.inventory());
            let config = self.table_config(&snapshot, queues, origins, false);
            let Some(engine) = self.phase.engine() else { return };
            match engine.restore_rules(config) {
                Ok(_) => self.nflog.group = Some(wanted),
                Err(TableError::Superseded(_)) => return self.superseded(),
                Err(error) => {
                    return tracing::warn!(
                        error = %chain(&error),
                        "cannot add the NFLOG group to the rules; retrying in a second"
                    );
                }
            }
            self.reapply();
        }
        self.health.state().met(Condition::Nflog);
    }
}
