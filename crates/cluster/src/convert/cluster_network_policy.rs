//! ClusterNetworkPolicy, `policy.networking.k8s.io/v1alpha2`, of the standard and the experimental channel.

use policy::{Action, PolicyKind};

use super::cluster_wide::{Dialect, Version};

/// What a ClusterNetworkPolicy has.
pub(super) const DIALECT: &Dialect = &Dialect {
    kind: PolicyKind::ClusterNetworkPolicy,
    tier: None,
    priority: None,
    only_name: None,
    actions: &[("Accept", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)],
    egress_peers: &["namespaces", "pods", "networks", "nodes", "domainNames"],
    version: Version::V1Alpha2,
    most_rules: 25,
    most_entries: 25,
};
