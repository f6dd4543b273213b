//! The text of one manifest to the objects in it.
//!
//! From: bytes of a YAML or JSON file, which nobody has checked. To: objects as changes, and [`Problem`]s. Works through
//! the text document by document and object by object, and keeps of each object only the fields that the conversion
//! looks at, so a file costs little more memory than its text, whatever it holds.
//!
//! Invariant: never panics, and never takes time or memory out of proportion to the text (aliases are bounded).

mod documents;
mod lines;
mod object;

use std::collections::BTreeMap;
use std::path::Path;

use policy::Change;
use serde::de::{DeserializeSeed, IgnoredAny};
use serde_json::Value;

pub use object::RawObject;

use self::documents::Document;
use self::object::Objects;
use crate::convert::{self, FieldPath, Kind, Recognition, Step};
use crate::interner::Interner;
use crate::key::Key;
use crate::problem::{Origin, Problem};

/// What was read from one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// The objects, sorted by name, each once.
    pub(crate) objects: Vec<Held>,
    /// What was not understood of these objects.
    pub flaws: Vec<Problem>,
    /// Documents and objects that were not understood at all. If there is one, the file as a whole is broken.
    pub failures: Vec<Problem>,
}

impl Reading {
    /// The objects, each as the change that it is to a consumer who doesn't know it.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.objects.iter().map(|held| &held.change)
    }
}

/// An object and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// The object is there, in this form.
    pub change: Change,
    /// The document, from 1.
    pub document: u32,
    /// The line in the file, from 1; 0 for one of several objects in a document.
    pub line: u32,
}

impl Held {
    /// What identifies the object.
    pub fn key(&self) -> Key {
        Key::of(&self.change)
    }
}

/// Reads a manifest. `file` is named in problems, and tells JSON from YAML by how it ends.
pub fn read(file: &Path, bytes: &[u8], interner: &Interner) -> Reading {
    let mut reader = Reader { file, interner, reading: Reading::default() };
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            if is_json(file) { reader.json(text) } else { reader.yaml(text) }
        }
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            reader.failure(0, Some(line), "the text is not UTF-8".into());
        }
    }
    reader.finish()
}

/// Whether the file's name says that it holds JSON.
fn is_json(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// Works through one file.
struct Reader<'a> {
    file: &'a Path,
    interner: &'a Interner,
    reading: Reading,
}

