//! Node, `v1`.

use std::net::IpAddr;

use ipnet::IpNet;
use policy::Node;

use super::field_path::{FieldPath, Step};
use super::field_ref::FieldRef;
use super::flaw::Flaw;
use super::flaws::Flaws;
use super::metadata;
use super::peer::canonical_block;
use super::pod::address;
use super::unusable::Unusable;
use crate::interner::Interner;
use crate::invisible::{as_seen, visible};

/// The types in `status.addresses` that are the node's own addresses. Host names are not resolved.
const OWN_ADDRESSES: [&str; 2] = ["InternalIP", "ExternalIP"];

/// Flannel's annotations for the address at which other nodes reach this one
/// (`pkg/subnet/kube/annotations.go` of Flannel, with its default prefix).
pub(crate) const PUBLIC_ADDRESSES: [&str; 4] = [
    "flannel.alpha.coreos.com/public-ip",
    "flannel.alpha.coreos.com/public-ip-overwrite",
    "flannel.alpha.coreos.com/public-ipv6",
    "flannel.alpha.coreos.com/public-ipv6-overwrite",
];

/// The effect of labels that can't be read.
const UNKNOWN_LABELS: &str = "the node's labels are unknown: rules that select nodes by them allow nothing to \
                              it, and rules that deny or pass deny it";
/// The effect of a pod CIDR that is not understood. Only pod CIDRs say which addresses belong to the cluster,
/// so here something unknown can widen access, and the message says so.
const UNKNOWN_RANGE: &str = "addresses of this range that no known pod has count as outside of the cluster, \
                             and an ipBlock can allow them: write it as `kubectl get node -o yaml` shows it; \
                             for the agent's own node, --pod-cidr can set it too";
/// The effect of a Node without a known pod CIDR.
const NO_RANGE: &str = "addresses of its pods that are not known count as outside of the cluster, and an \
                        ipBlock can allow them: add the podCIDRs that `kubectl get node -o yaml` shows; \
                        for the agent's own node, --pod-cidr can set them too";

/// The flaw of a Node without a pod CIDR. Every new Node has this flaw for a moment.
const WITHOUT_RANGE: &str = "there is neither podCIDRs nor podCIDR";

impl Flaw {
    /// Whether this flaw is normal for a new Node and disappears a moment later.
    pub(crate) fn is_of_new_node(&self) -> bool {
        self.what == WITHOUT_RANGE
    }
}

/// The fields of `spec` that hold pod CIDRs.
const RANGES: [&str; 2] = ["podCIDR", "podCIDRs"];

/// Whether a field of a Node's `spec` is probably a misspelling of one of [`RANGES`]: at most two edits away,
/// ignoring case and separators.
pub(crate) fn is_miswritten_range(field: &str) -> bool {
    let plain = |name: &str| name.to_lowercase().replace(['_', '-', ' '], "");
    let seen = plain(&as_seen(field));
    !RANGES.contains(&field)
        && RANGES.iter().any(|meant| strsim::damerau_levenshtein(&seen, &plain(meant)) <= 2)
}

/// Converts a Node.
pub(super) fn node(object: &FieldRef<'_>, interner: &Interner, flaws: &mut Flaws) -> Result<Node, Unusable> {
    let name = interner.text(metadata::name(object)?);
    let labels = metadata::labels(object, &[], interner, flaws, UNKNOWN_LABELS);
    let mut addresses: Vec<IpAddr> = Vec::new();
    if let Some(status) = object.field("status") {
        status.each("addresses", flaws, "the node's addresses are not known", |entry, flaws| {
            let kind = entry.value.get("type").and_then(|kind| kind.as_str());
            if !kind.is_some_and(|kind| OWN_ADDRESSES.contains(&kind)) {
                return;
            }
            let found = entry.field("address").and_then(|text| address(&text, flaws));
            addresses.extend(found.filter(|found| !addresses.contains(found)));
        });
    }
    let metadata = object.field("metadata");
    let annotations = metadata.as_ref().and_then(|metadata| metadata.field("annotations"));
    for name in PUBLIC_ADDRESSES {
        if let Some(text) = annotations.as_ref().and_then(|annotations| annotations.field(name)) {
            addresses.extend(address(&text, flaws).filter(|found| !addresses.contains(found)));
        }
    }
    Ok(Node {
        name,
        labels,
        addresses,
        pod_cidrs: pod_cidrs(object, flaws),
        has_all_addresses: false,
        reported_addresses: Vec::new(),
    })
}

/// The pod CIDRs of a Node.
fn pod_cidrs(object: &FieldRef<'_>, flaws: &mut Flaws) -> Vec<IpNet> {
    let mut pod_cidrs: Vec<IpNet> = Vec::new();
    let before = flaws.serious();
    if let Some(spec) = object.field("spec") {
        let mut take = |field: &FieldRef<'_>, flaws: &mut Flaws| match canonical_block(field) {
            Ok(block) if !pod_cidrs.contains(&block) => pod_cidrs.push(block),
            Ok(_) => {}
            Err(what) => flaws.push(field, what, UNKNOWN_RANGE),
        };
        spec.each("podCIDRs", flaws, UNKNOWN_RANGE, &mut take);
        // `podCIDR` repeats the first of `podCIDRs`. Manifests written by hand may have it alone.
        if let Some(single) = spec.field("podCIDR").filter(|single| single.value.as_str() != Some("")) {
            take(&single, flaws);
        }
        if !spec.value.is_object() {
            flaws.push(&spec, format!("{} is not a spec of a Node", spec.shown()), NO_RANGE);
        }
        for name in spec.unknown_fields(&RANGES).filter(|name| is_miswritten_range(name)) {
            let what = format!("the field {} is not known: podCIDRs is probably meant", visible(name));
            flaws.push(&spec, what, UNKNOWN_RANGE);
        }
    }
    if pod_cidrs.is_empty() && flaws.serious() == before {
        flaws.push_at(FieldPath(vec![Step::Field("spec".into())]), WITHOUT_RANGE, NO_RANGE);
    }
    pod_cidrs
}
