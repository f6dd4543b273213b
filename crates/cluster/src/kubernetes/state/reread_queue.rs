//! The objects to read again, and their order.
//!
//! Invariant: round robin by namespace; within a namespace, the object that has waited longest comes first.
//! So neither many objects of one namespace nor an object that changes all the time delays another namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::key::Key;
use crate::problem::ResourceVersion;

/// The queue. See the module.
#[derive(Debug, Default)]
pub(super) struct RereadQueue {
    pending: BTreeMap<Key, PendingRead>,
    /// The last turn of each namespace that has waiting objects.
    turns: BTreeMap<Box<str>, u64>,
    /// Counts insertions and turns.
    now: u64,
    /// Counts seconds.
    second: u64,
}

/// An object that is not read after this many seconds is reported.
const OVERDUE: u64 = 5;

/// The longest pause, in seconds, before an object is read again whose version was not the expected one.
const LONGEST_PAUSE: u64 = 32;

#[derive(Debug)]
struct PendingRead {
    /// The version that is expected.
    version: ResourceVersion,
    since: u64,
    /// The second in which the object was first queued, whatever its version.
    queued: u64,
    /// The second from which on it may be read.
    not_before: u64,
    /// The pause that follows if its version is not the expected one again.
    pause: u64,
    /// Whether it was reported as overdue.
    is_reported: bool,
}

impl RereadQueue {
    /// Queues this version of an object. An object that waits already keeps its position.
    pub(super) fn insert(&mut self, key: Key, version: ResourceVersion) {
        self.now += 1;
        let (now, second) = (self.now, self.second);
        let new = || PendingRead {
            version: Arc::clone(&version),
            since: now,
            queued: second,
            not_before: second,
            pause: 1,
            is_reported: false,
        };
        let read = self.pending.entry(key).or_insert_with(new);
        if read.version != version {
            (read.version, read.not_before, read.pause) = (version, second, 1);
        }
    }

    /// Postpones an object that was read and did not have the expected version. Normally the watch delivers
    /// the new version soon. If not, the object is read again after a pause, which doubles each time.
    pub(super) fn postpone(&mut self, key: &Key) {
        if let Some(read) = self.pending.get_mut(key) {
            read.not_before = self.second + read.pause;
            read.pause = (2 * read.pause).min(LONGEST_PAUSE);
        }
    }

    /// Whether the queue is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Advances the clock by a second. Returns the objects that have waited for [`OVERDUE`] seconds and were
    /// not returned before.
    pub(super) fn tick(&mut self) -> Vec<(Key, ResourceVersion)> {
        self.second += 1;
        let mut overdue = Vec::new();
        for (key, read) in &mut self.pending {
            if self.second - read.queued >= OVERDUE && !std::mem::replace(&mut read.is_reported, true) {
                overdue.push((key.clone(), Arc::clone(&read.version)));
            }
        }
        overdue
    }

    /// Removes an object that does not have to be read any more.
    pub(super) fn remove(&mut self, key: &Key) {
        self.pending.remove(key);
    }

    /// The expected version of a queued object; `None` if it is not queued.
    pub(super) fn expected(&self, key: &Key) -> Option<&ResourceVersion> {
        self.pending.get(key).map(|read| &read.version)
    }

    /// The next object of those that `may_be_read`, and its expected version.
    pub(super) fn next(&mut self, may_be_read: impl Fn(&Key) -> bool) -> Option<(Key, ResourceVersion)> {
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

    /// Records that an object has had its turn. If it stays queued, the other objects of its namespace come
    /// first.
    pub(super) fn record_turn(&mut self, key: &Key) {
        self.now += 1;
        self.turns.insert(key.namespace().into(), self.now);
        if let Some(read) = self.pending.get_mut(key) {
            read.since = self.now;
        }
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.pending.keys()
    }
}
