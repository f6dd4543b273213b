//! An append-only arena of immutable entries, in pages that snapshots share.
//!
//! A clone shares every page. Appending copies only the last page, and only if it is shared (copy on write).
//! So the cost of a change does not depend on the size of the arena, and the snapshots of the last second
//! take little more memory than one.

use std::sync::Arc;

use crate::snapshot::ids::number_of;

/// Values per page. A larger entry has its own page.
const PAGE: usize = 512;

/// See the module. An entry is one or more values in the same page.
#[derive(Clone, Debug)]
pub(crate) struct Arena<T> {
    pages: Vec<Arc<[T]>>,
    /// Values in use in the last page.
    used: usize,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), used: 0 }
    }
}

impl<T: Copy + Default> Arena<T> {
    /// Appends an entry and returns where it begins; the first entry begins at 0.
    pub(crate) fn push(&mut self, entry: &[T]) -> u32 {
        if self.pages.last().is_none_or(|page| page.len() - self.used < entry.len()) {
            self.pages.push(std::iter::repeat_n(T::default(), PAGE.max(entry.len())).collect());
            self.used = 0;
        }
        let begin = (self.pages.len() - 1) * PAGE + self.used;
        if let Some(page) = self.pages.last_mut() {
            // Copies the page if a snapshot shares it.
            Arc::make_mut(page)[self.used..self.used + entry.len()].copy_from_slice(entry);
            self.used += entry.len();
        }
        number_of(begin)
    }

    /// The values from the beginning of an entry to the end of its page.
    #[inline(always)]
    pub(crate) fn from(&self, begin: u32) -> &[T] {
        &self.pages[begin as usize / PAGE][begin as usize % PAGE..]
    }

    /// Frees spare capacity.
    pub(crate) fn shrink(&mut self) {
        if let Some(page) = self.pages.last_mut() {
            *page = page[..self.used].into();
        }
        self.pages.shrink_to_fit();
    }

    /// Bytes on the heap, shared pages included.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.pages) + self.pages.iter().map(|page| size_of_val(&**page)).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clone_shares_all_pages_but_the_one_it_appends_to() {
        let mut arena = Arena::default();
        for value in 0..10 * PAGE as u32 {
            arena.push(&[value]);
        }
        let mut copy = arena.clone();
        copy.push(&[1; PAGE / 2]);
        copy.push(&[2; PAGE / 2]);
        let shared = arena.pages.iter().zip(&copy.pages).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!((shared, copy.pages.len()), (10, 11));
        arena.push(&[7]);
        assert_eq!(copy.from(10 * PAGE as u32)[0], 1, "an append is visible in its own arena only");
    }

    proptest! {
        #[test]
        fn entries_are_found_where_they_were_put(lengths in vec(prop_oneof![1..9_usize, Just(PAGE - 1), Just(PAGE), 600..1_100_usize], 1..60), shrink_after in any::<prop::sample::Index>()) {
            let (mut arena, shrink_after) = (Arena::default(), shrink_after.index(lengths.len()));
            let mut begins = Vec::new();
            for (number, length) in (0_u32..).zip(&lengths) {
                begins.push(arena.push(&vec![number; *length]));
                if number as usize == shrink_after {
                    arena.shrink();
                }
            }
            prop_assert_eq!(begins[0], 0);
            for ((number, length), begin) in (0_u32..).zip(&lengths).zip(begins) {
                prop_assert!(arena.from(begin)[..*length].iter().all(|value| *value == number));
            }
        }
    }
}
