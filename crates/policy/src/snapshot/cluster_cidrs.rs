//! The pod CIDRs of all nodes: whether an address that no known pod has is one that pods are given.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::snapshot::address::Address;
use crate::snapshot::trie::{Bits, Trie, Tries};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterCidrs {
    /// 1 inside of a CIDR and 0 outside.
    tries: Tries,
}

impl ClusterCidrs {
    /// Of these CIDRs, in any order; host bits are ignored.
    pub(crate) fn new<'a>(cidrs: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let cidrs: BTreeSet<IpNet> = cidrs.into_iter().map(IpNet::trunc).collect();
        let (ipv4, ipv6) = cidrs.into_iter().partition(|cidr| cidr.addr().is_ipv4());
        let ipv4 = trie(Ipv4Net::default().into(), ipv4);
        Self { tries: Tries { ipv4, ipv6: trie(Ipv6Net::default().into(), ipv6) } }
    }

    /// Whether ANY of the CIDRs holds `address`.
    #[inline]
    pub(crate) fn contains(&self, address: impl Address) -> bool {
        self.tries.longest_prefix(address) == Some(1)
    }
}

/// `everything` is the empty prefix of the family.
fn trie<B: Bits>(everything: IpNet, cidrs: BTreeSet<IpNet>) -> Option<Trie<B>> {
    let around = (everything, u32::from(cidrs.contains(&everything)));
    let inner = cidrs.iter().filter(|cidr| **cidr != everything).map(|cidr| (*cidr, 1));
    (!cidrs.is_empty()).then(|| Trie::new(&[around].into_iter().chain(inner).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[track_caller]
    fn holds(cidrs: &[&str], inside: &[&str], outside: &[&str]) {
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let cluster = ClusterCidrs::new(&cidrs);
        for (addresses, expected) in [(inside, true), (outside, false)] {
            for text in addresses {
                let address: IpAddr = text.parse().unwrap();
                assert_eq!(cluster.contains(address), expected, "{text} in {cidrs:?}");
            }
        }
    }

    #[test]
    fn an_address_is_the_clusters_if_any_node_gives_it_to_pods() {
        holds(
            &["10.244.2.0/24", "10.244.1.7/24", "10.244.2.0/25", "fd00:2::/64"],
            &["10.244.1.0", "10.244.1.255", "10.244.2.1", "10.244.2.200", "fd00:2::1"],
            &["10.244.0.255", "10.244.3.0", "192.0.2.1", "fd00:1::1", "::1"],
        );
        holds(&["10.244.1.0/24"], &["10.244.1.9"], &["fd00:1::1"]);
        holds(&["0.0.0.0/0"], &["192.0.2.1"], &["fd00:1::1"]);
        holds(&[], &[], &["10.244.1.1", "::1"]);
    }
}
