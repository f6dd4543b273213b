//! Label selectors: `metav1.LabelSelector` after `matchLabels` and `matchExpressions` became one list.

use std::sync::Arc;

use crate::labels::Labels;

/// Selects labels. Built once at the edge; everything in it is valid.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selector {
    /// ALL requirements must hold; an empty list selects everything.
    All(Arc<[Requirement]>),
    /// Stands for a selector that could not be understood: selects nothing (semantics 28).
    Nothing,
}

/// One requirement (`labels.Requirement`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Requirement {
    /// The key is there and its value is ANY of these. A `matchLabels` entry is an `In` with one value.
    In(Arc<str>, Arc<[Arc<str>]>),
    /// The key is missing, or its value is NONE of these (semantics 10).
    NotIn(Arc<str>, Arc<[Arc<str>]>),
    /// The key is there.
    Exists(Arc<str>),
    /// The key is missing (semantics 10).
    DoesNotExist(Arc<str>),
}

impl Selector {
    /// The empty selector `{}`.
    pub fn everything() -> Self {
        Self::All(Arc::from([]))
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All(requirements) => requirements.iter().all(|requirement| requirement.matches(labels)),
            Self::Nothing => false,
        }
    }

    /// The keys that the selector looks at.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        let requirements: &[Requirement] = match self {
            Self::All(requirements) => requirements,
            Self::Nothing => &[],
        };
        requirements.iter().map(Requirement::key)
    }
}

impl Requirement {
    /// The key that the requirement is about.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key) => key,
        }
    }

    /// Whether the requirement holds for these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.value(self.key());
        match self {
            Self::In(_, values) => value.is_some_and(|value| values.iter().any(|v| **v == *value)),
            Self::NotIn(_, values) => !value.is_some_and(|value| values.iter().any(|v| **v == *value)),
            Self::Exists(_) => value.is_some(),
            Self::DoesNotExist(_) => value.is_none(),
        }
    }
}
