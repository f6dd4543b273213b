//! The agent's part about rules that other programs change or delete: they are written again, and the time in between is recorded.
//!
//! From: nftables' notifications, and a look at the rules once a second in case one was missed. To: the rules, the sweep, then audit log,
//! status and log. Invariant: a bypass is over when the rules are back and every connection was evaluated under them.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use dataplane::table::{Changed, ForeignChange, Program, RulesListener, RulesMonitor, Table, TableError};
use jiff::Timestamp;

use super::{Agent, Message, THREAD_NAME};
use crate::health::Topic;
use crate::status;

/// How often at most one bypass has a line of its own in the log, and how often at most the rules are written because notifications were
/// lost: a program that changes its own rules all the time must not keep the agent busy.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// How long after a takeover is noticed a notification of an earlier change may still be read.
const NOTIFIED_AFTER_TAKEOVER: Duration = Duration::from_secs(5);

/// A notification, which says who did it, comes so soon after rules are found missing, if it comes.
const NOTIFIED_WITHIN: Duration = Duration::from_millis(50);

/// What is known of changes of the rules by other programs.
#[derive(Debug)]
pub(super) struct RulesWatch {
    /// Changes are noticed while this lives; `None` before the rules are installed.
    monitor: Option<RulesMonitor>,
    /// When the rules were last seen to be there.
    seen: SystemTime,
    /// The time in which packets may pass unevaluated, if it is such a time.
    bypass: Option<Bypass>,
    logged: Option<Instant>,
    /// Bypasses since then that have no line.
    unlogged: u64,
    written_unknown: Option<Instant>,
    /// When rules were found missing that are not back.
    missing: Option<Instant>,
    /// The generation of the ruleset that was replaced when rules were last written again for a bypass: it covers all changes until then.
    /// Rules that are written for another reason cover none.
    undone: Option<u32>,
    /// When another agent was found to have taken over, until the first notification after that: it may be of a change before.
    taken_over: Option<Instant>,
}

/// A bypass that is not over.
#[derive(Debug)]
struct Bypass {
    /// The first change.
    change: ForeignChange,
    /// How many batches of other programs it took.
    changes: u64,
    /// Whether rules were found missing, beside what was notified.
    are_missing: bool,
    /// When the rules were back; `None` before.
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
            written_unknown: None,
            missing: None,
            undone: None,
            taken_over: None,
        }
    }

    /// Has changes of the rules that were just installed come as messages from here on.
    pub(super) fn begin(&mut self, listener: RulesListener, table: &Table, outbox: Sender<Message>) {
        self.seen = SystemTime::now();
        // A message that finds no agent any more has nothing to repair.
        let tell = move |change| drop(outbox.send(Message::RulesChanged(change)));
        match listener.start(table, tell) {
            Ok(monitor) => self.monitor = Some(monitor),
            Err(error) => tracing::error!(
                %error,
                "cannot start the thread that notices changes of the rules by other programs: they are repaired up to a second later"
            ),
        }
    }

    pub(super) fn end(&mut self) {
        self.monitor = None;
    }

    /// Another agent has written all rules, and evaluates all connections. A change that another program made before that is still to be
    /// recorded.
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

    /// Whether another program made this change before another agent took over.
    fn is_from_before_takeover(&mut self, change: &ForeignChange) -> bool {
        let is_first = self.taken_over.take().is_some_and(|at| at.elapsed() < NOTIFIED_AFTER_TAKEOVER);
        is_first && !is_of_an_agent(change)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.monitor.as_ref().is_some_and(RulesMonitor::has_ended)
    }

    /// The rules are there.
    pub(super) fn seen(&mut self) {
        self.seen = SystemTime::now();
    }

    /// Whether the rules are still to be written again.
    pub(super) fn is_damaged(&self) -> bool {
        self.bypass.as_ref().is_some_and(|bypass| bypass.restored.is_none())
    }

    /// From the first of these changes on packets may pass unevaluated.
    pub(super) fn changed(&mut self, change: ForeignChange) {
        match &mut self.bypass {
            Some(bypass) => {
                bypass.changes += 1;
                bypass.restored = None;
                if bypass.change.what == Changed::Unknown {
                    // What was found missing went by this change, which knows when.
                    let before = if bypass.are_missing { change.since } else { bypass.change.since };
                    bypass.change = ForeignChange { since: before.min(change.since), ..change };
                }
            }
            None => self.bypass = Some(Bypass { change, changes: 1, are_missing: false, restored: None }),
        }
    }

    /// The rules were found missing: perhaps the notification is still to come.
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

    /// When [`Agent::restore_rules`] is to be called, if it is.
    pub(super) fn restore_at(&self) -> Option<Instant> {
        self.is_damaged().then(|| Instant::now() + NOTIFIED_WITHIN)
    }

    /// Whether to write them now: not each time when notifications are lost again and again.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_notified = self.bypass.as_ref().is_some_and(|bypass| bypass.change.what != Changed::Unknown);
        if !is_notified && self.missing.is_some_and(|at| now.duration_since(at) < NOTIFIED_WITHIN) {
            return false;
        }
        let is_certain = |bypass: &Bypass| bypass.are_missing || bypass.change.what != Changed::Unknown;
        if self.bypass.as_ref().is_none_or(is_certain) {
            return true;
        }
        let is_due = self.written_unknown.is_none_or(|last| now.duration_since(last) >= AT_MOST_EVERY);
        if is_due {
            self.written_unknown = Some(now);
        }
        is_due
    }
}

