//! The differences between the kinds of cluster-wide policies.

use policy::{Action, PolicyKind, Tier};

/// What a kind of cluster-wide policy has.
#[derive(Debug)]
pub(in crate::convert) struct Dialect {
    /// The kind.
    pub kind: PolicyKind,
    /// The tier; `None` if each policy names its own.
    pub tier: Option<Tier>,
    /// The priority; `None` if each policy has its own.
    pub priority: Option<u16>,
    /// The only name that a policy may have.
    pub only_name: Option<&'static str>,
    /// The actions of rules, by name.
    pub actions: &'static [(&'static str, Action)],
    /// The fields of an egress peer.
    pub egress_peers: &'static [&'static str],
    /// The version of the API.
    pub version: Version,
    /// The most rules in one direction.
    pub most_rules: usize,
    /// The most peers of a rule, and the most ports.
    pub most_entries: usize,
}

/// A version of `policy.networking.k8s.io`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::convert) enum Version {
    /// `v1alpha1`: rules have `ports`. A `podSelector` comes with a `namespaceSelector`.
    V1Alpha1,
    /// `v1alpha2`: rules have `protocols`. An absent `namespaceSelector` selects every namespace.
    V1Alpha2,
}

impl Dialect {
    /// The field of a rule that restricts ports.
    pub(super) fn ports_field(&self) -> &'static str {
        match self.version {
            Version::V1Alpha1 => "ports",
            Version::V1Alpha2 => "protocols",
        }
    }
}
