//! Records of what the kernel answers by itself, by an NFLOG group; and what happens while none listens there.
//!
//! From: the NFLOG group and the kernel's count of such connections. To: the audit log. Invariant: each connection that the kernel
//! allows from its cache is recorded, or counted as lost. Policy is enforced either way: while the group can't be bound, the rules log
//! to none, the agent is not ready, and it tries again each second.

use std::sync::Arc;

use audit::Recorder;
use dataplane::cache_log::{CacheLog, CacheLogError, Heard};
use dataplane::queues::QueueRange;
use dataplane::table::{CacheCounters, TableError};

use super::Agent;
use crate::health::Topic;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct KernelRecords {
    /// `None` if none are wanted, or if the group can't be bound.
    log: Option<CacheLog>,
    /// The group to which the rules in the kernel log.
    group: Option<u16>,
    /// Counts what is lost meanwhile.
    lost: Option<Recorder>,
    counts: Option<CacheCounters>,
    /// Connections that the kernel had allowed from its cache when they were counted last.
    counted: u64,
}

impl KernelRecords {
    /// The group to which the rules are to log.
    pub(super) fn group(&self, wanted: Option<u16>) -> Option<u16> {
        wanted.filter(|_| self.log.is_some())
    }

    /// The rules are about to be installed: what the kernel has answered before is another agent's to record.
    pub(super) fn begin(&mut self) {
        self.count();
    }

    /// The rules in the kernel log to this group.
    pub(super) fn rules_log_to(&mut self, group: Option<u16>) {
        self.group = group;
    }

    /// Stops listening, and hears before that what is on its way.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// How many connections the kernel has allowed from its cache since the last call. Zero if it doesn't say.
    fn count(&mut self) -> u64 {
        if self.counts.is_none() {
            self.counts = CacheCounters::open().ok();
        }
        let Some(count) = self.counts.as_mut().and_then(|counts| counts.count().ok()) else { return 0 };
        // A table that was deleted and written again begins at zero.
        let before = std::mem::replace(&mut self.counted, count);
        if count < before { count } else { count - before }
    }
}

impl Agent {
    /// Listens to the NFLOG group that goes with these queues, if what the kernel answers is to be recorded. If that can't be, the agent is
    /// not ready.
    pub(super) fn listen_to_kernel(&mut self, queues: QueueRange) {
        // The group must be free again before it can be bound again.
        self.kernel_records.log = None;
        let Some(group) = self.config.log_group(queues) else { return };
        let mut recorder = self.audit.recorder();
        let sample = self.origins.sampler(false);
        let tell = move |heard| match heard {
            Heard::Connection(evaluation) => recorder.record(evaluation),
            Heard::Dropped(example) => sample(example),
            Heard::Lost(number) => recorder.lose(number),
        };
        match CacheLog::start(group, Arc::clone(&self.history), tell) {
            Ok(log) => self.kernel_records.log = Some(log),
            Err(error) => self.kernel_records_are_off(&error),
        }
    }

    fn kernel_records_are_off(&self, error: &CacheLogError) {
        let lost = match self.config.verdict_cache {
            Some(_) => "connections that the kernel allows from its cache are counted as lost, and ",
            None => "",
        };
        let why = format!(
            "policy is enforced, but some records are missing: {lost}records of packets that rules dropped have no example: {error}"
        );
        self.health.state().not_ready(Topic::Records, why);
    }

    /// Once a second: counts what was not recorded, and tries to listen again.
    pub(super) fn look_at_kernel_records(&mut self) {
        let queues = self.health.state().queues;
        let Some((queues, wanted)) = queues.and_then(|queues| Some((queues, self.config.log_group(queues)?)))
        else {
            return;
        };
        if let Some(error) = self.kernel_records.log.as_ref().and_then(CacheLog::failure).cloned() {
            self.kernel_records.log = None;
            self.kernel_records_are_off(&error);
        }
        let was_recorded = self.kernel_records.log.is_some() && self.kernel_records.group == Some(wanted);
        if self.config.verdict_cache.is_some() {
            let connections = self.kernel_records.count();
            if !was_recorded && connections > 0 {
                let audit = &self.audit;
                self.kernel_records.lost.get_or_insert_with(|| audit.recorder()).lose(connections);
            }
        }
        if was_recorded {
            // Also if rules that were written again for another reason were the first to log to the group.
            return self.health.state().settled(Topic::Records);
        }
        if self.behind {
            return;
        }
        if self.kernel_records.log.is_none() {
            self.listen_to_kernel(queues);
        }
        if self.kernel_records.log.is_some() {
            self.log_to_kernel_group(queues, wanted);
        }
    }

    /// Has the rules log to the group: it can be bound now. Rules that another program has changed are left to
    /// [`Agent::restore_rules`], which writes the group, too. A change that was not notified yet is still recorded when it is, since nothing
    /// here counts it as undone.
    fn log_to_kernel_group(&mut self, queues: QueueRange, wanted: u16) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        if self.rules.is_damaged() {
            return;
        }
        if self.kernel_records.group != Some(wanted) {
            let (origins, _) = self.origins.derive(&snapshot, self.compiler.inventory());
            let config = self.table_config(&snapshot, queues, origins, false);
            let Some(engine) = self.phase.engine() else { return };
            match engine.restore_rules(config) {
                Ok(_) => self.kernel_records.group = Some(wanted),
                Err(TableError::Superseded(_)) => return self.superseded(),
                Err(error) => {
                    return tracing::warn!(%error, "cannot add the NFLOG group to the rules; retrying in a second");
                }
            }
            self.put_in_force_again();
        }
        self.health.state().settled(Topic::Records);
    }
}
