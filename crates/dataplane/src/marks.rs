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

/// The bits of this agent: two in packet marks, three in connection marks. All other bits of both are kept as they are:
/// kube-proxy's 0x4000 is one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    verdict: Mark,
    untracked: Mark,
    accepted: Mark,
    revoked: Mark,
    asked: Mark,
}

/// Bits that can't serve as marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MarksError {
    /// A mark is not one bit.
    #[error("mark {0} must have exactly one bit set")]
    NotOneBit(Mark),
    /// Two marks of the same kind, of packets or of connections, are the same bit.
    #[error("two {0} marks are both {1}: choose different bits")]
    Same(&'static str, Mark),
}

impl Default for Marks {
    /// Bits that kube-proxy (0x4000, 0x8000), Flannel and portmap (0x2000) leave alone.
    fn default() -> Self {
        Self {
            verdict: Mark(0x0100_0000),
            untracked: Mark(0x0200_0000),
            accepted: Mark(0x0100_0000),
            revoked: Mark(0x0200_0000),
            asked: Mark(0x0400_0000),
        }
    }
}

impl Marks {
    /// Marks of the operator's choice, one bit each: of packets `verdict` and `untracked`, of connections `accepted`, `revoked`
    /// and `asked`. Those of packets are different, and so are those of connections.
    pub fn new(packet: [Mark; 2], connection: [Mark; 3]) -> Result<Self, MarksError> {
        for (kind, marks) in [("packet", &packet[..]), ("connection", &connection[..])] {
            let mut seen = 0;
            for mark in marks {
                if mark.0.count_ones() != 1 {
                    return Err(MarksError::NotOneBit(*mark));
                }
                if seen & mark.0 != 0 {
                    return Err(MarksError::Same(kind, *mark));
                }
                seen |= mark.0;
            }
        }
        let ([verdict, untracked], [accepted, revoked, asked]) = (packet, connection);
        Ok(Self { verdict, untracked, accepted, revoked, asked })
    }

    /// In the packet mark. On the way to a worker: the packet is a reply, to be judged as the connection that it belongs to.
    /// From there to chain `allowed`: a worker allowed it.
    pub fn verdict(&self) -> Mark {
        self.verdict
    }

    /// In the packet mark, on the way to a worker: there is no connection that could take a verdict down.
    pub fn untracked(&self) -> Mark {
        self.untracked
    }

    /// In the connection mark: the connection was judged and is allowed, or needs no verdict.
    pub fn accepted(&self) -> Mark {
        self.accepted
    }

    /// In the connection mark: the connection is no longer allowed; stronger than [`Self::accepted`].
    pub fn revoked(&self) -> Mark {
        self.revoked
    }

    /// In the connection mark: a worker was asked about a packet of it, and has not allowed one since. Without it a packet that
    /// brings the verdict's bit along is like any other.
    pub fn asked(&self) -> Mark {
        self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_a_bit_of_its_own_among_those_of_its_kind() {
        let marks = |packet: [u32; 2], connection: [u32; 3]| {
            Marks::new(packet.map(Mark), connection.map(Mark)).map(|_| ())
        };
        assert_eq!(marks([1, 2], [1, 2, 4]), Ok(()));
        assert_eq!(marks([3, 2], [1, 2, 4]), Err(MarksError::NotOneBit(Mark(3))));
        assert_eq!(marks([1, 2], [1, 0, 4]), Err(MarksError::NotOneBit(Mark(0))));
        assert_eq!(marks([2, 2], [1, 2, 4]), Err(MarksError::Same("packet", Mark(2))));
        assert_eq!(marks([1, 2], [4, 2, 4]), Err(MarksError::Same("connection", Mark(4))));
    }
}
