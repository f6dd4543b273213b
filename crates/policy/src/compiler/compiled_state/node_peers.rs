//! Updates the policies of the compiled state that select nodes as peers, after nodes changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::compiler::address_owners::AddressOwners;
use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::compiled_state::CompiledState;
use crate::compiler::dirty::Dirty;
use crate::inventory::Inventory;
use crate::names::PolicyName;
use crate::spec::PolicySpec;

impl CompiledState {
    /// Compiles the policies with peers that select other nodes now, and records the nodes' addresses as
    /// affected. Returns the subjects of these policies.
    pub(super) fn update_node_peers(
        &mut self,
        dirty: &Dirty,
        inventory: &Inventory,
        owners: &AddressOwners,
    ) -> FxHashSet<SelectorId> {
        // A pod can take or release an address that a node would have.
        let may_differ = || dirty.nodes || dirty.addresses.iter().any(|key| owners.is_implied(*key));
        if self.node_peers.is_empty() || !may_differ() {
            return FxHashSet::default();
        }
        let changed = self.node_peers.refresh(inventory, owners);
        if changed.selectors.is_empty() {
            return FxHashSet::default();
        }
        let concerned: BTreeMap<PolicyName, Arc<PolicySpec>> = self
            .policies
            .iter()
            .filter(|(_, policy)| changed.concern(&policy.spec))
            .map(|(name, policy)| (name.clone(), Arc::clone(&policy.spec)))
            .collect();
        let names: BTreeSet<PolicyName> = concerned.keys().cloned().collect();
        let specs = concerned.iter().map(|(name, spec)| (name, Arc::clone(spec))).collect();
        let subjects = self.update_policies(&names, &specs, inventory, owners);
        self.diff.record_nodes(changed.addresses, &subjects);
        subjects
    }
}
