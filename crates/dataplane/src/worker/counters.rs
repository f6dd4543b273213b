//! A worker's counters, which are written and read without locks.

use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use policy::{Decision, Packet, Verdict};

use super::packet_counts::{PacketCells, PacketClass, PacketCounts};

/// The counters of one worker since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets evaluated: the sum of the two below.
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
    /// Packets whose decision was provisional.
    pub hold: HoldCounters,
}

/// Packets whose decision depends on a pod that is not known (yet).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HoldCounters {
    /// Packets that are held now.
    pub now: u64,
    /// Packets that were held: those that are held now, and the sum of the three below.
    pub held: u64,
    /// Packets that were held and then allowed, because the pod became known.
    pub allowed: u64,
    /// Packets that were held and then denied, because the pod became known.
    pub denied: u64,
    /// Packets that were held until the timeout (or until the agent ended), and then accepted or dropped by
    /// `--on-unknown-pod`.
    pub expired: u64,
    /// Packets that were not held because of a limit, and accepted or dropped at once.
    pub over_limit: u64,
    /// Retransmitted packets that were dropped without an evaluation, because the first one was held.
    pub repeated: u64,
}

impl Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(counters: I) -> Self {
        counters.fold(Self::default(), |sum, one| Self {
            packets: sum.packets + one.packets,
            allowed: sum.allowed + one.allowed,
            denied: sum.denied + one.denied,
            unparsable: sum.unparsable + one.unparsable,
            gone: sum.gone + one.gone,
            enobufs: sum.enobufs + one.enobufs,
            hold: HoldCounters {
                now: sum.hold.now + one.hold.now,
                held: sum.hold.held + one.hold.held,
                allowed: sum.hold.allowed + one.hold.allowed,
                denied: sum.hold.denied + one.hold.denied,
                expired: sum.hold.expired + one.hold.expired,
                over_limit: sum.hold.over_limit + one.hold.over_limit,
                repeated: sum.hold.repeated + one.hold.repeated,
            },
        })
    }
}

/// The counters of one worker, on separate cache lines. Only the worker writes them, any thread may read
/// them.
#[derive(Debug, Default)]
pub(crate) struct SharedCounters(CachePadded<Cells>);

#[derive(Debug, Default)]
struct Cells {
    packets: PacketCells,
    gone: AtomicU64,
    enobufs: AtomicU64,
    held_now: AtomicU64,
    held: AtomicU64,
    held_allowed: AtomicU64,
    held_denied: AtomicU64,
    expired: AtomicU64,
    over_limit: AtomicU64,
    repeated: AtomicU64,
}

impl SharedCounters {
    /// Counts a verdict on a packet, which is `None` if it could not be parsed.
    #[inline]
    pub(crate) fn count(&self, decision: &Decision, packet: Option<&Packet>) {
        add(self.0.packets.cell(PacketClass::new(decision, packet)));
    }

    /// Counts a verdict that came too late.
    pub(crate) fn gone(&self) {
        add(&self.0.gone);
    }

    /// Counts a message for which there was no memory.
    pub(crate) fn enobufs(&self) {
        add(&self.0.enobufs);
    }

    /// Counts a packet that is now held, as one of `now` held packets.
    pub(crate) fn hold(&self, now: usize) {
        add(&self.0.held);
        self.0.held_now.store(now as u64, Ordering::Relaxed);
    }

    /// Counts the verdict on a held packet, `None` if it was still provisional. `now` packets are still held.
    pub(crate) fn release(&self, verdict: Option<Verdict>, now: usize) {
        add(match verdict {
            Some(Verdict::Allow) => &self.0.held_allowed,
            Some(Verdict::Deny) => &self.0.held_denied,
            None => &self.0.expired,
        });
        self.0.held_now.store(now as u64, Ordering::Relaxed);
    }

    /// Counts a packet that was not held because of a limit.
    pub(crate) fn over_limit(&self) {
        add(&self.0.over_limit);
    }

    /// Counts a packet that retransmits a held one.
    pub(crate) fn repeated(&self) {
        add(&self.0.repeated);
    }

    /// How many packets are held now.
    pub(crate) fn held_now(&self) -> u64 {
        self.0.held_now.load(Ordering::Relaxed)
    }

    /// The evaluated packets by class now.
    pub(crate) fn packets(&self) -> PacketCounts {
        self.0.packets.read()
    }

    /// The numbers now.
    pub(crate) fn read(&self) -> Counters {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let counts = self.packets();
        let (allowed, denied) = (counts.with_verdict(Verdict::Allow), counts.with_verdict(Verdict::Deny));
        Counters {
            packets: allowed + denied,
            allowed,
            denied,
            unparsable: counts.unparsable(),
            gone: read(&self.0.gone),
            enobufs: read(&self.0.enobufs),
            hold: HoldCounters {
                now: read(&self.0.held_now),
                held: read(&self.0.held),
                allowed: read(&self.0.held_allowed),
                denied: read(&self.0.held_denied),
                expired: read(&self.0.expired),
                over_limit: read(&self.0.over_limit),
                repeated: read(&self.0.repeated),
            },
        }
    }
}

/// Adds one without a locked instruction: there is only one writer.
fn add(cell: &AtomicU64) {
    cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
