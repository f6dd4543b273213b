//! `metadata`: which object it is, and its labels.

use std::sync::Arc;

use policy::Labels;

use super::flaws::Flaws;
use super::place::Place;
use super::{Unusable, label};
use crate::interner::Interner;
use crate::invisible::{as_seen, visible};

/// Where a namespaced object is that names no namespace: what `kubectl apply` would do with it.
const DEFAULT_NAMESPACE: &str = "default";

/// Of a name, in bytes: what the API server takes (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;

/// Labels of an object, at most. Every agent holds those of all pods.
const MOST_LABELS: usize = 256;

/// `metadata.name`.
pub(super) fn name<'a>(object: &'a Place<'a>) -> Result<&'a str, Unusable> {
    let metadata = object.field("metadata").ok_or_else(|| object.unusable("there is no metadata"))?;
    let name = metadata.value.get("name").filter(|name| !name.is_null());
    match name.map(|name| name.as_str()) {
        Some(Some("")) | None => Err(metadata.unusable("there is no name")),
        Some(Some(name)) if name.len() > LONGEST_NAME => Err(metadata
            .unusable(format!("the name has {} bytes, at most {LONGEST_NAME} are allowed", name.len()))),
        Some(Some(name)) => Ok(name),
        Some(None) => Err(no_text(&metadata.field("name").unwrap_or(metadata))),
    }
}

/// `metadata.namespace`; [`DEFAULT_NAMESPACE`] where there is none.
pub(super) fn namespace(object: &Place<'_>, interner: &Interner) -> Result<Arc<str>, Unusable> {
    let Some(metadata) = object.field("metadata") else { return Ok(interner.text(DEFAULT_NAMESPACE)) };
    must_be_well_written(&metadata, "namespace")?;
    let Some(namespace) = metadata.field("namespace") else { return Ok(interner.text(DEFAULT_NAMESPACE)) };
    match namespace.value.as_str() {
        Some("") => Ok(interner.text(DEFAULT_NAMESPACE)),
        Some(name) => match label::namespace_fault(name) {
            None => Ok(interner.text(name)),
            Some(fault) => Err(namespace.unusable(fault)),
        },
        None => Err(no_text(&namespace)),
    }
}

/// The fields of `metadata` that decide for whom a policy is.
const DECISIVE: [&str; 2] = ["namespace", "labels"];

/// Whether the name of a field of `metadata` is one that decides for whom a policy is, but for case, invisible characters, an `s` or two
/// letters.
pub(crate) fn is_miswritten(field: &str) -> bool {
    DECISIVE.iter().any(|meant| is_meant_by(field, meant))
}

fn is_meant_by(field: &str, meant: &str) -> bool {
    /// Fields of ObjectMeta (Kubernetes 1.34) are themselves.
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

/// Fails if `metadata` has a field that is miswritten for `meant`.
fn must_be_well_written(metadata: &Place<'_>, meant: &str) -> Result<(), Unusable> {
    let fields = metadata.value.as_object().into_iter().flatten();
    match fields.map(|(field, _)| field).find(|field| is_meant_by(field, meant)) {
        Some(field) => {
            let what = format!("the field {} is not known: {meant} is probably meant", visible(field));
            Err(metadata.unusable(what))
        }
        None => Ok(()),
    }
}

/// Something that must be a text is none: often a word or number that lacks its quotes.
fn no_text(place: &Place<'_>) -> Unusable {
    place.unusable(format!("the value {} is no text: put it in quotes", place.shown()))
}

/// `metadata.labels`, and over them the labels `fixed`. If one of them can't be read, or is written twice with different values, they
/// are unknown (semantics 37): a flaw with this `effect`.
pub(super) fn labels(
    object: &Place<'_>,
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

/// The labels, if all of them can be read. Without the one that can't, a policy that selects the object by it would no longer apply
/// to it, and a peer that excludes it would match: that would widen access (semantics 28).
fn readable_labels(
    object: &Place<'_>,
    fixed: &[(&str, &str)],
    interner: &Interner,
    flaws: &mut Flaws,
) -> Result<Labels, Unusable> {
    if let Some(twice) = flaws.take_differing(["metadata", "labels"]) {
        return Err(Unusable { what: twice.to_string(), at: twice.at });
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
        .ok_or_else(|| labels.unusable(format!("{} is no mapping", labels.shown())))?;
    if fields.len() > MOST_LABELS {
        return Err(labels.unusable(format!(
            "it has {} labels, at most {MOST_LABELS} are supported: remove some",
            fields.len()
        )));
    }
    let mut pairs = Vec::with_capacity(fields.len() + fixed.len());
    for (key, value) in fields {
        // The API reads null, `app:` with nothing behind it, as the empty text.
        let text = if value.is_null() { Some("") } else { value.as_str() };
        let Some(text) = text else {
            let place = labels.field(key).unwrap_or(labels);
            return Err(no_text(&place));
        };
        if let Some(fault) = label::key_fault(key).or_else(|| label::value_fault(text)) {
            let place = labels.field(key).unwrap_or(labels);
            return Err(place.unusable(fault));
        }
        pairs.push((key.as_str(), text));
    }
    pairs.extend_from_slice(fixed);
    Ok(interner.labels(pairs))
}
