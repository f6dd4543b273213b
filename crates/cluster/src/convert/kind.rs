//! The kinds of objects that are converted.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::Resource;

/// The API group of cluster-wide policies.
pub const CLUSTER_POLICY_GROUP: &str = "policy.networking.k8s.io";

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

    /// Whether a CustomResourceDefinition defines it, so that an API server may not have it.
    pub fn is_custom(self) -> bool {
        self.group() == CLUSTER_POLICY_GROUP
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
