//! Ids that the compiler assigns to what a snapshot refers to.

use std::ops::Range;

/// An identity: pods that no policy distinguishes as peers, since policies see the same labels and namespace.
///
/// Its position in the list of identities, below 2^31. Valid until the next full rebuild.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct IdentityId(pub(crate) u32);

impl IdentityId {
    /// Its position in lists of identities.
    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// The identity after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The identities of a range, ascending.
    pub(crate) fn all_in(range: Range<Self>) -> impl ExactSizeIterator<Item = Self> + Clone {
        (range.start.0..range.end.0).map(Self)
    }
}

/// A node. Numbered from 0 in the order in which nodes were first seen; at most 2^30 - 2. It never changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NodeId(pub(crate) u32);

/// The number of the element at this position of a list that the compiler fills: what an id holds.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a node's memory and the budget of policies keep lists far below 2^32 elements"
)]
pub(crate) fn number_of(position: usize) -> u32 {
    position as u32
}
