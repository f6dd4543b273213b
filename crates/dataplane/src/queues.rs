//! NFQUEUE numbers. Two ranges, so that a new agent can be completely set up before the rules turn to it.

use std::fmt;

/// A range of NFQUEUE numbers, one for each core; the kernel sends a packet to the queue of the core it came in on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct QueueRange {
    /// The first number.
    pub first: u16,
    /// How many: at least 1, and `first + count` is at most 65,536.
    pub count: u16,
}

/// Queue numbers that don't exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "queues {first} (and {count} in all) don't exist: numbers end at 65535, and there must be at least one"
)]
pub struct NoSuchQueues {
    first: u16,
    count: u16,
}

impl QueueRange {
    /// The two ranges of `count` queues each that an agent with base number `base` may use, one after the other.
    pub fn pair(base: u16, count: u16) -> Result<[Self; 2], NoSuchQueues> {
        let wrong = NoSuchQueues { first: base, count: count.saturating_mul(2) };
        if count == 0 || u32::from(base) + 2 * u32::from(count) > 1 << 16 {
            return Err(wrong);
        }
        let second = base + count;
        Ok([Self { first: base, count }, Self { first: second, count }])
    }

    /// The numbers of the range.
    pub fn numbers(self) -> impl Iterator<Item = u16> {
        (0..self.count).map(move |i| self.first + i)
    }
}

impl fmt::Display for QueueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, u32::from(self.first) + u32::from(self.count) - 1)
    }
}
