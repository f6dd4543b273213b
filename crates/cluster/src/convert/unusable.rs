//! The error for an object that can't be used.

use super::field_path::FieldPath;

/// An object that can't be used: either its identity is unknown, or using it would not be safe.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Unusable {
    /// The field.
    pub at: FieldPath,
    /// What is wrong with it.
    pub what: String,
}
