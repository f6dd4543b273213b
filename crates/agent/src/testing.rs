//! Fixtures for tests with connections in a real kernel, shared with the crate `dataplane`: a network
//! namespace, conntrack entries, and a small cluster. These tests need root, and fail without it.
#![allow(dead_code, reason = "each crate uses a part")]

#[path = "../../dataplane/tests/kernel/entries.rs"]
pub(crate) mod entries;
#[path = "../../dataplane/tests/kernel/namespace.rs"]
pub(crate) mod namespace;
#[path = "../../dataplane/tests/kernel/shop.rs"]
pub(crate) mod shop;

use dataplane::conntrack::{Conntrack, EntryName, MarkChange};
use dataplane::marks::Mark;
use policy::Packet;

pub(crate) const ACCEPTED: Mark = Mark(0x1000_0000);
pub(crate) const REVOKED: Mark = Mark(0x2000_0000);

/// All entries: the packets as evaluated, with the entries' names and marks.
pub(crate) fn entries() -> Vec<(Packet, EntryName, Mark)> {
    let mut entries = Vec::new();
    let each = |entry: &dataplane::conntrack::Entry<'_>| {
        entries.push((entry.evaluated(), entry.name(), entry.mark));
        None::<MarkChange>
    };
    Conntrack::open().unwrap().visit(each).unwrap();
    entries
}

/// The marks of all entries.
pub(crate) fn marks() -> Vec<Mark> {
    entries().into_iter().map(|(.., mark)| mark).collect()
}

/// Overwrites the whole mark of all entries, as another writer would.
pub(crate) fn overwrite_marks(mark: Mark) {
    Conntrack::open().unwrap().visit(|_| Some(MarkChange { value: mark, mask: Mark::ALL })).unwrap();
}
