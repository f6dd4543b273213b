//! The one place where the two lives meet: the current snapshot, and how far each worker has got.
//!
//! A worker enters before it reads the snapshot and leaves after the kernel has its verdict. A publisher
//! swaps the snapshot and then waits for every worker that was inside at that moment: from then on no verdict
//! of the old snapshot can reach the kernel. Nobody on the packet's path waits for anybody.

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
    /// One per worker: odd while the worker is inside a verdict, even between two. Only its own worker writes
    /// it.
    passes: Box<[CachePadded<AtomicU64>]>,
}

impl Published {
    /// A cell that holds `first` and serves `workers` readers.
    pub fn new(first: Arc<Snapshot>, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::new(first),
            passes: (0..workers).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
        })
    }

    /// The snapshot that is current now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes `next` the current snapshot. The grace period is over once [`Grace::over`] says so.
    pub fn publish(self: &Arc<Self>, next: Arc<Snapshot>) -> Grace {
        self.current.store(next);
        // Pairs with the fence in `Reader::enter`: a worker whose pass is read as even below will see `next`.
        fence(Ordering::SeqCst);
        let inside = self
            .passes
            .iter()
            .enumerate()
            .map(|(worker, pass)| (worker, pass.load(Ordering::Acquire)))
            .filter(|(_, pass)| pass % 2 == 1)
            .collect();
        Grace { published: Arc::clone(self), inside }
    }

    /// The reader of worker `worker`, counted from 0. Each worker takes its own, once.
    ///
    /// # Panics
    /// If `worker` is not below the number given to [`Published::new`]: a mistake of the program, seen at its
    /// start.
    pub fn reader(self: &Arc<Self>, worker: usize) -> Reader {
        assert!(worker < self.passes.len(), "worker {worker} of {}", self.passes.len());
        Reader { published: Arc::clone(self), worker }
    }
}

/// Waits for the verdicts that were under way when a snapshot was published.
#[derive(Debug)]
pub struct Grace {
    published: Arc<Published>,
    /// Worker and the odd pass in which it was.
    inside: Vec<(usize, u64)>,
}

impl Grace {
    /// Whether every worker has finished the verdict that it was computing under the old snapshot.
    pub fn over(&mut self) -> bool {
        let passes = &self.published.passes;
        self.inside.retain(|(worker, pass)| passes[*worker].load(Ordering::Acquire) == *pass);
        self.inside.is_empty()
    }
}

/// A worker's own way to the current snapshot.
#[derive(Debug)]
pub struct Reader {
    published: Arc<Published>,
    worker: usize,
}

impl Reader {
    /// Enters a verdict. Keep the pass until the kernel has the verdict: dropping it ends the verdict.
    pub fn enter(&mut self) -> Pass<'_> {
        let pass = &self.published.passes[self.worker];
        pass.store(pass.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // Pairs with the fence in `Published::publish`: either the publisher sees this pass, or we see its
        // snapshot.
        fence(Ordering::SeqCst);
        Pass { snapshot: self.published.current.load(), pass }
    }
}

/// One verdict under way, under one snapshot.
pub struct Pass<'a> {
    snapshot: Guard<Arc<Snapshot>>,
    pass: &'a AtomicU64,
}

impl Deref for Pass<'_> {
    type Target = Arc<Snapshot>;

    fn deref(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.pass.store(self.pass.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}
