//! Which fields of an object are kept.

use crate::convert::{Kind, PUBLIC_ADDRESSES};

/// Which part of a value is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// Nothing, not even its presence.
    Nothing,
    /// Only its presence.
    Presence,
    /// All of it.
    All,
    /// These fields of a mapping.
    Fields(&'static [(&'static str, Keep)]),
    /// This part of each element of a list.
    Each(&'static Keep),
}

/// Only the names of the fields are examined, to find duplicates.
const NAMES: Keep = Keep::Fields(&[]);

const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("labels", Keep::All),
    ("creationTimestamp", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("annotations", NAMES),
]);
const POD_METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("labels", Keep::All),
    ("creationTimestamp", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("annotations", NAMES),
    ("ownerReferences", OWNERS),
]);
const OWNERS: Keep = Keep::Each(&Keep::Fields(&[
    ("apiVersion", Keep::All),
    ("kind", Keep::All),
    ("name", Keep::All),
    ("controller", Keep::All),
]));
const NODE_METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("labels", Keep::All),
    ("creationTimestamp", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("annotations", Keep::Fields(&FLANNELS_ANNOTATIONS)),
]);
/// Addresses that Flannel uses for the overlay, if they are not among the node's own
/// ([`mod@crate::convert`]).
const FLANNELS_ANNOTATIONS: [(&str, Keep); 4] = [
    (PUBLIC_ADDRESSES[0], Keep::All),
    (PUBLIC_ADDRESSES[1], Keep::All),
    (PUBLIC_ADDRESSES[2], Keep::All),
    (PUBLIC_ADDRESSES[3], Keep::All),
];
const CONTAINERS: Keep = Keep::Each(&Keep::Fields(&[("restartPolicy", Keep::All), ("ports", Keep::All)]));
const POD_SPEC: Keep = Keep::Fields(&[
    ("nodeName", Keep::All),
    ("hostNetwork", Keep::All),
    ("containers", CONTAINERS),
    ("initContainers", CONTAINERS),
]);
const POD_STATUS: Keep = Keep::Fields(&[("phase", Keep::All), ("podIP", Keep::All), ("podIPs", Keep::All)]);
/// The outline of a policy whose rules are read later. Without `policyTypes`, a policy isolates for egress if
/// it has a rule for it.
pub(super) const POLICY_OUTLINE: Keep = Keep::Fields(&[
    ("podSelector", Keep::All),
    ("policyTypes", Keep::All),
    ("egress", Keep::Each(&Keep::Presence)),
]);
/// The pod template of a workload.
const TEMPLATE: Keep = Keep::Fields(&[("metadata", METADATA), ("spec", POD_SPEC)]);
const WORKLOAD_SPEC: Keep = Keep::Fields(&[("template", TEMPLATE)]);
const CRON_JOB_SPEC: Keep = Keep::Fields(&[("jobTemplate", Keep::Fields(&[("spec", WORKLOAD_SPEC)]))]);
const SERVICE_SPEC: Keep = Keep::Fields(&[("selector", Keep::All), ("ports", Keep::All)]);
const NODE_SPEC: Keep = Keep::Fields(&[("podCIDR", Keep::All), ("podCIDRs", Keep::All)]);
const NODE_STATUS: Keep = Keep::Fields(&[("addresses", Keep::All)]);

/// The part of the field `name` that is kept. While the object's kind is unknown, everything is kept.
pub(super) fn keep_of(kind: Option<&str>, name: &str) -> &'static Keep {
    let Some(kind) = kind else { return &Keep::All };
    let Some(kind) = Kind::named(kind) else {
        // For messages, the object's name is enough.
        return if name == "metadata" { &METADATA } else { &Keep::Nothing };
    };
    match (kind, name) {
        (Kind::Node, "metadata") => &NODE_METADATA,
        (Kind::Pod, "metadata") => &POD_METADATA,
        (_, "metadata") => &METADATA,
        (Kind::Pod, "spec") => &POD_SPEC,
        (Kind::Pod, "status") => &POD_STATUS,
        (Kind::Node, "spec") => &NODE_SPEC,
        (Kind::Node, "status") => &NODE_STATUS,
        // All of a policy is kept, because an unknown field may narrow it.
        (kind, "spec") if kind.policy().is_some() => &Keep::All,
        (kind, _) if kind.policy().is_some() => &Keep::Presence,
        _ => &Keep::Nothing,
    }
}

/// The part of the field `name` of a workload or Service that is kept; `None` for other kinds and fields.
/// Only commands that read manifests without a cluster use these kinds.
pub(super) fn keep_of_template(kind: &str, name: &str) -> Option<&'static Keep> {
    match (kind, name) {
        ("CronJob", "spec") => Some(&CRON_JOB_SPEC),
        ("Service", "spec") => Some(&SERVICE_SPEC),
        (kind, "spec") if TEMPLATED.contains(&kind) => Some(&WORKLOAD_SPEC),
        _ => None,
    }
}

/// The kinds with a pod template in `spec.template`.
const TEMPLATED: [&str; 6] =
    ["DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"];

/// The longest name of a field that is kept, in bytes. It is longer than any label's key (253 + 1 + 63), and
/// bounds messages and records.
pub(super) const LONGEST_NAME: usize = 512;

/// The beginning of a name that is too long, for messages.
pub(super) fn shortened(name: &str) -> String {
    /// The number of characters shown.
    const SHOWN: usize = 32;
    let shown: String = name.chars().take(SHOWN).collect();
    format!("{shown}... ({} bytes)", name.len())
}

impl Keep {
    /// Whether only names are examined.
    pub(super) fn is_names(&self) -> bool {
        matches!(self, Self::Fields([]))
    }
}
