//! The bits of addresses, and the values that tries and runs map them to.

use std::net::IpAddr;
use std::ops::{BitAnd, BitOr, BitXor, Not, Shl, ShlAssign, Shr};

/// The most bits that the first step consumes.
pub(super) const FIRST_STEP: u32 = 16;

/// The value of a prefix: below 2^30.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Value(pub(crate) u32);

/// The bits of an address of one family.
pub(crate) trait Bits:
    Copy
    + Ord
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Not<Output = Self>
    + Shl<u32, Output = Self>
    + ShlAssign<u32>
    + Shr<u32, Output = Self>
{
    const NONE: Self;
    /// The number of bits.
    const NUMBER: u32;

    /// The bits of an address of this family.
    fn of(address: IpAddr) -> Self;

    /// The length of the common prefix of two addresses.
    fn common(self, other: Self) -> u32;

    /// The first `count` bits as a number; `count` is at most [`FIRST_STEP`].
    fn first(self, count: u32) -> usize;

    /// The inverse of [`Bits::first`]: the first `count` bits are `number`, the others 0.
    fn with_first(number: u32, count: u32) -> Self;

    /// The next higher address, if there is one.
    fn next(self) -> Option<Self>;
}

macro_rules! bits_of {
    ($family:ident, $bits:ty) => {
        impl Bits for $bits {
            const NONE: Self = 0;
            const NUMBER: u32 = Self::BITS;

            fn of(address: IpAddr) -> Self {
                if let IpAddr::$family(address) = address { address.into() } else { Self::NONE }
            }

            fn common(self, other: Self) -> u32 {
                (self ^ other).leading_zeros()
            }

            #[inline(always)]
            fn first(self, count: u32) -> usize {
                (self >> (Self::NUMBER - count)) as usize
            }

            fn with_first(number: u32, count: u32) -> Self {
                Self::from(number) << (Self::NUMBER - count)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}

bits_of!(V4, u32);

bits_of!(V6, u128);
