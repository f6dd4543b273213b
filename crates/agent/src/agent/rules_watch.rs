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

/// How often the agent retries to restore the rules.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How long the record of a bypass waits for the notification of the change, which names the program. The
/// rules were found missing before it arrived, and are restored without it.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct RulesWatch {
    /// Receives notifications of changes; `None` before the rules are installed.
    monitor: Option<RulesMonitor>,
    /// When the rules were last found intact.
    seen: SystemTime,
    /// The bypass that has not ended yet.
    pub(super) bypass: Option<OngoingBypass>,
    /// When a bypass was last logged.
    pub(super) logged: Option<Instant>,
    /// The number of bypasses since `logged`, which have no line.
    pub(super) unlogged: u64,
    /// When the rules were last restored because notifications were lost.
    restored_unknown: Option<Instant>,
    /// The generation of the ruleset that was replaced when the rules were last restored for a bypass. All
    /// changes up to that generation are undone. Rules that are written for another reason undo none.
    pub(super) undone: Option<u32>,
    /// When another agent's takeover was noticed; `None` after the first notification since then, which may
    /// be of an earlier change.
    taken_over: Option<Instant>,
}

/// A bypass that has not ended.
#[derive(Debug)]
pub(super) struct OngoingBypass {
    /// The first change.
    pub(super) change: ForeignChange,
    /// The number of nftables transactions by other programs.
    pub(super) changes: u64,
    /// Whether rules were also found missing.
    are_missing: bool,
    /// When the rules were restored; `None` before.
    pub(super) restored: Option<SystemTime>,
    /// When every connection had been evaluated under the restored rules, by both clocks; `None` before.
    pub(super) ended: Option<(SystemTime, Instant)>,
}

impl OngoingBypass {
    fn new(change: ForeignChange) -> Self {
        Self { change, changes: 1, are_missing: false, restored: None, ended: None }
    }

    /// Whether no notification has named the change.
    fn is_unknown(&self) -> bool {
        self.change.what == Changed::Unknown
    }

    /// Takes over what a notification says about the change that deleted the rules, if none has said it.
    fn attribute(&mut self, change: ForeignChange) {
        if self.is_unknown() {
            let before = if self.are_missing { change.since } else { self.change.since };
            self.change = ForeignChange { since: before.min(change.since), ..change };
        }
    }
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
                (bypass.restored, bypass.ended) = (None, None);
                bypass.attribute(change);
            }
            None => self.bypass = Some(OngoingBypass::new(change)),
        }
    }

    /// Call this for the notification of a change that is already undone: the rules may have been found
    /// missing before it arrived.
    pub(super) fn undone_change(&mut self, change: ForeignChange) {
        if let Some(bypass) = &mut self.bypass {
            bypass.attribute(change);
        }
    }

    /// Call this when every connection has been evaluated. If the rules are restored, the bypass has ended.
    pub(super) fn swept(&mut self, now: Instant) {
        if let Some(bypass) = &mut self.bypass
            && bypass.restored.is_some()
        {
            bypass.ended.get_or_insert((SystemTime::now(), now));
        }
    }

    /// Takes the bypass if it has ended and its record need not wait for a notification.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<OngoingBypass> {
        self.bypass.take_if(|bypass| {
            let is_late = |(_, at): (_, Instant)| now.duration_since(at) >= NOTIFIED_WITHIN;
            // If notifications were lost, none will arrive.
            let waits = bypass.is_unknown() && bypass.are_missing;
            bypass.ended.is_some_and(|ended| !waits || is_late(ended))
        })
    }

    /// Takes the bypass if it has ended.
    pub(super) fn take_ended_now(&mut self) -> Option<OngoingBypass> {
        self.bypass.take_if(|bypass| bypass.ended.is_some())
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
    }

    /// When the agent must act next: restore the rules, or record a bypass that has ended; `None` if there
    /// is none.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let bypass = self.bypass.as_ref()?;
        match bypass.ended {
            Some((_, at)) => Some(at + NOTIFIED_WITHIN),
            None => self.is_damaged().then(|| now + RETRY_INTERVAL),
        }
    }

    /// Whether the rules must be restored now. If notifications are lost repeatedly, they are restored at
    /// most once per [`MIN_INTERVAL`].
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_certain = |bypass: &OngoingBypass| bypass.are_missing || !bypass.is_unknown();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn change(since: SystemTime, program: &str, generation: u32) -> ForeignChange {
        let program = Program { name: Some(program.to_owned()), pid: Some(7) };
        let (object, table) = ("table".to_owned(), "inet kube-verdict".to_owned());
        let what = Changed::Object { is_deleted: true, object, table };
        ForeignChange { since, program, what, generation: Some(generation) }
    }

    /// Found by a test on a busy machine: the agent found its rules missing and restored them before the
    /// thread that receives notifications ran. The record then named no program.
    #[test]
    fn a_notification_that_arrives_after_missing_rules_were_restored_names_the_program() {
        let (mut watch, now) = (RulesWatch::new(), Instant::now());
        let deleted = watch.seen + Duration::from_millis(300);
        watch.missing();
        assert!(watch.is_due(now), "restoring does not wait for the notification");
        watch.bypass.as_mut().unwrap().restored = Some(deleted);
        watch.swept(now);
        assert!(watch.take_ended(now).is_none(), "the record waits for the notification");
        watch.undone_change(change(deleted, "nft", 5));
        let bypass = watch.take_ended(now).unwrap();
        assert_eq!((bypass.change.program.name.as_deref(), bypass.change.since), (Some("nft"), deleted));
    }

    #[test]
    fn a_bypass_of_unknown_cause_is_recorded_a_second_after_its_end() {
        let (mut watch, now) = (RulesWatch::new(), Instant::now());
        watch.missing();
        watch.bypass.as_mut().unwrap().restored = Some(SystemTime::now());
        assert!(watch.take_ended_now().is_none(), "connections are not swept yet");
        watch.swept(now);
        assert_eq!(watch.wake_at(now), Some(now + NOTIFIED_WITHIN));
        assert!(watch.take_ended(now + NOTIFIED_WITHIN).unwrap().is_unknown());
        assert!(watch.bypass.is_none());
    }

    #[test]
    fn a_change_after_the_end_of_a_bypass_is_another_bypass() {
        let (mut watch, now) = (RulesWatch::new(), Instant::now());
        let at = SystemTime::now();
        watch.changed(change(at, "nft", 5));
        watch.bypass.as_mut().unwrap().restored = Some(at);
        watch.swept(now);
        assert_eq!(watch.take_ended_now().unwrap().changes, 1);
        watch.changed(change(at, "iptables", 6));
        assert!(watch.is_damaged() && watch.take_ended_now().is_none());
    }

    #[test]
    fn rules_that_are_missing_again_while_a_record_waits_are_another_bypass() {
        let (mut watch, now) = (RulesWatch::new(), Instant::now());
        for _ in 0..2 {
            watch.missing();
            watch.bypass.as_mut().unwrap().restored = Some(SystemTime::now());
            watch.swept(now);
            assert!(watch.take_ended(now).is_none(), "it waits for the notification");
            assert_eq!(watch.take_ended_now().unwrap().changes, 1);
        }
    }
}
