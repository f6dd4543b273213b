//! Admits the policies of each namespace up to a budget, so that the policies of one tenant cannot exhaust
//! the memory and time of others.
//!
//! From: the compiler's policies, and the number of rulesets that contain each. To: the compiler, which
//! compiles a policy beyond the budget without its rules: it isolates the pods that it selects, and allows
//! nothing. Invariant: a refused policy never allows what it would deny with its rules, and does not change
//! the effect of other namespaces' policies.
//!
//! Sources (`cluster`) apply the same budget first, to decide which rules they keep in memory; they count
//! each policy once. The compiler refuses every policy with omitted rules.
//!
//! - A policy costs its entries once for each ruleset that contains it: pods to which different policies
//!   apply have different rulesets. The number of rulesets is rounded up to a power of two, so that a single
//!   pod seldom changes what is admitted.
//! - Within a namespace, policies are admitted in order of cost, then by name. So the result depends only on
//!   pods and policies, not on their order of arrival, and a large policy does not displace small ones.
//! - If all namespaces together exceed the total, the limit of each namespace is lowered to the max-min fair
//!   share of the total. Namespaces below it are unaffected.
//! - Cluster-wide policies belong to the administrator and are always admitted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::names::{PolicyKind, PolicyName};
use crate::spec::Cost;

/// The most refused policies of a namespace that are reported by name. A change of one policy can change the
/// report on every other.
const NAMED: usize = 20;

/// The approximate number of entries that one step readmits, so that a step stays short (1 µs per entry).
const READMITTED: Cost = 1 << 16;

/// The most entries that policies may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// The limit of one namespace.
    pub namespace: Cost,
    /// The limit of all namespaces together.
    pub total: Cost,
}

impl Budget {
    /// No limit.
    pub const UNLIMITED: Self = Self { namespace: Cost::MAX, total: Cost::MAX };
}

impl Default for Budget {
    /// For an agent with 256 MiB of memory. The largest object that the API server accepts fits.
    fn default() -> Self {
        Self { namespace: 1 << 16, total: 1 << 19 }
    }
}

/// A policy that is enforced without its rules.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Refusal {
    /// The policy.
    pub policy: PolicyName,
    /// Its entries.
    pub cost: Cost,
    /// The number of rulesets that would contain it, not rounded.
    pub rulesets: u32,
    /// The entries of all policies of its namespace. Each counts once for each of its rulesets, with their
    /// number rounded up to a power of two.
    pub namespace: Cost,
    /// The most entries that the namespace may have now.
    pub limit: Cost,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    budget: Budget,
    /// The current limit of a namespace: at most its budget.
    limit: Cost,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Namespaces with policies that changed since the last [`Admission::settle`].
    changed: BTreeSet<Arc<str>>,
    /// Entries that may still be readmitted in this step.
    left: Cost,
    /// Whether refused policies that fit into the limit must wait for another step.
    is_behind: bool,
}

/// The policies of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    policies: BTreeMap<PolicyName, Entry>,
    /// Sorted by cost in all rulesets, then by name.
    by_cost: BTreeSet<(Cost, PolicyName)>,
    /// The cost of all policies.
    sum: u128,
    /// The number of refused policies.
    refused: usize,
}

/// A policy.
#[derive(Clone, Copy, Debug)]
struct Entry {
    cost: Cost,
    rulesets: u32,
    /// Whether it has rules to admit.
    has_rules: bool,
    is_admitted: bool,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(Budget::UNLIMITED)
    }
}

impl Admission {
    /// An admission without policies.
    pub fn new(budget: Budget) -> Self {
        let limit = budget.namespace.min(budget.total);
        let (namespaces, changed) = Default::default();
        Self { budget, limit, namespaces, changed, left: READMITTED, is_behind: false }
    }

    /// Adds a policy, or changes its cost. A policy with omitted rules is always refused.
    pub fn enter(&mut self, name: &PolicyName, cost: Cost, has_rules: bool) {
        if name.kind != PolicyKind::NetworkPolicy {
            return;
        }
        let namespace = self.namespaces.entry(Arc::clone(&name.namespace)).or_default();
        let before = namespace.policies.get(name);
        let (rulesets, was_admitted) =
            before.map_or((1, true), |before| (before.rulesets, before.is_admitted));
        namespace.insert(name, Entry { cost, rulesets, has_rules, is_admitted: was_admitted && has_rules });
        self.changed.insert(Arc::clone(&name.namespace));
    }

