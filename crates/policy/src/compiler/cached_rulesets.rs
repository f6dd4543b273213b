//! Builds rulesets, one pair for all pods to which the same policies apply, and extends them with new
//! identities.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::policies::Applied;
use crate::compiler::selector_cache::SelectorCache;
use crate::compiler::tier_rules_builder::{TierRulesBuilder, build_tier};
use crate::decision::Direction;
use crate::names::PolicyName;
use crate::snapshot::ids::IdentityId;
use crate::snapshot::ruleset::{Ruleset, Rulesets};
use crate::spec::Tier;

/// Cached rulesets, with the builders that extend them.
#[derive(Debug)]
pub(crate) struct CachedRulesets {
    pub rulesets: Arc<Rulesets>,
    /// The identities that use them.
    pub users: FxHashSet<IdentityId>,
    ingress: Box<[TierRulesBuilder]>,
    egress: Box<[TierRulesBuilder]>,
}

impl CachedRulesets {
    /// Builds the rulesets for pods to which `policies` apply, or might.
    pub(crate) fn new(mut policies: Vec<Applied<'_>>, selectors: &SelectorCache) -> Self {
        policies.sort_unstable_by(|a, b| a.policy.order().cmp(&b.policy.order()));
        let (ingress, ingress_builders) = build(&policies, Direction::Ingress, selectors);
        let (egress, egress_builders) = build(&policies, Direction::Egress, selectors);
        let rulesets = Arc::new(Rulesets { ingress, egress });
        Self { rulesets, users: FxHashSet::default(), ingress: ingress_builders, egress: egress_builders }
    }

    /// Whether ANY egress rule has a named port, which is resolved at the peer (semantics 17).
    pub(crate) fn has_port_names(&self) -> bool {
        self.egress.iter().any(|builder| builder.has_port_names)
    }

    /// Whether ANY rule selects peers by their labels or namespaces.
    pub(crate) fn selects_peers(&self) -> bool {
        let selects =
            |builder: &TierRulesBuilder| !builder.by_selector.is_empty() || !builder.every_pod.is_empty();
        self.ingress.iter().chain(&self.egress).any(selects)
    }

    /// Whether ANY rule matches only one of two identities.
    pub(crate) fn distinguishes(
        &self,
        one: IdentityId,
        other: IdentityId,
        selectors: &SelectorCache,
    ) -> bool {
        let tiers = self.rulesets.ingress.tiers.iter().chain(&self.rulesets.egress.tiers);
        tiers.zip(self.ingress.iter().chain(&self.egress)).any(|(tier, builder)| {
            let identities = &tier.peers.identities;
            // Different entries may stand for equal rules, so the selectors are compared as well.
            identities.get(one) != identities.get(other)
                && builder
                    .by_selector
                    .keys()
                    .any(|id| selectors.is_peer(*id, one) != selectors.is_peer(*id, other))
        })
    }

    /// Adds new identities, each with the selectors that match it. Returns whether the rulesets changed.
    pub(crate) fn add_identities(&mut self, fresh: &FxHashMap<IdentityId, Vec<SelectorId>>) -> bool {
        let mut changed = false;
        for (identity, selected_by) in fresh {
            let is_affected = |builder: &TierRulesBuilder| {
                selected_by.iter().any(|id| builder.by_selector.contains_key(id))
            };
            if !self.ingress.iter().chain(&self.egress).any(is_affected) {
                continue;
            }
            changed = true;
            // Copies the rulesets if snapshots still share them.
            let Rulesets { ingress, egress } = Arc::make_mut(&mut self.rulesets);
            let tiers = ingress.tiers.iter_mut().chain(&mut egress.tiers);
            for (tier, builder) in tiers.zip(self.ingress.iter_mut().chain(&mut self.egress)) {
                builder.add_identity(tier, *identity, selected_by);
            }
        }
        changed
    }
}

fn build(
    policies: &[Applied<'_>],
    direction: Direction,
    selectors: &SelectorCache,
) -> (Ruleset, Box<[TierRulesBuilder]>) {
    let mut isolating: Vec<Arc<PolicyName>> = policies
        .iter()
        .filter(|applied| applied.isolates(direction))
        .map(|applied| Arc::clone(&applied.policy.name))
        .collect();
    isolating.sort_unstable();
    let (mut tiers, mut builders) = (Vec::new(), Vec::new());
    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        // Baseline applies only if no NetworkPolicy isolates in this direction (semantics 9).
        if tier == Tier::Baseline && !isolating.is_empty() {
            continue;
        }
        let of_tier: Vec<_> =
            policies.iter().filter(|applied| applied.policy.spec.tier == tier).copied().collect();
        if let Some((rules, builder)) = build_tier(tier, &of_tier, direction, selectors) {
            tiers.push(rules);
            builders.push(builder);
        }
    }
    (Ruleset::new(tiers, isolating), builders.into())
}
