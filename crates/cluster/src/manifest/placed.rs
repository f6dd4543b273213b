//! The objects of a manifest with their places, pod templates and Services included: for commands that need
//! no cluster.
//!
//! From: bytes of a file. To: [`PlacedObject`]s. [`read`](super::read) reports what is wrong with the same
//! bytes, so nothing is reported here.

use serde::de::DeserializeSeed;

use super::documents::{self, Document};
use super::object::Objects;
use super::raw_object::RawObject;
use super::yaml::yaml_options;
use super::{encoding, lines};
use crate::convert::FieldPath;

/// An object, and where it is in its file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PlacedObject {
    pub object: RawObject,
    /// The document, from 1.
    pub document: usize,
    /// The line in the file on which the document begins, from 1.
    pub line: usize,
}

/// The objects of a file that are complete.
pub(crate) fn placed(bytes: &[u8]) -> Vec<PlacedObject> {
    let mut found = Vec::new();
    let Ok(decoded) = encoding::decode(bytes) else { return found };
    each_document(&decoded.text, |document| {
        let (number, line) = (document.number, document.first_line());
        let sink = &mut |object: RawObject| {
            if !object.is_cut && object.fault.is_none() {
                found.push(PlacedObject { object, document: number, line });
            }
        };
        let objects = Objects::new(sink).with_templates();
        // What can't be parsed is reported by `read`.
        if document.json().is_some_and(|values| values.len() == 1) {
            let _ = objects.deserialize(&mut serde_json::Deserializer::from_str(document.text));
        } else {
            let _ = serde_saphyr::with_deserializer_from_str_with_options(
                document.text,
                yaml_options(),
                |deserializer| objects.deserialize(deserializer),
            );
        }
    });
    found
}

/// The line in the file, from 1, of a field of a document, or of the deepest existing field above it.
pub(crate) fn line_of(bytes: &[u8], document: usize, field: &FieldPath) -> Option<usize> {
    let decoded = encoding::decode(bytes).ok()?;
    let mut line = None;
    each_document(&decoded.text, |candidate| {
        if candidate.number == document {
            let found = lines::find(candidate.text, std::iter::once(field)).into_iter().next().flatten();
            line = found.map(|found| candidate.line_of(found));
        }
    });
    line
}

/// Visits all documents. Consecutive JSON values count as one document each.
fn each_document(text: &str, mut visit: impl FnMut(&Document<'_>)) {
    let mut more = 0;
    for mut document in documents::split(text) {
        document.number += more;
        match document.json() {
            None => visit(&document),
            Some(values) => {
                more += values.len().saturating_sub(1);
                values.iter().for_each(&mut visit);
            }
        }
    }
}
