//! Compiled selectors: selectors of pods, by namespace and labels, in terms of symbols.
//!
//! From: a policy's selectors. Their symbols must be in the [`Vocabulary`]. To:
//! [`classes`](crate::compiler::classes), which finds the identities that they match.

use crate::compiler::vocabulary::{Facts, Keys, NamespaceFacts, Vocabulary};
use crate::selector::{Match, Requirement, Selector};
use crate::spec::NamespaceMatch;

/// The id of a distinct selector.
pub(crate) type SelectorId = u32;

/// A compiled selector of pods: BOTH parts must match.
#[derive(Debug)]
pub(crate) struct Test {
    pub namespaces: NamespaceTest,
    pub pods: LabelTest,
}

/// Selects namespaces.
#[derive(Debug)]
pub(crate) enum NamespaceTest {
    Named(u32),
    Labels(LabelTest),
}

/// Selects labels.
#[derive(Debug)]
pub(crate) enum LabelTest {
    /// ALL of these must match.
    All(Box<[Need]>),
    /// Matches nothing: the selector could not be understood (semantics 28).
    Nothing,
}

/// A compiled requirement on labels.
#[derive(Debug)]
pub(crate) enum Need {
    /// The key's value is ANY of these; sorted.
    In(u32, Box<[u32]>),
    /// The key is missing or its value is NONE of these; sorted (semantics 10).
    NotIn(u32, Box<[u32]>),
    /// The key exists.
    Exists(u32),
    /// The key is missing (semantics 10).
    Missing(u32),
}

impl Test {
    /// Compiles a selector. Its symbols must be in the vocabulary.
    pub(crate) fn new(vocabulary: &Vocabulary, namespaces: &NamespaceMatch, pods: &Selector) -> Self {
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
    /// Whether the namespace matches.
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

    /// Whether the labels match.
    pub(crate) fn holds(&self, facts: &Facts) -> Match {
        let Self::All(needs) = self else { return Match::No };
        let mut least = Match::Yes;
        for need in needs {
            // ALL must match.
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

    /// The key that the requirement refers to.
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
