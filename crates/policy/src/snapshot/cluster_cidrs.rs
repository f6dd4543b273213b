//! The pod CIDRs of all nodes: whether an address can be a pod's, and on which node.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::snapshot::address::Address;
use crate::snapshot::ids::NodeId;
use crate::snapshot::trie::{Bits, Trie, Tries, Value};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterCidrs {
    /// The value is the number of the node plus 1 inside of its CIDRs, and 0 outside.
    tries: Tries,
}

/// CIDRs of one family, without host bits, and their values in the trie.
type Values = BTreeMap<IpNet, Value>;

/// The value of addresses outside of all CIDRs.
const OUTSIDE: Value = Value(0);

impl ClusterCidrs {
    /// Builds the tries; host bits are ignored. If several nodes have the same CIDR, the first counts.
    pub(crate) fn new<'a>(cidrs: impl IntoIterator<Item = (&'a IpNet, NodeId)>) -> Self {
        let mut values = Values::new();
        for (cidr, node) in cidrs {
            values.entry(cidr.trunc()).or_insert(Value(node.0 + 1));
        }
        let (ipv4, ipv6) = values.into_iter().partition(|(cidr, _)| cidr.addr().is_ipv4());
        let ipv4 = trie(Ipv4Net::default().into(), ipv4);
        Self { tries: Tries { ipv4, ipv6: trie(Ipv6Net::default().into(), ipv6) } }
    }

    /// Whether ANY of the CIDRs contains `address`.
    #[inline]
    pub(crate) fn contains(&self, address: impl Address) -> bool {
        self.tries.longest_prefix(address).unwrap_or(OUTSIDE) != OUTSIDE
    }

    /// The node with the longest CIDR that contains `address`.
    pub(crate) fn node(&self, address: impl Address) -> Option<NodeId> {
        self.tries.longest_prefix(address)?.0.checked_sub(1).map(NodeId)
    }
}

/// `everything` is the empty prefix of the family.
fn trie<B: Bits>(everything: IpNet, values: Values) -> Option<Trie<B>> {
    let around = (everything, values.get(&everything).copied().unwrap_or(OUTSIDE));
    let inner = values.iter().filter(|(cidr, _)| **cidr != everything).map(|(cidr, value)| (*cidr, *value));
    (!values.is_empty()).then(|| Trie::new(&[around].into_iter().chain(inner).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[track_caller]
    fn holds(cidrs: &[&str], inside: &[&str], outside: &[&str]) {
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let cluster = ClusterCidrs::new(cidrs.iter().zip((0..).map(NodeId)));
        for (addresses, expected) in [(inside, true), (outside, false)] {
            for text in addresses {
                let address: IpAddr = text.parse().unwrap();
                assert_eq!(cluster.contains(address), expected, "{text} in {cidrs:?}");
            }
        }
    }

    #[test]
    fn an_address_is_in_the_cluster_if_any_node_gives_it_to_pods() {
        holds(
            &["10.244.2.0/24", "10.244.1.7/24", "10.244.2.0/25", "fd00:2::/64"],
            &["10.244.1.0", "10.244.1.255", "10.244.2.1", "10.244.2.200", "fd00:2::1"],
            &["10.244.0.255", "10.244.3.0", "192.0.2.1", "fd00:1::1", "::1"],
        );
        holds(&["10.244.1.0/24"], &["10.244.1.9"], &["fd00:1::1"]);
        holds(&["0.0.0.0/0"], &["192.0.2.1"], &["fd00:1::1"]);
        holds(&[], &[], &["10.244.1.1", "::1"]);
    }

    #[test]
    fn the_longest_cidr_decides_the_node_and_among_equal_ones_the_first() {
        let cidrs = ["10.244.0.0/16", "10.244.2.0/24", "10.244.2.7/24", "fd00:2::/64"];
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let cluster = ClusterCidrs::new(cidrs.iter().zip((0..).map(NodeId)));
        for (text, node) in
            [("10.244.1.1", Some(0)), ("10.244.2.1", Some(1)), ("fd00:2::1", Some(3)), ("192.0.2.1", None)]
        {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(cluster.node(address), node.map(NodeId), "{text}");
        }
    }
}
