//! Every distinct choice of pods (namespaces and labels together) that policies make, as subject or as peer,
//! with the classes of pods that it chooses, and those of which that is unknown (semantics 37).

use std::ops::Range;

use roaring::RoaringBitmap;
use rustc_hash::FxHashMap;

use crate::compiler::classes::{Chosen, ChosenClasses, ClassIndex, Classes, View};
use crate::compiler::compiled_selector::{LabelTest, NamespaceTest, SelectorId, Test};
use crate::compiler::vocabulary::Vocabulary;
use crate::selector::Selector;
use crate::snapshot::ids::ClassId;
use crate::spec::{Action, NamespaceMatch};

/// See the module. Numbers stay as they are until everything is compiled again.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    ids: FxHashMap<(NamespaceMatch, Selector, Action), SelectorId>,
    list: Vec<Choice>,
    /// How many of `list` a policy uses.
    used: usize,
}

/// Sets with more classes may be smaller as runs.
const LARGE: u64 = 64;

/// One choice.
#[derive(Debug)]
struct Choice {
    test: Test,
    /// What the rules do that have it as a peer. Subjects share the choices of rules that accept.
    action: Action,
    /// How many subjects and peers use it.
    uses: u32,
    /// Which classes it surely chooses.
    sure: RoaringBitmap,
    /// Which it might choose by the cautious view of their unknown labels.
    cautious: RoaringBitmap,
    /// Likewise by the hopeful view.
    hopeful: RoaringBitmap,
}

impl Selectors {
    /// Takes note that a policy uses this choice, whose words the vocabulary must cover. True if the choice
    /// is new.
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

    /// Takes note that a policy uses this choice no more.
    pub(crate) fn leave(&mut self, id: SelectorId) {
        let choice = &mut self.list[id as usize];
        choice.uses -= 1;
        self.used -= usize::from(choice.uses == 0);
    }

    /// Whether so few choices are in use that compiling anew saves memory.
    pub(crate) fn is_stale(&self) -> bool {
        self.list.len() > 2 * self.used + 1024
    }

    /// The classes among `classes` that a choice chooses as a peer.
    pub(crate) fn classes_in(
        &self,
        id: SelectorId,
        classes: Range<ClassId>,
    ) -> impl Iterator<Item = ClassId> + '_ {
        self.of_peer(id).flat_map(move |chosen| chosen.range(classes.clone()))
    }

    /// The highest class that a choice chooses as a peer.
    pub(crate) fn last_class(&self, id: SelectorId) -> Option<ClassId> {
        self.of_peer(id).filter_map(RoaringBitmap::max).max()
    }

    /// Whether a choice chooses a class as a peer.
    pub(crate) fn is_peer(&self, id: SelectorId, class: ClassId) -> bool {
        // ANY of the sets.
        self.of_peer(id).any(|chosen| chosen.contains(class))
    }

    /// The classes that a choice chooses as a peer, in several sets.
    fn of_peer(&self, id: SelectorId) -> impl Iterator<Item = &RoaringBitmap> {
        let Choice { action, sure, cautious, hopeful, .. } = &self.list[id as usize];
        let unsure = [(View::Cautious, cautious), (View::Hopeful, hopeful)];
        let unsure = unsure.into_iter().filter(|(view, _)| matches_unsure(*action, *view));
        [sure].into_iter().chain(unsure.map(|(_, classes)| classes))
    }

    /// The classes that a choice chooses, or might, as a subject.
    pub(crate) fn of_subject(&self, id: SelectorId) -> impl Iterator<Item = (ClassId, Chosen)> + '_ {
        let Choice { sure, cautious, hopeful, .. } = &self.list[id as usize];
        let views = [(View::Known, sure), (View::Cautious, cautious), (View::Hopeful, hopeful)];
        views.into_iter().flat_map(move |(view, classes)| {
            classes.iter().map(move |class| (class, Chosen { by: id, view }))
        })
    }

    /// How a choice chooses a class as a subject; `None` if it surely doesn't.
    pub(crate) fn as_subject(&self, id: SelectorId, class: ClassId) -> Option<Chosen> {
        let Choice { sure, cautious, hopeful, .. } = &self.list[id as usize];
        let views = [(View::Known, sure), (View::Cautious, cautious), (View::Hopeful, hopeful)];
        let (view, _) = views.into_iter().find(|(_, classes)| classes.contains(class))?;
        Some(Chosen { by: id, view })
    }

    /// Whether a choice chooses every pod there can be.
    pub(crate) fn is_every_pod(&self, id: SelectorId) -> bool {
        let test = &self.list[id as usize].test;
        matches!(&test.namespaces, NamespaceTest::Labels(LabelTest::All(needs)) if needs.is_empty())
            && matches!(&test.pods, LabelTest::All(needs) if needs.is_empty())
    }

    /// Finds the classes of `index` that a new choice chooses.
    pub(crate) fn fill(&mut self, id: SelectorId, classes: &Classes, index: &ClassIndex) {
        self.list[id as usize].add(classes, index, |_, _| {});
    }

    /// Adds new classes, those of `index`, to every choice that chooses them, or might, and says of each such
    /// pair whether it does as a peer, and as which view of the class it does as a subject: [`View::Known`]
    /// if surely.
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

/// Whether a rule with this action matches a peer for which the match is unknown. Deny does in the cautious
/// view, Accept in the hopeful one, Pass in neither: see the two rules beside it in `policies.rs`.
fn matches_unsure(action: Action, view: View) -> bool {
    matches!((action, view), (Action::Deny, View::Cautious) | (Action::Accept, View::Hopeful))
}

impl Choice {
    /// Adds the classes of `index` that are chosen, or might be.
    fn add(&mut self, classes: &Classes, index: &ClassIndex, mut found: impl FnMut(ClassId, View)) {
        let ChosenClasses { surely, perhaps } = index.chosen(&self.test, classes);
        surely.iter().for_each(|class| found(class, View::Known));
        let is_large = surely.len() > LARGE;
        self.sure |= surely;
        if is_large {
            // Of all classes but a few it is two runs.
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
