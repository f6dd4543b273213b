//! BaselineAdminNetworkPolicy, `policy.networking.k8s.io/v1alpha1`: the predecessor of ClusterNetworkPolicy's
//! tier Baseline (semantics 63).

use policy::{Action, PolicyKind, Tier};

use super::cluster_wide::{Dialect, Version};

/// What a BaselineAdminNetworkPolicy has. There is one in a cluster, and every ClusterNetworkPolicy of tier
/// Baseline comes before it.
pub(super) const DIALECT: &Dialect = &Dialect {
    kind: PolicyKind::BaselineAdminNetworkPolicy,
    tier: Some(Tier::Baseline),
    priority: Some(1000),
    only_name: Some("default"),
    actions: &[("Allow", Action::Accept), ("Deny", Action::Deny)],
    egress_peers: &["namespaces", "pods", "networks", "nodes"],
    version: Version::V1Alpha1,
    most_rules: 100,
    most_entries: 100,
};
