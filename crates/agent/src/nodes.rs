//! Messages about a node that is missing in the source, or whose pod CIDR is unknown.

use policy::Inventory;

/// How many nodes a message names at most.
const NAMED: usize = 5;

/// The nodes of a source, except `node`: `it has 2: node-a, node-b`.
pub(crate) fn others(node: &str, inventory: &Inventory) -> String {
    let others: Vec<&str> = inventory.nodes.keys().map(AsRef::as_ref).filter(|name| *name != node).collect();
    let names = others.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match others.len() {
        0 => "it has none".to_owned(),
        number if number > NAMED => format!("it has {number}: {names}, ..."),
        number => format!("it has {number}: {names}"),
    }
}

/// Why the pod CIDR of `node` is unknown, and what to do.
pub(crate) fn without_pod_cidr(node: &str, inventory: &Inventory) -> String {
    if inventory.nodes.contains_key(node) {
        return format!(
            "the pod CIDR of node {node} is unknown: its Node has no spec.podCIDRs: set them, or use \
             --pod-cidr"
        );
    }
    let others = others(node, inventory);
    format!(
        "the pod CIDR of node {node} is unknown: the source has no such Node ({others}): correct --node, or \
         use --pod-cidr"
    )
}

#[cfg(test)]
mod tests {
    use policy::{Change, Labels, Node};

    use super::*;

    fn with_nodes(number: usize) -> Inventory {
        let mut inventory = Inventory::default();
        for n in 0..number {
            inventory.apply(Change::Node(Node {
                name: format!("n{n}").into(),
                labels: Labels::none(),
                addresses: Vec::new(),
                pod_cidrs: Vec::new(),
                has_all_addresses: false,
                reported_addresses: Vec::new(),
            }));
        }
        inventory
    }

    #[test]
    fn a_message_about_a_missing_node_names_at_most_five_others() {
        for (number, expected) in [
            (0, "it has none"),
            (1, "it has 1: n0"),
            (5, "it has 5: n0, n1, n2, n3, n4"),
            (7, "it has 7: n0, n1, n2, n3, n4, ..."),
        ] {
            assert_eq!(others("x", &with_nodes(number)), expected);
            let why = without_pod_cidr("x", &with_nodes(number));
            assert!(
                why.contains(&format!("the source has no such Node ({expected}): correct --node")),
                "{why}"
            );
        }
        assert_eq!(others("n0", &with_nodes(2)), "it has 1: n1");
    }

    #[test]
    fn a_node_without_pod_cidrs_is_not_reported_as_missing() {
        let why = without_pod_cidr("n1", &with_nodes(2));
        assert_eq!(
            why,
            "the pod CIDR of node n1 is unknown: its Node has no spec.podCIDRs: set them, or use --pod-cidr"
        );
    }
}
