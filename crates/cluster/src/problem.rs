//! What a source could not understand, and the update that reports it together with the changes.
//!
//! From: a source. To: the agent's log, metrics, `doctor` and `explain`. Invariant: nothing that is reported
//! here has widened access (semantics 28).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use policy::{Change, PolicyName};
use serde::Serialize;

use crate::invisible::visible;
pub use crate::read_counts::ReadCounts;

/// One step of a source, from its previous state to its current state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// The delta to the previous update, in an order in which it can be applied.
    pub changes: Vec<Change>,
    /// ALL current problems, old ones included, sorted. Shared with the previous update if they are the same.
    pub problems: Arc<[Problem]>,
    /// How much the source has read in total.
    pub read: ReadCounts,
    /// The policies whose version differs from the previous update, with their current version, or `None` for
    /// a policy that is gone. The version can change although the policy means the same. Empty for a source
    /// without versions.
    pub versions: Vec<(PolicyName, Option<ResourceVersion>)>,
    /// The UIDs of the policies in `versions` that exist.
    pub uids: Vec<(PolicyName, Arc<str>)>,
    /// The addresses behind this node's interfaces, by interface name, as the CNI result cache has them.
    /// `None` if they did not change.
    pub cni_ports: Option<CniPorts>,
    /// When the state on disk was written, as long as some of its objects stand in for objects that the
    /// source has not delivered yet.
    pub restored: Option<SystemTime>,
    /// ALL broken files without any version that was understood. Pods that their policies should isolate may
    /// be open.
    pub never_understood: Vec<PathBuf>,
}

/// Addresses behind interfaces of the node, by interface name.
pub type CniPorts = Arc<BTreeMap<Box<str>, Vec<IpAddr>>>;

impl Update {
    /// Merges the update that followed this one. If both have a version of a policy, the earlier version is
    /// dropped, because it may be large.
    pub fn then(&mut self, next: Self) {
        let changed = |change: &Change| match change {
            Change::Policy(policy) => Some(policy.name.clone()),
            Change::PolicyGone(name) => Some(name.clone()),
            _ => None,
        };
        let policies: BTreeSet<PolicyName> = next.changes.iter().filter_map(changed).collect();
        if !policies.is_empty() {
            let is_kept = |change: &Change| match change {
                Change::Policy(policy) => !policies.contains(&policy.name),
                _ => true,
            };
            self.changes.retain(is_kept);
        }
        self.changes.extend(next.changes);
        self.versions.extend(next.versions);
        self.uids.extend(next.uids);
        self.problems = next.problems;
        self.read = next.read;
        self.cni_ports = next.cni_ports.or(self.cni_ports.take());
        self.restored = next.restored;
        self.never_understood = next.never_understood;
    }
}

/// `metadata.resourceVersion`. It tells whether two readings of an object are of the same version, and
/// nothing else.
pub type ResourceVersion = Arc<str>;

/// Something in an object or a manifest that could not be understood, and its effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Problem {
    /// Where the problem is.
    pub location: ProblemLocation,
    /// The object, for example `NetworkPolicy web/a`, if it is known.
    pub object: Option<String>,
    /// What is wrong, with the field if there is one.
    pub what: String,
    /// The effect, for example "the peer matches nothing".
    pub effect: String,
}

/// The location of something that could not be understood.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemLocation {
    /// In a file of a folder.
    File {
        /// The file, or the folder itself.
        path: PathBuf,
        /// The document in the file, from 1; 0 if the problem concerns the file as a whole.
        document: usize,
        /// The line in the file, from 1, if it is known.
        line: Option<usize>,
    },
    /// In the Kubernetes API.
    Api {
        /// The version of the object that has the problem.
        resource_version: ResourceVersion,
    },
}

impl ProblemLocation {
    /// A whole file, or a folder.
    pub(crate) fn whole_file(path: &Path) -> Self {
        Self::File { path: path.to_owned(), document: 0, line: None }
    }
}

impl Problem {
    /// Removes the line number, for a file whose text has changed since.
    pub(crate) fn forget_line(&mut self) {
        if let ProblemLocation::File { line, .. } = &mut self.location {
            *line = None;
        }
    }

