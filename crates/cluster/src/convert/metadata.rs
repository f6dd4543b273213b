//! `metadata`: the identity of an object, and its labels.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use policy::Labels;

use super::field_ref::FieldRef;
use super::flaws::Flaws;
use super::label;
use super::unusable::Unusable;
use crate::interner::Interner;
use crate::invisible::{as_seen, visible};

/// The namespace of a namespaced object that names none, as for `kubectl apply`.
const DEFAULT_NAMESPACE: &str = "default";

/// The longest name in bytes that the API server accepts (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;

/// The most labels of an object. Every agent holds the labels of all pods.
const MOST_LABELS: usize = 256;

/// `metadata.name`.
pub(super) fn name<'a>(object: &'a FieldRef<'a>) -> Result<&'a str, Unusable> {
    let metadata = object.field("metadata").ok_or_else(|| object.unusable("there is no metadata"))?;
    let name = metadata.value.get("name").filter(|name| !name.is_null());
    match name.map(|name| name.as_str()) {
        Some(Some("")) | None => Err(metadata.unusable("there is no name")),
        Some(Some(name)) if name.len() > LONGEST_NAME => Err(metadata
            .unusable(format!("the name has {} bytes, at most {LONGEST_NAME} are allowed", name.len()))),
        Some(Some(name)) => Ok(name),
        Some(None) => Err(not_a_string(&metadata.field("name").unwrap_or(metadata))),
    }
}

/// `metadata.name`, and whether it is readable. If not, that is a flaw with this `effect`, and the name is
/// unique to the object and the same each time it is read.
pub(super) fn name_or_hash<'a>(
    object: &'a FieldRef<'a>,
    flaws: &mut Flaws,
    effect: &'static str,
) -> (Cow<'a, str>, bool) {
    match name(object) {
        Ok(name) => (name.into(), true),
        Err(unusable) => {
            flaws.push_at(unusable.at, unusable.what, effect);
            let mut hasher = DefaultHasher::new();
            object.value.to_string().hash(&mut hasher);
            (format!("unnamed-{:016x}", hasher.finish()).into(), false)
        }
    }
}

/// `metadata.namespace`; [`DEFAULT_NAMESPACE`] if there is none.
pub(super) fn namespace(object: &FieldRef<'_>, interner: &Interner) -> Result<Arc<str>, Unusable> {
    let Some(metadata) = object.field("metadata") else { return Ok(interner.text(DEFAULT_NAMESPACE)) };
    if !metadata.value.is_object() {
        return Err(metadata.unusable(format!("{} is not a mapping", metadata.shown())));
    }
    must_be_well_written(&metadata, "namespace")?;
    let Some(namespace) = metadata.field("namespace") else { return Ok(interner.text(DEFAULT_NAMESPACE)) };
    match namespace.value.as_str() {
        Some("") => Ok(interner.text(DEFAULT_NAMESPACE)),
        Some(name) => match label::namespace_fault(name) {
            None => Ok(interner.text(name)),
            Some(fault) => Err(namespace.unusable(fault)),
        },
        None => Err(not_a_string(&namespace)),
    }
}

/// The fields of `metadata` that decide which pods a policy concerns.
const DECISIVE: [&str; 2] = ["namespace", "labels"];

/// Whether a field of `metadata` is probably a misspelling of one of [`DECISIVE`]: it differs only in case,
/// invisible characters, an `s` or two letters.
pub(crate) fn is_miswritten(field: &str) -> bool {
    DECISIVE.iter().any(|meant| is_meant_by(field, meant))
}

fn is_meant_by(field: &str, meant: &str) -> bool {
    /// The fields of ObjectMeta (Kubernetes 1.34), which are not misspellings.
    const KNOWN: [&str; 15] = [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    let stem = |name: &str| as_seen(name).to_lowercase().trim_end_matches('s').to_owned();
    let is_near = || {
        let (seen, meant) = (stem(field), stem(meant));
        seen == meant || strsim::damerau_levenshtein(&seen, &meant) <= 2 && seen.len() + 2 >= meant.len()
    };
    !KNOWN.contains(&field)
        && field.len() <= 2 * meant.len()
        && (is_near() || (meant == "namespace" && field == "ns"))
}

/// Fails if `metadata` has a field that is probably a misspelling of `meant`.
fn must_be_well_written(metadata: &FieldRef<'_>, meant: &str) -> Result<(), Unusable> {
    let fields = metadata.value.as_object().into_iter().flatten();
    match fields.map(|(field, _)| field).find(|field| is_meant_by(field, meant)) {
        Some(field) => {
            let what = format!("the field {} is not known: {meant} is probably meant", visible(field));
            Err(metadata.unusable(what))
        }
        None => Ok(()),
    }
}

/// A value that must be a string is not one. Often it is a word or number without quotes.
fn not_a_string(field: &FieldRef<'_>) -> Unusable {
    field.unusable(format!("the value {} is not a string: put it in quotes", field.shown()))
}

/// `metadata.labels`, overridden by the labels in `fixed`. If one of them can't be read, or occurs twice with
/// different values, they are unknown (semantics 37), which is a flaw with this `effect`.
pub(super) fn labels(
    object: &FieldRef<'_>,
    fixed: &[(&str, &str)],
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Labels {
    readable_labels(object, fixed, interner, flaws).unwrap_or_else(|Unusable { at, what }| {
        flaws.push_at(at, what, effect);
        Labels::unknown()
    })
}

/// The labels, if all of them can be read. Ignoring an unreadable one would widen access (semantics 28): a
/// policy that selects the object by it would no longer apply to the object, and a peer that excludes it
/// would match.
fn readable_labels(
    object: &FieldRef<'_>,
    fixed: &[(&str, &str)],
    interner: &Interner,
    flaws: &mut Flaws,
) -> Result<Labels, Unusable> {
    if let Some(duplicate) = flaws.take_differing(["metadata", "labels"]) {
        return Err(Unusable { what: duplicate.to_string(), at: duplicate.at });
    }
    let metadata = object.field("metadata");
    if let Some(metadata) = &metadata {
        must_be_well_written(metadata, "labels")?;
    }
    let Some(labels) = metadata.as_ref().and_then(|metadata| metadata.field("labels")) else {
        return Ok(interner.labels(fixed.iter().copied()));
    };
    let fields = labels
        .value
        .as_object()
        .ok_or_else(|| labels.unusable(format!("{} is not a mapping", labels.shown())))?;
    if fields.len() > MOST_LABELS {
        return Err(labels.unusable(format!(
            "it has {} labels, at most {MOST_LABELS} are supported: remove some",
            fields.len()
        )));
    }
    let mut pairs = Vec::with_capacity(fields.len() + fixed.len());
    for (key, value) in fields {
        // The API reads null (`app:` without a value) as the empty string.
        let text = if value.is_null() { Some("") } else { value.as_str() };
        let Some(text) = text else {
            let field = labels.field(key).unwrap_or(labels);
            return Err(not_a_string(&field));
        };
        if let Some(fault) = label::key_fault(key).or_else(|| label::value_fault(text)) {
            let field = labels.field(key).unwrap_or(labels);
            return Err(field.unusable(fault));
        }
        pairs.push((key.as_str(), text));
    }
    pairs.extend_from_slice(fixed);
    Ok(interner.labels(pairs))
}
