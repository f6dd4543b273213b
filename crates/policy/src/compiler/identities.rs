//! Identities: pods with the same label sets, reduced to what policies refer to, so that no policy
//! distinguishes them as peers. The term is Cilium's.
//!
//! If policies refer to unknown labels of a pod, it has two consecutive identities (semantics 37). In the
//! first, [`View::Strict`], no rule allows what the labels might deny. In the second, [`View::Permissive`],
//! no rule denies what the labels might allow. The first yields the verdict; the second, whether a denial is
//! provisional.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::compiler::compiled_selector::{CompiledSelector, SelectorId};
use crate::compiler::identity_index::IdentityIndex;
use crate::compiler::symbol_table::{LabelSet, NamespaceSymbols, SymbolTable};
use crate::inventory::{Inventory, Namespace, Pod};
use crate::labels::Labels;
use crate::selector::Match;
use crate::snapshot::ids::{IdentityId, number_of};

/// See the module. Ids are valid until the next full rebuild.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// By namespace name, once a pod of it was looked up.
    namespace_of: FxHashMap<Arc<str>, NamespaceId>,
    namespace_ids: FxHashMap<NamespaceSymbols, NamespaceId>,
    namespaces: Vec<NamespaceSymbols>,
    ids: FxHashMap<(NamespaceId, LabelSet), IdentityId>,
    list: Vec<Identity>,
    /// The number of identities in `list` that have pods.
    populated: usize,
    /// The number of addresses of pods with unknown labels that policies refer to.
    provisional_addresses: usize,
    /// The number of addresses of pods.
    addresses: usize,
    /// All identities but `fresh`.
    index: IdentityIndex,
    /// Identities created since the last [`Identities::index_fresh`].
    fresh: Vec<IdentityId>,
}

/// Namespaces that no policy distinguishes: their position in the list. Valid until the next full rebuild.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct NamespaceId(u32);

impl NamespaceId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// How the unknown labels of an identity are interpreted: see the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum View {
    /// No labels that policies refer to are unknown.
    Known,
    /// Allows nothing that the labels might deny.
    Strict,
    /// Denies nothing that the labels might allow. This identity follows the strict one.
    Permissive,
}

/// A subject of policies that selects an identity, or might.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SubjectMatch {
    pub selector: SelectorId,
    /// [`View::Known`] if it certainly does, else the view of the identity.
    pub view: View,
}

/// One identity.
#[derive(Debug)]
pub(crate) struct Identity {
    namespace: NamespaceId,
    labels: LabelSet,
    pub view: View,
    /// Addresses of its pods.
    pub addresses: u32,
    /// Addresses of its pods that the snapshot evaluates.
    pub evaluated: u32,
    /// The subjects of policies that select it, or might, sorted. `None` if it has no evaluated pods.
    pub subjects: Option<Vec<SubjectMatch>>,
    /// The key of its cached rulesets, once it has any.
    pub rulesets: Option<Arc<[SubjectMatch]>>,
}

impl Identity {
    /// The subjects of policies that select it, or might; empty if it has no evaluated pods.
    pub(crate) fn subjects(&self) -> &[SubjectMatch] {
        self.subjects.as_deref().unwrap_or_default()
    }
}

impl Identities {
    /// The identity of a pod; the strict one if it has two.
    pub(crate) fn of_pod(&mut self, symbols: &SymbolTable, inventory: &Inventory, pod: &Pod) -> IdentityId {
        let namespace = match self.namespace_of.get(&pod.name.namespace) {
            Some(namespace) => *namespace,
            None => self.intern_namespace(symbols, inventory, &pod.name.namespace),
        };
        let key = (namespace, symbols.pod_labels().label_set(&pod.labels));
        if let Some(identity) = self.ids.get(&key) {
            return *identity;
        }
        let identity = IdentityId(number_of(self.list.len()));
        let are_known = key.1.are_known && self.namespaces[namespace.index()].labels.are_known;
        let views: &[View] = if are_known { &[View::Known] } else { &[View::Strict, View::Permissive] };
        for view in views {
            self.fresh.push(IdentityId(number_of(self.list.len())));
            self.list.push(Identity {
                namespace,
                labels: key.1.clone(),
                view: *view,
                addresses: 0,
                evaluated: 0,
                subjects: None,
                rulesets: None,
            });
        }
        self.ids.insert(key, identity);
        identity
    }

    /// All identities of the pods of an identity: itself, and the permissive one if it is strict.
    pub(crate) fn views(&self, identity: IdentityId) -> impl Iterator<Item = IdentityId> + use<> {
        let permissive = self.is_provisional(identity).then(|| identity.next());
        std::iter::once(identity).chain(permissive)
    }

    /// Whether policies refer to unknown labels of the identity's pods. Then the next identity is the
    /// permissive one.
    pub(crate) fn is_provisional(&self, identity: IdentityId) -> bool {
        self.list[identity.index()].view == View::Strict
    }

