//! Label selectors: `metav1.LabelSelector` with `matchLabels` and `matchExpressions` merged into one list.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::labels::{Labels, NAME_LABEL};

/// A label selector. Built once, at the edge; everything in it is valid.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Selector {
    /// ALL requirements must match. An empty list matches everything, including unknown labels.
    All(Arc<[Requirement]>),
    /// A selector that could not be understood. It matches nothing (semantics 28).
    Nothing,
}

/// One requirement (`labels.Requirement`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Requirement {
    /// The key exists and its value is ANY of these. A `matchLabels` entry is an `In` with one value.
    In(Arc<str>, Arc<[Arc<str>]>),
    /// The key is missing, or its value is NONE of these (semantics 10).
    NotIn(Arc<str>, Arc<[Arc<str>]>),
    /// The key exists.
    Exists(Arc<str>),
    /// The key is missing (semantics 10).
    DoesNotExist(Arc<str>),
}

/// Whether something matches, as far as is known (semantics 37). The order makes "ALL" the minimum of its
/// parts and "ANY" the maximum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Match {
    /// It does not match.
    No,
    /// It depends on labels that are unknown.
    Unknown,
    /// It matches.
    Yes,
}

impl From<bool> for Match {
    fn from(matches: bool) -> Self {
        if matches { Self::Yes } else { Self::No }
    }
}

impl Selector {
    /// The empty selector `{}`.
    pub fn everything() -> Self {
        Self::All(Arc::from([]))
    }

    /// Whether the selector matches these labels.
    pub fn matches(&self, labels: &Labels) -> Match {
        self.all(|requirement| requirement.matches(labels))
    }

    /// Whether the selector matches namespace `name` with these labels. The label with its name is known even
    /// if the others are not (semantics 11, 37).
    pub fn matches_namespace(&self, name: &str, labels: &Labels) -> Match {
        self.all(|requirement| {
            if !labels.are_known() && **requirement.key() == *NAME_LABEL {
                requirement.matches_value(Some(name)).into()
            } else {
                requirement.matches(labels)
            }
        })
    }

    /// ALL requirements must match.
    fn all(&self, matches: impl Fn(&Requirement) -> Match) -> Match {
        match self {
            Self::All(requirements) => requirements.iter().map(matches).min().unwrap_or(Match::Yes),
            Self::Nothing => Match::No,
        }
    }

    /// The keys that the selector refers to.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        let requirements: &[Requirement] = match self {
            Self::All(requirements) => requirements,
            Self::Nothing => &[],
        };
        requirements.iter().map(Requirement::key)
    }
}

impl Requirement {
    /// The key that the requirement refers to.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key) => key,
        }
    }

    /// Whether the requirement matches these labels; [`Match::Unknown`] if they are unknown.
    pub fn matches(&self, labels: &Labels) -> Match {
        if labels.are_known() { self.matches_value(labels.value(self.key())).into() } else { Match::Unknown }
    }

    /// Whether the requirement matches if its key has this value, or is missing.
    fn matches_value(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(_, values) => value.is_some_and(|value| values.iter().any(|v| **v == *value)),
            Self::NotIn(_, values) => !value.is_some_and(|value| values.iter().any(|v| **v == *value)),
            Self::Exists(_) => value.is_some(),
            Self::DoesNotExist(_) => value.is_none(),
        }
    }
}
