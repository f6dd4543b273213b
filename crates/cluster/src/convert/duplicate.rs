//! Fields that occur more than once in a mapping.
//!
//! YAML and JSON forbid or discourage duplicates, but charts have them. kubectl and Helm silently use the
//! last value, so that is what a cluster has. If no verdict depends on the field, the last value counts here
//! too. If a verdict depends on it, it is unknown which value was meant, so the part of the object that
//! contains the field is not understood (semantics 28). The one exception is a duplicate label in a policy's
//! own podSelector. There the last value counts as well, because a cluster isolates the pods that it selects,
//! and both values are reported.

use std::fmt;

use serde_json::Value;

use super::field_path::FieldPath;
use super::field_ref::shown;

/// A field that occurs more than once in its mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Duplicate {
    /// The field.
    pub at: FieldPath,
    /// Whether all values are equal.
    pub is_same: bool,
    /// The first values in their order; `None` if they were not examined.
    values: Option<Vec<String>>,
    /// How often the field occurs. Counted only if `values` is known.
    times: usize,
    /// Whether this represents all duplicate fields within the one at `at`, which are too many to record one
    /// by one.
    is_for_more: bool,
}

/// The most values of a field that a message shows.
const MOST_VALUES: usize = 4;

impl Duplicate {
    /// The field at `at` occurred again: its previous value and its current value, if they were examined.
    pub fn new(at: FieldPath, values: Option<(&Value, &Value)>) -> Self {
        Self {
            at,
            is_same: values.is_some_and(|(before, now)| before == now),
            values: values.map(|(before, now)| vec![shown(before), shown(now)]),
            times: 2,
            is_for_more: false,
        }
    }

    /// Duplicate fields within the one at `at` that are not recorded one by one. Nothing within it is
    /// understood.
    pub(crate) fn more_within(at: FieldPath) -> Self {
        Self { at, is_same: false, values: None, times: 0, is_for_more: true }
    }

    /// Records another occurrence of the field.
    pub(crate) fn again(&mut self, again: Self) {
        self.is_same &= again.is_same;
        if let (Some(values), Some(more)) = (&mut self.values, again.values) {
            values.extend(more.into_iter().skip(1));
            values.truncate(MOST_VALUES);
            self.times += 1;
        }
    }

    /// The effect if no verdict depends on the field.
    pub(super) fn effect(&self) -> &'static str {
        if self.is_same { "it counts once" } else { "the last value counts, as for kubectl and Helm" }
    }
}

impl fmt::Display for Duplicate {
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
