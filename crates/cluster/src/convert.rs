//! Converts Kubernetes objects, in the form of their API, to the types of the policy engine.
//!
//! From: any source, as an object's fields ([`serde_json::Value`]). To: a [`policy::Change`]. One resource
//! kind per file.
//!
//! Objects may come from a file that no API server ever validated, or from an API server that is newer than
//! this program. So everything is examined in its raw form, and the rule is semantics 28: **what can't be
//! understood never widens what is allowed**. A peer, port or rule with an unknown part matches nothing. A
//! policy with more unknown parts isolates its pods and allows nothing. If the labels of a pod or namespace
//! can't be read, they are unknown (semantics 37), so the object does not escape any policy. Each of these is
//! reported with its field and its effect.
//!
//! A policy leaves its pods open only if the pods can't be determined: it has no namespace, or its kind or
//! version is not supported. The problem then says that pods may be open.

mod flaws;
mod label;
mod metadata;
pub(crate) use self::metadata::is_miswritten;
mod duplicate;
mod field_ref;
mod namespace;
mod network_policy;
mod node;
mod peer;
mod pod;
mod port;
mod recognition;
mod selector;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::Resource;
use policy::Change;
use serde_json::Value;

use crate::interner::Interner;
pub use duplicate::Duplicate;
use field_ref::FieldRef;
pub use field_ref::{FieldPath, Step};
use flaws::Flaws;
use node::WITHOUT_RANGE;
pub(crate) use node::{PUBLIC_ADDRESSES, is_miswritten_range};
pub use recognition::Recognition;

/// Converts one object whose `apiVersion` and `kind` were recognised already: see [`Kind::of`]. `duplicates`
/// names the fields that occur more than once in their mapping, of which `object` has the last.
pub fn convert(
    kind: Kind,
    object: &Value,
    duplicates: &[Duplicate],
    interner: &Interner,
) -> Result<Converted, Unusable> {
    let mut flaws = Flaws::with(duplicates);
    let object = FieldRef::root(object);
    let change = match kind {
        Kind::Namespace => Change::Namespace(namespace::namespace(&object, interner, &mut flaws)?),
        Kind::Pod => Change::Pod(pod::pod(&object, interner, &mut flaws)?),
        Kind::Node => Change::Node(node::node(&object, interner, &mut flaws)?),
        Kind::NetworkPolicy => {
            Change::Policy(Arc::new(network_policy::network_policy(&object, interner, &mut flaws)?))
        }
    };
    Ok(Converted { change, flaws: flaws.all() })
}

/// Converts what was read of a NetworkPolicy before its text broke off. It isolates the pods that it selects,
/// in both directions unless `policyTypes` was read, and allows nothing. `None` if it is unknown which pods
/// those are.
pub(crate) fn cut_off(object: &Value, duplicates: &[Duplicate], interner: &Interner) -> Option<Change> {
    network_policy::cut_off(object, Flaws::with(duplicates), interner)
        .map(|policy| Change::Policy(Arc::new(policy)))
}

/// A converted object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converted {
    /// The object, as a change that adds it.
    pub change: Change,
    /// Its parts that were not understood, in the order of the object.
    pub flaws: Vec<Flaw>,
}

/// A part of an object that was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// The field.
    pub at: FieldPath,
    /// What is wrong with it.
    pub what: String,
    /// The effect, which is never more access.
    pub effect: &'static str,
}

impl Flaw {
    /// Whether this flaw is normal for a new Node and disappears a moment later.
    pub(crate) fn is_of_new_node(&self) -> bool {
        self.what == WITHOUT_RANGE
    }
}

/// An object that can't be used: either its identity is unknown, or using it would not be safe.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Unusable {
    /// The field.
    pub at: FieldPath,
    /// What is wrong with it.
    pub what: String,
}

/// The kinds of objects that are converted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// `v1`.
    Namespace,
    /// `v1`.
    Pod,
    /// `v1`.
    Node,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Namespace, Self::Pod, Self::Node, Self::NetworkPolicy];

    /// Recognises an object by its `apiVersion` and `kind`: see [`Recognition`].
    pub fn of(api_version: &str, kind: &str) -> Recognition {
        recognition::recognise(api_version, kind)
    }

    /// The kind of this name, in any API group.
    pub fn named(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ours| ours.name() == kind)
    }

    /// The `kind` of its objects.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Namespace => core::Namespace::kind(&()),
            Self::Pod => core::Pod::kind(&()),
            Self::Node => core::Node::kind(&()),
            Self::NetworkPolicy => networking::NetworkPolicy::kind(&()),
        }
    }

    /// The resource name, as in URLs and ClusterRoles.
    pub fn plural(self) -> Cow<'static, str> {
        match self {
            Self::Namespace => core::Namespace::plural(&()),
            Self::Pod => core::Pod::plural(&()),
            Self::Node => core::Node::plural(&()),
            Self::NetworkPolicy => networking::NetworkPolicy::plural(&()),
        }
    }

    /// The API group, as in ClusterRoles: empty for the core group.
    pub fn group(self) -> Cow<'static, str> {
        match self {
            Self::Namespace => core::Namespace::group(&()),
            Self::Pod => core::Pod::group(&()),
            Self::Node => core::Node::group(&()),
            Self::NetworkPolicy => networking::NetworkPolicy::group(&()),
        }
    }

    /// The API path of its objects in all namespaces.
    pub fn url_path(self) -> String {
        self.url_path_in(None)
    }

    /// The API path of its objects in one namespace.
    pub fn url_path_in(self, namespace: Option<&str>) -> String {
        match self {
            Self::Namespace => core::Namespace::url_path(&(), namespace),
            Self::Pod => core::Pod::url_path(&(), namespace),
            Self::Node => core::Node::url_path(&(), namespace),
            Self::NetworkPolicy => networking::NetworkPolicy::url_path(&(), namespace),
        }
    }

    /// The `apiVersion` of the objects that are converted.
    pub fn api_version(self) -> Cow<'static, str> {
        match self {
            Self::Namespace => core::Namespace::api_version(&()),
            Self::Pod => core::Pod::api_version(&()),
            Self::Node => core::Node::api_version(&()),
            Self::NetworkPolicy => networking::NetworkPolicy::api_version(&()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}
