//! The addresses of the nodes that policies select as peers (semantics 56).
//!
//! From: the selectors in [`Peer::Nodes`] and the inventory's nodes. To: compiled rules, which have these
//! addresses as blocks. Invariant: after [`NodePeers::refresh`], each selector has the addresses of the nodes
//! that it selects now.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::address_owners::AddressOwners;
use crate::inventory::{Inventory, Node};
use crate::selector::{Match, Selector};
use crate::snapshot::address::key_of;
use crate::spec::{Peer, PolicySpec};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct NodePeers {
    selectors: FxHashMap<Selector, Selected>,
}

/// A selector, and what it selects.
#[derive(Debug)]
struct Selected {
    /// The number of peers that have the selector.
    uses: usize,
    nodes: NodeAddresses,
}

/// The addresses of the nodes that a selector selects.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct NodeAddresses {
    /// Of nodes that it certainly selects.
    pub certain: BTreeSet<IpAddr>,
    /// Of nodes that it might select, because their labels are unknown.
    pub unknown: BTreeSet<IpAddr>,
}

/// What an update of the nodes has changed.
#[derive(Debug, Default)]
pub(crate) struct ChangedNodes {
    /// The selectors that select other addresses now.
    pub selectors: FxHashSet<Selector>,
    /// The addresses that ANY of them selects differently.
    pub addresses: BTreeSet<IpAddr>,
}

impl NodePeers {
    /// Whether no policy selects nodes.
    pub(crate) fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }

    /// Adds the selectors of a policy.
    pub(crate) fn acquire(&mut self, policy: &PolicySpec, inventory: &Inventory, owners: &AddressOwners) {
        for selector in selectors(policy) {
            let find = || Selected { uses: 0, nodes: NodeAddresses::of(selector, inventory, owners) };
            self.selectors.entry(selector.clone()).or_insert_with(find).uses += 1;
        }
    }

    /// Removes the selectors of a policy.
    pub(crate) fn release(&mut self, policy: &PolicySpec) {
        for selector in selectors(policy) {
            if let Some(selected) = self.selectors.get_mut(selector) {
                selected.uses -= 1;
                if selected.uses == 0 {
                    self.selectors.remove(selector);
                }
            }
        }
    }

    /// The addresses of the nodes that a selector selects. Nothing for a selector that no policy has.
    pub(crate) fn of(&self, selector: &Selector) -> &NodeAddresses {
        const NONE: &NodeAddresses = &NodeAddresses { certain: BTreeSet::new(), unknown: BTreeSet::new() };
        self.selectors.get(selector).map_or(NONE, |selected| &selected.nodes)
    }

    /// Selects again, after nodes changed.
    pub(crate) fn refresh(&mut self, inventory: &Inventory, owners: &AddressOwners) -> ChangedNodes {
        let mut changed = ChangedNodes::default();
        for (selector, selected) in &mut self.selectors {
            let now = NodeAddresses::of(selector, inventory, owners);
            let before = &selected.nodes;
            if now != *before {
                changed.addresses.extend(before.certain.symmetric_difference(&now.certain));
                changed.addresses.extend(before.unknown.symmetric_difference(&now.unknown));
                changed.selectors.insert(selector.clone());
                selected.nodes = now;
            }
        }
        changed
    }
}

impl NodeAddresses {
    fn of(selector: &Selector, inventory: &Inventory, owners: &AddressOwners) -> Self {
        let mut found = Self::default();
        for node in inventory.nodes.values() {
            match selector.matches(&node.labels) {
                Match::No => {}
                Match::Unknown => found.unknown.extend(addresses(node, owners)),
                Match::Yes => found.certain.extend(addresses(node, owners)),
            }
        }
        found
    }
}

impl ChangedNodes {
    /// Whether the policy selects peers by ANY of the selectors.
    pub(crate) fn concern(&self, policy: &PolicySpec) -> bool {
        selectors(policy).any(|selector| self.selectors.contains(selector))
    }
}

/// The node's own addresses (semantics 21) and those that its object reports, in canonical form.
fn addresses<'a>(node: &'a Node, owners: &'a AddressOwners) -> impl Iterator<Item = IpAddr> + 'a {
    let has_pod = |address: &IpAddr| owners.owner(key_of(address.to_canonical())).is_some();
    let implied = node.implied_addresses().filter(move |address| !has_pod(address));
    let known = node.addresses.iter().chain(&node.reported_addresses).copied();
    known.chain(implied).map(|address| address.to_canonical())
}

/// The selectors of nodes in a policy.
fn selectors(policy: &PolicySpec) -> impl Iterator<Item = &Selector> {
    let peers = policy.ingress.iter().chain(&policy.egress).flat_map(|rule| rule.peers.iter().flatten());
    peers.filter_map(|peer| match peer {
        Peer::Nodes(selector) => Some(selector),
        Peer::Pods { .. } | Peer::Block(_) | Peer::Nothing => None,
    })
}
