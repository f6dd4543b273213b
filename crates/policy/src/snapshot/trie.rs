//! An immutable prefix trie from addresses to values. Its first step consumes as many bits as its prefixes
//! fill, each further step four. A leaf holds the value of the longest prefix, so a lookup never backtracks.
//!
//! A general-purpose trie crate takes about 40 ns per address. This trie takes one or two loads below the
//! prefix that all prefixes share.
//!
//! A step takes 64 bytes, and a long isolated prefix takes many steps. If a trie would have more than
//! [`MOST_ENTRIES`], everything below the first step is stored as runs of sorted intervals instead
//! ([`Runs`]): at most two intervals per prefix, found by binary search.

mod bits;
mod runs;

use std::sync::Arc;

use ipnet::IpNet;

use self::bits::FIRST_STEP;
pub(crate) use self::bits::{Bits, Value};
use self::runs::Runs;
use crate::snapshot::address::{Address, AddressBits};
use crate::snapshot::ids::number_of;

/// Bits that a step below the first consumes.
const STEP: u32 = 4;

/// The most entries of the first step for each prefix. Steps below a prefix take several times as much.
const ENTRIES_OF_A_PREFIX: usize = 8;

/// The most entries of a trie without runs: 256 KiB.
const MOST_ENTRIES: usize = 1 << 16;

/// Marks an entry as a leaf; the other bits are its value.
const LEAF: u32 = 1 << 31;

/// Marks a leaf that holds the number of a run.
const RUN: u32 = 1 << 30;

/// The tries of both families.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tries {
    /// `None` if the family has no prefixes.
    pub ipv4: Option<Trie<u32>>,
    /// `None` if the family has no prefixes.
    pub ipv6: Option<Trie<u128>>,
}

