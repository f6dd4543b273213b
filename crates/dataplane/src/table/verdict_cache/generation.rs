//! Generations of the verdict cache.

use std::time::SystemTime;

/// A generation of the verdict cache, whose number is a part of each flow key.
///
/// No two cache generations whose flows may still be in a set have the same number. The number is even: flows
/// of packets to the node use the odd number after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::table) struct CacheGeneration(u32);

impl CacheGeneration {
    /// The first cache generation of an agent that starts at `now`.
    #[expect(clippy::cast_possible_truncation, reason = "the number wraps around after more than an hour")]
    pub(super) fn first(now: SystemTime) -> Self {
        // Each change of policy adds two, and takes much longer than two microseconds. So the next agent
        // begins after the last number of this one.
        let micros = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        Self(micros as u32 & !1)
    }

    /// The cache generation after this one.
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(2))
    }

    /// Its number in the keys of forwarded flows.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// Its number in the keys of flows to the node.
    pub(super) fn input_number(self) -> u32 {
        self.0 | 1
    }
}
