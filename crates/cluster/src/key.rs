//! The identity of an object, independent of its source.

use std::fmt;
use std::sync::Arc;

use policy::{Change, PodName, PolicyName};

use crate::convert::Kind;

/// Kind and name. The order of keys is the order of objects in an update.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Key {
    /// A namespace.
    Namespace(Arc<str>),
    /// A node.
    Node(Arc<str>),
    /// A pod.
    Pod(PodName),
    /// A policy.
    Policy(PolicyName),
}

impl Key {
    /// The object that the change is about.
    pub(crate) fn of(change: &Change) -> Self {
        match change {
            Change::Namespace(namespace) => Self::Namespace(namespace.name.clone()),
            Change::NamespaceGone(name) => Self::Namespace(name.clone()),
            Change::Pod(pod) => Self::Pod(pod.name.clone()),
            Change::PodGone(name) => Self::Pod(name.clone()),
            Change::Node(node) => Self::Node(node.name.clone()),
            Change::NodeGone(name) => Self::Node(name.clone()),
            Change::Policy(policy) => Self::Policy(policy.name.clone()),
            Change::PolicyGone(name) => Self::Policy(name.clone()),
        }
    }

    /// The namespace, if its kind has namespaces, and the name.
    pub(crate) fn namespace_and_name(&self) -> (Option<&str>, &str) {
        match self {
            Self::Namespace(name) | Self::Node(name) => (None, name),
            Self::Pod(PodName { namespace, name }) => (Some(namespace), name),
            Self::Policy(PolicyName { namespace, name, .. }) => {
                (Some(&**namespace).filter(|namespace| !namespace.is_empty()), name)
            }
        }
    }

    /// The namespace; empty for objects that have none.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace_and_name().0.unwrap_or_default()
    }

    /// The kind of the object.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Policy(name) => name.kind.into(),
        }
    }

    /// The change that reports the object as gone.
    pub(crate) fn gone(self) -> Change {
        match self {
            Self::Namespace(name) => Change::NamespaceGone(name),
            Self::Node(name) => Change::NodeGone(name),
            Self::Pod(name) => Change::PodGone(name),
            Self::Policy(name) => Change::PolicyGone(name),
        }
    }
}

impl fmt::Display for Key {
    /// `NetworkPolicy web/a`, `Pod web/b`, `Node n`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
            Self::Policy(name) => write!(f, "{} {name}", name.kind),
        }
    }
}
