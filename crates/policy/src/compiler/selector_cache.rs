//! The distinct selectors of all policies, as subjects and as peers, each with the identities that it
//! matches, and those that it might match (semantics 37).

use std::ops::Range;

use roaring::RoaringBitmap;
use rustc_hash::FxHashMap;

use crate::compiler::compiled_selector::{
    CompiledLabelSelector, CompiledNamespaceMatch, CompiledSelector, SelectorId,
};
use crate::compiler::identities::{Identities, SubjectMatch, View};
use crate::compiler::identity_index::{IdentityIndex, SelectedIdentities};
use crate::compiler::symbol_table::SymbolTable;
use crate::selector::Selector;
use crate::snapshot::ids::{IdentityId, number_of};
use crate::spec::{Action, NamespaceMatch};

/// See the module. Ids are valid until the next full rebuild.
#[derive(Debug, Default)]
pub(crate) struct SelectorCache {
    ids: FxHashMap<(NamespaceMatch, Selector, Action), SelectorId>,
    list: Vec<SelectorEntry>,
    /// The number of selectors in `list` that a policy uses.
    used: usize,
}

/// Larger sets are optimized, as they may take less memory as runs.
const LARGE: u64 = 64;

/// A selector with the identities that it matches.
#[derive(Debug)]
struct SelectorEntry {
    selector: CompiledSelector,
    /// The action of the rules that have it as a peer. Subjects share the entries of rules that accept.
    action: Action,
    /// The number of subjects and peers that use it.
    uses: u32,
    /// The identities that it certainly matches.
    certain: RoaringBitmap,
    /// Strict identities that it might match.
    strict: RoaringBitmap,
    /// Permissive identities that it might match.
    permissive: RoaringBitmap,
}

impl SelectorCache {
    /// Adds a use of this selector. Its symbols must be in the symbol table. Returns whether the selector is
    /// new.
    pub(crate) fn acquire(
        &mut self,
        symbols: &SymbolTable,
        namespaces: &NamespaceMatch,
        pods: &Selector,
        action: Action,
    ) -> (SelectorId, bool) {
        let key = (namespaces.clone(), pods.clone(), action);
        let (id, new) = match self.ids.get(&key) {
            Some(id) => (*id, false),
            None => {
                let id = SelectorId(number_of(self.list.len()));
                let selector = CompiledSelector::new(symbols, namespaces, pods);
                let (certain, strict, permissive) = Default::default();
                self.list.push(SelectorEntry { selector, action, uses: 0, certain, strict, permissive });
                self.ids.insert(key, id);
                (id, true)
            }
        };
        let entry = &mut self.list[id.index()];
        self.used += usize::from(entry.uses == 0);
        entry.uses += 1;
        (id, new)
    }

    /// Removes a use of this selector.
    pub(crate) fn release(&mut self, id: SelectorId) {
        let entry = &mut self.list[id.index()];
        entry.uses -= 1;
        self.used -= usize::from(entry.uses == 0);
    }

    /// Whether so few selectors are in use that a full rebuild saves memory.
    pub(crate) fn is_stale(&self) -> bool {
        self.list.len() > 2 * self.used + 1024
    }

