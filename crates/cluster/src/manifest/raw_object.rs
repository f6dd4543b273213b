//! The fields of an object before its conversion.

use std::fmt;

use serde_json::Value;

use crate::convert::{Duplicate, Step};

/// The fields of an object that matter.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RawObject {
    /// `apiVersion`.
    pub api_version: Option<String>,
    /// `kind`; for an element of a typed list that has none, the list's.
    pub kind: Option<String>,
    /// The fields that the conversion uses.
    pub fields: Value,
    /// The object's path in its document, if the document is a list.
    pub at: Vec<Step>,
    /// Fields that occur more than once, each with its path from the object's root.
    pub duplicates: Vec<Duplicate>,
    /// Misspellings of `apiVersion` or `kind` among the object's fields.
    pub miswritten: Vec<String>,
    /// Whether the text broke off within this object. `fields` has what came before.
    pub is_cut: bool,
    /// Why this is not an object.
    pub fault: Option<Fault>,
}

/// Why something is not an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It has no fields: it is a string, a number, or a list of those.
    NoFields,
    /// Objects in a list without a kind.
    BareList,
    /// A list object whose items are not a list.
    NoItems,
    /// A list object without items. Their field may be misspelt.
    WithoutItems,
    /// A list object with items but without a kind.
    ListWithoutKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFields => "this is not an object: it has no fields",
            Self::BareList => "this is a list without a kind: use kind List and its items",
            Self::NoItems => "items is not a list",
            Self::WithoutItems => "this is a list without items: is the field items misspelt?",
            Self::ListWithoutKind => "this is a list without a kind: add apiVersion v1 and kind List",
        })
    }
}
