//! Rule sets as bitsets. Their memory stays linear in the size of the policies where precomputed ports would
//! explode.
//!
//! For example, a thousand rules that each except different addresses make a different rule set at every
//! address, and the ports of each such set are a thousand intervals. A bitset consists of chunks of at most
//! 512 rules, and equal chunks are stored once. So a set takes 4 bytes per 512 rules of the tier, plus up to
//! 64 bytes for each chunk that no other set has. Neighbouring addresses usually differ in one rule, and so
//! in one chunk.
//!
//! A lookup intersects two sets chunk by chunk, which takes a few nanoseconds per 512 rules of the tier.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::port_set::{NO_RULE, RuleIndex};
use crate::snapshot::arena::Arena;
use crate::snapshot::ids::number_of;

/// Bits per word, one for each rule.
const WORD_BITS: usize = u64::BITS as usize;
/// The most words of a chunk: one cache line.
const MAX_CHUNK_WORDS: usize = 8;

/// The start of a set in a [`Bitsets`]: a position in its arena.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SetId(pub(super) u32);

/// The set without rules.
pub(super) const EMPTY: SetId = SetId(0);

/// The start of the chunk without rules.
const EMPTY_CHUNK: u32 = 0;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Bitsets {
    /// Chunks per set, at least one.
    set_chunks: usize,
    /// Words per chunk: as many as all rules need, at most [`MAX_CHUNK_WORDS`].
    chunk_words: usize,
    /// For each set, the starts of its chunks in `chunks`. The first set is empty.
    sets: Arena<u32>,
    /// The words of each distinct chunk. The first chunk is empty.
    chunks: Arena<u64>,
}

impl Bitsets {
    /// Bitsets for rule indexes below `rules`, with the empty set only.
    pub(super) fn new(rules: usize) -> Self {
        let (set_chunks, chunk_words) = layout(rules);
        let (mut sets, mut chunks) = (Arena::default(), Arena::default());
        sets.push(&vec![chunks.push(&vec![0; chunk_words]); set_chunks]);
        Self { set_chunks, chunk_words, sets, chunks }
    }

    /// A cursor on the empty set.
    pub(super) fn cursor(&self) -> Cursor {
        let Self { set_chunks, chunk_words, .. } = *self;
        Cursor {
            chunk_words,
            bits: vec![0; set_chunks * chunk_words].into(),
            chunks: vec![EMPTY_CHUNK; set_chunks].into(),
            changed: Vec::new(),
        }
    }

    /// The first rule that is in both sets, or [`NO_RULE`].
    pub(super) fn first_of_both(&self, a: SetId, b: SetId) -> RuleIndex {
        for (chunk, (a, b)) in self.chunks_of(a).iter().zip(self.chunks_of(b)).enumerate() {
            if *a == EMPTY_CHUNK || *b == EMPTY_CHUNK {
                continue;
            }
            let (a, b) = (self.chunk(*a), self.chunk(*b));
            let both = a.iter().zip(b).map(|(a, b)| a & b).enumerate().find(|(_, word)| *word != 0);
            if let Some((word, bits)) = both {
                let rule = (chunk * self.chunk_words + word) * WORD_BITS + bits.trailing_zeros() as usize;
                return RuleIndex(number_of(rule));
            }
        }
        NO_RULE
    }

    fn chunks_of(&self, set: SetId) -> &[u32] {
        &self.sets.from(set.0)[..self.set_chunks]
    }

    fn chunk(&self, begin: u32) -> &[u64] {
        &self.chunks.from(begin)[..self.chunk_words]
    }

    /// Frees spare capacity.
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

/// Chunks per set and words per chunk, for rule indexes below `rules`.
fn layout(rules: usize) -> (usize, usize) {
    let words = rules.div_ceil(WORD_BITS).clamp(1, MAX_CHUNK_WORDS);
    (rules.div_ceil(words * WORD_BITS).max(1), words)
}

/// Words per set, for rule indexes below `rules`.
pub(super) fn set_words(rules: usize) -> usize {
    let (set_chunks, chunk_words) = layout(rules);
    set_chunks * chunk_words
}

/// Sets the bits of `rules`, which must be below 64 times the number of words.
pub(crate) fn insert_rules(bits: &mut [u64], rules: impl IntoIterator<Item = RuleIndex>) {
    rules.into_iter().for_each(|rule| bits[rule.index() / WORD_BITS] |= 1 << (rule.index() % WORD_BITS));
}

/// The rules with a bit that is set, ascending.
pub(crate) fn rules_in(bits: &[u64]) -> impl Iterator<Item = RuleIndex> + '_ {
    (0..).zip(bits).flat_map(|(index, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(RuleIndex(index * u64::BITS + bit))
        })
    })
}

