//! Decides which changes of problems are logged, so that a tenant whose objects are invalid and valid in turn can't fill the log.
//!
//! From: the problems that stand after each change. To: the lines that the agent's thread logs. Invariant: in each [`PERIOD`] a problem
//! has at most one line for its begin and one for its end, and one with a count of further changes. A namespace has at most [`NAMED`]
//! problems with lines of their own. Each change without a line is counted in a later one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A problem that was named is named again after this time at the earliest.
const PERIOD: Duration = Duration::from_secs(60);
/// The most problems of one namespace that are named in a period.
const NAMED: usize = 20;
/// Problems of all namespaces that are named in a period: a manifest can name any namespace.
const NAMED_IN_ALL: usize = 500;
/// The most new problems that one change names: an agent that starts may find many.
const NEW_AT_ONCE: usize = 100;
/// The most resolved problems that one change names.
const RESOLVED_AT_ONCE: usize = 10;

/// Identifies a problem, whichever version of its object has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ProblemKey {
    /// The object's namespace; empty if there is none. Lines are limited by namespace.
    pub(super) namespace: String,
    /// The problem in one line.
    pub(super) text: String,
}

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Line {
    /// A problem that is new.
    New(ProblemKey),
    /// A problem that is gone.
    Resolved(ProblemKey),
    /// A problem that began or ended `changes` times without a line, and whether it stands now.
    Repeated { problem: ProblemKey, changes: u64, stands: bool },
    /// How often problems that are not named began, and how often they ended.
    Unnamed { new: u64, resolved: u64 },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ProblemLog {
    standing: BTreeSet<ProblemKey>,
    /// By namespace, then text: the problems that were named in the current period.
    named: BTreeMap<String, BTreeMap<String, Period>>,
    /// How often problems that are not named began and ended since the last [`Line::Unnamed`].
    unnamed: (u64, u64),
    /// When [`Line::Unnamed`] may be written again; `None` if at once.
    unnamed_at: Option<Instant>,
}

/// The lines of one problem in its current period.
#[derive(Debug)]
struct Period {
    ends: Instant,
    /// Whether [`Line::New`] has been used up.
    new: bool,
    /// Whether [`Line::Resolved`] has been used up.
    resolved: bool,
    /// Changes that have no line yet.
    changes: u64,
}

impl ProblemLog {
    /// Takes all problems that stand now, and returns the lines to log at once.
    pub(super) fn change(&mut self, standing: BTreeSet<ProblemKey>, now: Instant) -> Vec<Line> {
        let before = std::mem::replace(&mut self.standing, standing);
        let resolved: Vec<ProblemKey> = before.difference(&self.standing).cloned().collect();
        let new: Vec<ProblemKey> = self.standing.difference(&before).cloned().collect();
        let mut lines = Vec::new();
        for (problems, is_new, most) in [(resolved, false, RESOLVED_AT_ONCE), (new, true, NEW_AT_ONCE)] {
            let mut named = 0;
            for problem in problems {
                if self.name_or_count(&problem, is_new, named < most, now) {
                    named += 1;
                    lines.push(if is_new { Line::New(problem) } else { Line::Resolved(problem) });
                }
            }
        }
        lines.extend(self.unnamed(now));
        lines
    }

    /// The lines, due by now, for changes that had no line when they happened.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Line> {
        let mut lines = self.repeated(|period| period.ends <= now, now);
        lines.extend(self.unnamed(now));
        lines
    }

    /// All such lines, due or not: for an agent that ends.
    pub(super) fn flush(&mut self, now: Instant) -> Vec<Line> {
        self.unnamed_at = None;
        let mut lines = self.repeated(|_| true, now);
        lines.extend(self.unnamed(now));
        lines
    }

    /// Returns whether a change of a problem has a line of its own. If not, counts it.
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

    /// Ends the periods for which `ends` holds. A problem with changes that had no line gets a line with their number, and a new period.
    fn repeated(&mut self, ends: impl Fn(&Period) -> bool, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        let standing = &self.standing;
        self.named.retain(|namespace, problems| {
            problems.retain(|text, period| {
                if !ends(period) {
                    return true;
                }
                if period.changes == 0 {
                    return false;
                }
                let problem = ProblemKey { namespace: namespace.clone(), text: text.clone() };
                let stands = standing.contains(&problem);
                lines.push(Line::Repeated { problem, changes: period.changes, stands });
                *period = Period { ends: now + PERIOD, new: true, resolved: true, changes: 0 };
                true
            });
            !problems.is_empty()
        });
        lines
    }

    fn unnamed(&mut self, now: Instant) -> Option<Line> {
        if self.unnamed == (0, 0) || self.unnamed_at.is_some_and(|at| now < at) {
            return None;
        }
        self.unnamed_at = Some(now + PERIOD);
        let (new, resolved) = std::mem::take(&mut self.unnamed);
        Some(Line::Unnamed { new, resolved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(namespace: &str, text: &str) -> ProblemKey {
        ProblemKey { namespace: namespace.to_owned(), text: text.to_owned() }
    }

    /// A log, and the time that a test lets pass.
    struct Scenario {
        log: ProblemLog,
        now: Instant,
    }

    impl Scenario {
        fn new() -> Self {
            Self { log: ProblemLog::default(), now: Instant::now() }
        }

        fn stand(&mut self, problems: &[ProblemKey]) -> Vec<Line> {
            self.log.change(problems.iter().cloned().collect(), self.now)
        }

        fn pass(&mut self, time: Duration) -> Vec<Line> {
            self.now += time;
            self.log.due(self.now)
        }
    }

    #[test]
    fn a_problem_is_logged_when_it_begins_and_when_it_ends() {
        let mut scenario = Scenario::new();
        let (a, b) = (problem("web", "a"), problem("db", "b"));
        assert_eq!(scenario.stand(std::slice::from_ref(&a)), [Line::New(a.clone())]);
        assert_eq!(scenario.stand(&[a.clone(), b.clone()]), [Line::New(b.clone())]);
        assert_eq!(scenario.stand(std::slice::from_ref(&b)), [Line::Resolved(a)]);
        assert_eq!(scenario.pass(10 * PERIOD), []);
        assert_eq!(scenario.stand(&[]), [Line::Resolved(b)], "it stood longer than a period");
    }

    #[test]
    fn a_policy_that_exceeds_its_budget_and_fits_again_many_times_has_one_line_a_period() {
        let mut scenario = Scenario::new();
        let over = problem("web", "over budget");
        let mut lines = Vec::new();
        let flips = 4 * 600;
        for flip in 0..flips {
            let standing = if flip % 2 == 0 { std::slice::from_ref(&over) } else { &[] };
            lines.extend(scenario.stand(standing));
            lines.extend(scenario.pass(PERIOD / 600));
        }
        let repeated = |changes, stands| Line::Repeated { problem: over.clone(), changes, stands };
        assert_eq!(lines[..2], [Line::New(over.clone()), Line::Resolved(over.clone())]);
        assert_eq!(lines.len(), 2 + 4, "one line a period: {lines:?}");
        assert_eq!(lines[2], repeated(598, false));
        let counted = |line: &Line| match line {
            Line::Repeated { changes, .. } => *changes,
            _ => 1,
        };
        assert_eq!(lines.iter().map(counted).sum::<u64>(), flips, "no change is lost: {lines:?}");
        // Its last state is known, and it is quiet again.
        assert_eq!(scenario.stand(std::slice::from_ref(&over)), []);
        assert_eq!(scenario.pass(PERIOD), [repeated(1, true)]);
        assert_eq!(scenario.pass(PERIOD), []);
        assert_eq!(scenario.stand(&[]), [Line::Resolved(over)]);
    }

    #[test]
    fn a_namespace_with_many_problems_takes_no_other_namespaces_lines_and_all_are_counted() {
        let mut scenario = Scenario::new();
        let mut all: Vec<ProblemKey> = (0..90).map(|n| problem("a", &format!("{n:02}"))).collect();
        all.push(problem("b", "one"));
        let lines = scenario.stand(&all);
        assert_eq!(lines.len(), NAMED + 2, "{lines:?}");
        assert!(lines.contains(&Line::New(problem("b", "one"))));
        assert_eq!(lines.last(), Some(&Line::Unnamed { new: 90 - NAMED as u64, resolved: 0 }));
        // All are resolved: of those that were named ten are named again.
        let lines = scenario.stand(&[]);
        assert_eq!(lines.len(), RESOLVED_AT_ONCE, "the others are counted later: {lines:?}");
        let lines = scenario.pass(PERIOD);
        let resolved: u64 = lines
            .iter()
            .map(|line| match line {
                Line::Repeated { changes, stands: false, .. } => *changes,
                Line::Unnamed { new: 0, resolved } => *resolved,
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(resolved, 91 - RESOLVED_AT_ONCE as u64, "{lines:?}");
    }

    #[test]
    fn policies_with_ever_new_names_fill_no_log() {
        let mut scenario = Scenario::new();
        let mut lines = Vec::new();
        for n in 0..1000 {
            lines.extend(scenario.stand(&[problem("web", &n.to_string())]));
        }
        assert!(lines.len() <= NAMED * 2 + 1, "{} lines", lines.len());
    }

    #[test]
    fn problems_in_ever_new_namespaces_fill_no_log_and_take_no_memory() {
        let mut scenario = Scenario::new();
        let mut named = 0;
        for round in 0..20 {
            let all: Vec<ProblemKey> =
                (0..1_000).map(|n| problem(&format!("{round}-{n}"), "wrong")).collect();
            let is_named = |line: &&Line| matches!(line, Line::New(_) | Line::Resolved(_));
            named += scenario.stand(&all).iter().filter(is_named).count();
        }
        assert!(named <= 2 * NAMED_IN_ALL, "{named} lines");
        assert!(scenario.log.named.len() <= NAMED_IN_ALL, "{} namespaces", scenario.log.named.len());
    }

    #[test]
    fn an_agent_that_ends_counts_what_had_no_line() {
        let mut scenario = Scenario::new();
        let over = problem("web", "over budget");
        for standing in [std::slice::from_ref(&over), &[], std::slice::from_ref(&over)] {
            scenario.stand(standing);
        }
        let lines = scenario.log.flush(scenario.now);
        assert_eq!(lines, [Line::Repeated { problem: over, changes: 1, stands: true }]);
    }
}
