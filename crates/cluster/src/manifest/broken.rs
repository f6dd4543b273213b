//! Documents that can't be parsed: finds the policies that can still be read from them, and creates the
//! message.
//!
//! A policy whose text breaks off isolates its pods if its namespace and podSelector were read. The message
//! comes from the parser of the format that was meant.

use serde::de::DeserializeSeed;

use super::cut_off::CutOff;
use super::documents::Document;
use super::file_content::FileContent;
use super::messages::{CUT_OFF, CUT_OFF_CLUSTER_WIDE, MAYBE_OPEN, OPEN, hidden, is_template};
use super::raw_object::RawObject;
use super::{Reader, flow, lines, manifest_object, push_few};
use crate::convert::{self, Kind};
use crate::invisible::visible;

/// A position in the reading of a file: see [`Reader::mark`].
pub(super) struct Position {
    objects: usize,
    flaws: usize,
    failures: usize,
    others: usize,
    no_manifest: usize,
}

impl Reader<'_> {
    /// Reads what the YAML parser held back in a document that breaks off within a flow collection.
    pub(super) fn held_back(&mut self, document: &Document<'_>, before: Position) {
        let result = if let Some(text) = document.flow() {
            self.back_to(before);
            let json = flow::to_json(text);
            self.document(document, |objects| {
                objects.deserialize(&mut serde_json::Deserializer::from_str(&json))
            })
        } else if let Some(text) = lines::held_back_of_list(document.text).filter(|_| self.cut_off.is_none())
        {
            let json = flow::to_json(text);
            self.document(document, |objects| {
                objects.element().deserialize(&mut serde_json::Deserializer::from_str(&json))
            })
        } else {
            return;
        };
        // This parse fails too, but the YAML parser has the better message.
        drop(result);
    }

    /// The current position.
    pub(super) fn mark(&self) -> Position {
        let FileContent { objects, flaws, failures, others, no_manifest } = &self.reading;
        Position {
            objects: objects.len(),
            flaws: flaws.len(),
            failures: failures.len(),
            others: *others,
            no_manifest: no_manifest.len(),
        }
    }

    /// Drops what was read since `mark`.
    fn back_to(&mut self, mark: Position) {
        let FileContent { objects, flaws, failures, others, no_manifest } = &mut self.reading;
        objects.truncate(mark.objects);
        flaws.truncate(mark.flaws);
        failures.truncate(mark.failures);
        *others = mark.others;
        no_manifest.truncate(mark.no_manifest);
        self.cut_off = None;
    }

    /// Records a document that can't be parsed.
    pub(super) fn broken(&mut self, document: &Document<'_>, line: Option<usize>, message: &str) {
        let mut what = visible(message).into_owned();
        if let Some((at, hidden)) = hidden(document.text) {
            what += &format!("; line {} contains the invisible character {hidden}", document.line_of(at));
        }
        if is_template(document.text) {
            what += "; this looks like a template: render it first";
            let problem = self.problem(document.number, line, None, what, MAYBE_OPEN);
            return push_few(&mut self.reading.no_manifest, problem);
        }
        let (label, effect) = match self.cut_off.take() {
            Some(CutOff { label, effect }) => (Some(label), effect),
            None => (None, MAYBE_OPEN),
        };
        let problem = self.problem(document.number, line, label, what, effect);
        push_few(&mut self.reading.failures, problem);
    }

    /// Converts what was read of a policy in which the text broke off.
    pub(super) fn cut_off(&mut self, document: &Document<'_>, kind: Kind, object: &RawObject, label: String) {
        let change = convert::cut_off(kind, &object.fields, &object.duplicates, self.interner);
        let effect = match &change {
            None => OPEN,
            Some(_) if kind.is_namespaced() => CUT_OFF,
            Some(_) => CUT_OFF_CLUSTER_WIDE,
        };
        self.cut_off = Some(CutOff { label, effect });
        self.reading.objects.extend(change.map(|change| manifest_object(change, document, object)));
    }
}
