//! Limits the rate at which changes of problems are logged, so that a tenant can't fill the log with objects
//! that alternate between invalid and valid.
//!
//! From: all current problems after each change. To: the lines that the agent's thread logs. Invariant: in
//! each [`PERIOD`], a problem has at most one line for its start, one for its resolution, and one with the
//! count of further changes. A namespace has at most [`NAMED`] problems with separate lines. A later line
//! counts each change without a line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The earliest time after which a named problem is named again.
const PERIOD: Duration = Duration::from_secs(60);
/// The most problems of one namespace that are named in a period.
const NAMED: usize = 20;
/// The most problems of all namespaces that are named in a period: a manifest can name any namespace.
const NAMED_IN_ALL: usize = 500;
/// The most new problems that one change names: an agent that starts may find many.
const NEW_AT_ONCE: usize = 100;
/// The most resolved problems that one change names.
const RESOLVED_AT_ONCE: usize = 10;

/// Identifies a problem, independent of its object's version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ProblemKey {
    /// The object's namespace; empty if there is none. Lines are limited by namespace.
    pub(super) namespace: String,
    /// The problem in one line.
    pub(super) text: String,
}

/// A line of the program's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum LogLine {
    /// A new problem.
    New(ProblemKey),
    /// A resolved problem.
    Resolved(ProblemKey),
    /// A problem that appeared or was resolved `changes` times without a line, and whether it is current.
    Repeated { problem: ProblemKey, changes: u64, is_current: bool },
    /// How often problems that are not named appeared, and how often they were resolved.
    Unnamed { new: u64, resolved: u64 },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ProblemLog {
    current: BTreeSet<ProblemKey>,
    /// The problems that were named in the current period, by namespace and text.
    named: BTreeMap<String, BTreeMap<String, Period>>,
    /// How often problems that are not named appeared and were resolved since the last [`LogLine::Unnamed`].
    unnamed: (u64, u64),
    /// When the next [`LogLine::Unnamed`] may be written; `None` if at once.
    unnamed_at: Option<Instant>,
}

/// The lines of one problem in its current period.
#[derive(Debug)]
struct Period {
    ends: Instant,
    /// Whether [`LogLine::New`] has been used up.
    new: bool,
    /// Whether [`LogLine::Resolved`] has been used up.
    resolved: bool,
    /// Changes that have no line yet.
    changes: u64,
}

impl ProblemLog {
    /// Replaces the current problems, and returns the lines to log at once.
    pub(super) fn change(&mut self, current: BTreeSet<ProblemKey>, now: Instant) -> Vec<LogLine> {
        let before = std::mem::replace(&mut self.current, current);
        let resolved: Vec<ProblemKey> = before.difference(&self.current).cloned().collect();
        let new: Vec<ProblemKey> = self.current.difference(&before).cloned().collect();
        let mut lines = Vec::new();
        for (problems, is_new, most) in [(resolved, false, RESOLVED_AT_ONCE), (new, true, NEW_AT_ONCE)] {
            let mut named = 0;
            for problem in problems {
                if self.name_or_count(&problem, is_new, named < most, now) {
                    named += 1;
                    lines.push(if is_new { LogLine::New(problem) } else { LogLine::Resolved(problem) });
                }
            }
        }
        lines.extend(self.unnamed(now));
        lines
    }

