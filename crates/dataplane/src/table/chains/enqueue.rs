//! The rules that queue packets: which ones, for which reason, and to which queues.

use super::builder::Chains;
use super::names::{ENQUEUE, QUOTA};
use crate::drops::DropReason;
use crate::marks::QueueReason;
use crate::nft::expression::{
    Address, Comparison, ConntrackKey, Expression, INVALID, Meta, REPLY, UNTRACKED,
};
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::numbers::IPPROTO_TCP;
use crate::table::family::Family;
use crate::table::names::NFQUEUE;
use crate::table::rule::{mark_packet, record_queued, rule, state_is};
use crate::table::{drops, verdict_cache};

impl Chains<'_> {
    pub(super) fn enqueue_egress(&self, chain: &'static str, family: &Family) -> Rule {
        self.enqueue_isolated(
            chain,
            "queue packets from local pods that are not open",
            family,
            Address::Source,
            family.open_egress,
        )
    }

    pub(super) fn enqueue_ingress(&self, chain: &'static str, family: &Family) -> Rule {
        self.enqueue_isolated(
            chain,
            "queue packets to local pods that are not open",
            family,
            Address::Destination,
            family.open_ingress,
        )
    }

    /// The address is in this node's pod CIDRs, so that a pod that is still unknown is evaluated as well, AND
    /// not known to be open in this direction.
    pub(super) fn enqueue_isolated(
        &self,
        chain: &'static str,
        purpose: &'static str,
        family: &Family,
        address: Address,
        open: &'static str,
    ) -> Rule {
        let load = Expression::LoadPayload((family.payload)(address));
        let [load_family, compare_family] = family.is_it();
        let expressions = [
            load_family,
            compare_family,
            load.clone(),
            Expression::InSet(family.pod_cidrs),
            load,
            Expression::NotInSet(open),
            Expression::Goto(ENQUEUE),
        ];
        rule(chain, purpose, expressions)
    }

    /// Sets the queue reason, whatever other programs have written into the packet's mark.
    pub(super) fn enqueue(&self) -> Vec<Rule> {
        let marks = &self.config.marks;
        let invalid = state_is(INVALID).into_iter().chain([
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![IPPROTO_TCP]),
            Expression::Goto(drops::chain(DropReason::InvalidTcp)),
        ]);
        let set_reason = |reason| mark_packet(marks.queue_reason_mask(), marks.queue_reason_bits(reason));
        let without_connection =
            state_is(INVALID | UNTRACKED).into_iter().chain([Expression::Goto(verdict_cache::UNTRACKED)]);
        let reply = [
            Expression::LoadConnection(ConntrackKey::Direction),
            Expression::Compare(Comparison::Equal, vec![REPLY]),
        ];
        let mut rules = vec![
            rule(ENQUEUE, "drop invalid TCP", invalid),
            rule(ENQUEUE, "handle packets without a connection", without_connection),
        ];
        rules.extend([
            enforce_quota(ENQUEUE),
            rule(ENQUEUE, "set the queue reason: first packet", set_reason(QueueReason::First)),
            rule(
                ENQUEUE,
                "set the queue reason: unproven reply",
                reply.into_iter().chain(set_reason(QueueReason::UnprovenReply)),
            ),
        ]);
        rules.extend(record_queued(marks, ENQUEUE));
        rules.push(rule(ENQUEUE, "queue", [Expression::Goto(NFQUEUE)]));
        rules
    }

    pub(super) fn nfqueue(&self, queue: Queue, form: QueueForm) -> Rule {
        let comment = Some(self.config.holder.clone()).filter(|holder| !holder.is_empty());
        Rule { comment, ..rule(NFQUEUE, "send to a worker", [Expression::Queue(queue, form)]) }
    }
}

/// Drops packets over the sender's quota of the queues.
pub(super) fn enforce_quota(chain: &'static str) -> Rule {
    rule(chain, "enforce the sender's quota", [Expression::Jump(QUOTA)])
}
