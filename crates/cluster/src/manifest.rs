//! Reads the objects in the text of one manifest.
//!
//! From: bytes of a YAML or JSON file that was never validated. To: objects as changes, and [`Problem`]s.
//! Works through the text document by document and object by object, and keeps of each object only the fields
//! that the conversion uses. So a file costs little more memory than its text, whatever it holds.
//!
//! Everything is read as kubectl reads it. A byte order mark determines the encoding. The content, not the
//! file name, determines whether it is JSON or YAML. Plain scalars are those of YAML 1.1. Of a field that
//! occurs twice the last value counts, unless a verdict depends on it ([`mod@crate::convert`]).
//!
//! Invariant: never panics, and the time and memory used are proportional to the text (aliases are bounded).

mod broken;
mod cut_off;
mod documents;
mod encoding;
mod file_content;
mod flow;
mod keep;
mod keep_seed;
mod last;
mod lines;
mod messages;
mod object;
mod placed;
mod raw_object;
mod read_context;
mod values;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use policy::Change;
use serde::de::{DeserializeSeed, IgnoredAny};

pub use self::file_content::FileContent;
pub(crate) use self::file_content::ManifestObject;
pub(crate) use self::placed::{PlacedObject, line_of, placed};
pub use self::raw_object::{Fault, RawObject};
pub(crate) use self::values::values;

use self::cut_off::CutOff;
use self::documents::Document;
use self::messages::{
    ANOTHER_OBJECT, LOST, MAYBE_OPEN, hint, is_template, label, looks_like_an_object, lost, without_position,
};
use self::object::Objects;
use self::yaml::yaml_options;
use crate::convert::{self, FieldPath, Kind, Recognition, Step};
use crate::interner::Interner;
use crate::key::Key;
use crate::problem::{Problem, ProblemLocation};

/// Reads a manifest. Problems name it by `file`.
pub fn read(file: &Path, bytes: &[u8], interner: &Interner) -> FileContent {
    let mut reader =
        Reader { file, interner, reading: FileContent::default(), encoding: None, cut_off: None };
    match encoding::decode(bytes) {
        Ok(decoded) => {
            if let Some((line, what)) = decoded.flaw {
                let location = reader.location(0, Some(line));
                let effect = "names and values that contain it and that a verdict depends on are not \
                              understood: save the file as UTF-8";
                reader.encoding = Some(Problem { location, object: None, what, effect: effect.into() });
            }
            reader.text(&decoded.text);
        }
        Err(what) => reader.failure(0, None, what.into(), MAYBE_OPEN),
    }
    reader.finish()
}

/// Whether the file has the name of a JSON file.
fn is_json(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// The most problems of a file that are reported, separately for lost objects and for other problems.
const MOST_NAMED: usize = 100;

/// Works through one file.
struct Reader<'a> {
    file: &'a Path,
    interner: &'a Interner,
    reading: FileContent,
    /// The problem with the encoding.
    encoding: Option<Problem>,
    /// The policy in which the text of the document breaks off.
    cut_off: Option<CutOff>,
}

