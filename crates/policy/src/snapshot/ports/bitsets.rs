//! Sets of rules as bits: the form that grows with the text of policies where precomputed ports would explode.
//!
//! A thousand rules that each leave out other addresses make a different set of rules at every address, and the ports of each such set
//! are a thousand intervals. Here a set is bits, in chunks of 512 rules. Equal chunks are stored once, and neighbouring sets differ in
//! one chunk. So a set takes at most one chunk (64 bytes) and 4 bytes per 512 rules, however many rules are in it.
//!
//! A lookup compares two sets chunk by chunk, and so costs some nanoseconds per 512 rules of the tier.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::{NO_RULE, RuleIndex};

/// Words of a chunk: a line of memory.
const WORDS: usize = 8;
/// Rules of a chunk.
const CHUNK: usize = WORDS * u64::BITS as usize;

type Chunk = [u64; WORDS];

/// A set's number in a [`Bitsets`].
pub(super) type SetId = u32;

/// The set without rules.
pub(super) const EMPTY: SetId = 0;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Bitsets {
    /// Chunks of a set: at least one.
    width: usize,
    /// Set after set, each the numbers of its chunks. The first is empty.
    sets: Vec<u32>,
    /// The first is empty.
    chunks: Vec<Chunk>,
}

impl Bitsets {
    /// For rules below `rules`.
    pub(super) fn new(rules: usize) -> Self {
        let width = rules.div_ceil(CHUNK).max(1);
        Self { width, sets: vec![0; width], chunks: vec![[0; WORDS]] }
    }

    /// A set that changes rule by rule, without any at first.
    pub(super) fn cursor(&self) -> Cursor {
        let width = self.width;
        Cursor { bits: vec![[0; WORDS]; width], chunks: vec![0; width].into(), changed: Vec::new() }
    }

    /// The first rule that is in both sets, or [`NO_RULE`].
    pub(super) fn first_of_both(&self, a: SetId, b: SetId) -> RuleIndex {
        for (place, (a, b)) in self.chunks_of(a).iter().zip(self.chunks_of(b)).enumerate() {
            // Chunk 0 is empty.
            if *a == 0 || *b == 0 {
                continue;
            }
            let (a, b) = (&self.chunks[*a as usize], &self.chunks[*b as usize]);
            let both = a.iter().zip(b).map(|(a, b)| a & b).enumerate().find(|(_, word)| *word != 0);
            if let Some((word, bits)) = both {
                let rule = place * CHUNK + word * u64::BITS as usize + bits.trailing_zeros() as usize;
                return rule as RuleIndex;
            }
        }
        NO_RULE
    }

    fn chunks_of(&self, set: SetId) -> &[u32] {
        let from = set as usize * self.width;
        &self.sets[from..from + self.width]
    }

    /// Gives spare memory back.
    pub(super) fn shrink(&mut self) {
        self.sets.shrink_to_fit();
        self.chunks.shrink_to_fit();
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.sets) + size_of_val(&*self.chunks)
    }
}

/// Finds sets and chunks that exist already.
#[derive(Debug, Default)]
pub(super) struct Interner {
    /// Numbers of chunks, by their bits.
    chunks: HashTable<u32>,
    /// Numbers of sets, by their chunks.
    sets: HashTable<SetId>,
}

impl Interner {
    /// The number of the set in which a cursor is now.
    pub(super) fn set(&mut self, bitsets: &mut Bitsets, cursor: &mut Cursor) -> SetId {
        for place in cursor.changed.drain(..) {
            cursor.chunks[place] = self.chunk(bitsets, &cursor.bits[place]);
        }
        let hash = FxBuildHasher.hash_one(&*cursor.chunks);
        let found = self.sets.find(hash, |set| bitsets.chunks_of(*set) == &*cursor.chunks);
        if let Some(set) = found {
            return *set;
        }
        if cursor.chunks.iter().all(|chunk| *chunk == 0) {
            return EMPTY;
        }
        let set = (bitsets.sets.len() / bitsets.width) as SetId;
        bitsets.sets.extend(&*cursor.chunks);
        self.sets.insert_unique(hash, set, |set| FxBuildHasher.hash_one(bitsets.chunks_of(*set)));
        set
    }

