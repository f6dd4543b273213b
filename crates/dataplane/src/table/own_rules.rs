//! Whether the rules in the kernel are still this agent's, for changes that no batch of nftables guards.
//!
//! From: the queue rule in the kernel. To: [`Conntrack`](crate::conntrack::Conntrack), which asks before each message that changes
//! connections. Invariant: an agent that another one has superseded changes no connection, however long it was stopped in between.
//!
//! A change of rules holds for one generation of the ruleset, so a superseded agent's is refused. Conntrack has no such guard. Between
//! the answer and the write lie a few microseconds of this thread's time, and more only if the thread is preempted or stopped exactly
//! there. The agent that took over makes up for such a write: it evaluates all connections once more when nothing waits in its
//! predecessor's queues, and again when these are no longer bound.

use super::{TableError, in_force, open};
use crate::netlink::{NetlinkError, Socket};
use crate::queues::QueueRange;

/// See the module.
#[derive(Debug)]
pub(crate) struct OwnRules {
    /// Of its own: other threads change rules by theirs.
    socket: Socket,
    queues: QueueRange,
}

impl OwnRules {
    /// Of the agent that serves these queues, in the network namespace of the calling thread.
    pub(crate) fn open(queues: QueueRange) -> Result<Self, TableError> {
        Ok(Self { socket: open()?, queues })
    }

    /// The queues of the agent that has taken over; `None` if none has. Rules that another program deleted are still this agent's: it
    /// writes them again, and then evaluates all connections.
    ///
    /// # Errors
    /// [`NetlinkError`] if the rules can't be read.
    pub(crate) fn superseded_by(&mut self) -> Result<Option<QueueRange>, NetlinkError> {
        Ok(in_force::queues_named(&mut self.socket)?.filter(|named| *named != self.queues))
    }
}
