//! What an address belongs to: a pod, a node, or a pod that is not known (yet).

use std::net::IpAddr;
use std::sync::Arc;

use crate::compiler::Scope;
use crate::inventory::{Inventory, Node, Pod};

/// The pod that has the address: among several, the one that reported it last, then the newest, then the last
/// by name (semantics 22). hostNetwork pods count as the node and have no addresses (semantics 20).
pub(super) fn pod_at(inventory: &Inventory, address: IpAddr) -> Option<&Pod> {
    inventory
        .pods
        .values()
        .map(Arc::as_ref)
        .filter(|pod: &&Pod| !pod.host_network)
        // Every address counts, in both families (semantics 26).
        .filter(|pod| pod.addresses.iter().any(|a| a.to_canonical() == address))
        .max_by_key(|pod| (pod.reported, pod.created, pod.name.clone()))
}

/// Whether this scope evaluates the pod.
pub(super) fn is_evaluated(inventory: &Inventory, scope: &Scope, pod: &Pod) -> bool {
    match (scope, &pod.node) {
        (Scope::Cluster, _) => true,
        (Scope::Node(here), Some(node)) => node == here,
        (Scope::Node(_), None) => {
            pod.addresses.iter().any(|address| is_in_pod_cidrs(inventory, scope, *address))
        }
    }
}

fn own_node<'a>(inventory: &'a Inventory, scope: &Scope) -> Option<&'a Node> {
    match scope {
        Scope::Cluster => None,
        Scope::Node(name) => inventory.nodes.get(name),
    }
}

fn is_in_pod_cidrs(inventory: &Inventory, scope: &Scope, address: IpAddr) -> bool {
    own_node(inventory, scope).is_some_and(|node| node.pod_cidrs.iter().any(|cidr| cidr.contains(&address)))
}

/// The node with the pod CIDR of an address that no known pod has and that is not the node's own. In scope
/// `Cluster`, that is the node with the longest pod CIDR that contains the address; among several, the first
/// by name.
pub(super) fn node_of_unknown_pod<'a>(
    inventory: &'a Inventory,
    scope: &Scope,
    address: IpAddr,
) -> Option<&'a Node> {
    let node = match scope {
        Scope::Node(_) => own_node(inventory, scope).filter(|_| is_in_pod_cidrs(inventory, scope, address)),
        Scope::Cluster => {
            let around = |node: &'a Node| {
                let lengths = node.pod_cidrs.iter().filter(|cidr| cidr.contains(&address));
                Some((lengths.map(|cidr| cidr.prefix_len()).max()?, node))
            };
            let nodes = inventory.nodes.values().rev().filter_map(around);
            nodes.max_by_key(|(length, _)| *length).map(|(_, node)| node)
        }
    };
    node.filter(|node| pod_at(inventory, address).is_none() && !is_address_of_node(inventory, node, address))
}

/// Whether the address is in a pod CIDR of ANY node, and neither a known pod nor a node has it.
pub(super) fn is_unknown_peer(inventory: &Inventory, address: IpAddr) -> bool {
    let nodes = || inventory.nodes.values();
    nodes().any(|node| node.pod_cidrs.iter().any(|cidr| cidr.contains(&address)))
        && pod_at(inventory, address).is_none()
        && !nodes().any(|node| is_address_of_node(inventory, node, address))
}

/// Whether the address is the node's own: one that it reports, or the first or second address of one of its
/// pod CIDRs, unless a pod has that.
pub(super) fn is_address_of_node(inventory: &Inventory, node: &Node, address: IpAddr) -> bool {
    let reports = node.addresses.iter().any(|a| a.to_canonical() == address);
    let implied = !node.has_all_addresses
        && node.pod_cidrs.iter().any(|cidr| {
            let offset = match (address, cidr.network()) {
                (IpAddr::V4(address), IpAddr::V4(network)) => {
                    u128::from(u32::from(address)).checked_sub(u32::from(network).into())
                }
                (IpAddr::V6(address), IpAddr::V6(network)) => u128::from(address).checked_sub(network.into()),
                _ => None,
            };
            cidr.contains(&address) && matches!(offset, Some(0 | 1))
        });
    reports || (implied && pod_at(inventory, address).is_none())
}