    /// The namespace of the object; empty if it has none or the object is unknown.
    pub fn namespace(&self) -> &str {
        let name = self.object.as_deref().and_then(|object| object.split_once(' '));
        name.and_then(|(_, name)| name.split_once('/')).map_or("", |(namespace, _)| namespace)
    }

    /// The problem in one line, without resourceVersion, document and line. Two versions of an object with
    /// the same problem give the same text.
    pub fn without_version(&self) -> String {
        let Self { location, object, what, effect } = self;
        let object = object.as_deref();
        let place = match location {
            ProblemLocation::File { path, .. } => match object {
                Some(object) => format!("{}: {object}", path.display()),
                None => path.display().to_string(),
            },
            ProblemLocation::Api { .. } => object.unwrap_or("an object").to_owned(),
        };
        one_line(&format!("{place}: {what}; {effect}"))
    }

    /// Logs the problem as one warning with stable field names. Sources leave this to their consumer, which
    /// can tell which problems are new.
    pub fn log(&self) {
        let (object, error, effect) = (self.object.as_deref(), &*self.what, &*self.effect);
        match &self.location {
            ProblemLocation::File { path, document, line } => tracing::warn!(
                file = %path.display(),
                document,
                line,
                object,
                error,
                effect,
                "a manifest was not understood"
            ),
            ProblemLocation::Api { resource_version } => tracing::warn!(
                object,
                resource_version = &**resource_version,
                error,
                effect,
                "an object was not understood"
            ),
        }
    }
}

impl fmt::Display for Problem {
    /// One line: `policies/web.yaml:12 (document 2): NetworkPolicy web/a: ...; the peer matches nothing`, or
    /// `NetworkPolicy web/a (version 1234): ...; the peer matches nothing`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = self.object.as_deref();
        let place = match &self.location {
            ProblemLocation::File { path, document, line } => {
                let mut text = path.display().to_string();
                if let Some(line) = line {
                    text += &format!(":{line}");
                }
                if *document > 1 {
                    text += &format!(" (document {document})");
                }
                if let Some(object) = object {
                    text += &format!(": {object}");
                }
                text
            }
            // The problem is not of one version.
            ProblemLocation::Api { resource_version } if resource_version.is_empty() => {
                object.unwrap_or("the API server").to_owned()
            }
            ProblemLocation::Api { resource_version } => {
                format!("{} (version {resource_version})", object.unwrap_or("an object"))
            }
        };
        f.write_str(&one_line(&format!("{place}: {}; {}", self.what, self.effect)))
    }
}

/// Escapes control and invisible characters. Names and values come from outside, and a line break in one of
/// them must not look like a second problem.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in visible(text).chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let mut problem = Problem {
            location: ProblemLocation::File {
                path: PathBuf::from("dir/web.yaml"),
                document: 2,
                line: Some(12),
            },
            object: Some("NetworkPolicy web/a\nb".into()),
            what: "spec.ingress[0].from[0].ipBlock.cidr: \"x\" is not a CIDR".into(),
            effect: "the peer matches nothing".into(),
        };
        assert_eq!(
            problem.to_string(),
            "dir/web.yaml:12 (document 2): NetworkPolicy web/a\\nb: \
             spec.ingress[0].from[0].ipBlock.cidr: \"x\" is not a CIDR; the peer matches nothing"
        );
        let from_file = problem.without_version();
        problem.location =
            ProblemLocation::File { path: PathBuf::from("dir/web.yaml"), document: 3, line: Some(70) };
        assert_eq!(problem.without_version(), from_file, "it has only moved");
        assert!(
            from_file.starts_with("dir/web.yaml: NetworkPolicy web/a\\nb: spec.ingress[0]"),
            "{from_file}"
        );
        problem.location = ProblemLocation::Api { resource_version: "77".into() };
        let from_api = problem.without_version();
        assert!(from_api.starts_with("NetworkPolicy web/a\\nb: spec.ingress[0]"), "{from_api}");
        assert_eq!(problem.namespace(), "web");
        assert_eq!(
            problem.to_string(),
            "NetworkPolicy web/a\\nb (version 77): \
             spec.ingress[0].from[0].ipBlock.cidr: \"x\" is not a CIDR; the peer matches nothing"
        );
    }
}
