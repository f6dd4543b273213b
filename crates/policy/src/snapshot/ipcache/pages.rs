//! Maps page numbers to pages: a hash table in buckets. A change copies only the bucket that it modifies.
//!
//! A persistent tree would copy less in huge clusters, but each lookup would descend it. Here a lookup loads
//! one cache line for nearly every page. Besides its bucket, a change copies one pointer for each bucket.

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHasher;

use crate::snapshot::ipcache::page::Page;

/// The higher bits of an address of one family: see [`Page`].
pub(crate) trait PageNumber: Copy + Eq {
    /// No page has this number, because numbers lack the lowest bits of an address.
    const NO_PAGE: Self;

    fn hash(self) -> u64;
}

impl PageNumber for u32 {
    const NO_PAGE: Self = Self::MAX;

    #[inline(always)]
    fn hash(self) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write_u32(self);
        hasher.finish()
    }
}

impl PageNumber for u128 {
    const NO_PAGE: Self = Self::MAX;

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "each half is hashed")]
    fn hash(self) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write_u64((self >> 64) as u64);
        hasher.write_u64(self as u64);
        hasher.finish()
    }
}

/// Slots of a bucket.
const SLOTS: usize = 64;

/// The most used slots of a bucket. So a search always ends at an empty slot, and nearly always soon.
const FULL: usize = 48;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Pages<N> {
    /// Empty, or a power of two.
    buckets: Arc<[Arc<Bucket<N>>]>,
}

/// Aligned to cache lines, so that no slot spans two.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Bucket<N> {
    /// A page is in the slot that its number hashes to, or in the next slot that was empty, wrapping around
    /// at the end.
    slots: [Slot<N>; SLOTS],
    used: usize,
}

/// One cache line; for IPv4, half of one.
#[derive(Clone, Debug)]
#[repr(align(32))]
struct Slot<N> {
    /// [`PageNumber::NO_PAGE`] if and only if there is no page.
    number: N,
    page: Option<Page>,
}

impl<N: PageNumber> Slot<N> {
    const EMPTY: Self = Self { number: N::NO_PAGE, page: None };
}

impl<N> Default for Pages<N> {
    fn default() -> Self {
        Self { buckets: Arc::default() }
    }
}

impl<N: PageNumber> Pages<N> {
    /// The page of this number.
    #[inline(always)]
    pub(crate) fn get(&self, number: N) -> Option<&Page> {
        let hash = number.hash();
        let bucket = self.buckets.get(self.bucket_of(hash))?;
        bucket.slots[bucket.find(hash, number)].page.as_ref()
    }

    /// The page of this number, for modification.
    pub(crate) fn get_mut(&mut self, number: N) -> Option<&mut Page> {
        self.get(number)?;
        let hash = number.hash();
        let bucket = self.bucket_mut(hash);
        let slot = bucket.find(hash, number);
        bucket.slots[slot].page.as_mut()
    }

    /// Inserts a page. There must be no page of this number.
    pub(crate) fn insert(&mut self, number: N, page: Page) {
        let hash = number.hash();
        while self.buckets.get(self.bucket_of(hash)).is_none_or(|bucket| bucket.used == FULL) {
            self.grow();
        }
        self.bucket_mut(hash).insert(hash, number, page);
    }

    /// Removes a page, which must exist.
    pub(crate) fn remove(&mut self, number: N) {
        let hash = number.hash();
        self.bucket_mut(hash).remove(hash, number);
    }

    /// Doubles the number of buckets.
    fn grow(&mut self) {
        let mut buckets = vec![Bucket::default(); (self.buckets.len() * 2).max(1)];
        let last = buckets.len() - 1;
        for slot in self.buckets.iter().flat_map(|bucket| &bucket.slots) {
            if let Some(page) = &slot.page {
                let hash = slot.number.hash();
                // The pages of a bucket are split over two, so no bucket gets fuller than before.
                buckets[lower_bits(hash) & last].insert(hash, slot.number, page.clone());
            }
        }
        self.buckets = buckets.into_iter().map(Arc::new).collect();
    }

    #[inline]
    fn bucket_of(&self, hash: u64) -> usize {
        lower_bits(hash) & self.buckets.len().wrapping_sub(1)
    }

    fn bucket_mut(&mut self, hash: u64) -> &mut Bucket<N> {
        let index = self.bucket_of(hash);
        // Copies what snapshots still share.
        Arc::make_mut(&mut Arc::make_mut(&mut self.buckets)[index])
    }
}

impl<N: PageNumber> Default for Bucket<N> {
    fn default() -> Self {
        Self { slots: [Slot::EMPTY; SLOTS], used: 0 }
    }
}

