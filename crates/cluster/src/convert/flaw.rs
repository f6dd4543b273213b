//! A part of an object that was not understood.

use super::field_path::FieldPath;

/// A part of an object that was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// The field.
    pub at: FieldPath,
    /// What is wrong with it.
    pub what: String,
    /// The effect, which is never more access.
    pub effect: &'static str,
}
