//! Tracks changes of the rules by other programs, and the bypass that they cause.
//!
//! From: nftables' notifications, and the agent's checks of the rules. To: the agent, which restores the
//! rules.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use dataplane::table::{Changed, ForeignChange, Program, RulesListener, RulesMonitor, Table};

use super::message::{Message, THREAD_NAME};
use cluster::error_chain::chain;

/// At most once in this time, a bypass has a separate line in the log, and the rules are restored because
/// notifications were lost. A program that constantly changes its own rules must not keep the agent busy.
pub(super) const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a takeover was noticed the notification of an earlier change may still arrive.
const NOTIFIED_AFTER_TAKEOVER: Duration = Duration::from_secs(5);

/// How long to wait for the notification after rules were found missing: it names the program that deleted
/// them.
const NOTIFIED_WITHIN: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(super) struct RulesWatch {
    /// Receives notifications of changes; `None` before the rules are installed.
    monitor: Option<RulesMonitor>,
    /// When the rules were last found intact.
    seen: SystemTime,
    /// The bypass that has not ended yet.
    pub(super) bypass: Option<Bypass>,
    /// When a bypass was last logged.
    pub(super) logged: Option<Instant>,
    /// The number of bypasses since `logged`, which have no line.
    pub(super) unlogged: u64,
    /// When the rules were last restored because notifications were lost.
    restored_unknown: Option<Instant>,
    /// When rules were found missing that have not been restored.
    pub(super) missing: Option<Instant>,
    /// The generation of the ruleset that was replaced when the rules were last restored for a bypass. All
    /// changes up to that generation are undone. Rules that are written for another reason undo none.
    pub(super) undone: Option<u32>,
    /// When another agent's takeover was noticed; `None` after the first notification since then, which may
    /// be of an earlier change.
    taken_over: Option<Instant>,
}

/// A bypass that has not ended.
#[derive(Debug)]
pub(super) struct Bypass {
    /// The first change.
    pub(super) change: ForeignChange,
    /// The number of nftables transactions by other programs.
    pub(super) changes: u64,
    /// Whether rules were also found missing.
    are_missing: bool,
    /// When the rules were restored; `None` before.
    pub(super) restored: Option<SystemTime>,
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
    pub(super) fn handed_over(&mut self) {
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
    pub(super) fn is_from_before_takeover(&mut self, change: &ForeignChange) -> bool {
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

    /// When [`Agent::restore_rules`](super::Agent::restore_rules) must be called; `None` if the rules are
    /// intact.
    pub(super) fn restore_at(&self) -> Option<Instant> {
        self.is_damaged().then(|| Instant::now() + NOTIFIED_WITHIN)
    }

    /// Whether the rules must be restored now. If notifications are lost repeatedly, they are restored at
    /// most once per [`MIN_INTERVAL`].
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
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