/// Whether an agent or `kube-verdict cleanup` made this change, by the name of its thread: the cleanup is the main thread of the program, which has the same.
fn is_of_an_agent(change: &ForeignChange) -> bool {
    matches!(change.program.name.as_deref(), Some(THREAD_NAME))
}

impl Agent {
    /// Another program changed our rules: writes them again, and looks at all connections, since any packet may have passed meanwhile.
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

    /// Writes the rules again if that is still to be done.
    pub(super) fn restore_rules(&mut self) {
        if !self.rules.is_damaged() || !self.rules.is_due(Instant::now()) {
            return;
        }
        let (Some(snapshot), Some(queues)) = (self.snapshot.clone(), self.health.state().queues) else {
            return;
        };
        let (origins, _) = self.origins.derive(&snapshot, self.compiler.inventory());
        // What has passed meanwhile is marked by the sweep that follows.
        let config = self.table_config(&snapshot, queues, origins, true);
        let log_group = self.kernel_records.group(self.config.log_group(queues));
        let Some(engine) = self.phase.engine() else { return };
        match engine.restore_rules(config) {
            Ok(replaced) => {
                self.rules.undone = Some(replaced);
                self.kernel_records.rules_log_to(log_group);
                self.rules.missing = None;
                if let Some(bypass) = &mut self.rules.bypass {
                    bypass.restored = Some(SystemTime::now());
                }
                self.health.state().settled(Topic::Rules);
                self.put_in_force_again();
            }
            Err(TableError::Superseded(_)) => self.superseded(),
            Err(error) => {
                let program =
                    self.rules.bypass.as_ref().and_then(|bypass| bypass.change.program.name.clone());
                let program = program.unwrap_or_else(|| "another program".to_owned());
                let why = format!(
                    "the rules were changed by {} and can't be written again: {error}",
                    program.escape_debug()
                );
                self.health.state().not_ready(Topic::Rules, why);
            }
        }
    }

    /// Another agent has taken over. This one records what it alone knows: that other programs had changed the rules before.
    pub(super) fn hand_over_rules(&mut self) {
        self.rules.handed_over();
        self.end_bypass();
    }

    /// Every connection was evaluated under the rules: if they had been changed, this ends the time in which packets could pass.
    pub(super) fn end_bypass(&mut self) {
        if self.rules.is_damaged() {
            return;
        }
        let Some(Bypass { change, changes, restored, .. }) = self.rules.bypass.take() else { return };
        let ForeignChange { since, program, what, .. } = change;
        let to = SystemTime::now();
        // A clock that was set back meanwhile makes it no shorter than nothing.
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
        if self.rules.logged.is_none_or(|last| now.duration_since(last) >= AT_MOST_EVERY) {
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
                "another program changed the agent's rules: they were written again and all connections swept"
            );
        }
    }
}
