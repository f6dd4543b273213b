//! Updates the ipcache of the compiled state, and the identities of pods.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::address_owners::AddressOwners;
use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::compiled_state::CompiledState;
use crate::compiler::dirty::Dirty;
use crate::compiler::identities::SubjectMatch;
use crate::compiler::scope::Scope;
use crate::compiler::symbol_table::NewSymbols;
use crate::inventory::{Inventory, Pod};
use crate::snapshot::address::{AddressKey, address_of, key_of};
use crate::snapshot::ids::IdentityId;
use crate::snapshot::ipcache::{IpCacheEntry, PodEntry};

impl CompiledState {
    /// Marks as dirty the pods and namespaces that have a new symbol.
    pub(super) fn mark_dirty_by_symbols(
        &mut self,
        new: &NewSymbols,
        inventory: &Inventory,
        dirty: &mut Dirty,
    ) {
        if self.identities.len() == 0 {
            // No pod has an identity yet.
            self.symbols_after_rebuild = self.symbols.symbol_count();
            return;
        }
        if new.affects_namespaces() {
            dirty.namespaces.extend(self.identities.namespaces().cloned());
        }
        if new.affects_pods() {
            let pods = inventory.pods.values().filter(|pod| new.affects(pod));
            dirty.addresses.extend(addresses_of(pods));
        }
    }

    /// Updates the dirty namespaces. If policies see a difference, all pods of the namespace become dirty.
    pub(super) fn update_namespaces(&mut self, inventory: &Inventory, dirty: &mut Dirty) {
        let Self { identities, symbols, .. } = self;
        let namespaces = dirty.namespaces.iter();
        let changed: FxHashSet<&Arc<str>> =
            namespaces.filter(|name| identities.namespace_changed(symbols, inventory, name)).collect();
        if !changed.is_empty() {
            let pods = inventory.pods.values().filter(|pod| changed.contains(&pod.name.namespace));
            dirty.addresses.extend(addresses_of(pods));
        }
    }

    /// The new ipcache entry of an address. Also updates the identities' counts and the set of evaluated
    /// addresses.
    pub(super) fn ipcache_entry(
        &mut self,
        key: AddressKey,
        scope: &Scope,
        inventory: &Inventory,
        owners: &mut AddressOwners,
    ) -> IpCacheEntry {
        let pod = owners.owner(key).map(Arc::clone).map(|pod| {
            let identity = self.identities.of_pod(&self.symbols, inventory, &pod);
            let node = pod.node.as_ref().map(|node| owners.node_id(node));
            let ports = self.symbols.resolved_ports(&pod).map(|ports| self.resolved_ports.share(ports));
            let evaluated = scope.evaluates(&pod, &self.pod_cidrs);
            PodEntry::new(pod, identity, self.identities.is_provisional(identity), evaluated, node, ports)
        });
        let entry = IpCacheEntry { nodes: owners.nodes(key, pod.is_some()), pod };
        let address = address_of(key);
        let before = self.ipcache.get(address);
        self.diff.record_entry(key, before, |identity| self.identities.get(identity).rulesets.clone());
        let before = before.and_then(|entry| entry.pod.as_ref());
        let before = before.map(|pod| (pod.identity(), pod.is_evaluated()));
        let now = entry.pod.as_ref().map(|pod| (pod.identity(), pod.is_evaluated()));
        // Adds before it removes, so that an identity keeps its rulesets if its only pod changes.
        if let Some((identity, evaluated)) = now {
            self.identities.add_address(identity, evaluated);
            if evaluated && self.identities.get(identity).evaluated == 1 {
                self.ruleset_counts_stale = true;
                self.pending.extend(self.identities.views(identity));
            }
        }
        if let Some((identity, evaluated)) = before {
            self.identities.remove_address(identity, evaluated);
            if evaluated && self.identities.get(identity).evaluated == 0 {
                for identity in self.identities.views(identity) {
                    self.detach_identity(identity);
                    self.identities.get_mut(identity).subjects = None;
                }
            }
        }
        let was_evaluated = before.is_some_and(|(_, evaluated)| evaluated);
        let is_evaluated = now.is_some_and(|(_, evaluated)| evaluated);
        if was_evaluated && !is_evaluated {
            self.evaluated.remove(&address);
        } else if is_evaluated && !was_evaluated {
            self.evaluated.insert(address);
        }
        entry
    }

    /// Adds new identities to selectors and to existing rulesets.
    pub(super) fn update_identities(&mut self) {
        let index = self.identities.fresh();
        if index.is_empty() {
            return;
        }
        self.rulesets.resize(self.identities.len(), None);
        self.published_rulesets = None;
        let mut selected_by: FxHashMap<IdentityId, Vec<SelectorId>> = FxHashMap::default();
        let has_rules = !self.shared_tiers.is_empty();
        let mut subjects: Vec<(IdentityId, SubjectMatch)> = Vec::new();
        self.selectors.add_identities(&self.identities, &index, |selector, as_peer, identity, view| {
            if has_rules && as_peer {
                selected_by.entry(identity).or_default().push(selector);
            }
            if self.identities.get(identity).evaluated > 0 && self.subjects.contains_key(&selector) {
                subjects.push((identity, SubjectMatch { selector, view }));
            }
        });
        for identity in index.iter() {
            let identity = self.identities.get_mut(identity);
            if identity.evaluated > 0 {
                identity.subjects = Some(Vec::new());
            }
        }
        for (identity, subject) in subjects {
            // Selectors come in ascending order, so the result is sorted.
            self.identities.get_mut(identity).subjects.get_or_insert_default().push(subject);
        }
        self.identities.index_fresh();
        let changed = self.shared_tiers.add_identities(&selected_by);
        for cached in self.cached_rulesets.values_mut() {
            if cached.replace_tiers(&changed) {
                for user in &cached.users {
                    self.rulesets[user.index()] = Some(Arc::clone(&cached.rulesets));
                }
            }
        }
    }
}

fn addresses_of<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>) -> impl Iterator<Item = AddressKey> {
    pods.flat_map(|pod| &pod.addresses).map(|address| key_of(address.to_canonical()))
}