impl Reader<'_> {
    /// Reads all documents. Consecutive JSON values count as one document each.
    fn text(&mut self, text: &str) {
        let mut more = 0;
        for mut document in documents::split(text) {
            document.number += more;
            match document.json() {
                None => self.yaml(&document),
                Some(values) => {
                    more += values.len() - 1;
                    let Some((last, whole)) = values.split_last() else { continue };
                    whole.iter().for_each(|value| self.json(value));
                    // The last of several values may be broken.
                    if whole.is_empty() || last.json().is_some() { self.json(last) } else { self.yaml(last) }
                }
            }
        }
    }

    fn yaml(&mut self, document: &Document<'_>) {
        let before = self.mark();
        let result = self.document(document, |objects| {
            serde_saphyr::with_deserializer_from_str_with_options(
                document.text,
                yaml_options(),
                |deserializer| objects.deserialize(deserializer),
            )
        });
        let Err(error) = result else { return };
        self.held_back(document, before);
        // Text that was meant as JSON gets the JSON parser's message.
        if is_json(self.file)
            && document.text.trim_start().starts_with(['{', '['])
            && let Err(error) = serde_json::from_str::<IgnoredAny>(document.text)
        {
            return self.not_json(document, &error);
        }
        let line = error.location().map(|at| document.line_of(at.line() as usize));
        let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        self.broken(document, line, without_position(&message));
    }

    fn json(&mut self, document: &Document<'_>) {
        let result = self.document(document, |objects| {
            objects.deserialize(&mut serde_json::Deserializer::from_str(document.text))
        });
        if let Err(error) = result {
            self.not_json(document, &error);
        }
    }

    fn not_json(&mut self, document: &Document<'_>, error: &serde_json::Error) {
        let line = (error.line() > 0).then(|| document.line_of(error.line()));
        self.broken(document, line, without_position(&error.to_string()));
    }

    /// Reads one document with `parse` and converts its objects one by one.
    fn document<E>(
        &mut self,
        document: &Document<'_>,
        parse: impl FnOnce(Objects<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut unplaced = Vec::new();
        let result = parse(Objects::new(&mut |object| self.object(document, object, &mut unplaced)));
        // Lines are determined only if there are problems, in a second pass over the document.
        let lines = lines::find(document.text, unplaced.iter().map(|(path, _, _)| path));
        for ((_, failure, mut problem), line) in unplaced.into_iter().zip(lines) {
            problem.location = self.location(document.number, line.map(|line| document.line_of(line)));
            push_few(if failure { &mut self.reading.failures } else { &mut self.reading.flaws }, problem);
        }
        result
    }

    /// Converts one object. Its problems are added to `unplaced`, each with its field and whether the object
    /// is lost.
    fn object(
        &mut self,
        document: &Document<'_>,
        object: RawObject,
        unplaced: &mut Vec<(FieldPath, bool, Problem)>,
    ) {
        let label = object.kind.as_ref().map(|kind| label(kind, &object.fields));
        let mut note = |at: &FieldPath, what: String, effect: &str, is_lost: bool| {
            let path = FieldPath(object.at.iter().chain(&at.0).cloned().collect());
            let problem = self.problem(document.number, None, label.clone(), what, effect);
            // One more than the limit shows that there are more.
            if unplaced.iter().filter(|(_, lost, _)| *lost == is_lost).count() <= MOST_NAMED {
                unplaced.push((path, is_lost, problem));
            }
        };
        let root = FieldPath::default();
        if let Some(fault) = object.fault {
            if fault == Fault::NoFields && object.at.is_empty() {
                let line = Some(document.first_line());
                let problem = self.problem(document.number, line, None, fault.to_string(), LOST);
                return push_few(&mut self.reading.no_manifest, problem);
            }
            return note(&root, fault.to_string(), MAYBE_OPEN, true);
        }
        let Some(kind) = &object.kind else {
            let what = format!("the object has no kind{}", hint(&object.miswritten));
            if object.at.is_empty() && !looks_like_an_object(&object) {
                let line = Some(document.first_line());
                let problem = self.problem(document.number, line, None, what, LOST);
                return push_few(&mut self.reading.no_manifest, problem);
            }
            return note(&root, what, MAYBE_OPEN, true);
        };
        let kind = match recognise(kind, &object) {
            Ok(kind) => kind,
            Err(Rejected::Reported) => return,
            Err(Rejected::Foreign) => {
                let (file, document) = (self.file.display(), document.number);
                tracing::debug!(%file, document, kind, "object of an unrelated kind skipped");
                self.reading.others += 1;
                return;
            }
            Err(Rejected::NotEnforced(what)) => {
                note(&root, what, "it has no effect", false);
                self.reading.others += 1;
                return;
            }
            Err(Rejected::Lost(at, what, effect)) => return note(&at, what, effect, true),
        };
        if object.is_cut {
            // A template is not meant to be in force before it is rendered.
            if is_template(document.text) {
                return;
            }
            return self.cut_off(document, kind, &object, label.unwrap_or_default());
        }
        match convert::convert(kind, &object.fields, &object.duplicates, self.interner) {
            Ok(converted) => {
                for flaw in converted.flaws {
                    let hint = if flaw.at == kind_field() { ANOTHER_OBJECT } else { "" };
                    note(&flaw.at, format!("{}: {}{hint}", flaw.at, flaw.what), flaw.effect, false);
                }
                let found = manifest_object(converted.change, document, &object);
                self.reading.objects.push(found);
            }
            Err(unusable) => note(&unusable.at, unusable.to_string(), lost(kind), true),
        }
    }

    /// Records a document that is not understood.
    fn failure(&mut self, document: usize, line: Option<usize>, what: String, effect: &str) {
        let problem = self.problem(document, line, None, what, effect);
        push_few(&mut self.reading.failures, problem);
    }

    fn problem(
        &self,
        document: usize,
        line: Option<usize>,
        object: Option<String>,
        what: String,
        effect: &str,
    ) -> Problem {
        Problem { location: self.location(document, line), object, what, effect: effect.to_owned() }
    }

    fn location(&self, document: usize, line: Option<usize>) -> ProblemLocation {
        ProblemLocation::File { path: self.file.to_owned(), document, line }
    }

    /// Sorts the objects and determines whether the file is a manifest. Of an object that occurs twice, the
    /// later one counts, as with `kubectl apply`.
    fn finish(mut self) -> FileContent {
        let mut by_key: BTreeMap<Key, ManifestObject> = BTreeMap::new();
        for object in std::mem::take(&mut self.reading.objects) {
            let key = object.key();
            let (document, name) = (object.document, key.to_string());
            if let Some(earlier) = by_key.insert(key, object) {
                let line = (earlier.line > 0).then_some(earlier.line as usize);
                let problem = Problem {
                    location: self.location(earlier.document as usize, line),
                    object: Some(name),
                    what: format!("the same object comes again in document {document} of this file"),
                    effect: "the later one counts".into(),
                };
                push_few(&mut self.reading.flaws, problem);
            }
        }
        self.reading.objects = by_key.into_values().collect();
        let FileContent { objects, flaws, failures, others, no_manifest } = &mut self.reading;
        if !objects.is_empty() || !failures.is_empty() || *others > 0 {
            // In a file with objects, this was meant to be one.
            failures.append(no_manifest);
        }
        let place = [no_manifest, failures].into_iter().find(|problems| !problems.is_empty());
        place.unwrap_or(flaws).extend(self.encoding);
        self.reading.flaws.sort();
        self.reading.failures.sort();
        self.reading.no_manifest.sort();
        self.reading
    }
}

