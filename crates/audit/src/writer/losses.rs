//! Losses that the log does not report yet.
//!
//! Invariant: each number of a record that is not in the log is in the range of exactly one loss.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::record::{Lost, LostReason};
use crate::recorder::RingLosses;

/// How many losses are kept apart. While the log can't be written, more of them become one.
const MOST: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Oldest first.
    unreported: Vec<Loss>,
    /// How many of them the lines to write report.
    in_lines: usize,
    /// The numbers of the last lines that were written, and the losses that they report: a stream may have
    /// accepted these lines and still lose them.
    last_written: Option<((u64, u64), Vec<Loss>)>,
    /// All losses in rings that have been counted, by reason.
    in_rings: [u64; 2],
    /// All losses in rings that have been freed, by reason.
    in_old_rings: [u64; 2],
    /// All records in lines that could not be written.
    in_writes: u64,
}

/// Consecutive numbers of records that are not in the log.
#[derive(Clone, Debug)]
struct Loss {
    /// How many of them are counted.
    count: u64,
    from_seq: u64,
    to_seq: u64,
    reason: LostReason,
}

/// The reasons of losses in rings, in the order of their counters.
const IN_RINGS: [LostReason; 2] = [LostReason::QueueFull, LostReason::NotReceived];

impl Losses {
    /// Counts the losses in these rings since the last call. They take numbers from `next_seq`.
    pub(super) fn count<'a>(&mut self, rings: impl Iterator<Item = &'a RingLosses>, next_seq: &AtomicU64) {
        let mut total = self.in_old_rings;
        for ring in rings {
            total[0] += ring.queue_full.load(Relaxed);
            total[1] += ring.not_received.load(Relaxed);
        }
        for (index, reason) in IN_RINGS.into_iter().enumerate() {
            let count = total[index] - self.in_rings[index];
            if count > 0 {
                let from_seq = next_seq.fetch_add(count, Relaxed);
                self.push(Loss { count, from_seq, to_seq: from_seq + count - 1, reason });
            }
        }
        self.in_rings = total;
    }

    /// Counts the losses of a ring that is freed. It must not grow any more.
    pub(super) fn free(&mut self, ring: &RingLosses) {
        self.in_old_rings[0] += ring.queue_full.load(Relaxed);
        self.in_old_rings[1] += ring.not_received.load(Relaxed);
    }

    /// The losses to report in the lines to write.
    pub(super) fn report(&mut self) -> Vec<Lost> {
        self.in_lines = self.unreported.len();
        let lost = |loss: &Loss| {
            let Loss { count, from_seq, to_seq, reason } = *loss;
            Lost { count, from_seq: Some(from_seq), to_seq: Some(to_seq), reason }
        };
        self.unreported.iter().map(lost).collect()
    }

    /// Forgets the losses, if there is no log to report them to.
    pub(super) fn discard(&mut self) {
        self.unreported.clear();
        self.in_lines = 0;
    }

    /// The lines with these numbers have been written.
    pub(super) fn written(&mut self, numbers: (u64, u64)) {
        let reported = self.unreported.drain(..self.in_lines).collect();
        self.last_written = Some((numbers, reported));
        self.in_lines = 0;
    }

    /// The lines of the last write are lost nevertheless, or some of them, and with them this many records.
    pub(super) fn lost_after_write(&mut self, count: u64) {
        self.in_writes += count;
        let Some(((from_seq, to_seq), reported)) = self.last_written.take() else { return };
        self.unreported.splice(0..0, reported);
        self.push(Loss { count, from_seq, to_seq, reason: LostReason::WriteFailed });
    }

    /// The lines with these numbers and this many records could not be written.
    pub(super) fn write_failed(&mut self, (from_seq, to_seq): (u64, u64), count: u64) {
        self.in_lines = 0;
        self.in_writes += count;
        self.push(Loss { count, from_seq, to_seq, reason: LostReason::WriteFailed });
    }

    /// How many records have been lost so far.
    pub(super) fn total(&self) -> u64 {
        self.in_rings.iter().sum::<u64>() + self.in_writes
    }

    fn push(&mut self, lost: Loss) {
        if lost.from_seq > lost.to_seq {
            return;
        }
        let is_full = self.unreported.len() >= MOST;
        // Those that the lines report must stay apart: they may be written.
        let last = self.unreported.last_mut().filter(|_| self.in_lines == 0);
        match last {
            Some(last) if is_full || last.reason == lost.reason && last.to_seq + 1 == lost.from_seq => {
                last.to_seq = lost.to_seq;
                last.count += lost.count;
            }
            _ => self.unreported.push(lost),
        }
    }
}
