//! The place of an object in a file.

use std::path::PathBuf;

use crate::convert::{FieldPath, Step};
use crate::manifest;

/// Where an object is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The document in the file, from 1.
    pub document: usize,
    /// The line on which the document begins, from 1.
    pub line: usize,
    /// The object's path in the document, if that is a list.
    pub(super) at: Vec<Step>,
}

impl Place {
    /// The line of a field of the object, from 1; of the deepest existing field above it if it is absent.
    /// Reads the file again, and returns the object's own line if that fails.
    pub fn line_of(&self, field: &FieldPath) -> usize {
        let path = FieldPath(self.at.iter().chain(&field.0).cloned().collect());
        let bytes = std::fs::read(&self.file).ok();
        bytes.and_then(|bytes| manifest::line_of(&bytes, self.document, &path)).unwrap_or(self.line)
    }
}