/// Why an object is not converted.
enum Rejected {
    /// The text breaks off in it, which is reported in any case.
    Reported,
    /// Its kind has nothing to do with verdicts.
    Foreign,
    /// It is a network policy that is not enforced here; says which.
    NotEnforced(String),
    /// It is probably one of the supported kinds: the field that is wrong, what is wrong, and the effect.
    Lost(FieldPath, String, &'static str),
}

/// The kind as which an object is converted.
fn recognise(kind: &str, object: &RawObject) -> Result<Kind, Rejected> {
    let recognition = Kind::of(object.api_version.as_deref().unwrap_or_default(), kind);
    if let Some(duplicate) =
        object.duplicates.iter().find(|duplicate| !duplicate.is_same && duplicate.at == kind_field())
        && !matches!(recognition, Recognition::Supported(_))
    {
        // The first of the two may be a policy.
        let what = format!("{}: {duplicate}{ANOTHER_OBJECT}", duplicate.at);
        return Err(Rejected::Lost(duplicate.at.clone(), what, MAYBE_OPEN));
    }
    match recognition {
        Recognition::Supported(kind) => Ok(kind),
        // The text broke off before the apiVersion.
        _ if object.is_cut && object.api_version.is_none() => {
            Ok(Kind::named(kind).unwrap_or(Kind::NetworkPolicy))
        }
        _ if object.is_cut => Err(Rejected::Reported),
        Recognition::Foreign => Err(Rejected::Foreign),
        Recognition::NotEnforced(what) => Err(Rejected::NotEnforced(what)),
        Recognition::Mistaken(meant, what) => {
            let field = if meant.name() == kind { "apiVersion" } else { "kind" };
            let at = FieldPath(vec![Step::Field(field.into())]);
            Err(Rejected::Lost(at, what + &hint(&object.miswritten), lost(meant)))
        }
    }
}

/// Adds a problem to those of a file, up to a limit. Problems are held and shown as long as the file exists.
fn push_few(problems: &mut Vec<Problem>, problem: Problem) {
    if problems.len() == MOST_NAMED {
        let what =
            format!("more than {MOST_NAMED} problems of this kind in the file: the others are not reported");
        problems.push(Problem { what, ..problem });
    } else if problems.len() < MOST_NAMED {
        problems.push(problem);
    }
}

/// The field with an object's kind.
fn kind_field() -> FieldPath {
    FieldPath(vec![Step::Field("kind".into())])
}

/// A converted object with its location.
fn manifest_object(change: Change, document: &Document<'_>, object: &RawObject) -> ManifestObject {
    // If a document has several objects, they have no lines.
    let line = if object.at.is_empty() { document.first_line() } else { 0 };
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    ManifestObject { change, document: number(document.number), line: u32::try_from(line).unwrap_or(0) }
}
