//! The owners of each address: all pods and nodes that have it. Which pod an address belongs to is decided
//! when it is looked up, so that it returns to the previous owner when a later one goes (semantics 22).

use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::inventory::{Node, Pod};
use crate::names::PodName;
use crate::snapshot::address::{AddressKey, key_of};
use crate::snapshot::ids::{NodeId, number_of};

/// The pods and nodes that have each address.
#[derive(Debug, Default)]
pub(crate) struct AddressOwners {
    pods: FxHashMap<AddressKey, PodOwners>,
    nodes: FxHashMap<AddressKey, NodeOwners>,
    node_ids: FxHashMap<Arc<str>, NodeId>,
}

/// The pods that have an address: nearly always one.
#[derive(Debug)]
enum PodOwners {
    One(Arc<Pod>),
    Several(Vec<Arc<Pod>>),
}

#[derive(Debug, Default)]
struct NodeOwners {
    /// Nodes that report the address as their own.
    reported: Vec<NodeId>,
    /// Nodes that have it implicitly: it is one of the first two addresses of their pod CIDR.
    implied: Vec<NodeId>,
}

impl AddressOwners {
    /// Adds a pod as owner of its addresses, and returns them.
    pub(crate) fn add_pod(&mut self, pod: &Arc<Pod>) -> Vec<AddressKey> {
        let addresses = addresses_of(pod);
        for address in &addresses {
            match self.pods.entry(*address) {
                Entry::Vacant(entry) => drop(entry.insert(PodOwners::One(Arc::clone(pod)))),
                Entry::Occupied(mut owners) => owners.get_mut().add(pod),
            }
        }
        addresses
    }

    /// Removes a pod as owner of its addresses, and returns them.
    pub(crate) fn remove_pod(&mut self, pod: &Pod) -> Vec<AddressKey> {
        let addresses = addresses_of(pod);
        for address in &addresses {
            if self.pods.get_mut(address).is_some_and(|owners| owners.remove(&pod.name)) {
                self.pods.remove(address);
            }
        }
        addresses
    }

    /// Adds a node as owner of its addresses, and returns them.
    pub(crate) fn add_node(&mut self, node: &Node) -> Vec<AddressKey> {
        let id = self.node_id(&node.name);
        let (reported, implied) = own_addresses(node);
        for address in &reported {
            self.nodes.entry(*address).or_default().reported.push(id);
        }
        for address in &implied {
            self.nodes.entry(*address).or_default().implied.push(id);
        }
        [reported, implied].concat()
    }

    /// Removes a node as owner of its addresses, and returns them.
    pub(crate) fn remove_node(&mut self, node: &Node) -> Vec<AddressKey> {
        let id = self.node_id(&node.name);
        let (reported, implied) = own_addresses(node);
        let addresses = [reported, implied].concat();
        for address in &addresses {
            if let Some(owners) = self.nodes.get_mut(address) {
                owners.reported.retain(|node| *node != id);
                owners.implied.retain(|node| *node != id);
                if owners.reported.is_empty() && owners.implied.is_empty() {
                    self.nodes.remove(address);
                }
            }
        }
        addresses
    }

    /// The pod to which an address belongs: the one that reported it last, then the newest, then the last by
    /// name (semantics 22).
    pub(crate) fn owner(&self, address: AddressKey) -> Option<&Arc<Pod>> {
        match self.pods.get(&address)? {
            PodOwners::One(pod) => Some(pod),
            PodOwners::Several(pods) => pods.iter().max_by(|a, b| a.owner_order().cmp(&b.owner_order())),
        }
    }

    /// The nodes that have an address as their own. If a pod has the address, only nodes that report it
    /// count.
    pub(crate) fn nodes(&self, address: AddressKey, has_pod: bool) -> Option<Arc<Vec<NodeId>>> {
        let owners = self.nodes.get(&address)?;
        let implied: &[NodeId] = if has_pod { &[] } else { &owners.implied };
        let nodes = [&owners.reported, implied].concat();
        (!nodes.is_empty()).then(|| Arc::new(nodes))
    }

    /// Whether a node has the address implicitly, unless a pod has it.
    pub(crate) fn is_implied(&self, address: AddressKey) -> bool {
        self.nodes.get(&address).is_some_and(|owners| !owners.implied.is_empty())
    }

    /// The id of a node. It never changes.
    pub(crate) fn node_id(&mut self, name: &Arc<str>) -> NodeId {
        if let Some(id) = self.node_ids.get(name) {
            return *id;
        }
        let id = NodeId(number_of(self.node_ids.len()));
        self.node_ids.insert(Arc::clone(name), id);
        id
    }

    /// Every address that has an owner. An address that both pods and nodes have occurs twice.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = AddressKey> + '_ {
        self.pods.keys().chain(self.nodes.keys()).copied()
    }
}

impl PodOwners {
    fn add(&mut self, pod: &Arc<Pod>) {
        match self {
            Self::One(one) => *self = Self::Several(vec![Arc::clone(one), Arc::clone(pod)]),
            Self::Several(pods) => pods.push(Arc::clone(pod)),
        }
    }

    /// Removes a pod. Returns whether none is left.
    fn remove(&mut self, name: &PodName) -> bool {
        match self {
            Self::One(one) => one.name == *name,
            Self::Several(pods) => {
                pods.retain(|pod| pod.name != *name);
                pods.is_empty()
            }
        }
    }
}

/// The addresses of a pod, without duplicates. A hostNetwork pod counts as its node and has none (semantics
/// 20).
fn addresses_of(pod: &Pod) -> Vec<AddressKey> {
    if pod.host_network { Vec::new() } else { keys(pod.addresses.iter().copied()) }
}

/// The addresses that a node reports, and those that it has implicitly in its pod CIDRs.
fn own_addresses(node: &Node) -> (Vec<AddressKey>, Vec<AddressKey>) {
    (keys(node.addresses.iter().copied()), keys(node.implied_addresses()))
}

fn keys(addresses: impl Iterator<Item = IpAddr>) -> Vec<AddressKey> {
    let mut keys: Vec<AddressKey> = addresses.map(|address| key_of(address.to_canonical())).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
