//! The bits in packet marks and connection marks through which rules, workers and the sweep communicate.
//!
//! A packet's mark alone proves nothing, since other programs on the node write marks, too. So a rule clears
//! the queue reason before it sets one ([`Marks::queue_reason_bits`]). And a reinjected packet has a verdict
//! only if its verdict bit differs from the value that the connection's mark recorded when the packet was
//! queued ([`Marks::queued`]).

use std::fmt;
use std::ops::{BitAnd, BitOr, BitXor, Not};

use crate::queues::QueueRange;

/// A set of bits in a packet mark or connection mark, in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mark(pub u32);

impl Mark {
    /// No bit.
    pub const NONE: Self = Self(0);
    /// Every bit.
    pub const ALL: Self = Self(u32::MAX);

    /// Whether ANY of these bits is set.
    #[inline]
    pub fn has_any(self, bits: Self) -> bool {
        self.0 & bits.0 != 0
    }
}

impl BitAnd for Mark {
    type Output = Self;

    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Mark {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitXor for Mark {
    type Output = Self;

    #[inline]
    fn bitxor(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }
}

impl Not for Mark {
    type Output = Self;

    #[inline]
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// Why the rules queued a packet, which decides how a worker evaluates it. (OpenFlow's packet-in message
/// carries a reason, too.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum QueueReason {
    /// The packet may begin a connection.
    First,
    /// The packet is a reply of a connection that was not evaluated: connection tracking's direction is no
    /// proof (semantics 34).
    UnprovenReply,
    /// The packet's connection was evaluated, and policy has changed since.
    Established,
    /// The packet's connection was evaluated, policy has changed since, and the packet is a reply. Its
    /// connection is evaluated.
    EstablishedReply,
    /// There is no conntrack entry whose mark could record the verdict.
    Untracked,
    /// There is no conntrack entry, but the rules recorded the packet's flow key, and match the reinjected
    /// packet by it.
    UntrackedFlow,
}

/// The flow that a worker denies. The verdict applies to every packet of that flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeniedFlow {
    /// The packet's own flow: its addresses, protocol and destination port.
    Forward,
    /// The reverse flow, as if the packet's destination had opened the connection.
    Reverse,
}

/// The bits of this agent: four in packet marks, four in connection marks, none in both. All other bits of
/// both are preserved, such as kube-proxy's 0x4000.
///
/// Three of the packet mark's bits have one meaning on the way to a worker and another on the way back:
///
/// | bit | rules to worker | worker to rules |
/// | --- | --- | --- |
/// | 0 | left as found | inverted: the packet has a verdict |
/// | 1 | [`QueueReason`]: reply | the reverse flow is denied |
/// | 2 | [`QueueReason`]: established | the packet's own flow is denied |
/// | 3 | [`QueueReason`]: untracked | which agent's verdict it is |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    packet: [u32; 4],
    connection: [u32; 4],
    /// The value of [`Marks::agent_mask`] in this agent's verdicts.
    agent: u32,
}

/// Bits that can't serve as marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MarksError {
    /// A mask does not have four bits.
    #[error("{0} marks need exactly four bits, and {1} has {count}", count = .1.0.count_ones())]
    NotFourBits(&'static str, Mark),
    /// A bit is in both masks. A program that copies marks between packets and connections would turn one
    /// into the other.
    #[error("packet marks {0} and connection marks {1} have a bit in common: choose different bits")]
    Overlap(Mark, Mark),
}

impl Default for Marks {
    /// Bits that kube-proxy (0x4000, 0x8000), Flannel and portmap (0x2000) do not use.
    fn default() -> Self {
        Self { packet: bits(0x0f00_0000), connection: bits(0xf000_0000), agent: 0 }
    }
}

impl Marks {
    /// Marks chosen by the operator: two masks of four bits each, with no bit in common.
    ///
    /// # Errors
    /// [`MarksError`] if the masks are not like that.
    pub fn new(packet: Mark, connection: Mark) -> Result<Self, MarksError> {
        for (kind, mask) in [("packet", packet), ("connection", connection)] {
            if mask.0.count_ones() != 4 {
                return Err(MarksError::NotFourBits(kind, mask));
            }
        }
        if packet.has_any(connection) {
            return Err(MarksError::Overlap(packet, connection));
        }
        Ok(Self { packet: bits(packet.0), connection: bits(connection.0), agent: 0 })
    }

    /// The marks of the agent that serves these queues. An agent that was stopped while another took over
    /// sends verdicts on the packets in its queues once it runs again. The other agent's rules do not accept
    /// these verdicts, and the packets are evaluated again.
    #[must_use]
    pub fn for_queues(self, queues: QueueRange) -> Self {
        Self { agent: if queues.is_odd() { self.agent_mask().0 } else { 0 }, ..self }
    }

    /// All bits in packet marks.
    pub fn of_packets(&self) -> Mark {
        Mark(self.packet.iter().sum())
    }

    /// All bits in connection marks.
    pub fn of_connections(&self) -> Mark {
        Mark(self.connection.iter().sum())
    }

    /// In the packet mark: a worker inverts this bit to say that the packet has a verdict. [`Marks::queued`]
    /// and [`Marks::queued_inverted`] record its value from before.
    pub fn verdict_bit(&self) -> Mark {
        Mark(self.packet[0])
    }