    /// Removes a policy.
    pub fn leave(&mut self, name: &PolicyName) {
        let Some(namespace) = self.namespaces.get_mut(&name.namespace) else { return };
        namespace.remove(name);
        if namespace.policies.is_empty() {
            self.namespaces.remove(&name.namespace);
        }
        self.changed.insert(Arc::clone(&name.namespace));
    }

    /// Sets the number of rulesets that contain a policy. A policy in no ruleset costs its entries once, for
    /// its symbols and selectors.
    pub(crate) fn set_rulesets(&mut self, name: &PolicyName, rulesets: u32) {
        let Some(namespace) = self.namespaces.get_mut(&name.namespace) else { return };
        let Some(before) = namespace.policies.get(name).copied() else { return };
        let rulesets = rulesets.max(1);
        if before.rulesets != rulesets {
            namespace.insert(name, Entry { rulesets, ..before });
            self.changed.insert(Arc::clone(&name.namespace));
        }
    }

    /// Begins a step: see [`Admission::is_behind`].
    pub fn begin(&mut self) {
        self.left = READMITTED;
    }

    /// Decides again, and returns the policies for which the decision changed.
    pub fn settle(&mut self) -> Vec<PolicyName> {
        if self.changed.is_empty() && !self.is_behind {
            return Vec::new();
        }
        let limit = self.fair_limit();
        let all = limit != self.limit || std::mem::take(&mut self.is_behind);
        let mut differing = Vec::new();
        for (name, namespace) in &mut self.namespaces {
            if all || self.changed.contains(name) {
                self.is_behind |= !namespace.admit(limit, &mut self.left, &mut differing);
            }
        }
        self.limit = limit;
        self.changed.clear();
        differing
    }

    /// Whether refused policies that now fit must wait for another step.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// The cost of a policy in one ruleset; `None` if it is not known.
    pub fn cost(&self, name: &PolicyName) -> Option<Cost> {
        Some(self.namespaces.get(&name.namespace)?.policies.get(name)?.cost)
    }

    /// Whether a policy is enforced with its rules, as of the last [`Admission::settle`].
    pub fn is_admitted(&self, name: &PolicyName) -> bool {
        let namespace = self.namespaces.get(&name.namespace);
        namespace.and_then(|namespace| namespace.policies.get(name)).is_none_or(|entry| entry.is_admitted)
    }

    /// The policies that are enforced without their rules, by namespace, the cheapest first. At most
    /// [`NAMED`] per namespace.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = Refusal> + '_ {
        let limit = self.limit;
        self.namespaces.values().flat_map(move |of_namespace| {
            let namespace = of_namespace.cost();
            let policies = (of_namespace.refused > 0).then_some(&of_namespace.by_cost).into_iter().flatten();
            let refusals = policies.filter_map(move |(_, policy)| {
                let Entry { cost, rulesets, is_admitted, .. } = *of_namespace.policies.get(policy)?;
                let refusal = Refusal { policy: policy.clone(), cost, rulesets, namespace, limit };
                (!is_admitted).then_some(refusal)
            });
            refusals.take(NAMED)
        })
    }

    /// The namespaces with more refused policies than [`NAMED`], and how many more.
    pub(crate) fn more_refusals(&self) -> impl Iterator<Item = (&Arc<str>, usize)> + '_ {
        let namespaces = self.namespaces.iter().filter(|(_, namespace)| namespace.refused > NAMED);
        namespaces.map(|(name, namespace)| (name, namespace.refused - NAMED))
    }

    /// The largest limit of a namespace with which all together stay within the total.
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

impl Entry {
    /// Entries in all rulesets, with their number rounded up to a power of two. A policy without rules to
    /// admit counts once.
    fn total(&self) -> Cost {
        if !self.has_rules {
            return self.cost;
        }
        self.cost.saturating_mul(Cost::from(self.rulesets).next_power_of_two())
    }
}

impl Namespace {
    fn cost(&self) -> Cost {
        Cost::try_from(self.sum).unwrap_or(Cost::MAX)
    }

    fn insert(&mut self, name: &PolicyName, entry: Entry) {
        self.remove(name);
        self.sum += u128::from(entry.total());
        self.refused += usize::from(!entry.is_admitted);
        self.by_cost.insert((entry.total(), name.clone()));
        self.policies.insert(name.clone(), entry);
    }

