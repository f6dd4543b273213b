//! A page of the ipcache: the entries of 64 neighbouring addresses.

use std::sync::Arc;

use crate::snapshot::address::AddressKey;
use crate::snapshot::ipcache::entry::IpCacheEntry;

/// The entries of neighbouring addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    /// The offset of the first entry, 0 to 63.
    pub(super) first: u8,
    /// The entries from the first to the last; empty ones where no pod or node has the address.
    pub(super) entries: Arc<[IpCacheEntry]>,
}

impl Page {
    /// Replaces entries; they come in ascending order of address.
    pub(super) fn update(&mut self, updates: &mut [(AddressKey, IpCacheEntry)]) {
        let mut entries: Vec<IpCacheEntry> = match Arc::get_mut(&mut self.entries) {
            // No snapshot shares the page, so its entries can be moved.
            Some(entries) => entries.iter_mut().map(std::mem::take).collect(),
            None => self.entries.to_vec(),
        };
        let mut first = if entries.is_empty() { PAGE_ADDRESSES } else { self.first };
        for (key, entry) in updates {
            let offset = offset_in_page(*key);
            if offset < first {
                let before = if entries.is_empty() { 0 } else { (first - offset) as usize };
                entries.splice(..0, std::iter::repeat_n(IpCacheEntry::default(), before));
                first = offset;
            }
            let offset = (offset - first) as usize;
            if offset >= entries.len() {
                entries.resize_with(offset + 1, IpCacheEntry::default);
            }
            entries[offset] = std::mem::take(entry);
        }
        let is_used = |entry: &IpCacheEntry| !entry.is_empty();
        entries.truncate(entries.iter().rposition(is_used).map_or(0, |last| last + 1));
        let before = entries.iter().position(is_used).unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, reason = "a page has 64 entries at most")]
        let first = first + before as u8;
        *self = Self { first, entries: entries.drain(before..).collect() };
    }
}

/// How many of the last bits of an address are its offset in a page.
pub(super) const OFFSET_BITS: u32 = 6;

/// Addresses per page.
const PAGE_ADDRESSES: u8 = 1 << OFFSET_BITS;

/// The offset of an address in its page, from its bits or its key.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the offset is in the last bits")]
pub(super) fn offset_in_page(bits: u128) -> u8 {
    bits as u8 % PAGE_ADDRESSES
}
