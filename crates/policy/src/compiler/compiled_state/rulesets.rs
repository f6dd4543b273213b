//! Updates the rulesets of the compiled state: counts, detaches and builds them.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::cached_rulesets::CachedRulesets;
use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::compiled_state::CompiledState;
use crate::compiler::identities::{Identity, SubjectMatch};
use crate::compiler::policies::Applied;
use crate::snapshot::ids::IdentityId;

impl CompiledState {
    /// Counts the rulesets that contain each policy. Not done in scope `Cluster`: only an agent has rulesets
    /// for only the pods of its node.
    pub(super) fn count_rulesets(&mut self) {
        if self.cluster_scope || !std::mem::take(&mut self.ruleset_counts_stale) {
            return;
        }
        let pending = self.pending.iter().map(|identity| self.identities.get(*identity));
        let pending = pending.filter(|identity| identity.evaluated > 0 && identity.rulesets.is_none());
        let keys: FxHashSet<&[SubjectMatch]> =
            pending.map(Identity::subjects).chain(self.cached_rulesets.keys().map(Arc::as_ref)).collect();
        let mut counts: FxHashMap<SelectorId, u32> = FxHashMap::default();
        keys.into_iter().flatten().for_each(|subject| *counts.entry(subject.selector).or_default() += 1);
        counts.retain(|_, count| *count > 1);
        let before = std::mem::replace(&mut self.ruleset_counts, counts);
        let changed = self.policies.values().filter_map(|policy| {
            let (before, now) = (before.get(&policy.subject), self.ruleset_counts.get(&policy.subject));
            (before != now || now.is_some()).then_some((&policy.name, now.copied().unwrap_or(1)))
        });
        changed.for_each(|(name, rulesets)| self.admission.set_rulesets(name, rulesets));
    }

    /// Detaches the rulesets of all identities that a changed subject selects.
    pub(super) fn detach(&mut self, changed: &FxHashSet<SelectorId>) {
        let identities: FxHashSet<IdentityId> = changed
            .iter()
            .flat_map(|subject| self.selectors.of_subject(*subject))
            .map(|(identity, _)| identity)
            .collect();
        for identity in identities {
            self.detach_identity(identity);
            if self.identities.get(identity).evaluated > 0 {
                self.pending.push(identity);
            }
        }
    }

    pub(super) fn detach_identity(&mut self, identity: IdentityId) {
        let Some(key) = self.identities.get_mut(identity).rulesets.take() else { return };
        self.ruleset_counts_stale = true;
        if let Some(cached) = self.cached_rulesets.get_mut(&key) {
            cached.users.remove(&identity);
            if cached.users.is_empty() {
                cached.tiers().for_each(|tier| self.shared_tiers.release(tier));
                self.cached_rulesets.remove(&key);
            }
        }
        self.rulesets[identity.index()] = None;
        self.published_rulesets = None;
    }

    /// Finds or builds rulesets for every identity that has evaluated pods and no rulesets.
    pub(super) fn build_pending(&mut self) {
        for identity in std::mem::take(&mut self.pending) {
            let found = self.identities.get(identity);
            if found.evaluated == 0 || found.rulesets.is_some() {
                continue;
            }
            let key: Arc<[SubjectMatch]> = found.subjects().into();
            if !self.cached_rulesets.contains_key(&key) {
                let policies = key.iter().flat_map(|subject| {
                    let names = self.subjects.get(&subject.selector).into_iter().flatten();
                    let policies = names.filter_map(|name| self.policies.get(name));
                    policies.map(|policy| Applied { policy, view: subject.view })
                });
                let cached = CachedRulesets::new(policies.collect(), &mut self.shared_tiers, &self.selectors);
                self.cached_rulesets.insert(Arc::clone(&key), cached);
            }
            if let Some(cached) = self.cached_rulesets.get_mut(&key) {
                cached.users.insert(identity);
                self.rulesets[identity.index()] = Some(Arc::clone(&cached.rulesets));
            }
            self.identities.get_mut(identity).rulesets = Some(key);
            self.published_rulesets = None;
        }
        self.shared_tiers.drop_unused();
    }
}
