//! CompiledState selectors: selectors of pods, by namespace and labels, in terms of symbols.
//!
//! From: a policy's selectors. Their symbols must be in the [`SymbolTable`]. To:
//! [`identities`](crate::compiler::identities), which finds the identities that they match.

use crate::compiler::symbol_table::{
    KeySymbol, LabelInterner, LabelSet, NameSymbol, NamespaceSymbols, SymbolTable, ValueSymbol,
};
use crate::selector::{Match, Requirement, Selector};
use crate::spec::NamespaceMatch;

/// The id of a distinct selector: its position in the list of selectors. Valid until the next full rebuild.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SelectorId(pub(crate) u32);

impl SelectorId {
    /// Its position in the list of selectors.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A compiled selector of pods: BOTH parts must match.
#[derive(Debug)]
pub(crate) struct CompiledSelector {
    pub namespaces: CompiledNamespaceMatch,
    pub pods: CompiledLabelSelector,
}

/// Selects namespaces.
#[derive(Debug)]
pub(crate) enum CompiledNamespaceMatch {
    Named(NameSymbol),
    Labels(CompiledLabelSelector),
}

/// Selects labels.
#[derive(Debug)]
pub(crate) enum CompiledLabelSelector {
    /// ALL of these must match.
    All(Box<[CompiledRequirement]>),
    /// Matches nothing: the selector could not be understood (semantics 28).
    Nothing,
}

/// A compiled requirement on labels.
#[derive(Debug)]
pub(crate) enum CompiledRequirement {
    /// The key's value is ANY of these; sorted.
    In(KeySymbol, Box<[ValueSymbol]>),
    /// The key is missing or its value is NONE of these; sorted (semantics 10).
    NotIn(KeySymbol, Box<[ValueSymbol]>),
    /// The key exists.
    Exists(KeySymbol),
    /// The key is missing (semantics 10).
    DoesNotExist(KeySymbol),
}

impl CompiledSelector {
    /// Compiles a selector. Its symbols must be in the symbol table.
    pub(crate) fn new(symbols: &SymbolTable, namespaces: &NamespaceMatch, pods: &Selector) -> Self {
        let namespaces = match namespaces {
            NamespaceMatch::Named(name) => match symbols.namespace(name) {
                Some(name) => CompiledNamespaceMatch::Named(name),
                None => CompiledNamespaceMatch::Labels(CompiledLabelSelector::Nothing),
            },
            NamespaceMatch::Labels(selector) => CompiledNamespaceMatch::Labels(CompiledLabelSelector::new(
                symbols.namespace_labels(),
                selector,
            )),
        };
        Self { namespaces, pods: CompiledLabelSelector::new(symbols.pod_labels(), pods) }
    }
}

impl CompiledNamespaceMatch {
    /// Whether the namespace matches.
    pub(crate) fn matches(&self, namespace: &NamespaceSymbols) -> Match {
        match self {
            Self::Named(name) => Match::from(namespace.name == Some(*name)),
            Self::Labels(selector) => selector.matches(&namespace.labels),
        }
    }
}

impl CompiledLabelSelector {
    fn new(keys: &LabelInterner, selector: &Selector) -> Self {
        match selector {
            Selector::Nothing => Self::Nothing,
            Selector::All(requirements) => requirements
                .iter()
                .map(|requirement| CompiledRequirement::new(keys, requirement))
                .collect::<Option<_>>()
                .map_or(Self::Nothing, Self::All),
        }
    }

    /// Whether the labels match.
    pub(crate) fn matches(&self, labels: &LabelSet) -> Match {
        let Self::All(requirements) = self else { return Match::No };
        let mut least = Match::Yes;
        for requirement in requirements {
            // ALL must match.
            least = least.min(requirement.matches(labels));
            if least == Match::No {
                break;
            }
        }
        least
    }
}

impl CompiledRequirement {
    fn new(keys: &LabelInterner, requirement: &Requirement) -> Option<Self> {
        let key = keys.key(requirement.key())?;
        let symbols = |values: &[_]| -> Option<Box<[ValueSymbol]>> {
            let symbols =
                values.iter().map(|value: &std::sync::Arc<str>| keys.value(requirement.key(), value));
            let mut symbols: Box<[ValueSymbol]> = symbols.collect::<Option<_>>()?;
            symbols.sort_unstable();
            Some(symbols)
        };
        Some(match requirement {
            Requirement::In(_, values) => Self::In(key, symbols(values)?),
            Requirement::NotIn(_, values) => Self::NotIn(key, symbols(values)?),
            Requirement::Exists(_) => Self::Exists(key),
            Requirement::DoesNotExist(_) => Self::DoesNotExist(key),
        })
    }

    /// The key that the requirement refers to.
    pub(crate) fn key(&self) -> KeySymbol {
        let (Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key)) = self;
        *key
    }

    fn matches(&self, labels: &LabelSet) -> Match {
        let key = self.key();
        let value = labels.pairs.iter().find(|(k, _)| *k == key).map(|(_, value)| *value);
        if value.is_none() && !labels.are_known {
            return Match::Unknown;
        }
        Match::from(match self {
            Self::In(_, values) => value.is_some_and(|value| values.binary_search(&value).is_ok()),
            Self::NotIn(_, values) => value.is_none_or(|value| values.binary_search(&value).is_err()),
            Self::Exists(_) => value.is_some(),
            Self::DoesNotExist(_) => value.is_none(),
        })
    }
}
