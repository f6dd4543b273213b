//! A place in an object's fields that knows the way to it, so that a flaw can be named without any cost before.

use std::fmt;

use serde_json::Value;

use super::Unusable;
use crate::invisible::visible;

/// One step from an object's root to a field.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// A field of a mapping.
    Field(String),
    /// An element of a list, from 0.
    Item(usize),
}

/// The way from an object's root to a field. Shown as `spec.ingress[0].from[1].ipBlock.cidr`; the root is `the object`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FieldPath(pub Vec<Step>);

impl FieldPath {
    /// The way to what the field stands in.
    pub(super) fn above(&self) -> Self {
        Self(self.0.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the object");
        }
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => f.write_str(&visible(name))?,
                Step::Field(name) => write!(f, ".{}", visible(name))?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A value and the way to it. Lives on the stack of the conversion that walks down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// What stands there.
    pub value: &'a Value,
    up: Option<(&'a Place<'a>, Hop<'a>)>,
}

/// A [`Step`] that owns nothing.
#[derive(Clone, Copy, Debug)]
enum Hop<'a> {
    Field(&'a str),
    Item(usize),
}

impl<'a> Place<'a> {
    /// The root of an object.
    pub fn root(value: &'a Value) -> Self {
        Self { value, up: None }
    }

    /// The field `name`, unless it is absent or null: the API treats both alike.
    pub fn field<'s>(&'s self, name: &'s str) -> Option<Place<'s>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Place { value, up: Some((self, Hop::Field(name))) })
    }

    /// The elements, if this is a list.
    pub fn items<'s>(&'s self) -> Option<impl Iterator<Item = Place<'s>>> {
        let items = self.value.as_array()?.iter().enumerate();
        Some(items.map(move |(at, value)| Place { value, up: Some((self, Hop::Item(at))) }))
    }

    /// The names of the fields that are not among `known`, whatever stands in them.
    pub fn unknown_fields<'s>(&'s self, known: &'s [&str]) -> impl Iterator<Item = &'s str> {
        let fields = self.value.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        fields.filter(move |name| !known.contains(name))
    }

    /// The way from the root.
    pub fn path(&self) -> FieldPath {
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

    /// The object can't be used, because of what stands here.
    pub fn unusable(&self, what: impl Into<String>) -> Unusable {
        Unusable { at: self.path(), what: what.into() }
    }

    /// What stands here, short enough for a sentence.
    pub fn shown(&self) -> String {
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
