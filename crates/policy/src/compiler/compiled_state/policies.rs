//! Updates the policies of the compiled state, and the subjects that select identities.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::compiler::address_owners::AddressOwners;
use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::compiled_state::CompiledState;
use crate::compiler::identities::{Identity, SubjectMatch};
use crate::compiler::policies::CompiledPolicy;
use crate::inventory::Inventory;
use crate::names::PolicyName;
use crate::snapshot::ids::number_of;
use crate::spec::{PolicySpec, Tier};

impl CompiledState {
    /// Updates policies; those without a spec are removed. Returns the subjects with policies that changed.
    pub(super) fn update_policies(
        &mut self,
        names: &BTreeSet<PolicyName>,
        specs: &BTreeMap<&PolicyName, Arc<PolicySpec>>,
        inventory: &Inventory,
        owners: &AddressOwners,
    ) -> FxHashSet<SelectorId> {
        let mut changed = FxHashSet::default();
        if !names.is_empty() {
            self.published_policies = None;
            self.ruleset_counts_stale = true;
        }
        for name in names {
            if let Some(before) = self.policies.remove(name) {
                before.release(&mut self.selectors);
                self.node_peers.release(&before.spec);
                self.rules -= before.len();
                self.denying -= usize::from(before.spec.tier != Tier::NetworkPolicy);
                changed.insert(before.subject);
                self.remove_subject(before.subject, name);
            }
            if let Some(spec) = specs.get(name) {
                let mut fresh = Vec::new();
                let Self { symbols, selectors, port_sets, node_peers, next_rule, .. } = self;
                node_peers.acquire(spec, inventory, owners);
                let policy = CompiledPolicy::new(
                    spec, *next_rule, symbols, selectors, port_sets, node_peers, &mut fresh,
                );
                for selector in fresh {
                    self.selectors.fill(selector, &self.identities, self.identities.index());
                }
                self.next_rule = self.next_rule.at(number_of(policy.len()));
                self.rules += policy.len();
                self.denying += usize::from(policy.spec.tier != Tier::NetworkPolicy);
                changed.insert(policy.subject);
                self.add_subject(policy.subject, name);
                self.policies.insert(name.clone(), policy);
            }
        }
        changed
    }

    fn add_subject(&mut self, subject: SelectorId, policy: &PolicyName) {
        let policies = self.subjects.entry(subject).or_default();
        policies.push(policy.clone());
        if policies.len() == 1 {
            for (identity, selected) in self.selectors.of_subject(subject) {
                let Some(subjects) = &mut self.identities.get_mut(identity).subjects else { continue };
                if let Err(position) = subjects.binary_search(&selected) {
                    subjects.insert(position, selected);
                }
            }
        }
    }

    fn remove_subject(&mut self, subject: SelectorId, policy: &PolicyName) {
        let Some(policies) = self.subjects.get_mut(&subject) else { return };
        policies.retain(|name| name != policy);
        if policies.is_empty() {
            self.subjects.remove(&subject);
            for (identity, _) in self.selectors.of_subject(subject) {
                if let Some(subjects) = &mut self.identities.get_mut(identity).subjects {
                    subjects.retain(|found| found.selector != subject);
                }
            }
        }
    }

    /// Finds the subjects of identities that now have their first evaluated pod.
    pub(super) fn find_subjects(&mut self) {
        for identity in &self.pending {
            let Identity { evaluated, subjects, .. } = self.identities.get(*identity);
            if *evaluated == 0 || subjects.is_some() {
                continue;
            }
            let selected =
                self.subjects.keys().filter_map(|subject| self.selectors.as_subject(*subject, *identity));
            let mut subjects: Vec<SubjectMatch> = selected.collect();
            subjects.sort_unstable();
            self.identities.get_mut(*identity).subjects = Some(subjects);
        }
    }
}
