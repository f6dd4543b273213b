//! The bits in packet marks and connection marks by which rules, workers and the sweep communicate.
//!
//! A packet's mark alone proves nothing, since other programs on the node write marks, too. So a rule clears the question bits before it
//! sets them ([`Marks::question`]). And a packet counts as allowed only if its answer bit differs from the value that the connection's
//! mark recorded when the worker was asked ([`Marks::asked`]).

use std::fmt;

use crate::queues::QueueRange;

/// A set of bits in a packet mark or connection mark, in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mark(pub u32);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// What a worker is asked about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Question {
    /// The packet may begin a connection.
    First,
    /// The packet is a reply of a connection that was not evaluated: connection tracking's direction is no proof (semantics 34).
    UnprovenReply,
    /// The packet's connection was evaluated, and policy has changed since.
    Established,
    /// Likewise, and the packet is a reply: its connection is evaluated.
    EstablishedReply,
    /// There is no conntrack entry whose mark could record the verdict.
    Untracked,
    /// Likewise, but the rules have noted the packet's flow, and take the answer back.
    UntrackedFlow,
}

/// Which flow a worker's denial is about: it holds for every packet of that flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeniedFlow {
    /// That of the packet: its addresses, protocol and destination port.
    Forward,
    /// The opposite one, as if the packet's destination had opened the connection.
    Reverse,
}

/// The bits of this agent: four in packet marks, four in connection marks, none in both. All other bits of both are preserved, such as
/// kube-proxy's 0x4000.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    packet: [u32; 4],
    connection: [u32; 4],
    /// The value of [`Marks::turns`] of this agent's answers.
    turn: u32,
}

/// Bits that can't serve as marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MarksError {
    /// A mask has another number of bits.
    #[error("{0} marks need exactly four bits, and {1} has {count}", count = .1.0.count_ones())]
    NotFourBits(&'static str, Mark),
    /// A bit serves twice: a program that copies marks between packets and connections would turn one into the other.
    #[error("packet marks {0} and connection marks {1} have a bit in common: choose different bits")]
    Overlap(Mark, Mark),
}

impl Default for Marks {
    /// Bits that kube-proxy (0x4000, 0x8000), Flannel and portmap (0x2000) do not use.
    fn default() -> Self {
        Self { packet: bits(0x0f00_0000), connection: bits(0xf000_0000), turn: 0 }
    }
}

impl Marks {
    /// Marks of the operator's choice: two masks of four bits each that have none in common.
    ///
    /// # Errors
    /// [`MarksError`] if they are not.
    pub fn new(packet: Mark, connection: Mark) -> Result<Self, MarksError> {
        for (kind, mask) in [("packet", packet), ("connection", connection)] {
            if mask.0.count_ones() != 4 {
                return Err(MarksError::NotFourBits(kind, mask));
            }
        }
        if packet.0 & connection.0 != 0 {
            return Err(MarksError::Overlap(packet, connection));
        }
        Ok(Self { packet: bits(packet.0), connection: bits(connection.0), turn: 0 })
    }

    /// The marks of the agent whose workers serve these queues. An agent that was stopped while another took over answers what waits in
    /// its queues once it runs again: to the rules of the other its answers are none, and the packet is evaluated again.
    #[must_use]
    pub fn answered_by(self, queues: QueueRange) -> Self {
        Self { turn: if queues.is_odd() { self.turns().0 } else { 0 }, ..self }
    }

    /// All bits in packet marks.
    pub fn of_packets(&self) -> Mark {
        Mark(self.packet.iter().sum())
    }

    /// All bits in connection marks.
    pub fn of_connections(&self) -> Mark {
        Mark(self.connection.iter().sum())
    }

    /// In the packet mark: the worker inverts it when it allows the packet. [`Marks::asked`] and [`Marks::asked_inverted`] tell its
    /// value before.
    pub fn answer(&self) -> Mark {
        Mark(self.packet[0])
    }

    /// In the packet mark, on its way to a worker: the bits that say what is asked.
    pub fn questions(&self) -> Mark {
        Mark(self.packet[1..].iter().sum())
    }