impl Reader<'_> {
    fn yaml(&mut self, text: &str) {
        for document in documents::split(text) {
            let result = self.document(&document, |objects| {
                serde_saphyr::with_deserializer_from_str_with_options(
                    document.text,
                    yaml_options(),
                    |deserializer| objects.deserialize(deserializer),
                )
            });
            if let Err(error) = result {
                let line = error.location().map(|at| document.line_of(at.line() as usize));
                let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
                self.failure(document.number, line, without_position(&message).to_owned());
            }
        }
    }

    /// A JSON file may hold several documents, one behind the other.
    fn json(&mut self, text: &str) {
        let mut extents = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
        let mut from = 0;
        for number in 1.. {
            let Some(extent) = extents.next() else { return };
            let to = extents.byte_offset();
            let line = match &extent {
                Ok(_) => None,
                Err(error) => Some((error.line(), error.to_string())),
            };
            if let Some((line, message)) = line {
                self.failure(number, (line > 0).then_some(line), without_position(&message).to_owned());
                return;
            }
            let document = Document::within(text, from, to, number);
            let result = self.document(&document, |objects| {
                objects.deserialize(&mut serde_json::Deserializer::from_str(document.text))
            });
            if let Err(error) = result {
                let line = (error.line() > 0).then(|| document.line_of(error.line()));
                self.failure(number, line, without_position(&error.to_string()).to_owned());
            }
            from = to;
        }
    }

    /// Reads one document by `parse` and converts its objects as they come.
    fn document<E>(
        &mut self,
        document: &Document<'_>,
        parse: impl FnOnce(Objects<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut unplaced = Vec::new();
        let result = parse(Objects::new(&mut |object| self.object(document, object, &mut unplaced)));
        // Lines are looked for only where something is wrong, in one more walk through the document.
        let lines = lines::find(document.text, unplaced.iter().map(|(path, _, _)| path));
        for ((_, failure, mut problem), line) in unplaced.into_iter().zip(lines) {
            problem.origin = self.origin(document.number, line.map(|line| document.line_of(line)));
            if failure { self.reading.failures.push(problem) } else { self.reading.flaws.push(problem) }
        }
        result
    }

    /// Converts one object. What is wrong with it is left in `unplaced`: the field, whether the object is lost by it.
    fn object(
        &mut self,
        document: &Document<'_>,
        object: RawObject,
        unplaced: &mut Vec<(FieldPath, bool, Problem)>,
    ) {
        let label = object.kind.as_ref().map(|kind| label(kind, &object.fields));
        let mut note = |at: &FieldPath, what: String, effect: Option<&str>| {
            let path = FieldPath(object.at.iter().chain(&at.0).cloned().collect());
            let problem = Problem {
                origin: self.origin(document.number, None),
                object: label.clone(),
                what,
                effect: effect.unwrap_or(LOST).to_owned(),
            };
            unplaced.push((path, effect.is_none(), problem));
        };
        if let Some(fault) = object.fault {
            return note(&FieldPath::default(), fault.into(), None);
        }
        let Some(kind) = &object.kind else {
            return note(&FieldPath::default(), "the object has no kind".into(), None);
        };
        let kind = match Kind::of(object.api_version.as_deref().unwrap_or_default(), kind) {
            Recognition::Ours(kind) => kind,
            Recognition::Foreign => {
                tracing::debug!(file = %self.file.display(), document = document.number, kind, "not of interest");
                return;
            }
            Recognition::WrongVersion(what) => {
                return note(&FieldPath(vec![Step::Field("apiVersion".into())]), what, None);
            }
        };
        match convert::convert(kind, &object.fields, self.interner) {
            Ok(converted) => {
                for flaw in converted.flaws {
                    note(&flaw.at, format!("{}: {}", flaw.at, flaw.what), Some(flaw.effect));
                }
                self.reading.objects.push(Held {
                    change: converted.change,
                    document: u32::try_from(document.number).unwrap_or(u32::MAX),
                    line: if object.at.is_empty() {
                        u32::try_from(document.first_line()).unwrap_or(0)
                    } else {
                        0
                    },
                });
            }
            Err(unusable) => note(&unusable.at, unusable.to_string(), None),
        }
    }

    /// Notes a document that is not understood.
    fn failure(&mut self, document: usize, line: Option<usize>, what: String) {
        let effect = LOST.to_owned();
        self.reading.failures.push(Problem {
            origin: self.origin(document, line),
            object: None,
            what,
            effect,
        });
    }

    fn origin(&self, document: usize, line: Option<usize>) -> Origin {
        Origin::File { path: self.file.to_owned(), document, line }
    }

    /// Sorts the objects. Of one that comes twice the later counts, as it would for `kubectl apply`.
    fn finish(mut self) -> Reading {
        let mut by_key: BTreeMap<Key, Held> = BTreeMap::new();
        for held in std::mem::take(&mut self.reading.objects) {
            let key = held.key();
            let (document, name) = (held.document, key.to_string());
            if let Some(earlier) = by_key.insert(key, held) {
                let line = (earlier.line > 0).then_some(earlier.line as usize);
                self.reading.flaws.push(Problem {
                    origin: self.origin(earlier.document as usize, line),
                    object: Some(name),
                    what: format!("the same object comes again in document {document} of this file"),
                    effect: "the later one counts".into(),
                });
            }
        }
        self.reading.objects = by_key.into_values().collect();
        self.reading.flaws.sort();
        self.reading.failures.sort();
        self.reading
    }
}

/// What follows from a document or object that is not understood, in a file that never was good.
const LOST: &str = "it is not in force";

/// The bounds of what a hostile text can make the parser do. What is written out is bounded by the text itself; what
/// aliases repeat is bounded here.
fn yaml_options() -> serde_saphyr::Options {
    const REPEATED_EVENTS: usize = 200_000;
    serde_saphyr::options! {
        with_snippet: false,
        // `app: yes` is the text "yes": the API has no place where it could be anything else by mistake.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_recorded_anchor_events: REPEATED_EVENTS,
            max_recorded_anchor_bytes: 16 << 20,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPEATED_EVENTS,
        },
    }
}

/// A parser's message without its position, which counts from the start of a document and not of the file.
fn without_position(message: &str) -> &str {
    message.find(" at line ").and_then(|end| message.get(..end)).unwrap_or(message)
}

/// An object's kind and name, as far as they can be told.
fn label(kind: &str, fields: &Value) -> String {
    let text = |name| fields.get("metadata")?.get(name)?.as_str();
    match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) if matches!(kind, "Pod" | "NetworkPolicy") => format!("{kind} default/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => kind.to_owned(),
    }
}
