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
mod tests;
