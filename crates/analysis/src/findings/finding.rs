//! What a rule finds.

use std::fmt;
use std::path::PathBuf;

use cluster::{FieldPath, Manifests, Place};
use policy::PolicyName;
use serde::Serialize;

use super::rule::{Rule, Severity};

/// A mistake.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The rule that found it.
    pub id: Rule,
    /// How serious it is.
    pub severity: Severity,
    /// The object, as `NetworkPolicy db/allow-web`; null for a file or folder.
    pub object: Option<String>,
    /// The field, as `spec.ingress[0].ports[0].port`; null if it is about the object as a whole.
    pub field: Option<String>,
    /// The file; null if the object has none, such as a namespace that no file describes.
    pub file: Option<PathBuf>,
    /// The line in the file, from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// A finding about a field of a policy.
pub(super) fn of_policy(
    manifests: &Manifests,
    policy: &PolicyName,
    field: FieldPath,
    (id, severity): (Rule, Severity),
    what: String,
    remedy: String,
) -> Finding {
    let place = manifests.place_of_policy(policy);
    Finding {
        id,
        severity,
        object: Some(format!("{} {policy}", policy.kind)),
        line: place.map(|place| place.line_of(&field)),
        file: place.map(|place: &Place| place.file.clone()),
        field: Some(field.to_string()),
        what,
        remedy,
    }
}

/// A list of names in a sentence: at most five, and how many more.
pub(super) fn names<T: fmt::Display>(names: &[T]) -> String {
    const NAMED: usize = 5;
    let shown: Vec<String> = names.iter().take(NAMED).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(NAMED);
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}