    /// Updates a namespace. Returns whether policies see a difference, so that its pods need another
    /// identity.
    pub(crate) fn namespace_changed(
        &mut self,
        symbols: &SymbolTable,
        inventory: &Inventory,
        name: &Arc<str>,
    ) -> bool {
        match self.namespace_of.get(name).copied() {
            None => false,
            Some(before) => self.intern_namespace(symbols, inventory, name) != before,
        }
    }

    fn intern_namespace(
        &mut self,
        symbols: &SymbolTable,
        inventory: &Inventory,
        name: &Arc<str>,
    ) -> NamespaceId {
        let found = match inventory.namespaces.get(name) {
            Some(namespace) => symbols.namespace_symbols(namespace),
            // The namespace is not known (yet), and so are its labels (semantics 37).
            None => {
                symbols.namespace_symbols(&Namespace { name: Arc::clone(name), labels: Labels::unknown() })
            }
        };
        let id = match self.namespace_ids.get(&found) {
            Some(id) => *id,
            None => {
                let id = NamespaceId(number_of(self.namespaces.len()));
                self.namespaces.push(found.clone());
                self.namespace_ids.insert(found, id);
                id
            }
        };
        self.namespace_of.insert(Arc::clone(name), id);
        id
    }

    /// The namespaces with a pod that was looked up.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespace_of.keys()
    }

    /// Whether `selector` matches `identity`: BOTH of its parts must.
    pub(crate) fn matches(&self, identity: IdentityId, selector: &CompiledSelector) -> Match {
        let identity = &self.list[identity.index()];
        let namespace = selector.namespaces.matches(&self.namespaces[identity.namespace.index()]);
        if namespace == Match::No {
            namespace
        } else {
            namespace.min(selector.pods.matches(&identity.labels))
        }
    }

    /// One identity.
    pub(crate) fn get(&self, identity: IdentityId) -> &Identity {
        &self.list[identity.index()]
    }

    /// One identity, for changing its counts, subjects or rulesets.
    pub(crate) fn get_mut(&mut self, identity: IdentityId) -> &mut Identity {
        &mut self.list[identity.index()]
    }

    /// Adds an address to the counts of `identity`.
    pub(crate) fn add_address(&mut self, identity: IdentityId, evaluated: bool) {
        self.addresses += 1;
        self.provisional_addresses += usize::from(self.is_provisional(identity));
        for identity in self.views(identity) {
            let identity = &mut self.list[identity.index()];
            self.populated += usize::from(identity.addresses == 0);
            identity.addresses += 1;
            identity.evaluated += u32::from(evaluated);
        }
    }

    /// Removes an address from the counts of `identity`.
    pub(crate) fn remove_address(&mut self, identity: IdentityId, evaluated: bool) {
        self.addresses -= 1;
        self.provisional_addresses -= usize::from(self.is_provisional(identity));
        for identity in self.views(identity) {
            let identity = &mut self.list[identity.index()];
            identity.addresses -= 1;
            identity.evaluated -= u32::from(evaluated);
            self.populated -= usize::from(identity.addresses == 0);
        }
    }

    /// The number of addresses of pods.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses
    }

    /// Whether ANY pod has unknown labels that policies refer to.
    pub(crate) fn has_provisional(&self) -> bool {
        self.provisional_addresses > 0
    }

    /// The number of identities. Ids are consecutive from 0.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The number of identities that have pods.
    pub(crate) fn populated(&self) -> usize {
        self.populated
    }

    /// Whether so few identities have pods that a full rebuild saves memory. Each of `rulesets` may have an
    /// entry for each identity.
    pub(crate) fn is_stale(&self, rulesets: usize) -> bool {
        /// The most entries for identities without pods. An entry takes about 50 bytes in a tier of up to 64
        /// rules, and at most 68 more for each further 512 rules.
        const SPARE_ENTRIES: usize = 1 << 17;
        let spare = self.list.len().saturating_sub(self.populated);
        self.list.len() > 2 * self.populated + 1024 || (spare > 64 && spare * rulesets > SPARE_ENTRIES)
    }

    /// All identities but those created since the last [`Identities::index_fresh`].
    pub(crate) fn index(&self) -> &IdentityIndex {
        &self.index
    }

    /// The identities created since the last [`Identities::index_fresh`].
    pub(crate) fn fresh(&self) -> IdentityIndex {
        let mut index = IdentityIndex::default();
        self.fresh.iter().for_each(|identity| self.add_to(&mut index, *identity));
        index
    }

    /// Adds the fresh identities to the index.
    pub(crate) fn index_fresh(&mut self) {
        let mut index = std::mem::take(&mut self.index);
        std::mem::take(&mut self.fresh).into_iter().for_each(|identity| self.add_to(&mut index, identity));
        self.index = index;
    }

    fn add_to(&self, index: &mut IdentityIndex, identity: IdentityId) {
        let Identity { namespace, labels, .. } = self.get(identity);
        index.add(identity, &self.namespaces[namespace.index()], labels);
    }
}
