//! The objects that are to be read again, and whose turn it is.
//!
//! Invariant: round robin by namespace, and within a namespace the object that has waited longest comes first.
//! So neither many objects of one namespace nor an object that changes all the time delay another namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// Counts seconds.
    second: u64,
}

/// Seconds after which an object that is still to be read is named.
const OVERDUE: u64 = 5;

/// The longest pause before an object is read again whose version was not the expected one, in seconds.
const LONGEST_PAUSE: u64 = 32;

#[derive(Debug)]
struct PendingRead {
    /// The version that is expected.
    version: ResourceVersion,
    since: u64,
    /// The second since which some version is to be read.
    asked: u64,
    /// The second from which on it may be read, and the pause that follows if its version is not the expected one again.
    not_before: u64,
    pause: u64,
    /// Whether it was named as one that could not be read for a while.
    is_named: bool,
}

impl Wanted {
    /// This version of an object is to be read. One that waits already keeps its place.
    pub fn insert(&mut self, key: Key, version: ResourceVersion) {
        self.now += 1;
        let (now, second) = (self.now, self.second);
        let new = || PendingRead {
            version: Arc::clone(&version),
            since: now,
            asked: second,
            not_before: second,
            pause: 1,
            is_named: false,
        };
        let read = self.pending.entry(key).or_insert_with(new);
        if read.version != version {
            (read.version, read.not_before, read.pause) = (version, second, 1);
        }
    }

    /// An object was read, and has another version than the one that is expected: the watch will say so. Otherwise it is read again after
    /// a pause, and twice that the next time.
    pub fn postpone(&mut self, key: &Key) {
        if let Some(read) = self.pending.get_mut(key) {
            read.not_before = self.second + read.pause;
            read.pause = (2 * read.pause).min(LONGEST_PAUSE);
        }
    }

    /// Whether nothing is to be read.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// A second has passed. Returns the objects that have waited for [`OVERDUE`] seconds and were not returned before.
    pub fn tick(&mut self) -> Vec<(Key, ResourceVersion)> {
        self.second += 1;
        let mut overdue = Vec::new();
        for (key, read) in &mut self.pending {
            if self.second - read.asked >= OVERDUE && !std::mem::replace(&mut read.is_named, true) {
                overdue.push((key.clone(), Arc::clone(&read.version)));
            }
        }
        overdue
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
        let second = self.second;
        let pending = self.pending.iter().filter(|(key, read)| read.not_before <= second && may_be_read(key));
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
