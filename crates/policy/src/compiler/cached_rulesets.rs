//! Rulesets, one pair for all pods to which the same policies apply.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::policies::Applied;
use crate::compiler::selector_cache::SelectorCache;
use crate::compiler::shared_tiers::{SharedTiers, TierId};
use crate::decision::Direction;
use crate::names::PolicyName;
use crate::snapshot::ids::IdentityId;
use crate::snapshot::ruleset::{Ruleset, Rulesets, TierRules};
use crate::spec::Tier;

/// Cached rulesets, with the ids of their tiers.
#[derive(Debug)]
pub(crate) struct CachedRulesets {
    pub rulesets: Arc<Rulesets>,
    /// The identities that use them.
    pub users: FxHashSet<IdentityId>,
    /// The ids of the rulesets' tiers, in the same order.
    ingress: Box<[TierId]>,
    egress: Box<[TierId]>,
}

impl CachedRulesets {
    /// Builds the rulesets for pods to which `policies` apply, or might.
    pub(crate) fn new(
        mut policies: Vec<Applied<'_>>,
        tiers: &mut SharedTiers,
        selectors: &SelectorCache,
    ) -> Self {
        policies.sort_unstable_by(|a, b| a.policy.order().cmp(&b.policy.order()));
        let (ingress, ingress_tiers) = build(&policies, Direction::Ingress, tiers, selectors);
        let (egress, egress_tiers) = build(&policies, Direction::Egress, tiers, selectors);
        let rulesets = Arc::new(Rulesets { ingress, egress });
        Self { rulesets, users: FxHashSet::default(), ingress: ingress_tiers, egress: egress_tiers }
    }

    /// The ids of the tiers of both directions.
    pub(crate) fn tiers(&self) -> impl Iterator<Item = TierId> + '_ {
        self.ingress.iter().chain(&self.egress).copied()
    }

    /// Replaces the rules of tiers that changed. Returns whether the rulesets changed.
    pub(crate) fn replace_tiers(&mut self, changed: &FxHashMap<TierId, Arc<TierRules>>) -> bool {
        if !self.tiers().any(|id| changed.contains_key(&id)) {
            return false;
        }
        // Copies the rulesets if snapshots still share them.
        let Rulesets { ingress, egress } = Arc::make_mut(&mut self.rulesets);
        let rules = ingress.tiers.iter_mut().chain(&mut egress.tiers);
        for (rules, id) in rules.zip(self.ingress.iter().chain(&self.egress)) {
            if let Some(changed) = changed.get(id) {
                *rules = Arc::clone(changed);
            }
        }
        true
    }
}

fn build(
    policies: &[Applied<'_>],
    direction: Direction,
    shared: &mut SharedTiers,
    selectors: &SelectorCache,
) -> (Ruleset, Box<[TierId]>) {
    let mut isolating: Vec<Arc<PolicyName>> = policies
        .iter()
        .filter(|applied| applied.isolates(direction))
        .map(|applied| Arc::clone(&applied.policy.name))
        .collect();
    isolating.sort_unstable();
    let (mut ids, mut tiers) = (Vec::new(), Vec::new());
    for tier in Tier::ALL {
        // Baseline applies only if no NetworkPolicy isolates in this direction (semantics 9).
        if tier == Tier::Baseline && !isolating.is_empty() {
            continue;
        }
        let of_tier: Vec<_> =
            policies.iter().filter(|applied| applied.policy.spec.tier == tier).copied().collect();
        if let Some((id, rules)) = shared.acquire(tier, &of_tier, direction, selectors) {
            ids.push(id);
            tiers.push(rules);
        }
    }
    (Ruleset::new(tiers, isolating), ids.into())
}
