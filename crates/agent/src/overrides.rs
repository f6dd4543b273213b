//! Overrides fields of this node's Node object: the pod CIDRs by `--pod-cidr`, and the addresses by those of
//! its interfaces.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::{Change, Inventory, Labels, Node};

/// Overrides the pod CIDRs and addresses of this node, even if it has no Node object.
#[derive(Clone, Debug)]
pub(crate) struct PodCidrs {
    /// The node of this agent.
    node: Arc<str>,
    /// The pod CIDRs; if empty, those of the Node object apply.
    cidrs: Vec<IpNet>,
    /// The addresses of its interfaces; `None` before they were read.
    own: Option<Vec<IpAddr>>,
}

impl PodCidrs {
    /// Overrides for `node`. Without CIDRs, those of the Node object apply.
    pub(crate) fn new(node: Arc<str>, cidrs: Vec<IpNet>) -> Self {
        Self { node, cidrs, own: None }
    }

    /// Sets the addresses of the node's interfaces. Returns the change of the node, if there is any; `None`
    /// while the node is not known.
    pub(crate) fn set_own_addresses(&mut self, own: Vec<IpAddr>, inventory: &Inventory) -> Option<Change> {
        self.own = Some(own);
        let before = inventory.nodes.get(&self.node)?;
        let next = self.with_own_addresses(before.clone());
        (next != *before).then_some(Change::Node(next))
    }

    /// Replaces the node's addresses by those of its interfaces, which are complete. Keeps those that its
    /// object reports, since rules select nodes by them too.
    fn with_own_addresses(&self, mut node: Node) -> Node {
        if let Some(own) = &self.own {
            if !node.has_all_addresses {
                node.reported_addresses = std::mem::take(&mut node.addresses);
            }
            (node.addresses, node.has_all_addresses) = (own.clone(), true);
        }
        node
    }

    /// The change that must precede those of the source: the node with the pod CIDRs of the command line, if
    /// there are any.
    pub(crate) fn first(&self) -> Option<Change> {
        (!self.cidrs.is_empty()).then(|| Change::Node(self.with(Labels::unknown(), Vec::new())))
    }

    /// A change of the source, with the overrides applied.
    pub(crate) fn apply(&self, change: Change) -> Change {
        match change {
            Change::Node(node) if *self.node == *node.name => {
                let node =
                    if self.overrides(&node.name) { self.with(node.labels, node.addresses) } else { node };
                Change::Node(self.with_own_addresses(node))
            }
            Change::NodeGone(name) if self.overrides(&name) => {
                Change::Node(self.with_own_addresses(self.with(Labels::unknown(), Vec::new())))
            }
            change => change,
        }
    }

    fn overrides(&self, node: &str) -> bool {
        !self.cidrs.is_empty() && *self.node == *node
    }

    fn with(&self, labels: Labels, addresses: Vec<IpAddr>) -> Node {
        Node {
            name: Arc::clone(&self.node),
            labels,
            addresses,
            pod_cidrs: self.cidrs.clone(),
            has_all_addresses: false,
            reported_addresses: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str) -> Change {
        let cidr = cidr.parse().expect("CIDR");
        Change::Node(Node {
            name: name.into(),
            labels: [("pool", "edge")].into_iter().collect(),
            addresses: vec![[192, 0, 2, 1].into()],
            pod_cidrs: vec![cidr],
            has_all_addresses: false,
            reported_addresses: Vec::new(),
        })
    }

    #[test]
    fn the_flag_overrides_this_node_and_no_other() {
        let ours = PodCidrs::new("a".into(), vec!["10.9.0.0/24".parse().expect("CIDR")]);
        assert_eq!(ours.apply(node("a", "10.1.0.0/24")), node("a", "10.9.0.0/24"));
        assert_eq!(ours.apply(node("b", "10.2.0.0/24")), node("b", "10.2.0.0/24"));
        let Some(first) = ours.first() else { panic!("there is a first change") };
        assert_eq!(ours.apply(Change::NodeGone("a".into())), first, "the same as the first change");
        assert_eq!(ours.apply(Change::NodeGone("b".into())), Change::NodeGone("b".into()));
    }

    /// A cloud translates an ExternalIP that no interface has. Rules that select nodes match it.
    #[test]
    fn the_addresses_of_the_node_object_are_kept_beside_those_of_the_interfaces() {
        let external: IpAddr = [192, 0, 2, 1].into();
        let mut inventory = Inventory::default();
        let mut ours = PodCidrs::new("a".into(), Vec::new());
        inventory.apply(ours.apply(node("a", "10.1.0.0/24")));
        for own in [[10, 0, 0, 5], [10, 0, 0, 6], [192, 0, 2, 1], [10, 0, 0, 6]] {
            let own = vec![IpAddr::from(own)];
            let Some(change) = ours.set_own_addresses(own.clone(), &inventory) else { panic!("{own:?}") };
            inventory.apply(change);
            let found = &inventory.nodes["a"];
            assert_eq!((&found.addresses, &found.reported_addresses), (&own, &vec![external]));
            assert!(found.has_all_addresses);
        }
        let Change::Node(again) = ours.apply(node("a", "10.1.0.0/24")) else { panic!("a node") };
        assert_eq!(again, inventory.nodes["a"], "the object was read again");
    }

    #[test]
    fn without_the_flag_the_node_object_applies() {
        let none = PodCidrs::new("a".into(), Vec::new());
        assert_eq!(none.first(), None);
        assert_eq!(none.apply(node("a", "10.1.0.0/24")), node("a", "10.1.0.0/24"));
        assert_eq!(none.apply(Change::NodeGone("a".into())), Change::NodeGone("a".into()));
    }
}
