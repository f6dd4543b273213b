//! The kinds of objects that are converted.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::Resource;
use policy::PolicyKind;

/// The API group of the cluster-wide policies.
const CLUSTER_WIDE: &str = "policy.networking.k8s.io";

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
    /// `policy.networking.k8s.io/v1alpha2`.
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`.
    BaselineAdminNetworkPolicy,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Pod,
        Self::Node,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
    ];

    /// The kinds that every API server has.
    pub const CORE: [Self; 4] = [Self::Namespace, Self::Pod, Self::Node, Self::NetworkPolicy];

    /// The kind of this name, in any API group.
    pub fn named(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ours| ours.name() == kind)
    }

    /// The kind of policy; `None` if it is not a policy.
    pub fn policy(self) -> Option<PolicyKind> {
        match self {
            Self::Namespace | Self::Pod | Self::Node => None,
            Self::NetworkPolicy => Some(PolicyKind::NetworkPolicy),
            Self::ClusterNetworkPolicy => Some(PolicyKind::ClusterNetworkPolicy),
            Self::AdminNetworkPolicy => Some(PolicyKind::AdminNetworkPolicy),
            Self::BaselineAdminNetworkPolicy => Some(PolicyKind::BaselineAdminNetworkPolicy),
        }
    }

    /// Whether its objects are in a namespace.
    pub fn is_namespaced(self) -> bool {
        matches!(self, Self::Pod | Self::NetworkPolicy)
    }

    /// The `kind` of its objects.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Namespace => core::Namespace::kind(&()),
            Self::Pod => core::Pod::kind(&()),
            Self::Node => core::Node::kind(&()),
            Self::NetworkPolicy => networking::NetworkPolicy::kind(&()),
            Self::ClusterNetworkPolicy => PolicyKind::ClusterNetworkPolicy.name().into(),
            Self::AdminNetworkPolicy => PolicyKind::AdminNetworkPolicy.name().into(),
            Self::BaselineAdminNetworkPolicy => PolicyKind::BaselineAdminNetworkPolicy.name().into(),
        }
    }

    /// The resource name, as in URLs and ClusterRoles.
    pub fn plural(self) -> Cow<'static, str> {
        match self {
            Self::Namespace => core::Namespace::plural(&()),
            Self::Pod => core::Pod::plural(&()),
            Self::Node => core::Node::plural(&()),
            Self::NetworkPolicy => networking::NetworkPolicy::plural(&()),
            Self::ClusterNetworkPolicy => "clusternetworkpolicies".into(),
            Self::AdminNetworkPolicy => "adminnetworkpolicies".into(),
            Self::BaselineAdminNetworkPolicy => "baselineadminnetworkpolicies".into(),
        }
    }

    /// The API group, as in ClusterRoles: empty for the core group.
    pub fn group(self) -> Cow<'static, str> {
        match self {
            Self::Namespace => core::Namespace::group(&()),
            Self::Pod => core::Pod::group(&()),
            Self::Node => core::Node::group(&()),
            Self::NetworkPolicy => networking::NetworkPolicy::group(&()),
            Self::ClusterNetworkPolicy | Self::AdminNetworkPolicy | Self::BaselineAdminNetworkPolicy => {
                CLUSTER_WIDE.into()
            }
        }
    }

    /// Whether a CustomResourceDefinition defines it, so that an API server may not have it.
    pub fn is_custom(self) -> bool {
        !Self::CORE.contains(&self)
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
            Self::ClusterNetworkPolicy | Self::AdminNetworkPolicy | Self::BaselineAdminNetworkPolicy => {
                format!("/apis/{}/{}", self.api_version(), self.plural())
            }
        }
    }

    /// The `apiVersion` of the objects that are converted.
    pub fn api_version(self) -> Cow<'static, str> {
        match self {
            Self::Namespace => core::Namespace::api_version(&()),
            Self::Pod => core::Pod::api_version(&()),
            Self::Node => core::Node::api_version(&()),
            Self::NetworkPolicy => networking::NetworkPolicy::api_version(&()),
            Self::ClusterNetworkPolicy => format!("{CLUSTER_WIDE}/v1alpha2").into(),
            Self::AdminNetworkPolicy | Self::BaselineAdminNetworkPolicy => {
                format!("{CLUSTER_WIDE}/v1alpha1").into()
            }
        }
    }
}

impl From<PolicyKind> for Kind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::NetworkPolicy => Self::NetworkPolicy,
            PolicyKind::ClusterNetworkPolicy => Self::ClusterNetworkPolicy,
            PolicyKind::AdminNetworkPolicy => Self::AdminNetworkPolicy,
            PolicyKind::BaselineAdminNetworkPolicy => Self::BaselineAdminNetworkPolicy,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}
