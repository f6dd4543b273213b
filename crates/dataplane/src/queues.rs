//! NFQUEUE numbers. There are two ranges, so that a new agent can be completely set up before the rules send
//! packets to it.
//!
//! One range begins with an even number, the other with an odd one. An agent takes the range whose parity its
//! predecessor does not use, regardless of their base numbers. So the rules of one agent never mistake an
//! answer of the other for their own (see [`Marks::for_queues`]).
//!
//! [`Marks::for_queues`]: crate::marks::Marks::for_queues

use std::fmt;

/// The number of an NFQUEUE queue in a network namespace: any 16-bit number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct QueueNumber(pub u16);

impl QueueNumber {
    /// The queue with this number plus `offset`, which must be at most 65,535.
    #[must_use]
    pub fn plus(self, offset: u16) -> Self {
        Self(self.0 + offset)
    }
}

impl fmt::Display for QueueNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of NFQUEUE numbers, one for each core. The kernel sends a packet to the queue of the core that
/// received it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct QueueRange {
    /// The first number.
    pub first: QueueNumber,
    /// How many numbers: at least 1, and `first + count` is at most 65,536.
    pub count: u16,
}

/// The queue numbers don't exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "queues {first} (and {count} in all) don't exist: numbers end at 65535, and there must be at least one"
)]
pub struct NoSuchQueues {
    first: QueueNumber,
    count: u32,
}

impl QueueRange {
    /// The two ranges of `count` queues each that agents with base number `base` use alternately.
    ///
    /// # Errors
    /// [`NoSuchQueues`] unless `count` is at least 1 and all [`QueueRange::numbers_of_pair`] exist.
    pub fn pair(base: QueueNumber, count: u16) -> Result<[Self; 2], NoSuchQueues> {
        let numbers = Self::numbers_of_pair(count);
        // The second range is at the end of the pair.
        let second = u32::from(base.0) + numbers - u32::from(count);
        match u16::try_from(second) {
            Ok(second) if count > 0 && u32::from(second) + u32::from(count) <= 1 << 16 => {
                Ok([Self { first: base, count }, Self { first: QueueNumber(second), count }])
            }
            _ => Err(NoSuchQueues { first: base, count: numbers }),
        }
    }

    /// How many numbers two ranges of `count` queues take. Between ranges with an even count one number stays
    /// free, so that one of them begins with an odd number.
    pub fn numbers_of_pair(count: u16) -> u32 {
        2 * u32::from(count) + u32::from(count.is_multiple_of(2))
    }

    /// Whether it begins with an odd number.
    pub fn is_odd(self) -> bool {
        !self.first.0.is_multiple_of(2)
    }

    /// The numbers of the range.
    pub fn numbers(self) -> impl Iterator<Item = QueueNumber> {
        (0..self.count).map(move |offset| self.first.plus(offset))
    }

    /// Whether a queue is one of them.
    pub fn contains(self, queue: QueueNumber) -> bool {
        queue.0.checked_sub(self.first.0).is_some_and(|offset| offset < self.count)
    }
}

impl fmt::Display for QueueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, u32::from(self.first.0) + u32::from(self.count) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_pair_have_different_parity_and_are_disjoint() {
        for (base, count) in [(100, 1), (100, 2), (101, 2), (101, 3), (0, 1024), (65_531, 2)] {
            let [first, second] = QueueRange::pair(QueueNumber(base), count).expect("numbers that exist");
            assert_ne!(first.is_odd(), second.is_odd(), "{first} and {second}");
            assert!(first.numbers().all(|number| first.contains(number) && !second.contains(number)));
            assert!(second.numbers().all(|number| second.contains(number) && !first.contains(number)));
            assert_eq!((first.count, second.count), (count, count));
        }
        QueueRange::pair(QueueNumber(65_532), 2).expect_err("the last would be 65,536");
        QueueRange::pair(QueueNumber(100), 0).expect_err("there must be at least one queue");
    }
}
