//! A prefix trie that never changes: each step goes four bits down, and a leaf already says what the longest prefix says.
//!
//! The field's own crate needs some 40 ns for an address; this one needs a load for every four bits below the prefix that
//! all blocks share.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::snapshot::hosts::{AddressKey, is_ipv4};
use crate::snapshot::ports::PortsId;

/// Bits that one step goes down.
const STEP: u32 = 4;

/// Marks an entry as a leaf; the other bits are its value. Without it they are the next node's place.
const LEAF: u32 = 1 << 31;

/// Those of both families.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tries {
    /// `None` if nothing is known of the family.
    pub ipv4: Option<Trie>,
    /// Likewise.
    pub ipv6: Option<Trie>,
}

impl Tries {
    /// The value of the longest prefix of `address`.
    #[inline]
    pub(crate) fn longest_prefix(&self, address: AddressKey) -> Option<PortsId> {
        let (trie, bits) = if is_ipv4(address) { (&self.ipv4, address << 96) } else { (&self.ipv6, address) };
        Some(trie.as_ref()?.longest_prefix(bits))
    }
}

/// See the module. All its addresses are of one family.
#[derive(Clone, Debug)]
pub(crate) struct Trie {
    /// The root is the first. Each has an entry for every value of the next four bits.
    nodes: Vec<[u32; 1 << STEP]>,
    /// What all prefixes but the empty one begin with, in the high bits.
    shared: u128,
    /// How many bits that is: a multiple of [`STEP`].
    shared_bits: u32,
    /// Which bits these are.
    shared_mask: u128,
    /// For addresses that begin otherwise.
    elsewhere: PortsId,
}

impl Trie {
    /// Builds a trie from values below 2^31. Prefixes come sorted, outer ones first; the first is the empty one.
    pub(crate) fn new(prefixes: &[(IpNet, PortsId)]) -> Self {
        let elsewhere = prefixes.first().map_or(0, |(_, value)| *value);
        let inner = prefixes.get(1..).unwrap_or_default();
        let shared = inner.first().map_or(0, |(prefix, _)| bits_of(prefix.network()));
        let shared_bits = inner
            .iter()
            .map(|(prefix, _)| {
                (shared ^ bits_of(prefix.network())).leading_zeros().min(prefix.prefix_len().into())
            })
            .min()
            // At least one bit stays for the last step.
            .map_or(0, |bits| bits.saturating_sub(1) / STEP * STEP);
        let shared_mask = !(u128::MAX >> shared_bits);
        let nodes = vec![[LEAF | elsewhere; 1 << STEP]];
        let mut trie = Self { nodes, shared, shared_bits, shared_mask, elsewhere };
        for (prefix, value) in inner {
            trie.insert(
                bits_of(prefix.network()) << shared_bits,
                u32::from(prefix.prefix_len()) - shared_bits,
                *value,
            );
        }
        trie
    }

    /// The value of the longest prefix of an address, which is in the high bits.
    #[inline]
    fn longest_prefix(&self, mut bits: u128) -> PortsId {
        if (bits ^ self.shared) & self.shared_mask != 0 {
            return self.elsewhere;
        }
        bits <<= self.shared_bits;
        let mut node = 0;
        loop {
            let entry = self.nodes[node][top(bits)];
            if entry & LEAF != 0 {
                return entry & !LEAF;
            }
            node = entry as usize;
            bits <<= STEP;
        }
    }

    fn insert(&mut self, mut bits: u128, mut length: u32, value: PortsId) {
        let mut node = 0;
        while length > STEP {
            let entry = self.nodes[node][top(bits)];
            node = if entry & LEAF == 0 {
                entry as usize
            } else {
                // What held for the whole of the leaf holds for all of it still, until something below says otherwise.
                self.nodes.push([entry; 1 << STEP]);
                let below = self.nodes.len() - 1;
                self.nodes[node][top(bits)] = below as u32;
                below
            };
            bits <<= STEP;
            length -= STEP;
        }
        let span = 1 << (STEP - length);
        let from = top(bits) / span * span;
        self.nodes[node][from..from + span].fill(LEAF | value);
    }
}

/// The next four bits.
#[inline]
fn top(bits: u128) -> usize {
    (bits >> (u128::BITS - STEP)) as usize
}

/// An address in the high bits.
#[inline]
fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a trie in which every prefix has its own number.
    fn trie(prefixes: &[&str]) -> Trie {
        let values: Vec<(IpNet, PortsId)> =
            prefixes.iter().map(|prefix| prefix.parse().unwrap()).zip(0..).collect();
        assert!(values.is_sorted_by_key(|(prefix, _)| *prefix));
        Trie::new(&values)
    }

    #[track_caller]
    fn finds(trie: &Trie, address: &str, value: PortsId) {
        assert_eq!(trie.longest_prefix(bits_of(address.parse().unwrap())), value, "{address}");
    }

    #[test]
    fn the_longest_prefix_decides() {
        let trie =
            trie(&["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/23", "10.1.2.3/32", "10.128.0.0/9"]);
        for (address, value) in [
            ("9.255.255.255", 0),
            ("10.0.0.0", 1),
            ("10.1.0.0", 2),
            ("10.1.1.255", 2),
            ("10.1.2.2", 3),
            ("10.1.2.3", 4),
            ("10.1.3.255", 3),
            ("10.1.4.0", 2),
            ("10.2.0.0", 1),
            ("10.127.255.255", 1),
            ("10.128.0.0", 5),
            ("10.255.255.255", 5),
            ("11.0.0.0", 0),
            ("0.0.0.0", 0),
            ("255.255.255.255", 0),
        ] {
            finds(&trie, address, value);
        }
        assert_eq!(trie.shared_bits, 4);
    }

    #[test]
    fn one_prefix_of_any_length_is_found() {
        for length in 1..=32 {
            let prefix = ipnet::Ipv4Net::new([10, 170, 85, 201].into(), length).unwrap().trunc();
            let trie = trie(&["0.0.0.0/0", &prefix.to_string()]);
            finds(&trie, &prefix.network().to_string(), 1);
            finds(&trie, &prefix.broadcast().to_string(), 1);
            let before = u32::from(prefix.network()).wrapping_sub(1);
            let after = u32::from(prefix.broadcast()).wrapping_add(1);
            finds(&trie, &std::net::Ipv4Addr::from(before).to_string(), 0);
            finds(&trie, &std::net::Ipv4Addr::from(after).to_string(), 0);
        }
    }

    #[test]
    fn ipv6_goes_down_to_the_last_bit() {
        let trie = trie(&["::/0", "fd00:1::/64", "fd00:1::2/128", "fd00:1:0:1::/64"]);
        for (address, value) in
            [("fd00:1::1", 1), ("fd00:1::2", 2), ("fd00:1::3", 1), ("fd00:1:0:1::9", 3), ("fd00:1:0:2::", 0)]
        {
            finds(&trie, address, value);
        }
    }

    #[test]
    fn the_empty_prefix_alone_holds_everywhere() {
        finds(&trie(&["0.0.0.0/0"]), "10.0.0.1", 0);
    }
}
