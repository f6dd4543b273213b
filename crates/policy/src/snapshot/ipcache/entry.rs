//! The entry of an address in the ipcache: the pod and nodes that have it.

use std::sync::Arc;

use crate::inventory::Pod;
use crate::names::PodName;
use crate::snapshot::ids::{IdentityId, NodeId};
use crate::snapshot::ports::ResolvedPorts;

/// The owners of one address. Takes half a cache line.
#[derive(Clone, Debug, Default)]
#[repr(align(32))]
pub(crate) struct IpCacheEntry {
    /// The pod to which the address belongs.
    pub pod: Option<PodEntry>,
    /// The nodes that have the address as their own: nearly always none or one.
    pub nodes: Option<Arc<Vec<NodeId>>>,
}

/// A pod that has an address.
#[derive(Clone, Debug)]
pub(crate) struct PodEntry {
    pod: Arc<Pod>,
    /// The identity, shifted left by one; the lowest bit says whether this snapshot evaluates the pod.
    identity_and_evaluated: u32,
    /// The number of the pod's node, or [`NO_NODE`]; combined with [`PROVISIONAL`].
    node_and_provisional: u32,
    /// Its named ports that policies refer to.
    pub ports: ResolvedPorts,
}

/// Set if policies refer to unknown labels of the pod or of its namespace. Shares a field with the node,
/// since both are rarely read.
const PROVISIONAL: u32 = 1 << 31;

/// The node is not known.
const NO_NODE: u32 = PROVISIONAL - 1;

impl IpCacheEntry {
    /// Whether no pod or node has the address.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pod.is_none() && self.nodes.is_none()
    }

    /// Whether the address is a node's own.
    #[inline]
    pub(crate) fn is_of_a_node(&self) -> bool {
        self.nodes.is_some()
    }

    /// Whether the address is `node`'s own.
    #[inline]
    pub(crate) fn is_of(&self, node: Option<NodeId>) -> bool {
        match (&self.nodes, node) {
            (Some(nodes), Some(node)) => nodes.contains(&node),
            _ => false,
        }
    }
}

impl PodEntry {
    /// The entry of a pod. The identity is below 2^31; if the pod has two identities, it is the strict one.
    pub(crate) fn new(
        pod: Arc<Pod>,
        identity: IdentityId,
        provisional: bool,
        evaluated: bool,
        node: Option<NodeId>,
        ports: ResolvedPorts,
    ) -> Self {
        let identity_and_evaluated = identity.0 << 1 | u32::from(evaluated);
        let node = node.map_or(NO_NODE, |node| node.0);
        let node_and_provisional = node | if provisional { PROVISIONAL } else { 0 };
        Self { pod, identity_and_evaluated, node_and_provisional, ports }
    }

    /// The pod.
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Its name.
    pub(crate) fn name(&self) -> &PodName {
        &self.pod.name
    }

    /// The pod's identity; the strict one if it has two.
    #[inline]
    pub(crate) fn identity(&self) -> IdentityId {
        IdentityId(self.identity_and_evaluated >> 1)
    }

    /// The identity that reads unknown labels permissively (semantics 37); the same as [`PodEntry::identity`]
    /// if no labels are unknown.
    pub(crate) fn permissive_identity(&self) -> IdentityId {
        if self.is_provisional() { self.identity().next() } else { self.identity() }
    }

    /// Whether policies refer to unknown labels of the pod or of its namespace.
    #[inline]
    pub(crate) fn is_provisional(&self) -> bool {
        self.node_and_provisional & PROVISIONAL != 0
    }

    /// Whether this snapshot evaluates the pod.
    #[inline]
    pub(crate) fn is_evaluated(&self) -> bool {
        self.identity_and_evaluated & 1 == 1
    }

    /// Its node, if it is known.
    #[inline]
    pub(crate) fn node(&self) -> Option<NodeId> {
        let node = self.node_and_provisional & !PROVISIONAL;
        (node != NO_NODE).then_some(NodeId(node))
    }
}
