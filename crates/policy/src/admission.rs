//! Admits the policies of each namespace up to a budget, so that one tenant's policies cost the others neither memory nor time.
//!
//! From: a source's changes. To: the compiler, which gets a policy beyond the budget without its rules: it isolates the pods that it
//! selects, and allows nothing. Invariant: a policy that is refused never allows what it would deny with its rules; other namespaces'
//! policies are as they would be without it.
//!
//! - Of a namespace's policies the cheapest are admitted first, then by name. So what is admitted depends on the policies alone, not on
//!   their order of arrival, and a small policy isn't lost because of a large one beside it.
//! - If all namespaces together exceed the total, a limit is lowered for the largest namespaces alone: the most that all can have alike
//!   (max-min fairness). A namespace below it doesn't notice.
//! - Cluster-wide policies are the administrator's own, and are always admitted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::inventory::Change;
use crate::names::{PolicyKind, PolicyName};
use crate::selector::{Requirement, Selector};
use crate::spec::{NamespaceMatch, Peer, PolicySpec, RuleSpec};

/// What policies cost, in entries: a CIDR, an exception, a port and a label's value are one entry each, a pod selector is [`SELECTOR`]. An
/// entry takes some 100 bytes and 1 µs to compile.
pub type Cost = u64;

/// The entries of a peer that selects pods, without its values: it may select any number of them.
pub const SELECTOR: Cost = 16;

/// How many entries policies may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Of one namespace.
    pub namespace: Cost,
    /// Of all namespaces.
    pub total: Cost,
}

impl Budget {
    /// Any number.
    pub const UNLIMITED: Self = Self { namespace: Cost::MAX, total: Cost::MAX };
}

impl Default for Budget {
    /// For an agent with 256 MiB of memory: one object of the largest size that the API server takes fits.
    fn default() -> Self {
        Self { namespace: 1 << 16, total: 1 << 19 }
    }
}

/// A policy that is enforced without its rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The policy.
    pub policy: PolicyName,
    /// Its own entries.
    pub cost: Cost,
    /// Those of all policies of its namespace.
    pub namespace: Cost,
    /// How many the namespace may have now.
    pub limit: Cost,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    budget: Budget,
    /// What one namespace may have now: at most its budget.
    limit: Cost,
    namespaces: BTreeMap<Arc<str>, Namespace>,
}

/// The policies of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    /// By cost, then name. `true` if admitted.
    policies: BTreeMap<(Cost, PolicyName), (Arc<PolicySpec>, bool)>,
    costs: BTreeMap<PolicyName, Cost>,
}

impl Admission {
    /// Without policies.
    pub fn new(budget: Budget) -> Self {
        Self { budget, limit: budget.namespace.min(budget.total), namespaces: BTreeMap::new() }
    }

    /// Takes in changes, and returns them as the compiler is to see them. Policies come last: also those that are admitted or refused
    /// because of the others.
    pub fn filter(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Change> {
        let mut passed = Vec::new();
        let mut changed: BTreeSet<PolicyName> = BTreeSet::new();
        for change in changes {
            match change {
                Change::Policy(spec) if spec.name.kind == PolicyKind::NetworkPolicy => {
                    self.leave(&spec.name);
                    changed.insert(spec.name.clone());
                    self.enter(spec);
                }
                Change::PolicyGone(name) => {
                    self.leave(&name);
                    changed.insert(name.clone());
                    passed.push(Change::PolicyGone(name));
                }
                change => passed.push(change),
            }
        }
        if changed.is_empty() {
            return passed;
        }
        let limit = self.fair_limit();
        let has_changed: BTreeSet<&Arc<str>> = changed.iter().map(|name| &name.namespace).collect();
        for (name, namespace) in &mut self.namespaces {
            if limit != self.limit || has_changed.contains(name) {
                passed.extend(namespace.admit(limit, &changed).map(Change::Policy));
            }
        }
        self.limit = limit;
        passed
    }

    /// The policies that are enforced without their rules, by namespace, the cheapest first.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> + '_ {
        let limit = self.limit;
        self.namespaces.values().flat_map(move |namespace| {
            let all = namespace.cost();
            namespace.policies.iter().filter(|(_, (_, is_admitted))| !is_admitted).map(
                move |((cost, policy), _)| Refusal {
                    policy: policy.clone(),
                    cost: *cost,
                    namespace: all,
                    limit,
                },
            )
        })
    }

