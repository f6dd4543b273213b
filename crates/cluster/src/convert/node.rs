//! Node, `v1`.

use std::net::IpAddr;

use ipnet::IpNet;
use policy::Node;

use super::peer::canonical_block;
use super::place::{Flaws, Place};
use super::pod::address;
use super::{Unusable, metadata};
use crate::interner::Interner;

/// The kinds of addresses in `status.addresses` that are the node's own; host names are not looked up.
const OWN_ADDRESSES: [&str; 2] = ["InternalIP", "ExternalIP"];

/// Flannel's annotations for the address at which other nodes reach this one (`pkg/subnet/kube/annotations.go` of Flannel, with its
/// default prefix).
pub(crate) const PUBLIC_ADDRESSES: [&str; 4] = [
    "flannel.alpha.coreos.com/public-ip",
    "flannel.alpha.coreos.com/public-ip-overwrite",
    "flannel.alpha.coreos.com/public-ipv6",
    "flannel.alpha.coreos.com/public-ipv6-overwrite",
];

/// Converts a Node.
pub(super) fn node(object: &Place<'_>, interner: &Interner, flaws: &mut Flaws) -> Result<Node, Unusable> {
    let name = interner.text(metadata::name(object)?);
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
    let mut pod_cidrs: Vec<IpNet> = Vec::new();
    if let Some(spec) = object.field("spec") {
        const EFFECT: &str = "this range is not known as one of pods";
        let mut take = |place: &Place<'_>, flaws: &mut Flaws| match canonical_block(place) {
            Ok(block) if !pod_cidrs.contains(&block) => pod_cidrs.push(block),
            Ok(_) => {}
            Err(what) => flaws.push(place, what, EFFECT),
        };
        spec.each("podCIDRs", flaws, EFFECT, &mut take);
        // `podCIDR` is the first of `podCIDRs` again; manifests written by hand may have it alone.
        if let Some(single) = spec.field("podCIDR").filter(|single| single.value.as_str() != Some("")) {
            take(&single, flaws);
        }
    }
    Ok(Node { name, addresses, pod_cidrs, has_all_addresses: false })
}
