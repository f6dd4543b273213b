//! A reference to a field of an object that can compute its path, so that paths cost nothing until a flaw is
//! reported.

use serde_json::Value;

use super::field_path::{FieldPath, Step};
use super::unusable::Unusable;
use crate::invisible::visible;

/// A value and its path. Lives on the stack of the conversion.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldRef<'a> {
    /// The value.
    pub value: &'a Value,
    up: Option<(&'a FieldRef<'a>, Hop<'a>)>,
}

/// A borrowed [`Step`].
#[derive(Clone, Copy, Debug)]
enum Hop<'a> {
    Field(&'a str),
    Item(usize),
}

impl<'a> FieldRef<'a> {
    /// The root of an object.
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, up: None }
    }

    /// The field `name`, unless it is absent or null, which the API treats alike.
    pub(super) fn field<'s>(&'s self, name: &'s str) -> Option<FieldRef<'s>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(FieldRef { value, up: Some((self, Hop::Field(name))) })
    }

    /// The elements if this is a list.
    pub(super) fn items<'s>(&'s self) -> Option<impl Iterator<Item = FieldRef<'s>>> {
        let items = self.value.as_array()?.iter().enumerate();
        Some(items.map(move |(at, value)| FieldRef { value, up: Some((self, Hop::Item(at))) }))
    }

    /// The names of the fields that are not in `known`, whatever their values.
    pub(super) fn unknown_fields<'s>(&'s self, known: &'s [&str]) -> impl Iterator<Item = &'s str> {
        let fields = self.value.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        fields.filter(move |name| !known.contains(name))
    }

    /// The path from the root.
    pub(super) fn path(&self) -> FieldPath {
        let mut steps = Vec::new();
        let mut here = self;
        while let Some((up, hop)) = &here.up {
            steps.push(match hop {
                Hop::Field(name) => Step::Field((*name).to_owned()),
                Hop::Item(index) => Step::Item(*index),
            });
            here = up;
        }
        steps.reverse();
        FieldPath(steps)
    }

    /// The error for an object that is unusable because of this value.
    pub(super) fn unusable(&self, what: impl Into<String>) -> Unusable {
        Unusable { at: self.path(), what: what.into() }
    }

    /// The value, short enough for a sentence.
    pub(super) fn shown(&self) -> String {
        shown(self.value)
    }
}

/// A value, short enough for a sentence.
pub(super) fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = match value {
        Value::Array(_) => return "a list".into(),
        Value::Object(_) => return "a mapping".into(),
        scalar => visible(&scalar.to_string()).into_owned(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
