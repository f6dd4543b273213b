//! What a worker has done, counted without waiting for anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use policy::Verdict;

/// What one worker has done since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets judged: the sum of the two below.
    pub packets: u64,
    /// Packets allowed.
    pub allowed: u64,
    /// Packets denied, those that can't be parsed among them.
    pub denied: u64,
    /// Packets that can't be parsed.
    pub unparsable: u64,
    /// Packets that the kernel had dropped before the verdict: a base chain or a device went away.
    pub gone: u64,
    /// Messages to or from the kernel for which there was no memory.
    pub enobufs: u64,
}

/// The counters of one worker, on cache lines of their own. Only the worker writes, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct SharedCounters(CachePadded<Cells>);

#[derive(Debug, Default)]
struct Cells {
    allowed: AtomicU64,
    denied: AtomicU64,
    unparsable: AtomicU64,
    gone: AtomicU64,
    enobufs: AtomicU64,
}

impl SharedCounters {
    /// Counts a verdict.
    pub(crate) fn count(&self, verdict: Verdict, unparsable: bool) {
        add(match verdict {
            Verdict::Allow => &self.0.allowed,
            Verdict::Deny => &self.0.denied,
        });
        if unparsable {
            add(&self.0.unparsable);
        }
    }

    /// Counts a verdict that came too late.
    pub(crate) fn gone(&self) {
        add(&self.0.gone);
    }

    /// Counts a message for which there was no memory.
    pub(crate) fn enobufs(&self) {
        add(&self.0.enobufs);
    }

    /// The numbers now.
    pub(crate) fn read(&self) -> Counters {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let (allowed, denied) = (read(&self.0.allowed), read(&self.0.denied));
        Counters {
            packets: allowed + denied,
            allowed,
            denied,
            unparsable: read(&self.0.unparsable),
            gone: read(&self.0.gone),
            enobufs: read(&self.0.enobufs),
        }
    }
}

/// One writer: no locked instruction is needed.
fn add(cell: &AtomicU64) {
    cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