impl<N: PageNumber> Bucket<N> {
    /// The slot of the page of this number, or the empty slot where it would be inserted.
    #[inline]
    fn find(&self, hash: u64, number: N) -> usize {
        let mut slot = slot_of(hash);
        while self.slots[slot].number != number && self.slots[slot].number != N::NO_PAGE {
            slot = next(slot);
        }
        slot
    }

    fn insert(&mut self, hash: u64, number: N, page: Page) {
        let slot = self.find(hash, number);
        self.slots[slot] = Slot { number, page: Some(page) };
        self.used += 1;
    }

    /// Empties a slot, and moves back the pages after it that are not in the slot they hash to.
    fn remove(&mut self, hash: u64, number: N) {
        let mut empty = self.find(hash, number);
        if self.slots[empty].page.is_none() {
            return;
        }
        self.slots[empty] = Slot::EMPTY;
        self.used -= 1;
        let mut slot = next(empty);
        while self.slots[slot].page.is_some() {
            let home = slot_of(self.slots[slot].number.hash());
            let from = |start: usize| slot.wrapping_sub(start) % SLOTS;
            if from(home) >= from(empty) {
                self.slots.swap(slot, empty);
                empty = slot;
            }
            slot = next(slot);
        }
    }
}

/// The bits of a hash that select the bucket.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "there are fewer buckets than 2^32")]
fn lower_bits(hash: u64) -> usize {
    hash as usize
}

/// The slot that a page hashes to. The lower bits of the hash select the bucket.
#[inline]
fn slot_of(hash: u64) -> usize {
    (hash >> 32) as usize % SLOTS
}

#[inline]
fn next(slot: usize) -> usize {
    (slot + 1) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ipcache::entry::IpCacheEntry;

    /// A page that encodes a number.
    fn page(number: usize) -> Page {
        Page { first: number as u8, entries: vec![IpCacheEntry::default(); number >> 8].into() }
    }

    fn number_of(page: &Page) -> usize {
        page.entries.len() << 8 | usize::from(page.first)
    }

    fn all<N: PageNumber>(pages: &Pages<N>, numbers: &[N]) -> Vec<Option<usize>> {
        numbers.iter().map(|number| pages.get(*number).map(number_of)).collect()
    }

    #[test]
    fn a_slot_takes_a_cache_line_or_half_of_one() {
        assert_eq!((size_of::<Slot<u32>>(), size_of::<Slot<u128>>()), (32, 64));
        let bucket = Arc::new(Bucket::<u32>::default());
        assert_eq!(std::ptr::from_ref(&bucket.slots[0]).addr() % 64, 0);
    }

    #[test]
    fn pages_of_ipv4_come_and_go() {
        // Neighbours, as in pod CIDRs, and numbers far apart.
        let numbers = (0..3_000).map(|n| 0x28_0000 + n).chain((0..3_000).map(|n| 0x100_0000 + n * 0x3ff1));
        come_and_go(&numbers.collect::<Vec<u32>>(), 1);
    }

    #[test]
    fn pages_of_ipv6_come_and_go() {
        let neighbours = (0..3_000).map(|n| (0xfe00 << 106) + n);
        let numbers = neighbours.chain((0..3_000).map(|n| (0xfd00_0000_0000_0000 + n * 0x1_0001) << 58));
        come_and_go(&numbers.collect::<Vec<u128>>(), 1 << 100);
    }

    /// Inserts, removes and changes pages in any order; older tables stay as they were. `other` is not among
    /// the numbers.
    fn come_and_go<N: PageNumber>(numbers: &[N], other: N) {
        let mut pages = Pages::default();
        assert!(pages.get(numbers[0]).is_none(), "an empty table has no page");
        for (index, number) in numbers.iter().enumerate() {
            pages.insert(*number, page(index));
        }
        let before = all(&pages, numbers);
        assert!(before.iter().enumerate().all(|(index, found)| *found == Some(index)));
        assert!(pages.buckets.len() <= 512, "{} buckets for {} pages", pages.buckets.len(), numbers.len());

        let older = pages.clone();
        for number in numbers.iter().step_by(3) {
            pages.remove(*number);
        }
        for number in numbers.iter().skip(1).step_by(3) {
            *pages.get_mut(*number).unwrap() = page(7_777);
        }
        pages.remove(other);
        assert!(pages.get_mut(other).is_none());
        for (index, found) in all(&pages, numbers).into_iter().enumerate() {
            assert_eq!(found, [None, Some(7_777), Some(index)][index % 3], "{index}");
        }
        assert_eq!(all(&older, numbers), before, "shared buckets are copied, not changed");
        for number in numbers.iter().step_by(3) {
            pages.insert(*number, page(1));
        }
        assert!(numbers.iter().all(|number| pages.get(*number).is_some()));
        numbers.iter().for_each(|number| pages.remove(*number));
        assert!(pages.buckets.iter().all(|bucket| bucket.used == 0));
        assert!(numbers.iter().all(|number| pages.get(*number).is_none()));
    }
}
