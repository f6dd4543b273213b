//! Every distinct choice of pods (namespaces and labels together) that policies make, as subject or as peer, with the
//! classes of pods that it chooses.

use rustc_hash::FxHashMap;

use crate::compiler::classes::{ClassIndex, Classes};
use crate::compiler::vocabulary::{Facts, Keys, NamespaceFacts, Vocabulary};
use crate::selector::{Requirement, Selector};
use crate::snapshot::ruleset::ClassId;
use crate::spec::NamespaceMatch;

/// A distinct choice of pods.
pub(crate) type SelectorId = u32;

/// See the module. Numbers stay as they are until everything is compiled anew.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    ids: FxHashMap<(NamespaceMatch, Selector), SelectorId>,
    list: Vec<Choice>,
    /// How many of `list` a policy uses.
    used: usize,
}

/// One choice.
#[derive(Debug)]
struct Choice {
    test: Test,
    /// How many subjects and peers use it.
    uses: u32,
    /// Which classes it chooses, each once.
    classes: Vec<ClassId>,
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
    ) -> (SelectorId, bool) {
        let key = (namespaces.clone(), pods.clone());
        let (id, new) = match self.ids.get(&key) {
            Some(id) => (*id, false),
            None => {
                let id = self.list.len() as SelectorId;
                let test = Test::new(vocabulary, namespaces, pods);
                self.list.push(Choice { test, uses: 0, classes: Vec::new() });
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

    /// The classes that a choice chooses.
    pub(crate) fn classes(&self, id: SelectorId) -> &[ClassId] {
        &self.list[id as usize].classes
    }

    /// Whether a choice chooses every pod there can be.
    pub(crate) fn is_every_pod(&self, id: SelectorId) -> bool {
        let test = &self.list[id as usize].test;
        matches!(&test.namespaces, NamespaceTest::Labels(LabelTest::All(needs)) if needs.is_empty())
            && matches!(&test.pods, LabelTest::All(needs) if needs.is_empty())
    }

    /// Finds the classes of `index` that a new choice chooses.
    pub(crate) fn fill(&mut self, id: SelectorId, classes: &Classes, index: &ClassIndex) {
        let choice = &mut self.list[id as usize];
        choice
            .classes
            .extend(index.candidates(&choice.test).filter(|class| classes.is_chosen(*class, &choice.test)));
    }

    /// Adds new classes, those of `index`, to every choice that chooses them, and tells of each such pair.
    pub(crate) fn add_classes(
        &mut self,
        classes: &Classes,
        index: &ClassIndex,
        mut found: impl FnMut(SelectorId, ClassId),
    ) {
        for (id, choice) in (0..).zip(&mut self.list) {
            for class in
                index.candidates(&choice.test).filter(|class| classes.is_chosen(*class, &choice.test))
            {
                choice.classes.push(class);
                found(id, class);
            }
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
    pub(crate) fn holds(&self, namespace: &NamespaceFacts) -> bool {
        match self {
            Self::Named(name) => namespace.name == Some(*name),
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
    pub(crate) fn holds(&self, facts: &Facts) -> bool {
        match self {
            Self::All(needs) => needs.iter().all(|need| need.holds(facts)),
            Self::Nothing => false,
        }
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

    fn holds(&self, facts: &Facts) -> bool {
        let value_of = |key: &u32| facts.iter().find(|(k, _)| k == key).map(|(_, value)| *value);
        match self {
            Self::In(key, values) => value_of(key).is_some_and(|value| values.binary_search(&value).is_ok()),
            Self::NotIn(key, values) => {
                value_of(key).is_none_or(|value| values.binary_search(&value).is_err())
            }
            Self::Exists(key) => value_of(key).is_some(),
            Self::Missing(key) => value_of(key).is_none(),
        }
    }
}
