//! Which pods are evaluated: those of one node, or of all nodes.

use std::sync::Arc;

use ipnet::IpNet;

use crate::inventory::{Inventory, Pod};

/// Which pods a snapshot evaluates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Pods of every node, each as its own node evaluates it. Used by `explain`. An address without a known
    /// pod is evaluated as by the node with the longest pod CIDR that contains it; among several, the first
    /// by name.
    Cluster,
    /// Only pods of this node: what an agent enforces. Pods of other nodes are known as peers.
    Node(Arc<str>),
}

impl Scope {
    /// The pod CIDRs of the scope's node.
    pub(crate) fn pod_cidrs<'a>(&self, inventory: &'a Inventory) -> &'a [IpNet] {
        match self {
            Self::Cluster => &[],
            Self::Node(name) => inventory.nodes.get(name).map_or(&[], |node| &node.pod_cidrs),
        }
    }

    /// Whether a pod is evaluated. A pod that has an address but no node yet belongs to the node with a pod
    /// CIDR that contains the address.
    pub(crate) fn evaluates(&self, pod: &Pod, pod_cidrs: &[IpNet]) -> bool {
        match (self, &pod.node) {
            (Self::Cluster, _) => true,
            (Self::Node(here), Some(node)) => here == node,
            // ANY address in ANY of the CIDRs.
            (Self::Node(_), None) => {
                pod.addresses.iter().any(|address| pod_cidrs.iter().any(|cidr| cidr.contains(address)))
            }
        }
    }
}
