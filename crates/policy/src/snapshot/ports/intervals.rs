//! Disjoint intervals that together cover every port, each with its first rule, as words of a table.
//!
//! A few intervals are stored as pairs of start and rule, and searched. Many intervals are stored with an
//! index, so that a lookup takes four loads regardless of their number. The index says which of the 1,024
//! blocks of 64 neighbouring ports contain the start of an interval, and which ports of such a block are
//! starts. The number of starts up to a port is the position of its rule in the list of rules.

use super::port_set::{NO_RULE, PortRange, RuleIndex};
use crate::snapshot::ids::number_of;

/// The most intervals that are searched: they fit into two cache lines.
const FEW: usize = 16;

/// Words of an interval that is searched: start and rule.
const INTERVAL_WORDS: usize = 2;

/// Ports per block.
const BLOCK: usize = 64;
/// Words of a block that contains a start: which of its ports are starts, low ones first, and the position of
/// the rule of the first of them.
const BLOCK_WORDS: usize = 3;

/// Blocks per group.
const GROUP: usize = 32;
/// Words of a group: which of its blocks contain a start, and how many such blocks come before the group.
const GROUP_WORDS: usize = 2;
const GROUPS: usize = (u16::MAX as usize + 1) / (BLOCK * GROUP);
const INDEX_WORDS: usize = GROUPS * GROUP_WORDS;

/// The rule of the interval that contains `port`, among the `count` intervals at the start of `words`.
#[inline(always)]
pub(super) fn rule_at(words: &[u32], count: usize, port: u16) -> RuleIndex {
    if count > FEW {
        return indexed(words, port);
    }
    let (intervals, _) = words[..count * INTERVAL_WORDS].as_chunks::<INTERVAL_WORDS>();
    // The standard library's binary search compiles to code without unpredictable branches. The first
    // interval starts at 0, so at least one starts at or before the port.
    let after = intervals.partition_point(|[start, _]| *start <= u32::from(port));
    RuleIndex(intervals[after - 1][1])
}

#[inline(always)]
fn indexed(words: &[u32], port: u16) -> RuleIndex {
    let (block, port) = (usize::from(port) / BLOCK, usize::from(port) % BLOCK);
    let group = block / GROUP * GROUP_WORDS;
    let (held, before) = (words[group], words[group + 1]);
    let bit = 1 << (block % GROUP);
    let position = INDEX_WORDS + (before + (held & (bit - 1)).count_ones()) as usize * BLOCK_WORDS;
    let starts = u64::from(words[position]) | u64::from(words[position + 1]) << 32;
    // A block without a start belongs to the last interval before it. The index is then that of the next
    // block.
    let starts = if held & bit == 0 { 0 } else { starts & (u64::MAX >> (BLOCK - 1 - port)) };
    RuleIndex(words[(words[position + 2] + starts.count_ones() - 1) as usize])
}

/// The ports of one protocol.
pub(super) struct Intervals {
    /// For packets without a port.
    pub portless: RuleIndex,
    /// The start of each interval, ascending from 0, and its first rule.
    starts: Vec<(u16, RuleIndex)>,
}

