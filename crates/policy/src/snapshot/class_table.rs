//! From a peer's class to the ports of the rules that choose it, in two loads. Pages that no rule chooses take no memory.

use crate::snapshot::ports::PortsId;
use crate::snapshot::ruleset::ClassId;

/// Classes in a page: 64 bytes, a line of memory.
const PAGE: usize = 16;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClassTable {
    /// By the higher bits of a class: its page.
    pages: Vec<u32>,
    /// Page after page. The first is the one for classes that have no entry.
    entries: Vec<[PortsId; PAGE]>,
}

impl ClassTable {
    /// An empty table, in which every class has `other`.
    pub(crate) fn new(other: PortsId) -> Self {
        Self { pages: Vec::new(), entries: vec![[other; PAGE]] }
    }

    /// The entry of a class.
    #[inline]
    pub(crate) fn get(&self, class: ClassId) -> PortsId {
        let page = self.pages.get(class as usize / PAGE).copied().unwrap_or(0);
        self.entries[page as usize][class as usize % PAGE]
    }

    /// Sets the entry of a class.
    pub(crate) fn insert(&mut self, class: ClassId, ports: PortsId) {
        let place = class as usize / PAGE;
        if self.pages.len() <= place {
            self.pages.resize(place + 1, 0);
        }
        if self.pages[place] == 0 {
            self.pages[place] = self.entries.len() as u32;
            self.entries.push(self.entries[0]);
        }
        self.entries[self.pages[place] as usize][class as usize % PAGE] = ports;
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
        table.insert(40, 3);
        let found = [0, 39, 40, 41, 999, 1_000, 1_007, 1_008, u32::MAX].map(|class| table.get(class));
        assert_eq!(found, [7, 7, 3, 7, 7, 2, 7, 7, 7]);
    }
}
