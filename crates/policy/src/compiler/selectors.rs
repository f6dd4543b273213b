//! The distinct selectors of all policies, as subjects and as peers, each with the identities that it
//! matches, and those that it might match (semantics 37).

use std::ops::Range;

use roaring::RoaringBitmap;
use rustc_hash::FxHashMap;

use crate::compiler::classes::{Chosen, ChosenClasses, ClassIndex, Classes, View};
use crate::compiler::compiled_selector::{LabelTest, NamespaceTest, SelectorId, Test};
use crate::compiler::vocabulary::Vocabulary;
use crate::selector::Selector;
use crate::snapshot::ids::ClassId;
use crate::spec::{Action, NamespaceMatch};

/// See the module. Ids are valid until the next full rebuild.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    ids: FxHashMap<(NamespaceMatch, Selector, Action), SelectorId>,
    list: Vec<Choice>,
    /// The number of selectors in `list` that a policy uses.
    used: usize,
}

/// Larger sets are optimized, as they may take less memory as runs.
const LARGE: u64 = 64;

/// A selector with the identities that it matches.
#[derive(Debug)]
struct Choice {
    test: Test,
    /// The action of the rules that have it as a peer. Subjects share the entries of rules that accept.
    action: Action,
    /// The number of subjects and peers that use it.
    uses: u32,
    /// The identities that it certainly matches.
    sure: RoaringBitmap,
    /// Strict identities that it might match.
    cautious: RoaringBitmap,
    /// Permissive identities that it might match.
    hopeful: RoaringBitmap,
}

impl Selectors {
    /// Adds a use of this selector. Its symbols must be in the vocabulary. Returns whether the selector is
    /// new.
    pub(crate) fn enter(
        &mut self,
        vocabulary: &Vocabulary,
        namespaces: &NamespaceMatch,
        pods: &Selector,
        action: Action,
    ) -> (SelectorId, bool) {
        let key = (namespaces.clone(), pods.clone(), action);
        let (id, new) = match self.ids.get(&key) {
            Some(id) => (*id, false),
            None => {
                let id = self.list.len() as SelectorId;
                let test = Test::new(vocabulary, namespaces, pods);
                let (sure, cautious, hopeful) = Default::default();
                self.list.push(Choice { test, action, uses: 0, sure, cautious, hopeful });
                self.ids.insert(key, id);
                (id, true)
            }
        };
        let choice = &mut self.list[id as usize];
        self.used += usize::from(choice.uses == 0);
        choice.uses += 1;
        (id, new)
    }

    /// Removes a use of this selector.
    pub(crate) fn leave(&mut self, id: SelectorId) {
        let choice = &mut self.list[id as usize];
        choice.uses -= 1;
        self.used -= usize::from(choice.uses == 0);
    }

    /// Whether so few selectors are in use that a full rebuild saves memory.
    pub(crate) fn is_stale(&self) -> bool {
        self.list.len() > 2 * self.used + 1024
    }

    /// Those among `identities` that a selector matches as a peer.
    pub(crate) fn classes_in(
        &self,
        id: SelectorId,
        classes: Range<ClassId>,
    ) -> impl Iterator<Item = ClassId> + '_ {
        self.of_peer(id).flat_map(move |chosen| chosen.range(classes.clone()))
    }

    /// The highest identity that a selector matches as a peer.
    pub(crate) fn last_class(&self, id: SelectorId) -> Option<ClassId> {
        self.of_peer(id).filter_map(RoaringBitmap::max).max()
    }

    /// Whether a selector matches an identity as a peer.
    pub(crate) fn is_peer(&self, id: SelectorId, class: ClassId) -> bool {
        // ANY of the sets.
        self.of_peer(id).any(|chosen| chosen.contains(class))
    }

    /// The identities that a selector matches as a peer, as several sets.
    fn of_peer(&self, id: SelectorId) -> impl Iterator<Item = &RoaringBitmap> {
        let Choice { action, sure, cautious, hopeful, .. } = &self.list[id as usize];
        let unsure = [(View::Cautious, cautious), (View::Hopeful, hopeful)];
        let unsure = unsure.into_iter().filter(|(view, _)| matches_unsure(*action, *view));
        [sure].into_iter().chain(unsure.map(|(_, classes)| classes))
    }

    /// The identities that a selector matches, or might, as a subject.
    pub(crate) fn of_subject(&self, id: SelectorId) -> impl Iterator<Item = (ClassId, Chosen)> + '_ {
        let Choice { sure, cautious, hopeful, .. } = &self.list[id as usize];
        let views = [(View::Known, sure), (View::Cautious, cautious), (View::Hopeful, hopeful)];
        views.into_iter().flat_map(move |(view, classes)| {
            classes.iter().map(move |class| (class, Chosen { by: id, view }))
        })
    }

    /// How a selector matches an identity as a subject; `None` if it certainly does not.
    pub(crate) fn as_subject(&self, id: SelectorId, class: ClassId) -> Option<Chosen> {
        let Choice { sure, cautious, hopeful, .. } = &self.list[id as usize];
        let views = [(View::Known, sure), (View::Cautious, cautious), (View::Hopeful, hopeful)];
        let (view, _) = views.into_iter().find(|(_, classes)| classes.contains(class))?;
        Some(Chosen { by: id, view })
    }

    /// Whether a selector matches every possible pod.
    pub(crate) fn is_every_pod(&self, id: SelectorId) -> bool {
        let test = &self.list[id as usize].test;
        matches!(&test.namespaces, NamespaceTest::Labels(LabelTest::All(needs)) if needs.is_empty())
            && matches!(&test.pods, LabelTest::All(needs) if needs.is_empty())
    }

    /// Finds the identities of `index` that a new selector matches.
    pub(crate) fn fill(&mut self, id: SelectorId, classes: &Classes, index: &ClassIndex) {
        self.list[id as usize].add(classes, index, |_, _| {});
    }

    /// Adds the new identities of `index` to every selector that matches them, or might. Calls `found` for
    /// each pair with whether the selector matches as a peer, and with the view in which it matches as a
    /// subject: [`View::Known`] if it certainly does.
    pub(crate) fn add_classes(
        &mut self,
        classes: &Classes,
        index: &ClassIndex,
        mut found: impl FnMut(SelectorId, bool, ClassId, View),
    ) {
        for (id, choice) in (0..).zip(&mut self.list) {
            let action = choice.action;
            choice.add(classes, index, |class, view| {
                found(id, view == View::Known || matches_unsure(action, view), class, view);
            });
        }
    }
}

/// Whether a rule with this action matches a peer if the match depends on unknown labels. Deny does in the
/// strict view, Accept in the permissive view, and Pass in neither: `policies.rs` adds two rules for it.
fn matches_unsure(action: Action, view: View) -> bool {
    matches!((action, view), (Action::Deny, View::Cautious) | (Action::Accept, View::Hopeful))
}

impl Choice {
    /// Adds the identities of `index` that match, or might.
    fn add(&mut self, classes: &Classes, index: &ClassIndex, mut found: impl FnMut(ClassId, View)) {
        let ChosenClasses { surely, perhaps } = index.chosen(&self.test, classes);
        surely.iter().for_each(|class| found(class, View::Known));
        let is_large = surely.len() > LARGE;
        self.sure |= surely;
        if is_large {
            // A set of all identities but a few takes few runs.
            self.sure.optimize();
        }
        for class in perhaps {
            let view = classes.get(class).view;
            match view {
                View::Hopeful => self.hopeful.insert(class),
                View::Cautious | View::Known => self.cautious.insert(class),
            };
            found(class, view);
        }
    }
}
