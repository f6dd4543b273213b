//! Sets of rules as bits: the form that grows with the text of policies where precomputed ports would explode.
//!
//! A thousand rules that each leave out other addresses make a different set of rules at every address, and the ports of each such set
//! are a thousand intervals. Here a set is bits, in chunks of at most 512 rules. Equal chunks are stored once, and neighbouring sets differ in
//! one chunk. So a set takes at most one chunk (64 bytes) and 4 bytes per 512 rules, however many rules are in it.
//!
//! A lookup compares two sets chunk by chunk, and so costs some nanoseconds per 512 rules of the tier.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::{NO_RULE, RuleIndex};
use crate::snapshot::arena::Arena;

/// Rules of a word.
const WORD: usize = u64::BITS as usize;
/// Words of a chunk at most: a line of memory.
const MOST_WORDS: usize = 8;

/// Where a set begins in a [`Bitsets`].
pub(super) type SetId = u32;

/// The set without rules.
pub(super) const EMPTY: SetId = 0;

/// Where the chunk without rules begins.
const EMPTY_CHUNK: u32 = 0;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Bitsets {
    /// Chunks of a set: at least one.
    width: usize,
    /// Words of a chunk: as many as all rules take, at most [`MOST_WORDS`].
    words: usize,
    /// Of each set: where its chunks begin. The first set is empty.
    sets: Arena<u32>,
    /// The first is empty.
    chunks: Arena<u64>,
}

impl Bitsets {
    /// For rules below `rules`.
    pub(super) fn new(rules: usize) -> Self {
        let (width, words) = chunks_for(rules);
        let (mut sets, mut chunks) = (Arena::default(), Arena::default());
        sets.push(&vec![chunks.push(&vec![0; words]); width]);
        Self { width, words, sets, chunks }
    }

    /// A set that changes rule by rule, without any at first.
    pub(super) fn cursor(&self) -> Cursor {
        let Self { width, words, .. } = *self;
        Cursor {
            words,
            bits: vec![0; width * words].into(),
            chunks: vec![EMPTY_CHUNK; width].into(),
            changed: Vec::new(),
        }
    }

    /// The first rule that is in both sets, or [`NO_RULE`].
    pub(super) fn first_of_both(&self, a: SetId, b: SetId) -> RuleIndex {
        for (place, (a, b)) in self.chunks_of(a).iter().zip(self.chunks_of(b)).enumerate() {
            if *a == EMPTY_CHUNK || *b == EMPTY_CHUNK {
                continue;
            }
            let (a, b) = (self.chunk(*a), self.chunk(*b));
            let both = a.iter().zip(b).map(|(a, b)| a & b).enumerate().find(|(_, word)| *word != 0);
            if let Some((word, bits)) = both {
                let rule = (place * self.words + word) * WORD + bits.trailing_zeros() as usize;
                return rule as RuleIndex;
            }
        }
        NO_RULE
    }

    fn chunks_of(&self, set: SetId) -> &[u32] {
        &self.sets.from(set)[..self.width]
    }

    fn chunk(&self, begin: u32) -> &[u64] {
        &self.chunks.from(begin)[..self.words]
    }

    /// Gives spare memory back.
    pub(super) fn shrink(&mut self) {
        self.sets.shrink();
        self.chunks.shrink();
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.sets.bytes() + self.chunks.bytes()
    }
}

/// How many chunks a set has, and how many words a chunk, for rules below `rules`.
fn chunks_for(rules: usize) -> (usize, usize) {
    let words = rules.div_ceil(WORD).clamp(1, MOST_WORDS);
    (rules.div_ceil(words * WORD).max(1), words)
}

/// How many words the bits of a set have, for rules below `rules`.
pub(super) fn words_for(rules: usize) -> usize {
    let (chunks, words) = chunks_for(rules);
    chunks * words
}

/// The rules of which these are the bits, ascending.
pub(crate) fn rules_in(bits: &[u64]) -> impl Iterator<Item = RuleIndex> + '_ {
    (0..).zip(bits).flat_map(|(place, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(place * u64::BITS + bit)
        })
    })
}

/// Finds sets and chunks that exist already.
#[derive(Debug, Default)]
pub(super) struct Interner {
    /// Chunks, by their bits.
    chunks: HashTable<u32>,
    /// Sets, by their chunks.
    sets: HashTable<SetId>,
    /// Room for the chunks of one set.
    of_bits: Vec<u32>,
}

impl Interner {
    /// The set in which a cursor is now.
    pub(super) fn set(&mut self, bitsets: &mut Bitsets, cursor: &mut Cursor) -> SetId {
        let words = bitsets.words;
        for place in cursor.changed.drain(..) {
            cursor.chunks[place] = self.chunk(bitsets, &cursor.bits[place * words..(place + 1) * words]);
        }
        self.set_of_chunks(bitsets, &cursor.chunks)
    }

    /// The set of these bits, [`words_for`] all rules.
    pub(super) fn set_of_bits(&mut self, bitsets: &mut Bitsets, bits: &[u64]) -> SetId {
        let mut chunks = std::mem::take(&mut self.of_bits);
        chunks.clear();
        chunks.extend(bits.chunks_exact(bitsets.words).map(|bits| self.chunk(bitsets, bits)));
        let set = self.set_of_chunks(bitsets, &chunks);
        self.of_bits = chunks;
        set
    }

    fn set_of_chunks(&mut self, bitsets: &mut Bitsets, chunks: &[u32]) -> SetId {
        if chunks.iter().all(|chunk| *chunk == EMPTY_CHUNK) {
            return EMPTY;
        }
        let hash = FxBuildHasher.hash_one(chunks);
        let found = self.sets.find(hash, |set| bitsets.chunks_of(*set) == chunks);
        if let Some(set) = found {
            return *set;
        }
        let set = bitsets.sets.push(chunks);
        self.sets.insert_unique(hash, set, |set| FxBuildHasher.hash_one(bitsets.chunks_of(*set)));
        set
    }

    fn chunk(&mut self, bitsets: &mut Bitsets, bits: &[u64]) -> u32 {
        if bits.iter().all(|word| *word == 0) {
            return EMPTY_CHUNK;
        }
        let hash = FxBuildHasher.hash_one(bits);
        if let Some(chunk) = self.chunks.find(hash, |chunk| bitsets.chunk(*chunk) == bits) {
            return *chunk;
        }
        let chunk = bitsets.chunks.push(bits);
        self.chunks.insert_unique(hash, chunk, |chunk| FxBuildHasher.hash_one(bitsets.chunk(*chunk)));
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
    /// Words of a chunk.
    words: usize,
    bits: Box<[u64]>,
    /// Where the chunks of `bits` begin, but for those that changed.
    chunks: Box<[u32]>,
    /// Chunks, perhaps several times.
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
        rules_in(&self.bits).next()
    }

    fn word(&mut self, rule: RuleIndex) -> &mut u64 {
        let word = rule as usize / WORD;
        let place = word / self.words;
        if self.changed.last() != Some(&place) {
            self.changed.push(place);
        }
        &mut self.bits[word]
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