/// Finds the sets and chunks that a [`Bitsets`] already has.
#[derive(Debug, Default)]
pub(super) struct SetInterner {
    /// Chunks, by their bits.
    chunks: HashTable<u32>,
    /// Sets, by their chunks.
    sets: HashTable<SetId>,
    /// A reusable buffer of [`SetInterner::set_of_bits`]: the chunks of one set.
    buffer: Vec<u32>,
}

impl SetInterner {
    /// The cursor's current set.
    pub(super) fn set(&mut self, bitsets: &mut Bitsets, cursor: &mut Cursor) -> SetId {
        let words = bitsets.chunk_words;
        for chunk in cursor.changed.drain(..) {
            cursor.chunks[chunk] = self.chunk(bitsets, &cursor.bits[chunk * words..(chunk + 1) * words]);
        }
        self.set_of_chunks(bitsets, &cursor.chunks)
    }

    /// The set with these bits, which are [`set_words`] words.
    pub(super) fn set_of_bits(&mut self, bitsets: &mut Bitsets, bits: &[u64]) -> SetId {
        let mut chunks = std::mem::take(&mut self.buffer);
        chunks.clear();
        chunks.extend(bits.chunks_exact(bitsets.chunk_words).map(|bits| self.chunk(bitsets, bits)));
        let set = self.set_of_chunks(bitsets, &chunks);
        self.buffer = chunks;
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
        let set = SetId(bitsets.sets.push(chunks));
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

/// A set that is modified rule by rule.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Words per chunk.
    chunk_words: usize,
    bits: Box<[u64]>,
    /// The start of each chunk of `bits` in the arena; out of date for the chunks in `changed`.
    chunks: Box<[u32]>,
    /// Indexes of chunks that changed, possibly with duplicates.
    changed: Vec<usize>,
}

impl Cursor {
    /// Adds a rule.
    pub(crate) fn insert(&mut self, rule: RuleIndex) {
        *self.word(rule) |= 1 << (rule.index() % WORD_BITS);
    }

    /// Removes a rule.
    pub(crate) fn remove(&mut self, rule: RuleIndex) {
        *self.word(rule) &= !(1 << (rule.index() % WORD_BITS));
    }

    /// The first rule of the set.
    pub(super) fn first(&self) -> Option<RuleIndex> {
        rules_in(&self.bits).next()
    }

    fn word(&mut self, rule: RuleIndex) -> &mut u64 {
        let word = rule.index() / WORD_BITS;
        let chunk = word / self.chunk_words;
        if self.changed.last() != Some(&chunk) {
            self.changed.push(chunk);
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
        let (mut bitsets, mut interner) = (Bitsets::new(10_000), SetInterner::default());
        let mut cursor = bitsets.cursor();
        (0..10_000).map(RuleIndex).for_each(|rule| cursor.insert(rule));
        let all = interner.set(&mut bitsets, &mut cursor);
        for rule in (0..10_000).map(RuleIndex) {
            cursor.remove(rule);
            interner.set(&mut bitsets, &mut cursor);
            cursor.insert(rule);
            assert_eq!(interner.set(&mut bitsets, &mut cursor), all);
        }
        // 10,001 sets of 20 chunks: each takes one new chunk and 20 numbers.
        assert!(bitsets.bytes() < 10_100 * (64 + 20 * 4), "{} bytes", bitsets.bytes());
    }

    proptest! {
        #[test]
        fn the_first_rule_of_both_sets_is_found(sets in vec(vec((0_u32..2_000).prop_map(RuleIndex), 0..12), 2..6)) {
            let (mut bitsets, mut interner) = (Bitsets::new(2_000), SetInterner::default());
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
