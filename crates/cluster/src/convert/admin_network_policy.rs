//! AdminNetworkPolicy, `policy.networking.k8s.io/v1alpha1`: the predecessor of ClusterNetworkPolicy's tier
//! Admin (semantics 63).

use policy::{Action, PolicyKind, Tier};

use super::cluster_wide::{Dialect, Version};

/// What an AdminNetworkPolicy has.
pub(super) const DIALECT: &Dialect = &Dialect {
    kind: PolicyKind::AdminNetworkPolicy,
    tier: Some(Tier::Admin),
    priority: None,
    only_name: None,
    actions: &[("Allow", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)],
    egress_peers: &["namespaces", "pods", "networks", "nodes", "domainNames"],
    version: Version::V1Alpha1,
    most_rules: 100,
    most_entries: 100,
};
