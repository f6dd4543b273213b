//! Names of Kubernetes objects and of snapshots, as distinct types.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A pod's namespace and name. Shown as `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PodName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl PodName {
    /// The name of pod `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kind of object that defines a policy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`, namespaced.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2`, cluster-wide.
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`, cluster-wide.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`, cluster-wide. There is one, named `default`.
    BaselineAdminNetworkPolicy,
}

impl PolicyKind {
    /// The `kind` of its objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Identifies a policy. Shown as `namespace/name`, or as `name` if it is cluster-wide.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PolicyName {
    /// The kind of object.
    pub kind: PolicyKind,
    /// `metadata.namespace`; empty for a cluster-wide policy.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl PolicyName {
    /// The NetworkPolicy `name` in `namespace`.
    pub fn network_policy(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind: PolicyKind::NetworkPolicy, namespace: namespace.into(), name: name.into() }
    }

    /// The name that sorts before all others of this kind.
    pub fn first(kind: PolicyKind) -> Self {
        Self::cluster_wide(kind, "")
    }

    /// The cluster-wide policy `name` of this kind.
    pub fn cluster_wide(kind: PolicyKind, name: impl Into<Arc<str>>) -> Self {
        Self { kind, namespace: Arc::from(""), name: name.into() }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The number of a snapshot. An agent's first snapshot is 1, and each further one increases it by 1. 0 means
/// "none yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
