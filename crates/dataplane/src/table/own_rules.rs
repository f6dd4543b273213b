//! Checks whether the rules in the kernel are still this agent's, for changes that are not nftables batches.
//!
//! From: the queue rule in the kernel. To: [`Conntrack`](crate::conntrack::Conntrack), which checks before
//! each message that changes connections. Invariant: an agent that another one has superseded changes no
//! connection, however long it was stopped in between.
//!
//! A change of rules is valid for one generation of the ruleset, so a superseded agent's is refused.
//! Conntrack has no such guard. Between the check and the write, a few microseconds of this thread's time
//! pass, and more only if the thread is preempted or stopped exactly there. The agent that took over makes up
//! for such a write: it evaluates all connections again when its predecessor's queues are empty, and once
//! more when they are no longer bound.

use super::error::TableError;
use super::installed_rules;
use super::socket::open;
use crate::netlink::{NetlinkError, Socket};
use crate::queues::QueueRange;

/// The check: see the module.
#[derive(Debug)]
pub(crate) struct OwnRules {
    /// A separate socket: other threads change rules with theirs.
    socket: Socket,
    queues: QueueRange,
}

impl OwnRules {
    /// For the agent that serves these queues, in the network namespace of the calling thread.
    pub(crate) fn open(queues: QueueRange) -> Result<Self, TableError> {
        Ok(Self { socket: open()?, queues })
    }

    /// The queues of the agent that has taken over; `None` if none has. Rules that another program deleted
    /// still count as this agent's: it writes them again, and then evaluates all connections.
    ///
    /// # Errors
    /// [`NetlinkError`] if the rules can't be read.
    pub(crate) fn superseded_by(&mut self) -> Result<Option<QueueRange>, NetlinkError> {
        Ok(installed_rules::named_queues(&mut self.socket)?.filter(|named| *named != self.queues))
    }
}
