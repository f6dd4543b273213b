//! The bits in packet marks and connection marks by which rules, workers and the sweep speak to one another.

use std::fmt;

/// A set of bits in a packet mark or connection mark, in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mark(pub u32);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// The three bits of this agent. All other bits of both marks are kept as they are: kube-proxy's 0x4000 is one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    verdict: Mark,
    accepted: Mark,
    revoked: Mark,
}

/// Bits that can't serve as marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MarksError {
    /// A mark is not one bit.
    #[error("mark {0} must have exactly one bit set")]
    NotOneBit(Mark),
    /// The two connection marks are the same bit.
    #[error("the marks for accepted and revoked connections are both {0}: choose two different bits")]
    Same(Mark),
}

impl Default for Marks {
    /// Bits that kube-proxy (0x4000, 0x8000), Flannel and portmap (0x2000) leave alone.
    fn default() -> Self {
        Self { verdict: Mark(0x0100_0000), accepted: Mark(0x0100_0000), revoked: Mark(0x0200_0000) }
    }
}

impl Marks {
    /// Marks of the operator's choice: one bit each, `accepted` and `revoked` different.
    pub fn new(verdict: Mark, accepted: Mark, revoked: Mark) -> Result<Self, MarksError> {
        if let Some(mark) = [verdict, accepted, revoked].into_iter().find(|mark| mark.0.count_ones() != 1) {
            return Err(MarksError::NotOneBit(mark));
        }
        if accepted == revoked {
            return Err(MarksError::Same(accepted));
        }
        Ok(Self { verdict, accepted, revoked })
    }

    /// In the packet mark, from the verdict to the settle chain: a worker allowed this packet.
    pub fn verdict(&self) -> Mark {
        self.verdict
    }

    /// In the connection mark: the connection was judged and is allowed.
    pub fn accepted(&self) -> Mark {
        self.accepted
    }

    /// In the connection mark: the connection is no longer allowed; stronger than [`Self::accepted`].
    pub fn revoked(&self) -> Mark {
        self.revoked
    }
}
