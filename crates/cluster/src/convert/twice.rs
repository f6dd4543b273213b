//! Fields that a mapping has more than once.
//!
//! YAML and JSON forbid or discourage it; charts do it all the same. kubectl and Helm take the last value without a word, so that is
//! what a cluster has. Where no verdict reads the field, the last value counts here too. Where one does, it is unknown which value
//! was meant: what has the field in it is then not understood (semantics 28). The one exception is a label that a policy's own
//! podSelector has twice. There the last value counts as well, since a cluster isolates the pods that it selects, and both values are
//! named.

use std::fmt;

use serde_json::Value;

use super::place::{FieldPath, shown};

/// A field that its mapping has more than once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Twice {
    /// The field.
    pub at: FieldPath,
    /// Whether the same value stands there each time.
    pub is_same: bool,
    /// The first values, in the order in which they stand there; `None` where they were not looked at.
    values: Option<Vec<String>>,
    /// How often the field is written. Counted only where `values` is known.
    times: usize,
    /// Whether this stands for all duplicated fields within the one at `at`, which are too many to note one by one.
    is_for_more: bool,
}

/// The most values of a field that are shown.
const MOST_VALUES: usize = 4;

impl Twice {
    /// The field at `at` came again: its value before and its value now, where they were looked at.
    pub fn new(at: FieldPath, values: Option<(&Value, &Value)>) -> Self {
        Self {
            at,
            is_same: values.is_some_and(|(before, now)| before == now),
            values: values.map(|(before, now)| vec![shown(before), shown(now)]),
            times: 2,
            is_for_more: false,
        }
    }

    /// Duplicated fields within the one at `at`, which are not noted one by one. Nothing within it is understood.
    pub(crate) fn more_within(at: FieldPath) -> Self {
        Self { at, is_same: false, values: None, times: 0, is_for_more: true }
    }

    /// The same field came once more.
    pub(crate) fn again(&mut self, again: Self) {
        self.is_same &= again.is_same;
        if let (Some(values), Some(more)) = (&mut self.values, again.values) {
            values.extend(more.into_iter().skip(1));
            values.truncate(MOST_VALUES);
            self.times += 1;
        }
    }

    /// What follows where no verdict reads the field.
    pub(super) fn effect(&self) -> &'static str {
        if self.is_same { "it counts once" } else { "the last value counts, as for kubectl and Helm" }
    }
}

impl fmt::Display for Twice {
    /// `written 2 times: "early", then "late"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_for_more {
            return f.write_str("too many fields within it are written more than once: write each once");
        }
        let Some(values) = &self.values else { return f.write_str("this field is written more than once") };
        write!(f, "this field is written {} times: {}", self.times, values.join(", then "))?;
        if self.times > values.len() { f.write_str(", ...") } else { Ok(()) }
    }
}
