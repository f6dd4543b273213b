//! A queue of large policies to compile, so that other changes don't wait for them.
//!
//! From: the source's changes. To: the agent's thread, which compiles some of them whenever no other change
//! is pending. Invariant: the queue holds only the newest version of each policy, and none that was changed
//! or removed since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::{Change, Cost, PolicyName, PolicySpec};

/// How many entries are compiled at once. The largest policies beyond that wait. An entry takes up to 1 µs.
const COMPILED_AT_ONCE: Cost = 1 << 15;

/// How many entries are compiled in one step from the backlog. A single larger policy is still compiled in
/// one step.
const COMPILED_PER_STEP: Cost = 1 << 17;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog(BTreeMap<PolicyName, Arc<PolicySpec>>);

impl Backlog {
    /// Moves the largest policies to the backlog until the rest has at most [`COMPILED_AT_ONCE`] entries.
    /// Returns the rest and all other changes.
    pub(super) fn defer(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let mut costs: Vec<(Cost, PolicyName)> = Vec::new();
        for change in &changes {
            match change {
                Change::Policy(spec) => {
                    self.0.remove(&spec.name);
                    costs.push((cost_now(spec), spec.name.clone()));
                }
                Change::PolicyGone(name) => {
                    self.0.remove(name);
                    // A version that precedes the removal in the same changes must not be compiled after it.
                    costs.retain(|(_, changed)| changed != name);
                }
                _ => {}
            }
        }
        if costs.iter().map(|(cost, _)| cost).sum::<Cost>() <= COMPILED_AT_ONCE {
            return changes;
        }
        costs.sort_unstable();
        let mut sum = 0;
        let now = costs.iter().take_while(|(cost, _)| {
            sum += cost;
            sum <= COMPILED_AT_ONCE
        });
        let later: BTreeSet<&PolicyName> = costs[now.count()..].iter().map(|(_, name)| name).collect();
        let (later, now): (Vec<Change>, Vec<Change>) = changes
            .into_iter()
            .partition(|change| matches!(change, Change::Policy(spec) if later.contains(&spec.name)));
        for change in later {
            if let Change::Policy(spec) = change {
                self.0.insert(spec.name.clone(), spec);
            }
        }
        now
    }

    /// Takes policies for one step, in order of their names: at least one, unless the backlog is empty.
    pub(super) fn next(&mut self) -> Vec<Change> {
        let mut sum = 0;
        let mut changes = Vec::new();
        while let Some(first) = self.0.first_entry() {
            sum += cost_now(first.get());
            if sum > COMPILED_PER_STEP && !changes.is_empty() {
                break;
            }
            changes.push(Change::Policy(first.remove()));
        }
        changes
    }

    /// Whether a version of this policy is in the backlog.
    pub(super) fn holds(&self, name: &PolicyName) -> bool {
        self.0.contains_key(name)
    }

    /// Whether the backlog is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The cost of compiling a policy. A policy whose rules were omitted costs nothing.
fn cost_now(spec: &PolicySpec) -> Cost {
    if spec.omitted.is_some() { 0 } else { spec.cost() }
}

#[cfg(test)]
mod tests {
    use policy::{Action, NamespaceMatch, PortMatch, PortNumbers, RuleSpec, Selector, Subject, Tier};

    use super::*;

    fn policy(name: &str, ports: usize) -> Change {
        let port = PortMatch { protocol: None, numbers: PortNumbers::Range(1, 2) };
        Change::Policy(Arc::new(PolicySpec {
            name: PolicyName::network_policy("web", name),
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: Subject {
                namespaces: NamespaceMatch::Named("web".into()),
                pods: Selector::All([].into()),
            },
            isolates_ingress: true,
            isolates_egress: false,
            ingress: vec![RuleSpec {
                name: None,
                action: Action::Accept,
                peers: None,
                ports: Some(vec![port; ports]),
            }],
            egress: Vec::new(),
            omitted: None,
        }))
    }

    fn gone(name: &str) -> Change {
        Change::PolicyGone(PolicyName::network_policy("web", name))
    }

    fn names(changes: &[Change]) -> Vec<String> {
        let name = |change: &Change| match change {
            Change::Policy(spec) => spec.name.name.to_string(),
            other => format!("{other:?}"),
        };
        changes.iter().map(name).collect()
    }

    #[test]
    fn large_policies_wait_until_no_other_change_is_pending() {
        let mut backlog = Backlog::default();
        let changes =
            vec![policy("z", 40_000), policy("small", 10), policy("a", 20_000), policy("b", 20_000)];
        assert_eq!(names(&backlog.defer(changes)), ["small", "a"]);
        // A policy that changes while it waits is compiled in its new version.
        assert_eq!(names(&backlog.defer(vec![policy("b", 5)])), ["b"]);
        assert!(backlog.holds(&PolicyName::network_policy("web", "z")));
        assert_eq!(names(&backlog.next()), ["z"]);
        assert!(backlog.is_empty() && backlog.next().is_empty());
    }

    #[test]
    fn a_policy_that_is_removed_while_it_waits_is_never_compiled() {
        let mut backlog = Backlog::default();
        assert!(backlog.defer(vec![policy("z", 40_000)]).is_empty());
        assert_eq!(backlog.defer(vec![gone("z")]).len(), 1);
        assert!(backlog.is_empty());
        // This also holds if it is created and removed in the same changes.
        assert_eq!(backlog.defer(vec![policy("z", 40_000), gone("z")]).len(), 2);
        assert!(backlog.is_empty());
        assert_eq!(backlog.defer(vec![policy("z", 40_000), gone("z"), policy("z", 50_000)]).len(), 1);
        assert!(backlog.holds(&PolicyName::network_policy("web", "z")));
    }
}