    /// The value of [`Marks::questions`] that asks this.
    pub fn question(&self, question: Question) -> Mark {
        let [_, reply, established, untracked] = self.packet;
        Mark(match question {
            Question::First => 0,
            Question::UnprovenReply => reply,
            Question::Established => established,
            Question::EstablishedReply => established | reply,
            Question::Untracked => untracked,
            Question::UntrackedFlow => untracked | established,
        })
    }

    /// The value of [`Marks::questions`] of a packet that entered by a port without bindings. The bridge table sets it, and IP's first hook
    /// queues the packet by it.
    pub(crate) fn new_port(&self) -> Mark {
        self.questions()
    }

    /// In the packet mark, on its way back from a worker: the bit that says whose answer it is.
    pub fn turns(&self) -> Mark {
        Mark(self.packet[3])
    }

    /// The value of [`Marks::turns`] of this agent's answers: see [`Marks::answered_by`].
    pub fn turn(&self) -> Mark {
        Mark(self.turn)
    }

    /// In the packet mark, on its way back from a worker: the bits that say that a flow is denied.
    pub fn denials(&self) -> Mark {
        let [_, reply, established, _] = self.packet;
        Mark(established | reply)
    }

    /// The value of [`Marks::denials`] with which a worker answers that this flow is denied. The packet must be answered besides: see
    /// [`Marks::answer`]. An allowed packet comes back with none of these bits.
    pub fn denied(&self, flow: DeniedFlow) -> Mark {
        let [_, reply, established, _] = self.packet;
        Mark(match flow {
            DeniedFlow::Forward => established,
            DeniedFlow::Reverse => reply,
        })
    }

    /// What a packet with this mark asks.
    #[inline]
    pub fn asks(&self, mark: u32) -> Question {
        let [_, reply, established, untracked] = self.packet;
        match (mark & untracked != 0, mark & established != 0, mark & reply != 0) {
            (true, true, false) => Question::UntrackedFlow,
            (true, ..) => Question::Untracked,
            (false, true, true) => Question::EstablishedReply,
            (false, true, false) => Question::Established,
            (false, false, true) => Question::UnprovenReply,
            (false, false, false) => Question::First,
        }
    }

    /// In the connection mark: the connection was evaluated and is allowed, or needs no evaluation.
    pub fn accepted(&self) -> Mark {
        Mark(self.connection[0])
    }

    /// In the connection mark: the connection is no longer allowed; stronger than [`Self::accepted`].
    pub fn revoked(&self) -> Mark {
        Mark(self.connection[1])
    }

    /// In the connection mark: a worker was asked about one of its packets, whose answer bit was clear, and has allowed none since.
    pub fn asked(&self) -> Mark {
        Mark(self.connection[2])
    }

    /// In the connection mark: likewise, about a packet whose answer bit another program had set.
    pub fn asked_inverted(&self) -> Mark {
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
    fn masks_have_four_bits_each_and_none_in_common() {
        let marks = |packet, connection| Marks::new(Mark(packet), Mark(connection)).map(|_| ());
        assert_eq!(marks(0x0f, 0xf0), Ok(()));
        assert_eq!(marks(0x8421, 0x1248_0000), Ok(()));
        assert_eq!(marks(0x07, 0xf0), Err(MarksError::NotFourBits("packet", Mark(0x07))));
        assert_eq!(marks(0x0f, 0x1f0), Err(MarksError::NotFourBits("connection", Mark(0x1f0))));
        assert_eq!(marks(0x0f, 0x78), Err(MarksError::Overlap(Mark(0x0f), Mark(0x78))));
    }

    #[test]
    fn each_question_is_read_back_whatever_the_answer_bit_and_other_bits_are() {
        use Question::{Established, EstablishedReply, First, UnprovenReply, Untracked, UntrackedFlow};
        let marks = Marks::default();
        for question in [First, UnprovenReply, Established, EstablishedReply, Untracked, UntrackedFlow] {
            for others in [0, 0x4000, marks.answer().0] {
                assert_eq!(marks.asks(marks.question(question).0 | others), question);
            }
        }
        let all = [marks.accepted(), marks.revoked(), marks.asked(), marks.asked_inverted()];
        assert_eq!(all.map(|mark| mark.0).into_iter().sum::<u32>(), marks.of_connections().0);
    }
}
