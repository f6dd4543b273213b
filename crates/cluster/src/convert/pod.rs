//! Pod, `v1`.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use policy::{NamedPort, Pod, PodName, PodUid, Protocol};
use serde::Deserialize;

use super::field_ref::FieldRef;
use super::flaws::Flaws;
use super::unusable::Unusable;
use super::{metadata, port, workload};
use crate::interner::Interner;

/// The most named ports of a pod. A verdict about the pod examines each of them.
const MOST_PORTS: usize = 256;

/// The effect of too many named ports.
const NO_FURTHER_PORT: &str = "rules can't find this port and those after it by name";

/// The effect of a flaw in a pod's ports.
const NO_SUCH_PORT: &str = "rules can't find this port by its name";

/// The effect of labels that can't be read.
const UNKNOWN_LABELS: &str = "the pod's labels are unknown: rules that select by them allow nothing from or \
                              to it, and policies that might select it isolate it";
/// The effect of a node's name that can't be read.
const NO_NODE: &str = "no agent counts the pod as one of its own node, so no policy is enforced for it";

/// Converts a Pod.
pub(super) fn pod(object: &FieldRef<'_>, interner: &Interner, flaws: &mut Flaws) -> Result<Pod, Unusable> {
    let name = PodName::new(metadata::namespace(object, interner)?, metadata::name(object)?);
    let labels = metadata::labels(object, &[], interner, flaws, UNKNOWN_LABELS);
    let spec = object.field("spec");
    let status = object.field("status");
    let host_network = match spec.as_ref().and_then(|spec| spec.field("hostNetwork")) {
        None => false,
        Some(flag) => {
            flag.value.as_bool().ok_or_else(|| flag.unusable("hostNetwork is neither true nor false"))?
        }
    };
    let phase = status.as_ref().and_then(|status| status.value.get("phase")?.as_str());
    // A finished pod has released its addresses (semantics 22). A hostNetwork pod has its node's addresses
    // (semantics 20).
    let has_addresses = !host_network && !matches!(phase, Some("Succeeded" | "Failed"));
    let addresses = match &status {
        Some(status) if has_addresses => addresses(status, flaws),
        _ => Vec::new(),
    };
    let ports = spec.as_ref().map(|spec| named_ports(spec, interner, flaws)).unwrap_or_default();
    let node = spec.as_ref().and_then(|spec| spec.field("nodeName"));
    if let Some(node) = node.as_ref().filter(|node| !node.value.is_string()) {
        flaws.push(node, format!("{} is not a string: put it in quotes", node.shown()), NO_NODE);
    }
    let node = node.and_then(|node| node.value.as_str());
    let node = node.filter(|node| !node.is_empty()).map(|node| interner.text(node));
    let metadata = object.field("metadata");
    let uid = metadata.as_ref().and_then(|metadata| metadata.value.get("uid")?.as_str());
    let uid = uid.map(PodUid::of).unwrap_or_default();
    let version = metadata.as_ref().and_then(|metadata| metadata.value.get("resourceVersion")?.as_str());
    // KEP-5504: the versions of one kind are increasing numbers. Any other string is ignored.
    let reported = version.and_then(|version| version.parse().ok()).unwrap_or_default();
    let created = created(object, flaws);
    let workload = workload::of(object, &labels, created, interner).map(Arc::new);
    Ok(Pod { name, labels, addresses, ports, node, host_network, reported, created, uid, workload })
}

/// `status.podIPs` and `status.podIP`, each address once, in order.
fn addresses(status: &FieldRef<'_>, flaws: &mut Flaws) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut take = |text: &FieldRef<'_>, flaws: &mut Flaws| {
        if let Some(address) = address(text, flaws)
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    };
    status.each("podIPs", flaws, "no policy is enforced for the pod's addresses", |entry, flaws| {
        if let Some(ip) = entry.field("ip") {
            take(&ip, flaws);
        }
    });
    if let Some(ip) = status.field("podIP") {
        take(&ip, flaws);
    }
    addresses.shrink_to_fit();
    addresses
}

