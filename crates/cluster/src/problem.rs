//! What a source got wrong, and the update in which a source reports it beside the changes.
//!
//! From: a source. To: the agent's log, metrics, `doctor` and `explain`. Invariant: whatever is named here never
//! widened what is allowed (semantics 28).

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

/// One step of a source: from what stood before to what stands now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// What differs from the update before, in an order that can be applied as it is.
    pub changes: Vec<Change>,
    /// ALL problems that stand now, old ones too, sorted. Shared with the update before if they are the same.
    pub problems: Arc<[Problem]>,
    /// How much the source has read, in all.
    pub read: ReadCounts,
    /// The policies whose version differs from the update before, with the version that they have now; `None` for one that
    /// is gone. A version can change though the policy means the same. Empty where a source knows of no versions.
    pub versions: Vec<(PolicyName, Option<ResourceVersion>)>,
    /// The addresses behind interfaces of this node, by the interfaces' names, as the CNI cache has them; `None` if that is no news.
    pub cni_ports: Option<CniPorts>,
    /// When the state on disk was written, while objects of it stand in for those that the source has not said yet.
    pub restored: Option<SystemTime>,
    /// ALL files that are broken and of which no version was ever understood: what their policies isolate may be open.
    pub never_understood: Vec<PathBuf>,
}

/// Addresses behind interfaces of the node, by the interfaces' names.
pub type CniPorts = Arc<BTreeMap<Box<str>, Vec<IpAddr>>>;

impl Update {
    /// Takes in the update that followed this one. Of a policy that both have, the earlier version is dropped: it may be large.
    pub fn then(&mut self, next: Self) {
        let changed = |change: &Change| match change {
            Change::Policy(policy) => Some(policy.name.clone()),
            Change::PolicyGone(name) => Some(name.clone()),
            _ => None,
        };
        let policies: BTreeSet<PolicyName> = next.changes.iter().filter_map(changed).collect();
        if !policies.is_empty() {
            let is_kept = |change: &Change| !matches!(change, Change::Policy(policy) if policies.contains(&policy.name));
            self.changes.retain(is_kept);
        }
        self.changes.extend(next.changes);
        self.versions.extend(next.versions);
        self.problems = next.problems;
        self.read = next.read;
        self.cni_ports = next.cni_ports.or(self.cni_ports.take());
        self.restored = next.restored;
        self.never_understood = next.never_understood;
    }
}

/// `metadata.resourceVersion`: says which of two readings of an object is the same; nothing else can be told by it.
pub type ResourceVersion = Arc<str>;

/// Something in an object or a manifest that could not be understood, and what follows from that.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Problem {
    /// Where it stands.
    pub origin: Origin,
    /// The object, for example `NetworkPolicy web/a`, where it can be told.
    pub object: Option<String>,
    /// What is wrong, with the field where there is one.
    pub what: String,
    /// What follows, for example "the peer matches nothing".
    pub effect: String,
}

/// Where something stands that could not be understood.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// In a file of a folder.
    File {
        /// The file, or the folder itself.
        path: PathBuf,
        /// The document in the file, from 1; 0 where the problem is the file's as a whole.
        document: usize,
        /// The line in the file, from 1, where it can be told.
        line: Option<usize>,
    },
    /// In the Kubernetes API.
    Api {
        /// The object's version that has the problem.
        resource_version: ResourceVersion,
    },
}

impl Origin {
    /// A file as a whole, or a folder.
    pub(crate) fn whole_file(path: &Path) -> Self {
        Self::File { path: path.to_owned(), document: 0, line: None }
    }
}

impl Problem {
    /// The problem of a file whose text has changed since: the line says nothing any more.
    pub(crate) fn forget_line(&mut self) {
        if let Origin::File { line, .. } = &mut self.origin {
            *line = None;
        }
    }

    /// The namespace of the object; empty if it has none, or if the object is unknown.
    pub fn namespace(&self) -> &str {
        let name = self.object.as_deref().and_then(|object| object.split_once(' '));
        name.and_then(|(_, name)| name.split_once('/')).map_or("", |(namespace, _)| namespace)
    }

    /// The problem in one line, without resourceVersion, document and line: two versions of an object that have the same problem give the
    /// same text.
    pub fn without_version(&self) -> String {
        let Self { origin, object, what, effect } = self;
        let object = object.as_deref();
        let place = match origin {
            Origin::File { path, .. } => match object {
                Some(object) => format!("{}: {object}", path.display()),
                None => path.display().to_string(),
            },
            Origin::Api { .. } => object.unwrap_or("an object").to_owned(),
        };
        one_line(&format!("{place}: {what}; {effect}"))
    }

    /// Logs the problem as one warning, with stable names of fields. Sources leave this to their consumer, which knows which problems are
    /// new.
    pub fn log(&self) {
        let (object, error, effect) = (self.object.as_deref(), &*self.what, &*self.effect);
        match &self.origin {
            Origin::File { path, document, line } => tracing::warn!(
                file = %path.display(),
                document,
                line,
                object,
                error,
                effect,
                "a manifest was not understood"
            ),
            Origin::Api { resource_version } => tracing::warn!(
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
        let place = match &self.origin {
            Origin::File { path, document, line } => {
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
            Origin::Api { resource_version } => {
                format!("{} (version {resource_version})", object.unwrap_or("an object"))
            }
        };
        f.write_str(&one_line(&format!("{place}: {}; {}", self.what, self.effect)))
    }
}

/// Escapes control and invisible characters. Names and values come from outside: a line break in one must not look like a second problem.
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
            origin: Origin::File { path: PathBuf::from("dir/web.yaml"), document: 2, line: Some(12) },
            object: Some("NetworkPolicy web/a\nb".into()),
            what: "spec.ingress[0].from[0].ipBlock.cidr: \"x\" is no CIDR".into(),
            effect: "the peer matches nothing".into(),
        };
        assert_eq!(
            problem.to_string(),
            "dir/web.yaml:12 (document 2): NetworkPolicy web/a\\nb: \
             spec.ingress[0].from[0].ipBlock.cidr: \"x\" is no CIDR; the peer matches nothing"
        );
        let from_file = problem.without_version();
        problem.origin = Origin::File { path: PathBuf::from("dir/web.yaml"), document: 3, line: Some(70) };
        assert_eq!(problem.without_version(), from_file, "it has only moved");
        assert!(
            from_file.starts_with("dir/web.yaml: NetworkPolicy web/a\\nb: spec.ingress[0]"),
            "{from_file}"
        );
        problem.origin = Origin::Api { resource_version: "77".into() };
        let from_api = problem.without_version();
        assert!(from_api.starts_with("NetworkPolicy web/a\\nb: spec.ingress[0]"), "{from_api}");
        assert_eq!(problem.namespace(), "web");
        assert_eq!(
            problem.to_string(),
            "NetworkPolicy web/a\\nb (version 77): \
             spec.ingress[0].from[0].ipBlock.cidr: \"x\" is no CIDR; the peer matches nothing"
        );
    }
}