    fn chunk(&mut self, bitsets: &mut Bitsets, bits: &Chunk) -> u32 {
        if *bits == [0; WORDS] {
            return 0;
        }
        let hash = FxBuildHasher.hash_one(bits);
        if let Some(chunk) = self.chunks.find(hash, |chunk| bitsets.chunks[*chunk as usize] == *bits) {
            return *chunk;
        }
        let chunk = bitsets.chunks.len() as u32;
        bitsets.chunks.push(*bits);
        self.chunks
            .insert_unique(hash, chunk, |chunk| FxBuildHasher.hash_one(bitsets.chunks[*chunk as usize]));
        chunk
    }

    /// The set of these rules.
    pub(super) fn set_of(
        &mut self,
        bitsets: &mut Bitsets,
        rules: impl IntoIterator<Item = RuleIndex>,
    ) -> SetId {
        let mut cursor = bitsets.cursor();
        rules.into_iter().for_each(|rule| cursor.insert(rule));
        self.set(bitsets, &mut cursor)
    }
}

/// A set that changes rule by rule.
#[derive(Debug)]
pub(crate) struct Cursor {
    bits: Vec<Chunk>,
    /// The numbers of `bits`, but for those that changed.
    chunks: Box<[u32]>,
    /// Places in `bits`, perhaps several times.
    changed: Vec<usize>,
}

impl Cursor {
    /// Adds a rule.
    pub(crate) fn insert(&mut self, rule: RuleIndex) {
        *self.word(rule) |= 1 << (rule % u64::BITS);
    }

    /// Removes a rule.
    pub(crate) fn remove(&mut self, rule: RuleIndex) {
        *self.word(rule) &= !(1 << (rule % u64::BITS));
    }

    /// The first rule.
    pub(super) fn first(&self) -> Option<RuleIndex> {
        let words = self.bits.as_flattened();
        let (place, bits) = words.iter().enumerate().find(|(_, word)| **word != 0)?;
        Some(place as RuleIndex * u64::BITS + bits.trailing_zeros())
    }

    fn word(&mut self, rule: RuleIndex) -> &mut u64 {
        let place = rule as usize / CHUNK;
        if self.changed.last() != Some(&place) {
            self.changed.push(place);
        }
        &mut self.bits[place][rule as usize % CHUNK / u64::BITS as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbouring_sets_share_their_chunks() {
        let (mut bitsets, mut interner) = (Bitsets::new(10_000), Interner::default());
        let mut cursor = bitsets.cursor();
        (0..10_000).for_each(|rule| cursor.insert(rule));
        let all = interner.set(&mut bitsets, &mut cursor);
        for rule in 0..10_000 {
            cursor.remove(rule);
            interner.set(&mut bitsets, &mut cursor);
            cursor.insert(rule);
            assert_eq!(interner.set(&mut bitsets, &mut cursor), all);
        }
        // 10,001 sets of 20 chunks: a chunk of its own and 20 numbers each.
        assert!(bitsets.bytes() < 10_100 * (64 + 20 * 4), "{} bytes", bitsets.bytes());
    }

    proptest! {
        #[test]
        fn the_first_rule_of_both_sets_is_found(sets in vec(vec(0_u32..2_000, 0..12), 2..6)) {
            let (mut bitsets, mut interner) = (Bitsets::new(2_000), Interner::default());
            let mut set_of = |rules: &Vec<RuleIndex>| interner.set_of(&mut bitsets, rules.iter().copied());
            let ids: Vec<SetId> = sets.iter().map(&mut set_of).collect();
            for (a, rules) in ids.iter().zip(&sets) {
                for (b, others) in ids.iter().zip(&sets) {
                    let others: BTreeSet<RuleIndex> = others.iter().copied().collect();
                    let first = rules.iter().copied().filter(|rule| others.contains(rule)).min();
                    prop_assert_eq!(bitsets.first_of_both(*a, *b), first.unwrap_or(NO_RULE));
                }
            }
        }
    }
}
