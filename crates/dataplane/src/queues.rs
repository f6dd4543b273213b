//! NFQUEUE numbers. There are two ranges, so that a new agent can be completely set up before the rules send
//! packets to it.
//!
//! One range begins with an even number, the other with an odd one. An agent takes the range whose parity its
//! predecessor does not use, regardless of their base numbers. So the rules of one agent never mistake an
//! answer of the other for their own (see [`Marks::for_queues`]).
//!
//! [`Marks::for_queues`]: crate::marks::Marks::for_queues

use std::fmt;

/// A range of NFQUEUE numbers, one for each core. The kernel sends a packet to the queue of the core that
/// received it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct QueueRange {
    /// The first number.
    pub first: u16,
    /// How many numbers: at least 1, and `first + count` is at most 65,536.
    pub count: u16,
}

/// The queue numbers don't exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "queues {first} (and {count} in all) don't exist: numbers end at 65535, and there must be at least one"
)]
pub struct NoSuchQueues {
    first: u16,
    count: u32,
}

impl QueueRange {
    /// The two ranges of `count` queues each that agents with base number `base` use alternately.
    ///
    /// # Errors
    /// [`NoSuchQueues`] unless `count` is at least 1 and all [`QueueRange::numbers_of_pair`] exist.
    pub fn pair(base: u16, count: u16) -> Result<[Self; 2], NoSuchQueues> {
        let numbers = Self::numbers_of_pair(count);
        if count == 0 || u32::from(base) + numbers > 1 << 16 {
            return Err(NoSuchQueues { first: base, count: numbers });
        }
        // The second range is at the end of the pair.
        let second = base + (numbers - u32::from(count)) as u16;
        Ok([Self { first: base, count }, Self { first: second, count }])
    }

    /// How many numbers two ranges of `count` queues take. Between ranges with an even count one number stays
    /// free, so that one of them begins with an odd number.
    pub fn numbers_of_pair(count: u16) -> u32 {
        2 * u32::from(count) + u32::from(count.is_multiple_of(2))
    }

    /// Whether it begins with an odd number.
    pub fn is_odd(self) -> bool {
        !self.first.is_multiple_of(2)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_pair_have_different_parity_and_are_disjoint() {
        for (base, count) in [(100, 1), (100, 2), (101, 2), (101, 3), (0, 1024), (65_531, 2)] {
            let [first, second] = QueueRange::pair(base, count).expect("numbers that exist");
            assert_ne!(first.is_odd(), second.is_odd(), "{first} and {second}");
            assert!(first.numbers().all(|number| second.numbers().all(|other| other != number)));
            assert_eq!((first.count, second.count), (count, count));
        }
        QueueRange::pair(65_532, 2).expect_err("the last would be 65,536");
        QueueRange::pair(100, 0).expect_err("there must be at least one queue");
    }
}
