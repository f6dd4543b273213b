//! The policies that apply to a pod, and their rules in the order of evaluation.

use crate::decision::Direction;
use crate::inventory::{Inventory, Pod};
use crate::reference::matching::selects;
use crate::reference::reading::Reading;
use crate::selector::Match;
use crate::spec::{PolicySpec, RuleSpec, Tier};

/// A policy, and whether it applies to the pod.
pub(super) type Applying<'a> = (&'a PolicySpec, Match);

/// The policies that apply to a pod, or might, in order.
pub(super) fn applying<'a>(inventory: &'a Inventory, pod: &Pod) -> Vec<Applying<'a>> {
    // ALL policies that select the pod apply (semantics 4).
    let mut policies: Vec<Applying<'a>> = inventory
        .policies
        .values()
        .map(|policy| (&**policy, selects(inventory, policy, pod)))
        .filter(|(_, applies)| *applies != Match::No)
        .collect();
    // Admin by priority and then by name, NetworkPolicy by name, Baseline by priority and then by name.
    policies.sort_by_key(|(policy, _)| {
        let priority = if policy.tier == Tier::NetworkPolicy { 0 } else { policy.priority };
        (policy.tier, priority, policy.name.clone())
    });
    policies
}

/// The policies that isolate a pod in a direction.
pub(super) fn isolating<'a>(
    policies: &[Applying<'a>],
    direction: Direction,
    reading: Reading,
) -> impl Iterator<Item = &'a PolicySpec> {
    policies
        .iter()
        .filter(move |(policy, applies)| isolates(policy, direction) && reading.isolates(*applies))
        .map(|(policy, _)| *policy)
}

/// The rules of a tier in a direction, in order. Each comes with its policy, whether the policy applies, and
/// its index in the policy.
pub(super) fn rules<'a>(
    policies: &'a [Applying<'a>],
    tier: Tier,
    direction: Direction,
) -> impl Iterator<Item = (&'a PolicySpec, Match, usize, &'a RuleSpec)> {
    policies
        .iter()
        .filter(move |(policy, _)| policy.tier == tier)
        // `policyTypes` decide in which directions a NetworkPolicy applies, regardless of the rules that it
        // lists (semantics 1).
        .filter(move |(policy, _)| tier != Tier::NetworkPolicy || isolates(policy, direction))
        .flat_map(move |(policy, applies)| {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            rules.iter().enumerate().map(move |(index, rule)| (*policy, *applies, index, rule))
        })
}

/// Isolation is per direction, and only NetworkPolicies isolate (semantics 8).
fn isolates(policy: &PolicySpec, direction: Direction) -> bool {
    policy.tier == Tier::NetworkPolicy
        && match direction {
            Direction::Ingress => policy.isolates_ingress,
            Direction::Egress => policy.isolates_egress,
        }
}
