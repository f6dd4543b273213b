//! Restores rules that other programs change or delete, and records the bypass: the period in which packets
//! could pass unevaluated.
//!
//! From: nftables' notifications, and a check of the rules once a second in case one was missed. To: the
//! rules, the sweep, then audit log, status and log. Invariant: a bypass ends when the rules are restored and
//! every connection has been evaluated under them.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use dataplane::table::{Changed, ForeignChange, Program, RulesListener, RulesMonitor, Table, TableError};
use jiff::Timestamp;

use super::{Agent, Message, THREAD_NAME};
use crate::error_chain::chain;
use crate::health::Condition;
use crate::status;

/// At most once in this time, a bypass has a separate line in the log, and the rules are restored because
/// notifications were lost. A program that constantly changes its own rules must not keep the agent busy.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a takeover was noticed the notification of an earlier change may still arrive.
const NOTIFIED_AFTER_TAKEOVER: Duration = Duration::from_secs(5);

/// How long to wait for the notification after rules were found missing: it names the program that deleted
/// them.
const NOTIFIED_WITHIN: Duration = Duration::from_millis(50);

/// Tracks changes of the rules by other programs.
#[derive(Debug)]
pub(super) struct RulesWatch {
    /// Receives notifications of changes; `None` before the rules are installed.
    monitor: Option<RulesMonitor>,
    /// When the rules were last found intact.
    seen: SystemTime,
    /// The bypass that has not ended yet.
    bypass: Option<Bypass>,
    /// When a bypass was last logged.
    logged: Option<Instant>,
    /// The number of bypasses since `logged`, which have no line.
    unlogged: u64,
    /// When the rules were last restored because notifications were lost.
    restored_unknown: Option<Instant>,
    /// When rules were found missing that have not been restored.
    missing: Option<Instant>,
    /// The generation of the ruleset that was replaced when the rules were last restored for a bypass. All
    /// changes up to that generation are undone. Rules that are written for another reason undo none.
    undone: Option<u32>,
    /// When another agent's takeover was noticed; `None` after the first notification since then, which may
    /// be of an earlier change.
    taken_over: Option<Instant>,
}

/// A bypass that has not ended.
#[derive(Debug)]
struct Bypass {
    /// The first change.
    change: ForeignChange,
    /// The number of nftables transactions by other programs.
    changes: u64,
    /// Whether rules were also found missing.
    are_missing: bool,
    /// When the rules were restored; `None` before.
    restored: Option<SystemTime>,
}

impl RulesWatch {
    pub(super) fn new() -> Self {
        Self {
            monitor: None,
            seen: SystemTime::now(),
            bypass: None,
            logged: None,
            unlogged: 0,
            restored_unknown: None,
            missing: None,
            undone: None,
            taken_over: None,
        }
    }

    /// From here on, sends changes of the rules, which were just installed, as messages.
    pub(super) fn begin(&mut self, listener: RulesListener, table: &Table, outbox: Sender<Message>) {
        self.seen = SystemTime::now();
        // Sending fails only if the agent has ended.
        let send = move |change| drop(outbox.send(Message::RulesChanged(change)));
        match listener.start(table, send) {
            Ok(monitor) => self.monitor = Some(monitor),
            Err(error) => tracing::error!(
                error = %chain(&error),
                "cannot start the thread that watches for changes of the rules by other programs: such \
                 changes are undone up to a second later"
            ),
        }
    }

    pub(super) fn end(&mut self) {
        self.monitor = None;
    }

    /// Another agent has written all rules and evaluates all connections. A change that another program made
    /// before the takeover must still be recorded.
    fn handed_over(&mut self) {
        self.missing = None;
        match &mut self.bypass {
            Some(bypass) if bypass.are_missing || !is_of_an_agent(&bypass.change) => {
                bypass.restored = Some(SystemTime::now());
            }
            Some(_) => self.bypass = None,
            None => self.taken_over = Some(Instant::now()),
        }
    }

    /// Whether this change precedes another agent's takeover, and was made by another program.
    fn is_from_before_takeover(&mut self, change: &ForeignChange) -> bool {
        let is_first = self.taken_over.take().is_some_and(|at| at.elapsed() < NOTIFIED_AFTER_TAKEOVER);
        is_first && !is_of_an_agent(change)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.monitor.as_ref().is_some_and(RulesMonitor::has_ended)
    }

