//! An index of identities by labels, which finds those that a selector matches.

use roaring::RoaringBitmap;
use rustc_hash::FxHashMap;

use crate::compiler::compiled_selector::{
    CompiledLabelSelector, CompiledNamespaceMatch, CompiledRequirement, CompiledSelector,
};
use crate::compiler::symbol_table::{KeySymbol, LabelSet, NameSymbol, NamespaceSymbols, ValueSymbol};
use crate::selector::Match;
use crate::snapshot::ids::IdentityId;

/// Finds the identities that a selector matches, by set operations. The time depends on the selector's
/// requirements, not on the number of identities.
#[derive(Debug, Default)]
pub(crate) struct IdentityIndex {
    all: RoaringBitmap,
    by_namespace: FxHashMap<NameSymbol, RoaringBitmap>,
    /// By labels of their namespaces.
    namespaces: LabelIndex,
    /// By labels of their pods.
    pods: LabelIndex,
}

/// Identities by labels.
#[derive(Debug, Default)]
struct LabelIndex {
    by_label: FxHashMap<(KeySymbol, ValueSymbol), RoaringBitmap>,
    by_key: FxHashMap<KeySymbol, RoaringBitmap>,
    /// Identities that may have further keys, because labels are unknown.
    unknown: RoaringBitmap,
}

/// The identities that a selector matches.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct SelectedIdentities {
    pub certain: RoaringBitmap,
    /// Potential matches: it depends on unknown labels (semantics 37).
    pub potential: RoaringBitmap,
}

impl IdentityIndex {
    /// Adds an identity, which has this namespace and these labels.
    pub(crate) fn add(&mut self, identity: IdentityId, namespace: &NamespaceSymbols, labels: &LabelSet) {
        self.all.insert(identity.0);
        if let Some(name) = namespace.name {
            self.by_namespace.entry(name).or_default().insert(identity.0);
        }
        self.namespaces.add(identity, &namespace.labels);
        self.pods.add(identity, labels);
    }

    /// The identities, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IdentityId> + '_ {
        self.all.iter().map(IdentityId)
    }

    /// Whether the index is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The identities that `selector` matches, or might. `matches` tests one identity.
    pub(crate) fn selected(
        &self,
        selector: &CompiledSelector,
        matches: impl Fn(IdentityId) -> Match,
    ) -> SelectedIdentities {
        /// For fewer identities, testing each is faster than set operations.
        const FEW: u64 = 16;
        let selected = if self.all.len() < FEW {
            self.selected_one_by_one(&matches)
        } else {
            self.selected_by_sets(selector)
        };
        debug_assert_eq!(selected, self.selected_one_by_one(&matches));
        debug_assert_eq!(selected, self.selected_by_sets(selector));
        selected
    }

    fn selected_by_sets(&self, selector: &CompiledSelector) -> SelectedIdentities {
        let all = match &selector.namespaces {
            CompiledNamespaceMatch::Named(name) => self.by_namespace.get(name).cloned().unwrap_or_default(),
            CompiledNamespaceMatch::Labels(_) => self.all.clone(),
        };
        let mut selected = SelectedIdentities { certain: all, potential: RoaringBitmap::new() };
        if let CompiledNamespaceMatch::Labels(selector) = &selector.namespaces {
            selected = self.namespaces.selected(selector, selected);
        }
        self.pods.selected(&selector.pods, selected)
    }

    fn selected_one_by_one(&self, matches: impl Fn(IdentityId) -> Match) -> SelectedIdentities {
        let mut selected = SelectedIdentities::default();
        for identity in self.iter() {
            match matches(identity) {
                Match::Yes => drop(selected.certain.insert(identity.0)),
                Match::Unknown => drop(selected.potential.insert(identity.0)),
                Match::No => {}
            }
        }
        selected
    }
}

impl LabelIndex {
    fn add(&mut self, identity: IdentityId, labels: &LabelSet) {
        for label in &labels.pairs {
            self.by_label.entry(*label).or_default().insert(identity.0);
            self.by_key.entry(label.0).or_default().insert(identity.0);
        }
        if !labels.are_known {
            self.unknown.insert(identity.0);
        }
    }

    /// Those among `identities` with labels that ALL requirements of `selector` match, or might.
    fn selected(
        &self,
        selector: &CompiledLabelSelector,
        identities: SelectedIdentities,
    ) -> SelectedIdentities {
        let CompiledLabelSelector::All(requirements) = selector else { return SelectedIdentities::default() };
        let SelectedIdentities { mut certain, mut potential } = identities;
        for requirement in requirements {
            let mut unknown = self.unknown.clone();
            if let Some(known) = self.by_key.get(&requirement.key()) {
                unknown -= known;
            }
            let uncertain = &certain & &unknown;
            let matching = self.matching(requirement);
            match requirement {
                CompiledRequirement::In(..) | CompiledRequirement::Exists(_) => {
                    certain &= &matching;
                    potential &= matching | unknown;
                }
                // For these, `matching` are the identities that do not match.
                CompiledRequirement::NotIn(..) | CompiledRequirement::DoesNotExist(_) => {
                    certain -= &matching;
                    certain -= unknown;
                    potential -= matching;
                }
            }
            potential |= uncertain;
        }
        SelectedIdentities { certain, potential }
    }

    /// The identities that have the key of a requirement, with ANY of its values if it lists values.
    fn matching(&self, requirement: &CompiledRequirement) -> RoaringBitmap {
        match requirement {
            CompiledRequirement::In(key, values) | CompiledRequirement::NotIn(key, values) => {
                let with_value = values.iter().filter_map(|value| self.by_label.get(&(*key, *value)));
                with_value.fold(RoaringBitmap::new(), |all, identities| all | identities)
            }
            CompiledRequirement::Exists(key) | CompiledRequirement::DoesNotExist(key) => {
                self.by_key.get(key).cloned().unwrap_or_default()
            }
        }
    }
}
