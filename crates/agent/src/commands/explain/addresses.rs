//! Addresses without a known pod: which node's agent evaluates them, and what an answer takes for granted.

use std::net::IpAddr;

use policy::{Decision, Direction, Inventory, Packet, Reason, Snapshot};

/// The node whose agent evaluates the side with this address: that of its pod, or that whose pod CIDR has it.
/// `None` for an address outside of the pods' networks, and for a node's own.
pub(super) fn node_of<'a>(address: IpAddr, snapshot: &Snapshot, inventory: &'a Inventory) -> Option<&'a str> {
    if let Some(pod) = snapshot.pod_at(address) {
        return inventory.pods.get(pod)?.node.as_deref();
    }
    node_of_cidr(address, inventory)
}

/// The node with the longest pod CIDR that contains an address that is no node's own.
fn node_of_cidr(address: IpAddr, inventory: &Inventory) -> Option<&str> {
    if is_a_nodes(address, inventory) {
        return None;
    }
    let nodes = inventory.nodes.values();
    let cidrs = nodes.flat_map(|node| node.pod_cidrs.iter().map(move |cidr| (cidr.prefix_len(), cidr, node)));
    let containing = cidrs.filter(|(_, cidr, _)| cidr.contains(&address));
    containing.max_by_key(|(length, ..)| *length).map(|(_, _, node)| &*node.name)
}

/// Whether a node has the address.
pub(super) fn is_a_nodes(address: IpAddr, inventory: &Inventory) -> bool {
    inventory.nodes.values().any(|node| node.own_addresses().any(|own| own == address))
}

/// What the answer about this packet takes for granted about addresses without a pod.
pub(super) fn notes(inventory: &Inventory, decision: &Decision, packet: &Packet) -> Vec<String> {
    let ends = [(Direction::Egress, packet.source()), (Direction::Ingress, packet.destination())];
    let unknown =
        ends.into_iter().filter(|(direction, _)| decision.outcome(*direction).reason == Reason::NotAPod);
    unknown.filter_map(|(_, address)| note(address, inventory)).collect()
}

/// What is taken for granted about an address that counts as one without a pod.
fn note(address: IpAddr, inventory: &Inventory) -> Option<String> {
    if is_a_nodes(address, inventory) {
        return None;
    }
    if let Some(node) = node_of_cidr(address, inventory) {
        return Some(format!(
            "{address} is in the pod CIDR of node {node}, and no pod is known to have it: the agent of \
             {node} holds the packet until a pod is known, at most for --hold-timeout; then it does as \
             --on-unknown-pod says, by default deny"
        ));
    }
    // Only if pods have addresses like it: any other is probably outside.
    let near = inventory.pods.values().find_map(|pod| {
        let near = pod.addresses.iter().find(|known| are_near(**known, address))?;
        Some(format!("pod {} has {near}", pod.name))
    })?;
    Some(format!(
        "{address} counts as outside the cluster, because no Node of the source has it in its pod CIDR; but \
         {near}: an agent that has the address in its pod CIDR holds the packet, and then does as \
         --on-unknown-pod says, by default deny"
    ))
}

/// Whether both addresses are in the same /16 (IPv4) or /48 (IPv6), as those of one cluster's pods usually
/// are.
fn are_near(one: IpAddr, two: IpAddr) -> bool {
    match (one, two) {
        (IpAddr::V4(one), IpAddr::V4(two)) => one.octets()[..2] == two.octets()[..2],
        (IpAddr::V6(one), IpAddr::V6(two)) => one.octets()[..6] == two.octets()[..6],
        _ => false,
    }
}
