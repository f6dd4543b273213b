//! The objects that are to be read again, and whose turn it is.
//!
//! Invariant: each namespace has its turn before another has its second, and within a namespace the object that has waited longest. So
//! neither many objects of a namespace nor one that changes all the time keep another namespace's waiting.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::Key;
use crate::problem::ResourceVersion;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    wishes: BTreeMap<Key, Wish>,
    /// When each namespace had its last turn, of those that wait for another.
    turns: BTreeMap<Box<str>, u64>,
    /// Counts wishes and turns.
    now: u64,
}

#[derive(Debug)]
struct Wish {
    /// The version that is expected.
    version: ResourceVersion,
    since: u64,
}

impl Wanted {
    /// This version of an object is to be read. One that waits already keeps its place.
    pub fn insert(&mut self, key: Key, version: ResourceVersion) {
        self.now += 1;
        let since = self.wishes.get(&key).map_or(self.now, |wish| wish.since);
        self.wishes.insert(key, Wish { version, since });
    }

    /// The object needn't be read any more.
    pub fn remove(&mut self, key: &Key) {
        self.wishes.remove(key);
    }

    /// The version of an object that is to be read; `None` if it needn't be.
    pub fn expected(&self, key: &Key) -> Option<&ResourceVersion> {
        self.wishes.get(key).map(|wish| &wish.version)
    }

    /// The object whose turn it is, of those that `may_be_read`, and the version that is expected.
    pub fn next(&mut self, may_be_read: impl Fn(&Key) -> bool) -> Option<(Key, ResourceVersion)> {
        if !self.turns.is_empty() {
            let waiting: BTreeSet<&str> = self.wishes.keys().map(Key::namespace).collect();
            self.turns.retain(|namespace, _| waiting.contains(&**namespace));
        }
        let wishes = self.wishes.iter().filter(|(key, _)| may_be_read(key));
        let turn = |key: &Key| self.turns.get(key.namespace()).copied().unwrap_or_default();
        let (key, wish) = wishes.min_by_key(|(key, wish)| (turn(key), wish.since))?;
        Some((key.clone(), wish.version.clone()))
    }

    /// An object has had its turn. If it is to be read still, the others of its namespace come first.
    pub fn had_its_turn(&mut self, key: &Key) {
        self.now += 1;
        self.turns.insert(key.namespace().into(), self.now);
        if let Some(wish) = self.wishes.get_mut(key) {
            wish.since = self.now;
        }
    }

    #[cfg(test)]
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.wishes.keys()
    }
}