    fn enter(&mut self, spec: Arc<PolicySpec>) {
        let cost = cost_of(&spec);
        let namespace = self.namespaces.entry(Arc::clone(&spec.name.namespace)).or_default();
        namespace.costs.insert(spec.name.clone(), cost);
        namespace.policies.insert((cost, spec.name.clone()), (spec, true));
    }

    fn leave(&mut self, name: &PolicyName) {
        let Some(namespace) = self.namespaces.get_mut(&name.namespace) else { return };
        if let Some(cost) = namespace.costs.remove(name) {
            namespace.policies.remove(&(cost, name.clone()));
        }
        if namespace.costs.is_empty() {
            self.namespaces.remove(&name.namespace);
        }
    }

    /// The most that every namespace may have, so that all together stay within the total.
    fn fair_limit(&self) -> Cost {
        let Budget { namespace, total } = self.budget;
        let mut wanted: Vec<Cost> =
            self.namespaces.values().map(|of_namespace| of_namespace.cost().min(namespace)).collect();
        wanted.sort_unstable();
        let (mut left, mut sharers) = (total, wanted.len() as Cost);
        for cost in wanted {
            let share = left / sharers;
            if cost > share {
                return share;
            }
            (left, sharers) = (left - cost, sharers - 1);
        }
        namespace
    }
}

impl Namespace {
    fn cost(&self) -> Cost {
        self.costs.values().fold(0, |sum, cost| sum.saturating_add(*cost))
    }

    /// Admits policies up to the limit. Returns those that are now otherwise than before, and those in `changed`, as they are in force.
    fn admit(
        &mut self,
        limit: Cost,
        changed: &BTreeSet<PolicyName>,
    ) -> impl Iterator<Item = Arc<PolicySpec>> {
        let mut sum: Cost = 0;
        self.policies.iter_mut().filter_map(move |((cost, name), (spec, is_admitted))| {
            sum = sum.saturating_add(*cost);
            let fits = sum <= limit;
            let differs = std::mem::replace(is_admitted, fits) != fits || changed.contains(name);
            differs.then(|| if fits { Arc::clone(spec) } else { Arc::new(without_rules(spec)) })
        })
    }
}

/// The policy as it isolates, without what it allows.
fn without_rules(spec: &PolicySpec) -> PolicySpec {
    let PolicySpec { name, tier, priority, subject, isolates_ingress, isolates_egress, .. } = spec;
    PolicySpec {
        name: name.clone(),
        tier: *tier,
        priority: *priority,
        subject: subject.clone(),
        isolates_ingress: *isolates_ingress,
        isolates_egress: *isolates_egress,
        ingress: Vec::new(),
        egress: Vec::new(),
    }
}

fn cost_of(spec: &PolicySpec) -> Cost {
    let rules = spec.ingress.iter().chain(&spec.egress).map(cost_of_rule).sum::<Cost>();
    1 + cost_of_pods(&spec.subject.namespaces, &spec.subject.pods) + rules
}

fn cost_of_rule(rule: &RuleSpec) -> Cost {
    let peers = rule.peers.iter().flatten().map(|peer| match peer {
        Peer::Pods { namespaces, pods } => SELECTOR + cost_of_pods(namespaces, pods),
        Peer::Block(block) => 1 + block.except.len() as Cost,
        Peer::Nothing => 1,
    });
    let ports = rule.ports.as_ref().map_or(0, Vec::len) as Cost;
    1 + peers.sum::<Cost>() + ports
}

fn cost_of_pods(namespaces: &NamespaceMatch, pods: &Selector) -> Cost {
    let namespaces = match namespaces {
        NamespaceMatch::Named(_) => 0,
        NamespaceMatch::Labels(selector) => cost_of_selector(selector),
    };
    namespaces + cost_of_selector(pods)
}

