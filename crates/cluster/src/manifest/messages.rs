//! Messages about documents and objects that are not understood.

use serde_json::Value;

use super::raw_object::RawObject;
use crate::convert::Kind;
use crate::invisible::{as_seen, is_invisible, named, visible};

/// The effect of an object that is not understood, in a file that never was good.
pub(super) const LOST: &str = "it is not in force";
/// The effect of a policy that is not understood.
pub(super) const OPEN: &str = "it is not in force: pods that it should isolate may be open";
/// The effect of an object that may be a policy.
pub(super) const MAYBE_OPEN: &str =
    "it is not in force: if it is a NetworkPolicy, pods that it should isolate may be open";
/// The effect of a policy in which the text breaks off after its namespace and podSelector.
pub(super) const CUT_OFF: &str = "the pods that its podSelector selects are isolated, and its rules allow \
                                  nothing; what follows in the document is not in force, and pods that \
                                  policies there should isolate may be open";

/// The effect of a cluster-wide policy in which the text breaks off after its subject.
pub(super) const CUT_OFF_CLUSTER_WIDE: &str = "the pods that its subject selects are denied everything; what follows in the document is not in force, and \
     pods that policies there should isolate may be open";

/// The probable cause of a second kind in an object.
pub(super) const ANOTHER_OBJECT: &str = ": if another object begins there, a line \"---\" is missing in \
                                         front of it, and the first object is not in force";

/// The effect of an object of this kind that is not understood.
pub(super) fn lost(kind: Kind) -> &'static str {
    if kind.policy().is_some() { OPEN } else { LOST }
}

/// Whether a text that can't be parsed is a template: a line is an action, or a value is one.
pub(super) fn is_template(text: &str) -> bool {
    // An action in a comment does not make a policy a template.
    let code = |line: &str| line.find(" #").or(line.starts_with('#').then_some(0)).unwrap_or(line.len());
    let mut lines = text.lines().map(|line| &line[..code(line)]);
    lines.any(|line| line.trim_start().starts_with("{{") || line.contains(": {{") || line.contains("- {{"))
}

/// Whether a mapping without a kind was probably meant as a Kubernetes object.
pub(super) fn looks_like_an_object(object: &RawObject) -> bool {
    let is_mapping = |name: &str| object.fields.get(name).is_some_and(Value::is_object);
    let is_networking =
        object.api_version.as_ref().is_some_and(|version| version.contains("networking.k8s.io"));
    !object.miswritten.is_empty()
        || is_networking
        || (is_mapping("metadata") && (object.api_version.is_some() || is_mapping("spec")))
}

/// A hint about fields of an object that were probably meant to be `apiVersion` or `kind`.
pub(super) fn hint(miswritten: &[String]) -> String {
    let mend = |name: &String| {
        let meant = if as_seen(name).eq_ignore_ascii_case("kind") { "kind" } else { "apiVersion" };
        format!("; write {meant}, not {}", visible(name))
    };
    miswritten.iter().map(mend).collect()
}

/// The first invisible character of a text: its line, from 1, and its name.
pub(super) fn hidden(text: &str) -> Option<(usize, String)> {
    let (at, hidden) = text.char_indices().find(|(_, c)| is_invisible(*c))?;
    Some((1 + text.get(..at)?.matches('\n').count(), named(hidden)))
}

/// A parser's message without its position, which is relative to the document instead of the file.
pub(super) fn without_position(message: &str) -> &str {
    message.find(" at line ").and_then(|end| message.get(..end)).unwrap_or(message)
}

/// An object's kind and name, as far as they are known.
pub(super) fn label(kind: &str, fields: &Value) -> String {
    /// The length in characters of the longest valid name of an object (RFC 1123 subdomain, Kubernetes'
    /// limit).
    const LONGEST: usize = 253;
    let start = |text: &str| text.chars().take(LONGEST).collect::<String>();
    let text =
        |name| fields.get("metadata")?.get(name)?.as_str().map(|text| visible(&start(text)).into_owned());
    let is_cluster_wide = Kind::named(kind).is_some_and(|kind| !kind.is_namespaced());
    let kind = start(kind);
    let kind = visible(&kind);
    match (text("namespace"), text("name")) {
        (Some(_), Some(name)) if is_cluster_wide => format!("{kind} {name}"),
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) if matches!(&*kind, "Pod" | "NetworkPolicy") => format!("{kind} default/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => kind.into_owned(),
    }
}
