//! Restores rules that other programs change or delete, and records the bypass: the period in which packets
//! could pass unevaluated.
//!
//! From: nftables' notifications, and a check of the rules once a second in case one was missed. To: the
//! rules, the sweep, then audit log, status and log. Invariant: a bypass ends when the rules are restored and
//! every connection has been evaluated under them.

use std::time::{Instant, SystemTime};

use dataplane::table::{Changed, ForeignChange, TableError};
use jiff::Timestamp;

use super::rules_watch::{MIN_INTERVAL, OngoingBypass};
use super::state::Agent;
use crate::health::Condition;
use crate::status;
use cluster::error_chain::chain;

impl Agent {
    /// Handles a change of this agent's rules by another program: restores them, and evaluates all
    /// connections, since any packet may have passed.
    pub(super) fn rules_changed(&mut self, change: ForeignChange) {
        if self.rules.is_from_before_takeover(&change) {
            self.rules.changed(change);
            return self.hand_over_rules();
        }
        let is_undone = self.rules.undone.is_some_and(|replaced| change.is_undone_by(replaced));
        if !self.phase.is_enforcing() {
            return;
        }
        if is_undone {
            self.rules.undone_change(change);
            return self.record_ended_bypass();
        }
        // This change begins another bypass.
        self.record_rest_of_bypass();
        self.rules.changed(change);
        self.restore_rules();
    }

    /// Call this when the rules were found missing.
    pub(super) fn rules_missing(&mut self) {
        // They were deleted once more if an ended bypass still waits for its notification.
        self.record_rest_of_bypass();
        self.rules.missing();
    }

    /// Restores the rules if they are damaged.
    pub(super) fn restore_rules(&mut self) {
        if !self.rules.is_damaged() || !self.rules.is_due(Instant::now()) {
            return;
        }
        let (Some(snapshot), Some(queues)) = (self.snapshot.clone(), self.health.state().queues) else {
            return;
        };
        let (origins, _) = self.origins.derive(&snapshot, self.compiler.inventory());
        // The following sweep marks connections that have passed unevaluated.
        let config = self.table_config(&snapshot, queues, origins, true);
        let log_group = self.nflog.group(self.config.log_group(queues));
        let Some(engine) = self.phase.engine() else { return };
        match engine.restore_rules(config) {
            Ok(replaced) => {
                self.rules.undone = Some(replaced);
                self.nflog.rules_log_to(log_group);
                if let Some(bypass) = &mut self.rules.bypass {
                    bypass.restored = Some(SystemTime::now());
                }
                self.health.state().met(Condition::Rules);
                self.reapply();
            }
            Err(TableError::Superseded(_)) => self.superseded(),
            Err(error) => {
                let program =
                    self.rules.bypass.as_ref().and_then(|bypass| bypass.change.program.name.clone());
                let program = program.unwrap_or_else(|| "another program".to_owned());
                let why = format!(
                    "the rules were changed by {} and can't be restored: {}",
                    program.escape_debug(),
                    chain(&error)
                );
                self.health.state().not_ready(Condition::Rules, why);
            }
        }
    }

    /// Records a bypass before another agent's takeover: only this agent has noticed that other programs
    /// changed the rules.
    pub(super) fn hand_over_rules(&mut self) {
        self.rules.handed_over();
        self.end_bypass();
    }

    /// Ends the bypass, if there is one and the rules are restored. Call this when every connection has been
    /// evaluated under them.
    pub(super) fn end_bypass(&mut self) {
        self.rules.swept(Instant::now());
        self.record_ended_bypass();
    }

    /// Records the bypass if it has ended and its cause is known, or will not be.
    pub(super) fn record_ended_bypass(&mut self) {
        if let Some(bypass) = self.rules.take_ended(Instant::now()) {
            self.record_bypass(bypass);
        }
    }

    /// Records the bypass if it has ended, even if its cause is not known.
    pub(super) fn record_rest_of_bypass(&mut self) {
        if let Some(bypass) = self.rules.take_ended_now() {
            self.record_bypass(bypass);
        }
    }

    fn record_bypass(&mut self, bypass: OngoingBypass) {
        let OngoingBypass { change, changes, restored, ended, .. } = bypass;
        let ForeignChange { since, program, what, .. } = change;
        let to = ended.map_or_else(SystemTime::now, |(to, _)| to);
        // The clock may have been set back since then.
        let since = since.min(to);
        let time = |time: SystemTime| Timestamp::try_from(time).unwrap_or_default();
        let lasted = |end: SystemTime| end.duration_since(since).unwrap_or_default();
        let reason = match what {
            Changed::Object { .. } => "rules-changed",
            Changed::Unknown => "rules-unknown",
        };
        let record = audit::Bypass {
            reason: reason.into(),
            from: time(since),
            to: time(to),
            change: what.to_string(),
            program: program.name.clone(),
            pid: program.pid,
        };
        self.health.state().status.bypasses.add(status::BypassStatus::from(&record), lasted(to));
        self.audit.record_bypass(time(to), record);
        self.rules.unlogged += 1;
        let now = Instant::now();
        if self.rules.logged.is_none_or(|last| now.duration_since(last) >= MIN_INTERVAL) {
            self.rules.logged = Some(now);
            let bypasses = std::mem::take(&mut self.rules.unlogged);
            tracing::warn!(
                program = program.name,
                pid = program.pid,
                change = %what,
                changes,
                rules_back_micros = restored.map(|at| lasted(at).as_micros() as u64),
                bypass_micros = lasted(to).as_micros() as u64,
                bypasses = (bypasses > 1).then_some(bypasses),
                "another program changed the agent's rules: they were restored and all connections swept"
            );
        }
    }
}