    fn remove(&mut self, name: &PolicyName) {
        if let Some(before) = self.policies.remove(name) {
            self.sum -= u128::from(before.total());
            self.refused -= usize::from(!before.is_admitted);
            self.by_cost.remove(&(before.total(), name.clone()));
        }
    }

    /// Admits policies up to the limit. Readmits refused policies only up to `left` entries in this step.
    /// Appends policies for which the decision changed to `differing`. Returns false if a policy that fits
    /// must wait for the next step.
    fn admit(&mut self, limit: Cost, left: &mut Cost, differing: &mut Vec<PolicyName>) -> bool {
        let (mut sum, mut is_done): (Cost, bool) = (0, true);
        for (cost, name) in &self.by_cost {
            let Some(entry) = self.policies.get_mut(name).filter(|entry| entry.has_rules) else { continue };
            sum = sum.saturating_add(*cost);
            let fits = sum <= limit;
            if fits == entry.is_admitted {
                continue;
            }
            if fits {
                // At least one per step, regardless of its size.
                if *left < READMITTED && *left < *cost {
                    is_done = false;
                    continue;
                }
                *left = left.saturating_sub(*cost);
            }
            entry.is_admitted = fits;
            if fits {
                self.refused -= 1;
            } else {
                self.refused += 1;
            }
            differing.push(name.clone());
        }
        is_done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Selector;
    use crate::spec::{Action, IpBlock, NamespaceMatch, Peer, PolicySpec, RuleSpec, Subject, Tier};

    /// A policy with this many entries.
    fn policy(namespace: &str, name: &str, cost: usize) -> PolicySpec {
        let block = IpBlock {
            cidr: "10.0.0.0/8".parse().expect("a CIDR"),
            except: std::iter::repeat_n("10.1.0.0/16".parse().expect("a CIDR"), cost - 18).collect(),
        };
        let rule = RuleSpec {
            name: None,
            action: Action::Accept,
            peers: Some(vec![Peer::Block(block)]),
            ports: None,
        };
        PolicySpec {
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
            omitted: None,
        }
    }

    fn enter(admission: &mut Admission, policies: impl IntoIterator<Item = PolicySpec>) -> Vec<String> {
        policies.into_iter().for_each(|policy| admission.enter(&policy.name, policy.cost(), true));
        settle(admission)
    }

    /// The policies for which the decision changed, in words.
    fn settle(admission: &mut Admission) -> Vec<String> {
        let differing = admission.settle();
        let in_words = |name: &PolicyName| {
            format!("{} {}", name.name, if admission.is_admitted(name) { "admitted" } else { "refused" })
        };
        differing.iter().map(in_words).collect()
    }

    fn leave(admission: &mut Admission, namespace: &str, name: &str) -> Vec<String> {
        admission.leave(&PolicyName::network_policy(namespace, name));
        settle(admission)
    }

    #[test]
    fn s44_policies_beyond_the_budget_of_their_namespace_only_isolate() {
        let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
        let policies = [policy("a", "large", 80), policy("a", "small", 20), policy("b", "other", 100)];
        assert!(enter(&mut admission, policies).is_empty());
        assert_eq!(admission.refusals().count(), 0);
        // One entry too many.
        assert_eq!(enter(&mut admission, [policy("a", "more", 18)]), ["large refused"]);
        let refused: Vec<Refusal> = admission.refusals().collect();
        let policy_name = PolicyName::network_policy("a", "large");
        let large = Refusal { policy: policy_name, cost: 80, rulesets: 1, namespace: 118, limit: 100 };
        assert_eq!(refused, [large]);
        // Entered again, it is still refused.
        assert!(enter(&mut admission, [policy("a", "large", 80)]).is_empty());
        assert_eq!(admission.refusals().count(), 1);
        assert_eq!(leave(&mut admission, "a", "small"), ["large admitted"]);
        assert_eq!(admission.refusals().count(), 0);
    }

    #[test]
    fn a_policy_costs_its_entries_in_each_ruleset() {
        let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
        assert!(enter(&mut admission, [policy("a", "common", 27), policy("a", "other", 18)]).is_empty());
        let common = PolicyName::network_policy("a", "common");
        admission.set_rulesets(&common, 2);
        assert!(settle(&mut admission).is_empty());
        admission.set_rulesets(&common, 3);
        assert_eq!(settle(&mut admission), ["common refused"]);
        let refusal = Refusal { policy: common.clone(), cost: 27, rulesets: 3, namespace: 126, limit: 100 };
        assert_eq!(admission.refusals().collect::<Vec<_>>(), [refusal]);
        admission.set_rulesets(&common, 4);
        assert!(settle(&mut admission).is_empty(), "three count as four");
        admission.set_rulesets(&common, 0);
        assert_eq!(settle(&mut admission), ["common admitted"]);
    }

    #[test]
    fn a_policy_with_omitted_rules_is_refused_and_uses_no_budget() {
        let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
        let omitted = policy("a", "omitted", 60).omit_rules();
        admission.enter(&omitted.name, omitted.cost(), omitted.omitted.is_none());
        assert!(settle(&mut admission).is_empty() && !admission.is_admitted(&omitted.name));
        assert!(enter(&mut admission, [policy("a", "large", 100)]).is_empty());
        let refused: Vec<(PolicyName, Cost)> =
            admission.refusals().map(|refusal| (refusal.policy, refusal.cost)).collect();
        assert_eq!(refused, [(omitted.name, 60)]);
        assert_eq!(
            enter(&mut admission, [policy("a", "omitted", 60)]),
            ["omitted admitted", "large refused"]
        );
    }

    #[test]
    fn the_cheapest_refused_policies_are_named_and_the_others_counted() {
        let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
        enter(&mut admission, (0..50).map(|n| policy("a", &format!("p{n:02}"), 20)));
        let named: Vec<Refusal> = admission.refusals().collect();
        assert_eq!((named.len(), &*named[0].policy.name), (NAMED, "p05"));
        let more =
            |admission: &Admission| admission.more_refusals().map(|(_, more)| more).collect::<Vec<_>>();
        assert_eq!(more(&admission), [25]);
        (0..30).for_each(|n| drop(leave(&mut admission, "a", &format!("p{n:02}"))));
        assert_eq!((admission.refusals().count(), more(&admission)), (15, vec![]));
    }

    #[test]
    fn if_the_total_is_exceeded_the_largest_namespaces_get_less() {
        let mut admission = Admission::new(Budget { namespace: 200, total: 400 });
        let fill =
            |namespace: &'static str| (0..10).map(move |n| policy(namespace, &format!("{namespace}{n}"), 20));
        assert!(enter(&mut admission, fill("a").chain(fill("b"))).is_empty());
        // The limits: 40 for c, and 180 for each of the others.
        assert_eq!(enter(&mut admission, [policy("c", "c0", 40)]), ["a9 refused", "b9 refused"]);
        assert!(admission.refusals().all(|refusal| refusal.limit == 180));
        assert_eq!(leave(&mut admission, "c", "c0"), ["a9 admitted", "b9 admitted"]);
    }

    #[test]
    fn large_policies_that_fit_again_are_readmitted_step_by_step() {
        let mut admission = Admission::new(Budget { namespace: 100_000, total: 200_000 });
        let policies = ["a", "b", "c", "d"].map(|namespace| policy(namespace, namespace, 60_000));
        assert_eq!(enter(&mut admission, policies).len(), 4);
        admission.begin();
        assert_eq!(leave(&mut admission, "d", "d"), ["a admitted"]);
        assert!(admission.is_behind());
        admission.begin();
        assert_eq!(settle(&mut admission), ["b admitted"]);
        admission.begin();
        assert_eq!(settle(&mut admission), ["c admitted"]);
        assert!(!admission.is_behind());
    }

    #[test]
    fn the_order_of_arrival_makes_no_difference() {
        let all: Vec<PolicySpec> =
            (0..30).map(|n| policy("a", &format!("p{n:02}"), 18 + n * 7 % 30)).collect();
        let budget = Budget { namespace: 600, total: 1_000 };
        let refused_of = |batches: Vec<Vec<PolicySpec>>| {
            let mut admission = Admission::new(budget);
            for batch in batches {
                enter(&mut admission, batch);
            }
            admission.refusals().collect::<Vec<_>>()
        };
        let at_once = refused_of(vec![all.clone()]);
        assert!(!at_once.is_empty());
        assert_eq!(refused_of(all.iter().rev().map(|policy| vec![policy.clone()]).collect()), at_once);
        assert_eq!(refused_of(all.chunks(7).map(<[PolicySpec]>::to_vec).collect()), at_once);
    }
}
