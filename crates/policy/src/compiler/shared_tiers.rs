//! The compiled rules of tiers. Rulesets with the same policies in a tier and direction share them: a
//! cluster-wide policy is in the rulesets of many pods, and is compiled once.
//!
//! From: the policies that apply to a pod. To: its rulesets. Invariant: the rules of a tier depend only on
//! its [`TierKey`] and on the identities.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::identities::View;
use crate::compiler::policies::Applied;
use crate::compiler::selector_cache::SelectorCache;
use crate::compiler::tier_rules_builder::{TierRulesBuilder, build_tier};
use crate::decision::Direction;
use crate::decision::RuleId;
use crate::snapshot::ids::IdentityId;
use crate::snapshot::ruleset::TierRules;
use crate::spec::Tier;

/// Identifies shared rules. Ids are not reused before the next full rebuild.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TierId(u32);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SharedTiers {
    ids: FxHashMap<TierKey, TierId>,
    tiers: FxHashMap<TierId, SharedTier>,
    next: u32,
}

/// What the rules of a tier are compiled from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct TierKey {
    direction: Direction,
    /// The policies with rules in this direction, in order: the id of the first rule of each, and the view in
    /// which the policy applies. A policy that changes gets other ids for its rules.
    policies: Arc<[(RuleId, View)]>,
}

/// The rules of a tier, with the builder that extends them.
#[derive(Debug)]
pub(crate) struct SharedTier {
    key: TierKey,
    rules: Arc<TierRules>,
    builder: TierRulesBuilder,
    /// The number of rulesets that have these rules.
    rulesets: usize,
}

impl SharedTiers {
    /// Finds or builds the rules of a tier for one more ruleset, from its policies, in order; `None` if they
    /// have no rules in this direction.
    pub(crate) fn acquire(
        &mut self,
        tier: Tier,
        policies: &[Applied<'_>],
        direction: Direction,
        selectors: &SelectorCache,
    ) -> Option<(TierId, Arc<TierRules>)> {
        let with_rules = policies.iter().filter(|applied| applied.rules(direction).next().is_some());
        let policies_in_key = with_rules.map(|applied| (applied.policy.first_rule, applied.view)).collect();
        let key = TierKey { direction, policies: policies_in_key };
        if let Some(id) = self.ids.get(&key)
            && let Some(shared) = self.tiers.get_mut(id)
        {
            shared.rulesets += 1;
            return Some((*id, Arc::clone(&shared.rules)));
        }
        let (rules, builder) = build_tier(tier, policies, direction, selectors)?;
        let (id, rules) = (TierId(self.next), Arc::new(rules));
        self.next += 1;
        self.ids.insert(key.clone(), id);
        self.tiers.insert(id, SharedTier { key, rules: Arc::clone(&rules), builder, rulesets: 1 });
        Some((id, rules))
    }

    /// A ruleset that had these rules was dropped. The rules are kept until [`SharedTiers::drop_unused`],
    /// because the ruleset that replaces it often has them as well.
    pub(crate) fn release(&mut self, id: TierId) {
        if let Some(shared) = self.tiers.get_mut(&id) {
            shared.rulesets -= 1;
        }
    }

    /// Drops the rules that no ruleset has.
    pub(crate) fn drop_unused(&mut self) {
        let Self { ids, tiers, .. } = self;
        tiers.retain(|_, shared| {
            let is_used = shared.rulesets > 0;
            if !is_used {
                ids.remove(&shared.key);
            }
            is_used
        });
    }

    /// Whether there are no rules to extend.
    pub(crate) fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// Adds new identities, each with the selectors that match it. Returns the new rules that this changed.
    pub(crate) fn add_identities(
        &mut self,
        fresh: &FxHashMap<IdentityId, Vec<SelectorId>>,
    ) -> FxHashMap<TierId, Arc<TierRules>> {
        let mut changed = FxHashMap::default();
        for (id, SharedTier { rules, builder, .. }) in &mut self.tiers {
            let selects = |selected_by: &[SelectorId]| {
                selected_by.iter().any(|id| builder.by_selector.contains_key(id))
            };
            let selected: Vec<_> = fresh.iter().filter(|(_, selected_by)| selects(selected_by)).collect();
            if selected.is_empty() {
                continue;
            }
            // Copies the rules, because rulesets share them.
            let extended = Arc::make_mut(rules);
            for (identity, selected_by) in selected {
                builder.add_identity(extended, *identity, selected_by);
            }
            changed.insert(*id, Arc::clone(rules));
        }
        changed
    }

    /// The tiers for which `is_sought` returns true.
    pub(crate) fn find(&self, is_sought: impl Fn(&SharedTier) -> bool) -> FxHashSet<TierId> {
        self.tiers.iter().filter(|(_, shared)| is_sought(shared)).map(|(id, _)| *id).collect()
    }
}

impl SharedTier {
    /// Whether these are egress rules and ANY has a named port, which is resolved at the peer (semantics 17).
    pub(crate) fn has_port_names(&self) -> bool {
        self.key.direction == Direction::Egress && self.builder.has_port_names
    }

    /// Whether ANY rule selects peers by their labels or namespaces.
    pub(crate) fn selects_peers(&self) -> bool {
        !self.builder.by_selector.is_empty() || !self.builder.every_pod.is_empty()
    }

    /// Whether ANY rule matches only one of two identities.
    pub(crate) fn distinguishes(
        &self,
        one: IdentityId,
        other: IdentityId,
        selectors: &SelectorCache,
    ) -> bool {
        let identities = &self.rules.peers.identities;
        // Different entries may stand for equal rules, so the selectors are compared as well.
        identities.get(one) != identities.get(other)
            && self
                .builder
                .by_selector
                .keys()
                .any(|id| selectors.is_peer(*id, one) != selectors.is_peer(*id, other))
    }
}

#[cfg(test)]
mod tests;
