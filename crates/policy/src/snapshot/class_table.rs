//! Maps a peer's identity to the ports of the rules that select it, in two loads. All pages without entries
//! are the same page, and snapshots share pages that did not change.

use std::sync::Arc;

use crate::snapshot::ids::ClassId;
use crate::snapshot::ports::PortsId;

/// Identities per page: 128 bytes of entries.
const PAGE: usize = 32;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClassTable {
    /// By the higher bits of an identity.
    pages: Vec<Arc<[PortsId; PAGE]>>,
    /// The page of identities without an entry.
    empty: Arc<[PortsId; PAGE]>,
}

impl ClassTable {
    /// A table without entries: every identity has the value `other`.
    pub(crate) fn new(other: PortsId) -> Self {
        Self { pages: Vec::new(), empty: Arc::new([other; PAGE]) }
    }

    /// The entry of a class.
    #[inline]
    pub(crate) fn get(&self, class: ClassId) -> PortsId {
        let page = self.pages.get(class as usize / PAGE).unwrap_or(&self.empty);
        page[class as usize % PAGE]
    }

    /// Sets the entry of a class.
    pub(crate) fn insert(&mut self, class: ClassId, ports: PortsId) {
        let place = class as usize / PAGE;
        if self.pages.len() <= place {
            self.pages.resize(place + 1, Arc::clone(&self.empty));
        }
        // Copies the page if another table or the empty page shares it.
        Arc::make_mut(&mut self.pages[place])[class as usize % PAGE] = ports;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_without_an_entry_has_what_others_have() {
        let mut table = ClassTable::new(7);
        table.insert(40, 1);
        table.insert(1_000, 2);
        let clone = table.clone();
        table.insert(40, 3);
        let found = [0, 39, 40, 41, 999, 1_000, 1_007, 1_008, u32::MAX].map(|class| table.get(class));
        assert_eq!(found, [7, 7, 3, 7, 7, 2, 7, 7, 7]);
        assert_eq!(clone.get(40), 1, "a clone does not change");
    }
}