    /// Call this when the rules were found intact.
    pub(super) fn seen(&mut self) {
        self.seen = SystemTime::now();
    }

    /// Whether the rules must be restored.
    pub(super) fn is_damaged(&self) -> bool {
        self.bypass.as_ref().is_some_and(|bypass| bypass.restored.is_none())
    }

    /// Begins a bypass, or extends it: packets may pass unevaluated from its first change on.
    pub(super) fn changed(&mut self, change: ForeignChange) {
        match &mut self.bypass {
            Some(bypass) => {
                bypass.changes += 1;
                bypass.restored = None;
                if bypass.change.what == Changed::Unknown {
                    // This change deleted the rules that were found missing, and tells when.
                    let before = if bypass.are_missing { change.since } else { bypass.change.since };
                    bypass.change = ForeignChange { since: before.min(change.since), ..change };
                }
            }
            None => self.bypass = Some(Bypass { change, changes: 1, are_missing: false, restored: None }),
        }
    }

    /// Call this when the rules were found missing. The notification may be still to come.
    pub(super) fn missing(&mut self) {
        if !self.is_damaged() {
            let (since, program) = (self.seen, Program::default());
            self.changed(ForeignChange { since, program, what: Changed::Unknown, generation: None });
        }
        if let Some(bypass) = &mut self.bypass {
            bypass.are_missing = true;
        }
        self.missing.get_or_insert_with(Instant::now);
    }

    /// When [`Agent::restore_rules`] must be called; `None` if the rules are intact.
    pub(super) fn restore_at(&self) -> Option<Instant> {
        self.is_damaged().then(|| Instant::now() + NOTIFIED_WITHIN)
    }

    /// Whether the rules must be restored now. If notifications are lost repeatedly, they are restored at
    /// most once per [`MIN_INTERVAL`].
    fn is_due(&mut self, now: Instant) -> bool {
        let is_notified = self.bypass.as_ref().is_some_and(|bypass| bypass.change.what != Changed::Unknown);
        if !is_notified && self.missing.is_some_and(|at| now.duration_since(at) < NOTIFIED_WITHIN) {
            return false;
        }
        let is_certain = |bypass: &Bypass| bypass.are_missing || bypass.change.what != Changed::Unknown;
        if self.bypass.as_ref().is_none_or(is_certain) {
            return true;
        }
        let is_due = self.restored_unknown.is_none_or(|last| now.duration_since(last) >= MIN_INTERVAL);
        if is_due {
            self.restored_unknown = Some(now);
        }
        is_due
    }
}

/// Whether an agent or `kube-verdict cleanup` made this change, by the name of its thread. The cleanup runs
/// on the program's main thread, which has the program's name.
fn is_of_an_agent(change: &ForeignChange) -> bool {
    matches!(change.program.name.as_deref(), Some(THREAD_NAME))
}

impl Agent {
    /// Handles a change of this agent's rules by another program: restores them, and evaluates all
    /// connections, since any packet may have passed.
    pub(super) fn rules_changed(&mut self, change: ForeignChange) {
        if self.rules.is_from_before_takeover(&change) {
            self.rules.changed(change);
            return self.hand_over_rules();
        }
        let is_undone = self.rules.undone.is_some_and(|replaced| change.is_undone_by(replaced));
        if self.phase.is_enforcing() && !is_undone {
            self.rules.changed(change);
            self.restore_rules();
        }
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
                self.rules.missing = None;
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

    /// Records a bypass before another agent's takeover: only this agent knows that other programs had
    /// changed the rules.
    pub(super) fn hand_over_rules(&mut self) {
        self.rules.handed_over();
        self.end_bypass();
    }

    /// Ends the bypass and records it, if there is one. Call this when every connection has been evaluated
    /// under the restored rules.
    pub(super) fn end_bypass(&mut self) {
        if self.rules.is_damaged() {
            return;
        }
        let Some(Bypass { change, changes, restored, .. }) = self.rules.bypass.take() else { return };
        let ForeignChange { since, program, what, .. } = change;
        let to = SystemTime::now();
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
            node: self.config.node.clone(),
            change: what.to_string(),
            program: program.name.clone(),
            pid: program.pid,
        };
        self.health.state().status.bypasses.add(status::Bypass::from(&record), lasted(to));
        self.audit.record_bypass(record);
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
