//! Maps a peer's identity to the ports of the rules that select it, in two loads. All pages without entries
//! are the same page, and snapshots share pages that did not change.

use std::sync::Arc;

use crate::snapshot::ids::IdentityId;
use crate::snapshot::ports::PortsId;

/// Identities per page: 128 bytes of entries.
const PAGE: usize = 32;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentityTable {
    /// By the higher bits of an identity.
    pages: Vec<Arc<[PortsId; PAGE]>>,
    /// The page of identities without an entry.
    empty: Arc<[PortsId; PAGE]>,
}

impl IdentityTable {
    /// A table without entries: every identity has the value `other`.
    pub(crate) fn new(other: PortsId) -> Self {
        Self { pages: Vec::new(), empty: Arc::new([other; PAGE]) }
    }

    /// The entry of an identity.
    #[inline]
    pub(crate) fn get(&self, identity: IdentityId) -> PortsId {
        let page = self.pages.get(identity.index() / PAGE).unwrap_or(&self.empty);
        page[identity.index() % PAGE]
    }

    /// Sets the entry of an identity.
    pub(crate) fn insert(&mut self, identity: IdentityId, ports: PortsId) {
        let position = identity.index() / PAGE;
        if self.pages.len() <= position {
            self.pages.resize(position + 1, Arc::clone(&self.empty));
        }
        // Copies the page if another table or the empty page shares it.
        Arc::make_mut(&mut self.pages[position])[identity.index() % PAGE] = ports;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_without_an_entry_has_the_default() {
        let mut table = IdentityTable::new(PortsId(7));
        table.insert(IdentityId(40), PortsId(1));
        table.insert(IdentityId(1_000), PortsId(2));
        let clone = table.clone();
        table.insert(IdentityId(40), PortsId(3));
        let identities = [0, 39, 40, 41, 999, 1_000, 1_007, 1_008, u32::MAX];
        let found = identities.map(|identity| table.get(IdentityId(identity)).0);
        assert_eq!(found, [7, 7, 3, 7, 7, 2, 7, 7, 7]);
        assert_eq!(clone.get(IdentityId(40)), PortsId(1), "a clone does not change");
    }
}