    /// Those among `identities` that a selector matches as a peer.
    pub(crate) fn identities_in(
        &self,
        id: SelectorId,
        identities: Range<IdentityId>,
    ) -> impl Iterator<Item = IdentityId> + '_ {
        let numbers = identities.start.0..identities.end.0;
        self.of_peer(id).flat_map(move |selected| selected.range(numbers.clone())).map(IdentityId)
    }

    /// The highest identity that a selector matches as a peer.
    pub(crate) fn last_identity(&self, id: SelectorId) -> Option<IdentityId> {
        self.of_peer(id).filter_map(RoaringBitmap::max).max().map(IdentityId)
    }

    /// Whether a selector matches an identity as a peer.
    pub(crate) fn is_peer(&self, id: SelectorId, identity: IdentityId) -> bool {
        // ANY of the sets.
        self.of_peer(id).any(|selected| selected.contains(identity.0))
    }

    /// The identities that a selector matches as a peer, as several sets.
    fn of_peer(&self, id: SelectorId) -> impl Iterator<Item = &RoaringBitmap> {
        let SelectorEntry { action, certain, strict, permissive, .. } = &self.list[id.index()];
        let potential = [(View::Strict, strict), (View::Permissive, permissive)];
        let potential = potential.into_iter().filter(|(view, _)| matches_potentially(*action, *view));
        [certain].into_iter().chain(potential.map(|(_, identities)| identities))
    }

    /// The identities that a selector matches, or might, as a subject.
    pub(crate) fn of_subject(&self, id: SelectorId) -> impl Iterator<Item = (IdentityId, SubjectMatch)> + '_ {
        let SelectorEntry { certain, strict, permissive, .. } = &self.list[id.index()];
        let views = [(View::Known, certain), (View::Strict, strict), (View::Permissive, permissive)];
        views.into_iter().flat_map(move |(view, identities)| {
            identities.iter().map(move |identity| (IdentityId(identity), SubjectMatch { selector: id, view }))
        })
    }

    /// How a selector matches an identity as a subject; `None` if it certainly does not.
    pub(crate) fn as_subject(&self, id: SelectorId, identity: IdentityId) -> Option<SubjectMatch> {
        let SelectorEntry { certain, strict, permissive, .. } = &self.list[id.index()];
        let views = [(View::Known, certain), (View::Strict, strict), (View::Permissive, permissive)];
        let (view, _) = views.into_iter().find(|(_, identities)| identities.contains(identity.0))?;
        Some(SubjectMatch { selector: id, view })
    }

    /// Whether a selector matches every possible pod.
    pub(crate) fn is_every_pod(&self, id: SelectorId) -> bool {
        let CompiledSelector { namespaces, pods } = &self.list[id.index()].selector;
        let is_empty = |labels: &CompiledLabelSelector| matches!(labels, CompiledLabelSelector::All(requirements) if requirements.is_empty());
        matches!(namespaces, CompiledNamespaceMatch::Labels(labels) if is_empty(labels)) && is_empty(pods)
    }

    /// Finds the identities of `index` that a new selector matches.
    pub(crate) fn fill(&mut self, id: SelectorId, identities: &Identities, index: &IdentityIndex) {
        self.list[id.index()].add(identities, index, |_, _| {});
    }

    /// Adds the new identities of `index` to every selector that matches them, or might. Calls `found` for
    /// each pair with whether the selector matches as a peer, and with the view in which it matches as a
    /// subject: [`View::Known`] if it certainly does.
    pub(crate) fn add_identities(
        &mut self,
        identities: &Identities,
        index: &IdentityIndex,
        mut found: impl FnMut(SelectorId, bool, IdentityId, View),
    ) {
        for (id, entry) in (0..).map(SelectorId).zip(&mut self.list) {
            let action = entry.action;
            entry.add(identities, index, |identity, view| {
                found(id, view == View::Known || matches_potentially(action, view), identity, view);
            });
        }
    }
}

/// Whether a rule with this action matches a peer if the match depends on unknown labels. Deny does in the
/// strict view, Accept in the permissive view, and Pass in neither: `policies.rs` adds two rules for it.
fn matches_potentially(action: Action, view: View) -> bool {
    matches!((action, view), (Action::Deny, View::Strict) | (Action::Accept, View::Permissive))
}

impl SelectorEntry {
    /// Adds the identities of `index` that match, or might.
    fn add(
        &mut self,
        identities: &Identities,
        index: &IdentityIndex,
        mut found: impl FnMut(IdentityId, View),
    ) {
        let SelectedIdentities { certain, potential } =
            index.selected(&self.selector, |identity| identities.matches(identity, &self.selector));
        certain.iter().for_each(|identity| found(IdentityId(identity), View::Known));
        let is_large = certain.len() > LARGE;
        self.certain |= certain;
        if is_large {
            // A set of all identities but a few takes few runs.
            self.certain.optimize();
        }
        for identity in potential.into_iter().map(IdentityId) {
            let view = identities.get(identity).view;
            match view {
                View::Permissive => self.permissive.insert(identity.0),
                View::Strict | View::Known => self.strict.insert(identity.0),
            };
            found(identity, view);
        }
    }
}