    /// In the packet mark, on its way to a worker: the bits that hold a [`QueueReason`].
    pub fn queue_reason_mask(&self) -> Mark {
        Mark(self.packet[1..].iter().sum())
    }

    /// The value of [`Marks::queue_reason_mask`] for this reason.
    pub fn queue_reason_bits(&self, reason: QueueReason) -> Mark {
        let [_, reply, established, untracked] = self.packet;
        Mark(match reason {
            QueueReason::First => 0,
            QueueReason::UnprovenReply => reply,
            QueueReason::Established => established,
            QueueReason::EstablishedReply => established | reply,
            QueueReason::Untracked => untracked,
            QueueReason::UntrackedFlow => untracked | established,
        })
    }

    /// The value of [`Marks::queue_reason_mask`] for a packet that entered by a port without bindings. The
    /// bridge table sets it, and the first IP hook queues the packet by it.
    pub(crate) fn new_port(&self) -> Mark {
        self.queue_reason_mask()
    }

    /// In the packet mark, on its way back from a worker: the bit that says which agent's verdict it is.
    pub fn agent_mask(&self) -> Mark {
        Mark(self.packet[3])
    }

    /// The value of [`Marks::agent_mask`] in this agent's verdicts: see [`Marks::for_queues`].
    pub fn agent_bits(&self) -> Mark {
        Mark(self.agent)
    }

    /// In the packet mark, on its way back from a worker: the bits that say which flow is denied. An allowed
    /// packet has none of them.
    pub fn denied_mask(&self) -> Mark {
        let [_, denied_reverse, denied_forward, _] = self.packet;
        Mark(denied_forward | denied_reverse)
    }

    /// The value of [`Marks::denied_mask`] with which a worker denies this flow. The worker must invert
    /// [`Marks::verdict_bit`] as well.
    pub fn denied(&self, flow: DeniedFlow) -> Mark {
        let [_, denied_reverse, denied_forward, _] = self.packet;
        Mark(match flow {
            DeniedFlow::Forward => denied_forward,
            DeniedFlow::Reverse => denied_reverse,
        })
    }

    /// Why a packet with this mark was queued.
    #[inline]
    pub fn queue_reason(&self, mark: Mark) -> QueueReason {
        let [_, reply, established, untracked] = self.packet.map(Mark);
        match (mark.has_any(untracked), mark.has_any(established), mark.has_any(reply)) {
            (true, true, false) => QueueReason::UntrackedFlow,
            (true, ..) => QueueReason::Untracked,
            (false, true, true) => QueueReason::EstablishedReply,
            (false, true, false) => QueueReason::Established,
            (false, false, true) => QueueReason::UnprovenReply,
            (false, false, false) => QueueReason::First,
        }
    }

    /// In the connection mark: the connection was evaluated and is allowed, or needs no evaluation.
    pub fn accepted(&self) -> Mark {
        Mark(self.connection[0])
    }

    /// In the connection mark: the connection is no longer allowed. Takes precedence over [`Self::accepted`].
    pub fn revoked(&self) -> Mark {
        Mark(self.connection[1])
    }

    /// In the connection mark: one of its packets was queued while its verdict bit was clear, and none has
    /// been allowed since.
    pub fn queued(&self) -> Mark {
        Mark(self.connection[2])
    }

    /// In the connection mark: one of its packets was queued while another program had set its verdict bit,
    /// and none has been allowed since.
    pub fn queued_inverted(&self) -> Mark {
        Mark(self.connection[3])
    }
}

/// The four bits of a mask, lowest first.
const fn bits(mask: u32) -> [u32; 4] {
    let mut bits = [0; 4];
    let (mut rest, mut at) = (mask, 0);
    while at < 4 {
        bits[at] = rest & rest.wrapping_neg();
        rest &= !bits[at];
        at += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_four_bits_each_and_no_bit_in_common() {
        let marks = |packet, connection| Marks::new(Mark(packet), Mark(connection)).map(|_| ());
        assert_eq!(marks(0x0f, 0xf0), Ok(()));
        assert_eq!(marks(0x8421, 0x1248_0000), Ok(()));
        assert_eq!(marks(0x07, 0xf0), Err(MarksError::NotFourBits("packet", Mark(0x07))));
        assert_eq!(marks(0x0f, 0x1f0), Err(MarksError::NotFourBits("connection", Mark(0x1f0))));
        assert_eq!(marks(0x0f, 0x78), Err(MarksError::Overlap(Mark(0x0f), Mark(0x78))));
    }

    #[test]
    fn each_queue_reason_is_decoded_whatever_the_verdict_bit_and_other_bits_are() {
        use QueueReason::{Established, EstablishedReply, First, UnprovenReply, Untracked, UntrackedFlow};
        let marks = Marks::default();
        for reason in [First, UnprovenReply, Established, EstablishedReply, Untracked, UntrackedFlow] {
            for others in [Mark::NONE, Mark(0x4000), marks.verdict_bit()] {
                assert_eq!(marks.queue_reason(marks.queue_reason_bits(reason) | others), reason);
            }
        }
        let all = [marks.accepted(), marks.revoked(), marks.queued(), marks.queued_inverted()];
        assert_eq!(all.map(|mark| mark.0).into_iter().sum::<u32>(), marks.of_connections().0);
    }
}