impl Tries {
    /// The value of the longest prefix of `address`.
    #[inline(always)]
    pub(crate) fn longest_prefix(&self, address: impl Address) -> Option<Value> {
        match address.bits() {
            AddressBits::Ipv4(bits) => Some(self.ipv4.as_ref()?.longest_prefix(bits)),
            AddressBits::Ipv6(bits) => Some(self.ipv6.as_ref()?.longest_prefix(bits)),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Trie<B> {
    /// The bits that all prefixes but the empty one begin with.
    shared: B,
    /// The number of these bits: a multiple of [`STEP`].
    shared_bits: u32,
    /// The mask of these bits.
    shared_mask: B,
    /// The value of addresses that begin with other bits.
    elsewhere: Value,
    /// The bits that the first step consumes: a multiple of [`STEP`], at least one.
    first_step: u32,
    /// An entry for every value of the bits of the first step, then 16 for each further step. An entry is a
    /// leaf, or the start of the entries of the next step.
    entries: Arc<[u32]>,
    /// If there are runs, every entry of the first step is a leaf.
    runs: Option<Arc<Runs<B>>>,
}

impl<B: Bits> Trie<B> {
    /// Builds a trie. Values are below 2^30. Prefixes are of one family and sorted, outer ones first. The
    /// first is the empty prefix.
    pub(crate) fn new(prefixes: &[(IpNet, Value)]) -> Self {
        let elsewhere = prefixes.first().map_or(Value(0), |(_, value)| *value);
        let inner = prefixes.get(1..).unwrap_or_default();
        let shared = inner.first().map_or(B::NONE, |(prefix, _)| B::of(prefix.network()));
        let shared_bits = inner
            .iter()
            .map(|(prefix, _)| shared.common(B::of(prefix.network())).min(prefix.prefix_len().into()))
            .min()
            // At least one bit is left for the first step.
            .map_or(0, |bits| bits.saturating_sub(1) / STEP * STEP);
        let shared_mask = if shared_bits == 0 { B::NONE } else { !B::NONE << (B::NUMBER - shared_bits) };
        let widest = FIRST_STEP.min(B::NUMBER - shared_bits);
        let first_step = (inner.len().saturating_mul(ENTRIES_OF_A_PREFIX).max(1).ilog2() / STEP * STEP)
            .clamp(STEP, widest);
        let mut trie = Self {
            shared,
            shared_bits,
            shared_mask,
            elsewhere,
            first_step,
            entries: Arc::default(),
            runs: None,
        };
        match trie.steps(inner) {
            Some(entries) => trie.entries = entries.into(),
            None => {
                trie.first_step = widest;
                trie.set_runs(prefixes);
            }
        }
        trie
    }

    /// The entries for these prefixes; `None` if there would be more than [`MOST_ENTRIES`].
    fn steps(&self, inner: &[(IpNet, Value)]) -> Option<Vec<u32>> {
        let mut entries = vec![LEAF | self.elsewhere.0; 1 << self.first_step];
        for (prefix, value) in inner {
            let length = u32::from(prefix.prefix_len()) - self.shared_bits;
            self.insert(&mut entries, B::of(prefix.network()) << self.shared_bits, length, *value);
            if entries.len() > MOST_ENTRIES {
                return None;
            }
        }
        Some(entries)
    }

    /// Builds the first step from runs of the intervals of these prefixes.
    fn set_runs(&mut self, prefixes: &[(IpNet, Value)]) {
        let intervals = runs::intervals(prefixes);
        let mut runs = Runs::default();
        let beginning = |block: usize| {
            (B::with_first(number_of(block), self.first_step) >> self.shared_bits)
                | (self.shared & self.shared_mask)
        };
        // The interval that contains the first address of the block.
        let mut at = 0;
        let entries = (0..1 << self.first_step).map(|block| {
            let begin = beginning(block);
            while intervals.get(at + 1).is_some_and(|(start, _)| *start <= begin) {
                at += 1;
            }
            let is_inside = |(start, _): &&(B, Value)| {
                (*start ^ self.shared) & self.shared_mask == B::NONE
                    && (*start << self.shared_bits).first(self.first_step) == block
            };
            let more = intervals[at + 1..].iter().take_while(is_inside).count();
            match (more, intervals[at].1) {
                (0, value) => LEAF | value.0,
                (_, value) => LEAF | RUN | runs.push(begin, value, &intervals[at + 1..=at + more]),
            }
        });
        self.entries = entries.collect();
        self.runs = Some(Arc::new(runs));
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.entries) + self.runs.as_ref().map_or(0, |runs| runs.bytes())
    }

    /// The value of the longest prefix of an address.
    #[inline(always)]
    fn longest_prefix(&self, address: B) -> Value {
        if (address ^ self.shared) & self.shared_mask != B::NONE {
            return self.elsewhere;
        }
        let mut bits = address << self.shared_bits;
        let mut entry = self.entries[bits.first(self.first_step)];
        bits <<= self.first_step;
        while entry & LEAF == 0 {
            entry = self.entries[entry as usize + bits.first(STEP)];
            bits <<= STEP;
        }
        if entry & RUN == 0 { Value(entry & !LEAF) } else { self.in_run(entry & !(LEAF | RUN), address) }
    }

    #[cold]
    fn in_run(&self, run: u32, address: B) -> Value {
        self.runs.as_ref().map_or(self.elsewhere, |runs| runs.find(run, address))
    }

    fn insert(&self, entries: &mut Vec<u32>, mut bits: B, mut length: u32, value: Value) {
        let (mut begin, mut step) = (0, self.first_step);
        while length > step {
            let position = begin + bits.first(step);
            let entry = entries[position];
            begin = if entry & LEAF == 0 {
                entry as usize
            } else {
                // The new step inherits the leaf's value; longer prefixes overwrite it.
                let below = entries.len();
                entries.resize(below + (1 << STEP), entry);
                entries[position] = number_of(below);
                below
            };
            bits <<= step;
            length -= step;
            step = STEP;
        }
        let span = 1 << (step - length);
        let from = begin + bits.first(step) / span * span;
        entries[from..from + span].fill(LEAF | value.0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// Builds a trie that numbers its prefixes.
    fn trie<B: Bits>(prefixes: &[&str]) -> Trie<B> {
        let values: Vec<(IpNet, Value)> =
            prefixes.iter().map(|prefix| prefix.parse().unwrap()).zip((0..).map(Value)).collect();
        assert!(values.is_sorted_by_key(|(prefix, _)| *prefix));
        Trie::new(&values)
    }

    #[track_caller]
    fn finds<B: Bits>(trie: &Trie<B>, address: &str, value: u32) {
        assert_eq!(trie.longest_prefix(B::of(address.parse().unwrap())), Value(value), "{address}");
    }

    #[test]
    fn the_longest_prefix_decides() {
        let trie: Trie<u32> =
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
            let trie: Trie<u32> = trie(&["0.0.0.0/0", &prefix.to_string()]);
            finds(&trie, &prefix.network().to_string(), 1);
            finds(&trie, &prefix.broadcast().to_string(), 1);
            let before = u32::from(prefix.network()).wrapping_sub(1);
            let after = u32::from(prefix.broadcast()).wrapping_add(1);
            finds(&trie, &std::net::Ipv4Addr::from(before).to_string(), 0);
            finds(&trie, &std::net::Ipv4Addr::from(after).to_string(), 0);
        }
    }

    #[test]
    fn the_first_step_is_as_wide_as_the_prefixes_fill() {
        let networks: Vec<String> = (0..1_000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
        let mut prefixes = vec!["0.0.0.0/0"];
        prefixes.extend(networks.iter().map(String::as_str));
        let trie: Trie<u32> = trie(&prefixes);
        assert_eq!(
            (trie.shared_bits, trie.first_step, trie.entries.len()),
            (12, 12, 1 << 12),
            "one load finds each"
        );
        for (address, value) in
            [("10.0.0.9", 1), ("10.3.231.255", 1_000), ("10.3.232.0", 0), ("10.255.0.0", 0), ("11.0.0.0", 0)]
        {
            finds(&trie, address, value);
        }
        let one_in_each: Vec<String> = (0..64).map(|n| format!("10.0.{n}.{n}/32")).collect();
        let mut prefixes = vec!["0.0.0.0/0"];
        prefixes.extend(one_in_each.iter().map(String::as_str));
        let trie: Trie<u32> = super::tests::trie(&prefixes);
        assert_eq!((trie.shared_bits, trie.first_step), (16, 8));
        for (address, value) in [("10.0.0.0", 1), ("10.0.63.63", 64), ("10.0.63.62", 0), ("10.0.64.64", 0)] {
            finds(&trie, address, value);
        }
    }

    #[test]
    fn ipv6_goes_down_to_the_last_bit() {
        let trie: Trie<u128> = trie(&["::/0", "fd00:1::/64", "fd00:1::2/128", "fd00:1:0:1::/64"]);
        for (address, value) in
            [("fd00:1::1", 1), ("fd00:1::2", 2), ("fd00:1::3", 1), ("fd00:1:0:1::9", 3), ("fd00:1:0:2::", 0)]
        {
            finds(&trie, address, value);
        }
    }

    #[test]
    fn prefixes_that_would_take_many_steps_are_stored_as_runs() {
        // Each IPv6 address alone would take 28 steps of 64 bytes.
        let mut prefixes: Vec<IpNet> = (0..4_000_u128)
            .map(|n| {
                IpNet::from(std::net::IpAddr::from(
                    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 61 | n << 3).to_be_bytes(),
                ))
            })
            .collect();
        prefixes.extend(["::/0", "2000::/3", "2000::/4"].map(|net| net.parse::<IpNet>().unwrap()));
        prefixes.sort_unstable();
        prefixes.dedup();
        let values: Vec<(IpNet, Value)> = prefixes.iter().copied().zip((0..).map(Value)).collect();
        let trie = Trie::<u128>::new(&values);
        assert!(trie.runs.is_some() && trie.bytes() < 600_000, "{} bytes", trie.bytes());
        let longest = |address: IpAddr| {
            values
                .iter()
                .filter(|(net, _)| net.contains(&address))
                .max_by_key(|(net, _)| net.prefix_len())
                .unwrap()
                .1
        };
        for net in prefixes.iter().step_by(7) {
            let begin: u128 = u128::of(net.network());
            for bits in [begin.wrapping_sub(1), begin, begin.wrapping_add(1), u128::of(net.broadcast())] {
                let address = IpAddr::V6(bits.into());
                assert_eq!(trie.longest_prefix(bits), longest(address), "{address}");
            }
        }
    }

    #[test]
    fn the_empty_prefix_alone_holds_everywhere() {
        finds::<u32>(&trie(&["0.0.0.0/0"]), "10.0.0.1", 0);
    }
}