fn cost_of_selector(selector: &Selector) -> Cost {
    let Selector::All(requirements) = selector else { return 0 };
    let values = requirements.iter().map(|requirement| match requirement {
        Requirement::In(_, values) | Requirement::NotIn(_, values) => 1 + values.len() as Cost,
        Requirement::Exists(_) | Requirement::DoesNotExist(_) => 1,
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Action, IpBlock, Subject, Tier};

    /// A policy with this many entries.
    fn policy(namespace: &str, name: &str, cost: usize) -> Change {
        let block = IpBlock {
            cidr: "10.0.0.0/8".parse().expect("a CIDR"),
            except: std::iter::repeat_n("10.1.0.0/16".parse().expect("a CIDR"), cost - 3).collect(),
        };
        let rule = RuleSpec {
            name: None,
            action: Action::Accept,
            peers: Some(vec![Peer::Block(block)]),
            ports: None,
        };
        Change::Policy(Arc::new(PolicySpec {
            name: PolicyName::network_policy(namespace, name),
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: Subject {
                namespaces: NamespaceMatch::Named(namespace.into()),
                pods: Selector::All([].into()),
            },
            isolates_ingress: true,
            isolates_egress: false,
            ingress: vec![rule],
            egress: Vec::new(),
        }))
    }

    fn gone(namespace: &str, name: &str) -> Change {
        Change::PolicyGone(PolicyName::network_policy(namespace, name))
    }

    /// What is in force, as `namespace/name` and whether it has its rules.
    fn in_words(changes: &[Change]) -> Vec<String> {
        let words = changes.iter().map(|change| match change {
            Change::Policy(spec) if spec.ingress.is_empty() => {
                assert!(spec.isolates_ingress);
                format!("{} isolates", spec.name.name)
            }
            Change::Policy(spec) => spec.name.name.to_string(),
            Change::PolicyGone(name) => format!("{} gone", name.name),
            other => format!("{other:?}"),
        });
        words.collect()
    }

    #[test]
    fn the_costliest_policies_of_a_namespace_only_isolate_until_there_is_room() {
        let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
        let changes = [policy("a", "large", 90), policy("a", "small", 10), policy("b", "other", 100)];
        assert_eq!(in_words(&admission.filter(changes)), ["small", "large", "other"]);
        assert_eq!(admission.refusals().count(), 0);
        // One entry too many.
        let changes = admission.filter([policy("a", "more", 5)]);
        assert_eq!(in_words(&changes), ["more", "large isolates"]);
        let refused: Vec<Refusal> = admission.refusals().collect();
        let large = PolicyName::network_policy("a", "large");
        assert_eq!(refused, [Refusal { policy: large, cost: 90, namespace: 105, limit: 100 }]);
        // Said again, it is still refused.
        assert_eq!(in_words(&admission.filter([policy("a", "large", 90)])), ["large isolates"]);
        assert_eq!(in_words(&admission.filter([gone("a", "small")])), ["small gone", "large"]);
        assert_eq!(admission.refusals().count(), 0);
    }

    #[test]
    fn where_all_are_too_many_the_largest_namespaces_have_less() {
        let mut admission = Admission::new(Budget { namespace: 100, total: 200 });
        let fill =
            |namespace: &'static str| (0..10).map(move |n| policy(namespace, &format!("{namespace}{n}"), 10));
        let changes = admission.filter(fill("a").chain(fill("b")));
        assert!(in_words(&changes).iter().all(|policy| !policy.contains("isolates")));
        // 20 for c, and 90 for each of the others.
        let changes = admission.filter([policy("c", "c0", 20)]);
        assert_eq!(in_words(&changes), ["a9 isolates", "b9 isolates", "c0"]);
        assert!(admission.refusals().all(|refusal| refusal.limit == 90));
        assert_eq!(in_words(&admission.filter([gone("c", "c0")])), ["c0 gone", "a9", "b9"]);
    }

    #[test]
    fn no_order_of_arrival_makes_a_difference() {
        let all: Vec<Change> = (0..30).map(|n| policy("a", &format!("p{n:02}"), 3 + n * 7 % 30)).collect();
        let budget = Budget { namespace: 200, total: 1_000 };
        let refused_of = |batches: Vec<Vec<Change>>| {
            let mut admission = Admission::new(budget);
            for batch in batches {
                admission.filter(batch);
            }
            admission.refusals().collect::<Vec<_>>()
        };
        let at_once = refused_of(vec![all.clone()]);
        assert!(!at_once.is_empty());
        assert_eq!(refused_of(all.iter().rev().map(|change| vec![change.clone()]).collect()), at_once);
        assert_eq!(refused_of(all.chunks(7).map(<[Change]>::to_vec).collect()), at_once);
    }
}
