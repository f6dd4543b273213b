//! The objects that are to be read again, and whose turn it is.
//!
//! Invariant: round robin by namespace, and within a namespace the object that has waited longest comes first.
//! So neither many objects of one namespace nor an object that changes all the time delay another namespace.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::Key;
use crate::problem::ResourceVersion;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pending: BTreeMap<Key, PendingRead>,
    /// When each namespace had its last turn, of those that wait for another.
    turns: BTreeMap<Box<str>, u64>,
    /// Counts insertions and turns.
    now: u64,
}

#[derive(Debug)]
struct PendingRead {
    /// The version that is expected.
    version: ResourceVersion,
    since: u64,
}

impl Wanted {
    /// This version of an object is to be read. One that waits already keeps its place.
    pub fn insert(&mut self, key: Key, version: ResourceVersion) {
        self.now += 1;
        let since = self.pending.get(&key).map_or(self.now, |read| read.since);
        self.pending.insert(key, PendingRead { version, since });
    }

    /// The object needn't be read any more.
    pub fn remove(&mut self, key: &Key) {
        self.pending.remove(key);
    }

    /// The version of an object that is to be read; `None` if it needn't be.
    pub fn expected(&self, key: &Key) -> Option<&ResourceVersion> {
        self.pending.get(key).map(|read| &read.version)
    }

    /// The object whose turn it is, of those that `may_be_read`, and the version that is expected.
    pub fn next(&mut self, may_be_read: impl Fn(&Key) -> bool) -> Option<(Key, ResourceVersion)> {
        if !self.turns.is_empty() {
            let waiting: BTreeSet<&str> = self.pending.keys().map(Key::namespace).collect();
            self.turns.retain(|namespace, _| waiting.contains(&**namespace));
        }
        let pending = self.pending.iter().filter(|(key, _)| may_be_read(key));
        let turn = |key: &Key| self.turns.get(key.namespace()).copied().unwrap_or_default();
        let (key, read) = pending.min_by_key(|(key, read)| (turn(key), read.since))?;
        Some((key.clone(), read.version.clone()))
    }

    /// An object has had its turn. If it is to be read still, the others of its namespace come first.
    pub fn record_turn(&mut self, key: &Key) {
        self.now += 1;
        self.turns.insert(key.namespace().into(), self.now);
        if let Some(read) = self.pending.get_mut(key) {
            read.since = self.now;
        }
    }

    #[cfg(test)]
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.pending.keys()
    }
}