/// An address in canonical form: `::ffff:a.b.c.d` is the IPv4 address (semantics 26). An empty string is no
/// address.
pub(super) fn address(field: &FieldRef<'_>, flaws: &mut Flaws) -> Option<IpAddr> {
    let text = field.value.as_str();
    if text == Some("") {
        return None;
    }
    let address = text.and_then(|text| text.parse::<IpAddr>().ok());
    if address.is_none() {
        flaws.push(field, format!("{} is not an IP address", field.shown()), "this address is not known");
    }
    address.map(|address| address.to_canonical())
}

/// The named ports of the containers and then of the sidecars, which are initContainers that run as long as
/// the pod (semantics 19). Of two ports with the same name and protocol the first counts, as for the API's
/// own consumers. Of more than [`MOST_PORTS`] ports, the first ones count.
fn named_ports(spec: &FieldRef<'_>, interner: &Interner, flaws: &mut Flaws) -> Vec<NamedPort> {
    let mut ports: Vec<NamedPort> = Vec::new();
    let mut is_full = false;
    for (list, sidecars_only) in [("containers", false), ("initContainers", true)] {
        spec.each(list, flaws, NO_SUCH_PORT, |container, flaws| {
            let restart = container.value.get("restartPolicy").and_then(|policy| policy.as_str());
            if sidecars_only && restart != Some("Always") {
                return;
            }
            container.each("ports", flaws, NO_SUCH_PORT, |entry, flaws| {
                let Some(named) = named_port(entry, interner, flaws) else { return };
                if ports.iter().any(|p| p.name == named.name && p.protocol == named.protocol) {
                    return;
                }
                if ports.len() < MOST_PORTS {
                    ports.push(named);
                } else if !is_full {
                    is_full = true;
                    flaws.push(
                        entry,
                        format!("the pod has more than {MOST_PORTS} named ports"),
                        NO_FURTHER_PORT,
                    );
                }
            });
        });
    }
    ports.sort();
    ports.shrink_to_fit();
    ports
}

/// Converts one container port; `None` if it has no name or can't be understood.
fn named_port(entry: &FieldRef<'_>, interner: &Interner, flaws: &mut Flaws) -> Option<NamedPort> {
    let name = entry.field("name").filter(|name| name.value.as_str() != Some(""))?;
    let Some(text) = name.value.as_str() else {
        flaws.push(
            &name,
            format!("the value {} is not a string: put it in quotes", name.shown()),
            NO_SUCH_PORT,
        );
        return None;
    };
    let protocol = match entry.field("protocol") {
        None => Protocol::TCP,
        Some(protocol) => match port::protocol(&protocol) {
            Ok(protocol) => protocol,
            Err(what) => {
                flaws.push(&protocol, what, NO_SUCH_PORT);
                return None;
            }
        },
    };
    let number = entry.field("containerPort").map(|number| (port::number(&number), number));
    match number {
        Some((Ok(number), _)) => Some(NamedPort { name: interner.text(text), protocol, number }),
        Some((Err(what), field)) => {
            flaws.push(&field, what, NO_SUCH_PORT);
            None
        }
        None => {
            flaws.push(entry, "there is no containerPort", NO_SUCH_PORT);
            None
        }
    }
}

/// `metadata.creationTimestamp` in seconds since 1970; 0 if there is none.
fn created(object: &FieldRef<'_>, flaws: &mut Flaws) -> i64 {
    let metadata = object.field("metadata");
    let Some(time) = metadata.as_ref().and_then(|metadata| metadata.field("creationTimestamp")) else {
        return 0;
    };
    match Time::deserialize(time.value) {
        Ok(Time(time)) => time.as_second(),
        Err(_) => {
            flaws.push(
                &time,
                format!("{} is not a time such as \"2026-01-31T12:00:00Z\"", time.shown()),
                "the pod counts as older than any other pod with its address",
            );
            0
        }
    }
}
