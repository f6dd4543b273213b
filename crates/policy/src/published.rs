//! The current snapshot, shared by the compiler and the workers, and the grace period after a swap.
//!
//! A worker enters before it reads the snapshot, and leaves after the kernel has its verdict. A publisher
//! swaps the snapshot, and then waits for every worker that was inside at that moment. After that grace
//! period, no verdict of the old snapshot can reach the kernel. No worker ever waits.
//!
//! This is read-copy-update (RCU) with one counter per worker.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use arc_swap::{ArcSwap, Guard};
use crossbeam_utils::CachePadded;

use crate::snapshot::Snapshot;

/// The swap cell.
#[derive(Debug)]
pub struct Published {
    current: ArcSwap<Snapshot>,
    /// One counter per worker: odd while the worker is inside, even otherwise. Only that worker writes it.
    counters: Box<[CachePadded<AtomicU64>]>,
}

impl Published {
    /// A cell that holds `first` and serves `workers` readers.
    pub fn new(first: Arc<Snapshot>, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::new(first),
            counters: (0..workers).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
        })
    }

    /// The snapshot that is current now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes `next` the current snapshot. The grace period is over once [`Grace::over`] returns true.
    pub fn publish(self: &Arc<Self>, next: Arc<Snapshot>) -> Grace {
        self.current.store(next);
        // Pairs with the fence in `Reader::enter`: a worker that is not inside below will see `next`.
        fence(Ordering::SeqCst);
        let inside = self
            .counters
            .iter()
            .enumerate()
            .map(|(worker, counter)| (worker, counter.load(Ordering::Acquire)))
            .filter(|(_, counter)| counter % 2 == 1)
            .collect();
        Grace { published: Arc::clone(self), inside }
    }

    /// The reader of worker `worker`, counted from 0. Each worker takes its own reader, once.
    ///
    /// # Panics
    /// If `worker` is not below the number given to [`Published::new`]. That is a bug, and shows at startup.
    pub fn reader(self: &Arc<Self>, worker: usize) -> Reader {
        assert!(worker < self.counters.len(), "worker {worker} of {}", self.counters.len());
        Reader { published: Arc::clone(self), worker }
    }
}

/// The grace period of a swap: ends with the last verdict that was in progress when the snapshot was
/// published.
#[derive(Debug)]
pub struct Grace {
    published: Arc<Published>,
    /// Each worker that was inside, and its counter at that moment.
    inside: Vec<(usize, u64)>,
}

impl Grace {
    /// Whether every worker has finished the verdict that was in progress under the old snapshot.
    pub fn over(&mut self) -> bool {
        let counters = &self.published.counters;
        self.inside.retain(|(worker, counter)| counters[*worker].load(Ordering::Acquire) == *counter);
        self.inside.is_empty()
    }
}

/// One worker's access to the current snapshot.
#[derive(Debug)]
pub struct Reader {
    published: Arc<Published>,
    worker: usize,
}

impl Reader {
    /// Enters. Keep the guard until the kernel has the verdict: dropping it leaves.
    pub fn enter(&mut self) -> ReadGuard<'_> {
        let counter = &self.published.counters[self.worker];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // Pairs with the fence in `Published::publish`: either the publisher sees that this worker is inside,
        // or this worker sees the new snapshot.
        fence(Ordering::SeqCst);
        ReadGuard { snapshot: self.published.current.load(), counter }
    }
}

/// The snapshot of one verdict in progress. The grace period of a later snapshot waits until this is dropped.
pub struct ReadGuard<'a> {
    snapshot: Guard<Arc<Snapshot>>,
    counter: &'a AtomicU64,
}

impl Deref for ReadGuard<'_> {
    type Target = Arc<Snapshot>;

    fn deref(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.counter.store(self.counter.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}