    /// The lines that are due for changes that were counted without a line.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LogLine> {
        let mut lines = self.repeated(|period| period.ends <= now, now);
        lines.extend(self.unnamed(now));
        lines
    }

    /// All lines for changes that were counted without a line, due or not, for an agent that ends.
    pub(super) fn flush(&mut self, now: Instant) -> Vec<LogLine> {
        self.unnamed_at = None;
        let mut lines = self.repeated(|_| true, now);
        lines.extend(self.unnamed(now));
        lines
    }

    /// Returns whether a change of a problem has a separate line. If not, counts it.
    fn name_or_count(&mut self, problem: &ProblemKey, is_new: bool, has_room: bool, now: Instant) -> bool {
        let ProblemKey { namespace, text } = problem;
        let named = &mut self.named;
        if let Some(period) = named.get_mut(namespace).and_then(|of_namespace| of_namespace.get_mut(text)) {
            let has_line = if is_new { &mut period.new } else { &mut period.resolved };
            let is_first = has_room && !std::mem::replace(has_line, true);
            period.changes += u64::from(!is_first);
            return is_first;
        }
        // Namespaces without a named problem have no entry, so these are few.
        let has_room = has_room
            && named.get(namespace).map_or(0, BTreeMap::len) < NAMED
            && named.values().map(BTreeMap::len).sum::<usize>() < NAMED_IN_ALL;
        if has_room {
            let period = Period { ends: now + PERIOD, new: is_new, resolved: !is_new, changes: 0 };
            named.entry(namespace.clone()).or_default().insert(text.clone(), period);
            return true;
        }
        let (new, resolved) = &mut self.unnamed;
        *(if is_new { new } else { resolved }) += 1;
        false
    }

    /// Ends the periods that satisfy `ends`. A problem with changes that had no line gets a line with their
    /// number, and a new period.
    fn repeated(&mut self, ends: impl Fn(&Period) -> bool, now: Instant) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let current = &self.current;
        self.named.retain(|namespace, problems| {
            problems.retain(|text, period| {
                if !ends(period) {
                    return true;
                }
                if period.changes == 0 {
                    return false;
                }
                let problem = ProblemKey { namespace: namespace.clone(), text: text.clone() };
                let is_current = current.contains(&problem);
                lines.push(LogLine::Repeated { problem, changes: period.changes, is_current });
                *period = Period { ends: now + PERIOD, new: true, resolved: true, changes: 0 };
                true
            });
            !problems.is_empty()
        });
        lines
    }

    fn unnamed(&mut self, now: Instant) -> Option<LogLine> {
        if self.unnamed == (0, 0) || self.unnamed_at.is_some_and(|at| now < at) {
            return None;
        }
        self.unnamed_at = Some(now + PERIOD);
        let (new, resolved) = std::mem::take(&mut self.unnamed);
        Some(LogLine::Unnamed { new, resolved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(namespace: &str, text: &str) -> ProblemKey {
        ProblemKey { namespace: namespace.to_owned(), text: text.to_owned() }
    }

    /// A log, and the time that a test controls.
    struct Scenario {
        log: ProblemLog,
        now: Instant,
    }

    impl Scenario {
        fn new() -> Self {
            Self { log: ProblemLog::default(), now: Instant::now() }
        }

        fn set(&mut self, problems: &[ProblemKey]) -> Vec<LogLine> {
            self.log.change(problems.iter().cloned().collect(), self.now)
        }

        fn pass(&mut self, time: Duration) -> Vec<LogLine> {
            self.now += time;
            self.log.due(self.now)
        }
    }

    #[test]
    fn a_problem_is_logged_when_it_appears_and_when_it_is_resolved() {
        let mut scenario = Scenario::new();
        let (a, b) = (problem("web", "a"), problem("db", "b"));
        assert_eq!(scenario.set(std::slice::from_ref(&a)), [LogLine::New(a.clone())]);
        assert_eq!(scenario.set(&[a.clone(), b.clone()]), [LogLine::New(b.clone())]);
        assert_eq!(scenario.set(std::slice::from_ref(&b)), [LogLine::Resolved(a)]);
        assert_eq!(scenario.pass(10 * PERIOD), []);
        assert_eq!(scenario.set(&[]), [LogLine::Resolved(b)], "it lasted longer than a period");
    }

    #[test]
    fn a_policy_that_repeatedly_exceeds_its_budget_has_one_line_a_period() {
        let mut scenario = Scenario::new();
        let over = problem("web", "over budget");
        let mut lines = Vec::new();
        let flips = 4 * 600;
        for flip in 0..flips {
            let current = if flip % 2 == 0 { std::slice::from_ref(&over) } else { &[] };
            lines.extend(scenario.set(current));
            lines.extend(scenario.pass(PERIOD / 600));
        }
        let repeated = |changes, is_current| LogLine::Repeated { problem: over.clone(), changes, is_current };
        assert_eq!(lines[..2], [LogLine::New(over.clone()), LogLine::Resolved(over.clone())]);
        assert_eq!(lines.len(), 2 + 4, "one line a period: {lines:?}");
        assert_eq!(lines[2], repeated(598, false));
        let counted = |line: &LogLine| match line {
            LogLine::Repeated { changes, .. } => *changes,
            _ => 1,
        };
        assert_eq!(lines.iter().map(counted).sum::<u64>(), flips, "no change is lost: {lines:?}");
        // After a period with one change, the last state is logged, and lines are immediate again.
        assert_eq!(scenario.set(std::slice::from_ref(&over)), []);
        assert_eq!(scenario.pass(PERIOD), [repeated(1, true)]);
        assert_eq!(scenario.pass(PERIOD), []);
        assert_eq!(scenario.set(&[]), [LogLine::Resolved(over)]);
    }

    #[test]
    fn a_namespace_with_many_problems_does_not_suppress_lines_of_others_and_all_are_counted() {
        let mut scenario = Scenario::new();
        let mut all: Vec<ProblemKey> = (0..90).map(|n| problem("a", &format!("{n:02}"))).collect();
        all.push(problem("b", "one"));
        let lines = scenario.set(&all);
        assert_eq!(lines.len(), NAMED + 2, "{lines:?}");
        assert!(lines.contains(&LogLine::New(problem("b", "one"))));
        assert_eq!(lines.last(), Some(&LogLine::Unnamed { new: 90 - NAMED as u64, resolved: 0 }));
        // When all are resolved, ten of those that were named are named again.
        let lines = scenario.set(&[]);
        assert_eq!(lines.len(), RESOLVED_AT_ONCE, "the others are counted later: {lines:?}");
        let lines = scenario.pass(PERIOD);
        let resolved: u64 = lines
            .iter()
            .map(|line| match line {
                LogLine::Repeated { changes, is_current: false, .. } => *changes,
                LogLine::Unnamed { new: 0, resolved } => *resolved,
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(resolved, 91 - RESOLVED_AT_ONCE as u64, "{lines:?}");
    }

    #[test]
    fn policies_that_always_have_new_names_do_not_fill_the_log() {
        let mut scenario = Scenario::new();
        let mut lines = Vec::new();
        for n in 0..1000 {
            lines.extend(scenario.set(&[problem("web", &n.to_string())]));
        }
        assert!(lines.len() <= NAMED * 2 + 1, "{} lines", lines.len());
    }

    #[test]
    fn problems_that_are_always_in_new_namespaces_do_not_fill_log_or_memory() {
        let mut scenario = Scenario::new();
        let mut named = 0;
        for round in 0..20 {
            let all: Vec<ProblemKey> =
                (0..1_000).map(|n| problem(&format!("{round}-{n}"), "wrong")).collect();
            let is_named = |line: &&LogLine| matches!(line, LogLine::New(_) | LogLine::Resolved(_));
            named += scenario.set(&all).iter().filter(is_named).count();
        }
        assert!(named <= 2 * NAMED_IN_ALL, "{named} lines");
        assert!(scenario.log.named.len() <= NAMED_IN_ALL, "{} namespaces", scenario.log.named.len());
    }

    #[test]
    fn flush_counts_changes_that_had_no_line() {
        let mut scenario = Scenario::new();
        let over = problem("web", "over budget");
        for current in [std::slice::from_ref(&over), &[], std::slice::from_ref(&over)] {
            scenario.set(current);
        }
        let lines = scenario.log.flush(scenario.now);
        assert_eq!(lines, [LogLine::Repeated { problem: over, changes: 1, is_current: true }]);
    }
}