impl Intervals {
    /// Compiles ranges, which come in ascending order of rules: the first rule of a port keeps it.
    pub(super) fn compile(ranges: impl Iterator<Item = (RuleIndex, PortRange)>) -> Self {
        let mut portless = NO_RULE;
        let mut segments: Vec<(RuleIndex, u32, u32)> = Vec::new();
        for (rule, range) in ranges {
            if range.portless && portless == NO_RULE {
                portless = rule;
            }
            segments.push((rule, u32::from(range.first), u32::from(range.last) + 1));
            if range.first == 0 && range.last == u16::MAX && range.portless {
                break; // Nothing after this rule can be first anywhere.
            }
        }
        // Most peers have one rule or none for a protocol.
        if segments.len() <= 1 {
            return Self { portless, starts: starts_of_one(segments.first().copied()) };
        }
        let mut bounds: Vec<u32> =
            segments.iter().flat_map(|(_, from, to)| [*from, *to]).chain([0]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let position = |bound: u32| bounds.partition_point(|b| *b < bound);
        let mut assigned = vec![NO_RULE; bounds.len()];
        // For each interval, the next one at or after it without a rule: a union-find structure.
        let mut unassigned: Vec<usize> = (0..=bounds.len()).collect();
        for (rule, from, to) in segments {
            let end = position(to);
            let mut at = find_root(&mut unassigned, position(from));
            while at < end {
                assigned[at] = rule;
                unassigned[at] = at + 1;
                at = find_root(&mut unassigned, at + 1);
            }
        }
        // Starts past the last port are dropped, and neighbours with the same rule are merged.
        let mut starts: Vec<(u16, RuleIndex)> = bounds
            .into_iter()
            .zip(assigned)
            .filter_map(|(start, rule)| Some((u16::try_from(start).ok()?, rule)))
            .collect();
        starts.dedup_by_key(|(_, rule)| *rule);
        Self { portless, starts }
    }

    /// How many intervals there are: at least one.
    pub(super) fn count(&self) -> usize {
        self.starts.len()
    }

    /// Appends the words that [`rule_at`] reads.
    pub(super) fn append(&self, words: &mut Vec<u32>) {
        if self.starts.len() <= FEW {
            words.extend(self.starts.iter().flat_map(|(start, rule)| [u32::from(*start), rule.0]));
            return;
        }
        let block_of = |start: u16| usize::from(start) / BLOCK;
        let blocks: Vec<&[(u16, RuleIndex)]> =
            self.starts.chunk_by(|(a, _), (b, _)| block_of(*a) == block_of(*b)).collect();
        let mut groups = [[0_u32; GROUP_WORDS]; GROUPS];
        for block in &blocks {
            let block = block_of(block[0].0);
            groups[block / GROUP][0] |= 1 << (block % GROUP);
        }
        let mut before = 0;
        for [held, so_far] in &mut groups {
            *so_far = before;
            before += held.count_ones();
        }
        words.extend(groups.as_flattened());
        // A last block marks the end.
        let mut rule = INDEX_WORDS + (blocks.len() + 1) * BLOCK_WORDS;
        for block in blocks {
            let starts =
                block.iter().fold(0, |bits, (start, _)| bits | 1_u64 << (usize::from(*start) % BLOCK));
            let [low, high] = halves(starts);
            words.extend([low, high, number_of(rule)]);
            rule += block.len();
        }
        words.extend([0, 0, number_of(rule)]);
        words.extend(self.starts.iter().map(|(_, rule)| rule.0));
    }
}

/// The lower and the higher half of a word.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// The intervals of one segment: a rule, its first port, and the port after its last.
fn starts_of_one(segment: Option<(RuleIndex, u32, u32)>) -> Vec<(u16, RuleIndex)> {
    let Some((rule, from, to)) = segment else { return vec![(0, NO_RULE)] };
    let before = (from > 0).then_some((0, NO_RULE));
    let starts = [before, Some((from, rule)), Some((to, NO_RULE))].into_iter().flatten();
    // Starts past the last port are dropped.
    starts.filter_map(|(start, rule)| Some((u16::try_from(start).ok()?, rule))).collect()
}

/// The root of a union-find element, with path halving.
fn find_root(next: &mut [usize], mut at: usize) -> usize {
    while next[at] != at {
        next[at] = next[next[at]];
        at = next[at];
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn check(starts: Vec<(u16, RuleIndex)>) {
        let intervals = Intervals { portless: NO_RULE, starts };
        let mut words = Vec::new();
        intervals.append(&mut words);
        for port in 0..=u16::MAX {
            let found = rule_at(&words, intervals.count(), port);
            let (_, rule) = intervals.starts.iter().rfind(|(start, _)| *start <= port).unwrap();
            assert_eq!(found, *rule, "port {port} of {:?}", intervals.starts);
        }
    }

    #[test]
    fn every_port_is_found_among_many_intervals() {
        let every =
            |step: usize| (0..=u16::MAX).step_by(step).map(|start| (start, RuleIndex(u32::from(start) + 1)));
        for step in [1, 7, 64, 2048, 4095, 4096, 32_768] {
            check(every(step).collect());
        }
        // All in one block, and the last port alone.
        check((0..FEW as u16 + 1).map(|start| (start, RuleIndex(5 + u32::from(start)))).collect());
        check(
            (0..FEW as u16).chain([u16::MAX]).map(|start| (start, RuleIndex(5 + u32::from(start)))).collect(),
        );
    }

    #[test]
    fn a_range_of_one_rule_is_found_from_end_to_end() {
        let last = u16::MAX;
        for (first, to) in [(0, 0), (0, 79), (80, 80), (80, last - 1), (80, last), (last, last), (0, last)] {
            let range = PortRange { protocol: None, first, last: to, portless: false };
            let intervals = Intervals::compile([(RuleIndex(7), range)].into_iter());
            let rule = |port| intervals.starts.iter().rfind(|(start, _)| *start <= port).unwrap().1;
            for port in [0, 1, 79, 80, 81, last - 1, last] {
                let expected = if (first..=to).contains(&port) { RuleIndex(7) } else { NO_RULE };
                assert_eq!(rule(port), expected, "port {port} of {first}-{to}");
            }
        }
        assert_eq!(Intervals::compile(std::iter::empty()).starts, [(0, NO_RULE)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_port_is_found(starts in btree_map(any::<u16>(), (0_u32..9).prop_map(RuleIndex), 0..100)) {
            check([(0, NO_RULE)].into_iter().chain(starts.into_iter().filter(|(start, _)| *start > 0)).collect());
        }
    }
}
