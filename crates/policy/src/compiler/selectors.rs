//! Every distinct choice of pods (namespaces and labels together) that policies make, as subject or as peer, with the
//! classes of pods that it chooses, and those of which that is unknown (semantics 37).

use std::ops::Range;

use roaring::RoaringBitmap;
use rustc_hash::FxHashMap;

use crate::compiler::classes::{Chosen, ChosenClasses, ClassIndex, Classes, View};
use crate::compiler::vocabulary::{Facts, Keys, NamespaceFacts, Vocabulary};
use crate::selector::{Match, Requirement, Selector};
use crate::snapshot::ruleset::ClassId;
use crate::spec::{Action, NamespaceMatch};

/// A distinct choice of pods.
pub(crate) type SelectorId = u32;

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

/// A choice in the numbers of the vocabulary.
#[derive(Debug)]
pub(crate) struct Test {
    pub namespaces: NamespaceTest,
    pub pods: LabelTest,
}

/// Chooses namespaces.
#[derive(Debug)]
pub(crate) enum NamespaceTest {
    Named(u32),
    Labels(LabelTest),
}

/// Chooses labels.
#[derive(Debug)]
pub(crate) enum LabelTest {
    /// ALL of these must hold.
    All(Box<[Need]>),
    /// What could not be understood (semantics 28).
    Nothing,
}

/// One requirement on labels.
#[derive(Debug)]
pub(crate) enum Need {
    /// The key's value is ANY of these, which are sorted.
    In(u32, Box<[u32]>),
    /// The key is missing or its value is NONE of these, which are sorted (semantics 10).
    NotIn(u32, Box<[u32]>),
    /// The key is there.
    Exists(u32),
    /// The key is missing (semantics 10).
    Missing(u32),
}

impl Selectors {
    /// Takes note that a policy uses this choice, whose words the vocabulary must cover. True if the choice is new.
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

    /// Adds new classes, those of `index`, to every choice that chooses them, or might, and says of each such pair whether it does as a
    /// peer, and as which view of the class it does as a subject: [`View::Known`] if surely.
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

/// Whether a rule with this action matches a peer for which the match is unknown. Deny does in the cautious view, Accept in the hopeful
/// one, Pass in neither: see the two rules beside it in `policies.rs`.
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

impl Test {
    fn new(vocabulary: &Vocabulary, namespaces: &NamespaceMatch, pods: &Selector) -> Self {
        let namespaces = match namespaces {
            NamespaceMatch::Named(name) => match vocabulary.namespace(name) {
                Some(name) => NamespaceTest::Named(name),
                None => NamespaceTest::Labels(LabelTest::Nothing),
            },
            NamespaceMatch::Labels(selector) => {
                NamespaceTest::Labels(LabelTest::new(vocabulary.namespace_labels(), selector))
            }
        };
        Self { namespaces, pods: LabelTest::new(vocabulary.pod_labels(), pods) }
    }
}

impl NamespaceTest {
    /// Whether the namespace is chosen.
    pub(crate) fn holds(&self, namespace: &NamespaceFacts) -> Match {
        match self {
            Self::Named(name) => Match::from(namespace.name == Some(*name)),
            Self::Labels(test) => test.holds(&namespace.labels),
        }
    }
}

impl LabelTest {
    fn new(keys: &Keys, selector: &Selector) -> Self {
        match selector {
            Selector::Nothing => Self::Nothing,
            Selector::All(requirements) => requirements
                .iter()
                .map(|requirement| Need::new(keys, requirement))
                .collect::<Option<_>>()
                .map_or(Self::Nothing, Self::All),
        }
    }

    /// Whether the labels are chosen.
    pub(crate) fn holds(&self, facts: &Facts) -> Match {
        let Self::All(needs) = self else { return Match::No };
        let mut least = Match::Yes;
        for need in needs {
            // ALL must hold.
            least = least.min(need.holds(facts));
            if least == Match::No {
                break;
            }
        }
        least
    }
}

impl Need {
    fn new(keys: &Keys, requirement: &Requirement) -> Option<Self> {
        let key = keys.key(requirement.key())?;
        let numbers = |values: &[_]| -> Option<Box<[u32]>> {
            let numbers =
                values.iter().map(|value: &std::sync::Arc<str>| keys.value(requirement.key(), value));
            let mut numbers: Box<[u32]> = numbers.collect::<Option<_>>()?;
            numbers.sort_unstable();
            Some(numbers)
        };
        Some(match requirement {
            Requirement::In(_, values) => Self::In(key, numbers(values)?),
            Requirement::NotIn(_, values) => Self::NotIn(key, numbers(values)?),
            Requirement::Exists(_) => Self::Exists(key),
            Requirement::DoesNotExist(_) => Self::Missing(key),
        })
    }

    /// The key that it asks for.
    pub(crate) fn key(&self) -> u32 {
        let (Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::Missing(key)) = self;
        *key
    }

    fn holds(&self, facts: &Facts) -> Match {
        let key = self.key();
        let value = facts.pairs.iter().find(|(k, _)| *k == key).map(|(_, value)| *value);
        if value.is_none() && !facts.are_known {
            return Match::Unknown;
        }
        Match::from(match self {
            Self::In(_, values) => value.is_some_and(|value| values.binary_search(&value).is_ok()),
            Self::NotIn(_, values) => value.is_none_or(|value| values.binary_search(&value).is_err()),
            Self::Exists(_) => value.is_some(),
            Self::Missing(_) => value.is_none(),
        })
    }
}
