//! From a page's number to the page: a hash table in blocks, of which a change copies the one that it touches.
//!
//! A persistent tree would copy less where a cluster is huge, but every lookup would climb it; here a lookup is one line of
//! memory for nearly every page. What a change copies besides its block is one pointer for each block.

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHasher;

use crate::snapshot::hosts::{AddressKey, Page};

/// The higher bits of an address: see [`Page`].
pub(crate) type PageNumber = AddressKey;

/// Slots of a block.
const SLOTS: usize = 64;

/// A block is never fuller than this: a search always meets an empty slot, and nearly always at once.
const FULL: usize = 48;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    /// None, or a power of two of them.
    blocks: Arc<[Arc<Block>]>,
}

#[derive(Clone, Debug)]
struct Block {
    /// A page stands in the slot that its number hashes to, or in the next after it (round the end) that was empty.
    slots: [Slot; SLOTS],
    used: usize,
}

/// One line of memory.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Slot {
    /// [`NO_PAGE`] exactly where there is no page.
    number: PageNumber,
    page: Option<Page>,
}

/// No page has this number: numbers lack the lowest bits of an address.
const NO_PAGE: PageNumber = PageNumber::MAX;

const EMPTY: Slot = Slot { number: NO_PAGE, page: None };

impl Pages {
    /// The page of this number.
    #[inline]
    pub(crate) fn get(&self, number: PageNumber) -> Option<&Page> {
        let hash = hash_of(number);
        let block = self.blocks.get(self.block_of(hash))?;
        block.slots[block.find(hash, number)].page.as_ref()
    }

    /// The page of this number, to be changed.
    pub(crate) fn get_mut(&mut self, number: PageNumber) -> Option<&mut Page> {
        self.get(number)?;
        let hash = hash_of(number);
        let block = self.block_mut(hash);
        let slot = block.find(hash, number);
        block.slots[slot].page.as_mut()
    }

    /// Takes a page in. There must be none of this number.
    pub(crate) fn insert(&mut self, number: PageNumber, page: Page) {
        let hash = hash_of(number);
        while self.blocks.get(self.block_of(hash)).is_none_or(|block| block.used == FULL) {
            self.grow();
        }
        self.block_mut(hash).insert(hash, number, page);
    }

    /// Takes a page out. It must be there.
    pub(crate) fn remove(&mut self, number: PageNumber) {
        let hash = hash_of(number);
        self.block_mut(hash).remove(hash, number);
    }

    /// Twice as many blocks.
    fn grow(&mut self) {
        let mut blocks = vec![Block::default(); (self.blocks.len() * 2).max(1)];
        let last = blocks.len() - 1;
        for slot in self.blocks.iter().flat_map(|block| &block.slots) {
            if let Some(page) = &slot.page {
                let hash = hash_of(slot.number);
                // Half of a block's pages stay together, so none gets fuller than it was.
                blocks[hash as usize & last].insert(hash, slot.number, page.clone());
            }
        }
        self.blocks = blocks.into_iter().map(Arc::new).collect();
    }

    #[inline]
    fn block_of(&self, hash: u64) -> usize {
        hash as usize & self.blocks.len().wrapping_sub(1)
    }

    fn block_mut(&mut self, hash: u64) -> &mut Block {
        let place = self.block_of(hash);
        // Snapshots may share both: then this works on copies.
        Arc::make_mut(&mut Arc::make_mut(&mut self.blocks)[place])
    }
}

impl Default for Block {
    fn default() -> Self {
        Self { slots: [EMPTY; SLOTS], used: 0 }
    }
}

impl Block {
    /// The slot of the page of this number, or the empty one where it would stand.
    #[inline]
    fn find(&self, hash: u64, number: PageNumber) -> usize {
        let mut slot = slot_of(hash);
        while self.slots[slot].number != number && self.slots[slot].number != NO_PAGE {
            slot = next(slot);
        }
        slot
    }

    fn insert(&mut self, hash: u64, number: PageNumber, page: Page) {
        let slot = self.find(hash, number);
        self.slots[slot] = Slot { number, page: Some(page) };
        self.used += 1;
    }

    /// Empties a slot, and moves up those behind it that stand there only because it was taken.
    fn remove(&mut self, hash: u64, number: PageNumber) {
        let mut empty = self.find(hash, number);
        if self.slots[empty].page.is_none() {
            return;
        }
        self.slots[empty] = EMPTY;
        self.used -= 1;
        let mut slot = next(empty);
        while self.slots[slot].page.is_some() {
            let home = slot_of(hash_of(self.slots[slot].number));
            let from = |start: usize| slot.wrapping_sub(start) % SLOTS;
            if from(home) >= from(empty) {
                self.slots.swap(slot, empty);
                empty = slot;
            }
            slot = next(slot);
        }
    }
}

#[inline]
fn hash_of(number: PageNumber) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u64((number >> 64) as u64);
    hasher.write_u64(number as u64);
    hasher.finish()
}

/// Where in its block a page belongs. The lower bits of the hash chose the block.
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
    use crate::snapshot::hosts::Host;

    fn page(first: u64) -> Page {
        Page { first, hosts: Arc::from([Host::default()]) }
    }

    fn firsts(pages: &Pages, numbers: impl Iterator<Item = u128>) -> Vec<u64> {
        numbers.map(|number| pages.get(number).map_or(0, |page| page.first)).collect()
    }

    #[test]
    fn a_slot_is_a_line_of_memory() {
        assert_eq!(size_of::<Slot>(), 64);
    }

    #[test]
    fn pages_come_and_go_in_any_order_and_older_tables_stay_as_they_were() {
        // Neighbours, as in pod CIDRs, and numbers far from one another, of both families.
        let numbers: Vec<u128> = (0..3_000)
            .map(|n| 0x3_fffc_0028_0000 + n)
            .chain((0..3_000).map(|n| (0xfd00_0000_0000_0000 + n * 0x1_0001) << 58))
            .collect();
        let mut pages = Pages::default();
        assert!(pages.get(numbers[0]).is_none(), "nothing in an empty table");
        for (first, number) in (1..).zip(&numbers) {
            pages.insert(*number, page(first));
        }
        let all = firsts(&pages, numbers.iter().copied());
        assert_eq!(all, (1..=6_000).collect::<Vec<u64>>());
        assert!(pages.blocks.len() <= 512, "{} blocks for 6,000 pages", pages.blocks.len());

        let older = pages.clone();
        for number in numbers.iter().step_by(3) {
            pages.remove(*number);
        }
        for number in numbers.iter().skip(1).step_by(3) {
            pages.get_mut(*number).unwrap().first = 7_777;
        }
        pages.remove(1 << 100);
        assert!(pages.get_mut(1 << 100).is_none());
        for (place, number) in numbers.iter().enumerate() {
            let expected = [None, Some(7_777), Some(place as u64 + 1)][place % 3];
            assert_eq!(pages.get(*number).map(|page| page.first), expected, "{place}");
        }
        assert_eq!(firsts(&older, numbers.iter().copied()), all, "shared blocks are copied, not changed");
        for number in numbers.iter().step_by(3) {
            pages.insert(*number, page(1));
        }
        assert!(numbers.iter().all(|number| pages.get(*number).is_some()));
        numbers.iter().for_each(|number| pages.remove(*number));
        assert!(pages.blocks.iter().all(|block| block.used == 0));
        assert!(numbers.iter().all(|number| pages.get(*number).is_none()));
    }
}
