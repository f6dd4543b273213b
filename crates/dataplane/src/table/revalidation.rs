//! Revalidation: between a change of policy and the end of the sweep, packets of the pods that the change
//! affects are evaluated again.
//!
//! ```text
//!  postrouting, input: from or to a pod under revalidation, not revoked
//!    --jump-->  revalidate, revalidate-input   flow cached in the latest generation: return, and continue
//!                                              otherwise: queue
//! ```
//!
//! A connection that was accepted before the change passes the ordinary rules until the sweep reaches it,
//! which takes a while in a large connection table. Meanwhile a packet of such a pod passes only if its flow
//! was allowed in the latest cache generation. Otherwise it is queued like a first packet, once per flow,
//! since the verdict is cached. A reply is evaluated as the connection to which it belongs, with source and
//! destination exchanged; its queue reason says so. A connection that was not accepted yet is left to the
//! ordinary rules.
//!
//! An agent that installs its rules over those of another keeps the pods under revalidation until its first
//! sweep is over, since the other agent may have been killed before its own sweep. A change that may affect
//! any pod also keeps them, and leaves that change's connections to a sweep.
//!
//! Some packets are left alone, here as in the ordinary rules: those that the node itself sends, ICMP errors,
//! and first packets, whose connections are not accepted yet. Replies of the node itself to a pod wait for
//! the sweep. While no pod is under revalidation, packets meet none of these rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::config::TableConfig;
use super::error::TableError;
use super::family::{FAMILIES, Family};
use super::names::{INPUT, NFQUEUE, POSTROUTING};
use super::rule::{local_source, mark_packet, record_queued, rule, state_is};
use super::sets;
use super::verdict_cache::{FlowKey, VerdictCache};
use crate::marks::QueueReason;
use crate::netlink::Socket;
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Comparison, ConntrackKey, Expression, ORIGINAL, RELATED, REPLY};
use crate::nft::rule::Rule;

/// Evaluates packets of pods under revalidation again.
pub(super) const REVALIDATE: &str = "revalidate";
/// Evaluates packets from pods under revalidation to the node again.
pub(super) const REVALIDATE_INPUT: &str = "revalidate-input";

/// Sets the pods under revalidation, by address.
pub(super) fn set_pods(pods: &BTreeSet<IpAddr>, batch: &mut Batch) {
    sets::fill_revalidated(pods, batch);
}

/// The pods under revalidation in the kernel's sets; none without rules.
pub(super) fn read_pods(socket: &mut Socket) -> Result<BTreeSet<IpAddr>, TableError> {
    sets::read_revalidated(socket).map_err(TableError::from_reading)
}

/// The rules with which a base chain begins while pods are under revalidation.
pub(super) fn jumps(chain: &'static str, config: &TableConfig) -> Vec<Rule> {
    let ends = |family| match chain {
        POSTROUTING => {
            vec![(family, Address::Source, REVALIDATE), (family, Address::Destination, REVALIDATE)]
        }
        INPUT => vec![(family, Address::Source, REVALIDATE_INPUT)],
        _ => Vec::new(),
    };
    let jump = |(family, address, to): (&Family, Address, &'static str)| {
        let mut expressions = vec![
            Expression::LoadConnection(ConntrackKey::Mark),
            Expression::Bits { mask: config.marks.revoked().0, flip: 0 },
            Expression::Compare(Comparison::Equal, vec![0; 4]),
        ];
        expressions.extend(family.is_it());
        expressions.extend([
            Expression::LoadPayload((family.payload)(address)),
            Expression::InSet(family.revalidated),
            Expression::Jump(to),
        ]);
        rule(chain, "revalidate packets of changed pods", expressions)
    };
    FAMILIES.iter().flat_map(ends).map(jump).collect()
}

/// The rules of both chains.
pub(super) fn rules(config: &TableConfig, cache: &VerdictCache) -> Vec<Rule> {
    let marks = &config.marks;
    let direction = |direction| {
        [
            Expression::LoadConnection(ConntrackKey::Direction),
            Expression::Compare(Comparison::Equal, vec![direction]),
        ]
    };
    let return_ = [Expression::Return];
    let return_if_cached = |chain, key| {
        FAMILIES.iter().map(move |family| {
            let flow_direction = if key == FlowKey::Reply { REPLY } else { ORIGINAL };
            let mut expressions = family.is_it().to_vec();
            expressions.extend(direction(flow_direction));
            expressions.extend(cache.latest_key(family, key));
            expressions.extend([Expression::InSet(family.allowed), Expression::Return]);
            rule(chain, "return for flows evaluated since the change", expressions)
        })
    };
    let related = state_is(RELATED).into_iter().chain(return_.clone());
    let not_accepted = [
        Expression::LoadConnection(ConntrackKey::Mark),
        Expression::Bits { mask: marks.accepted().0, flip: 0 },
        Expression::Compare(Comparison::Equal, vec![0; 4]),
        Expression::Return,
    ];
    let set_reason = |reason| mark_packet(marks.queue_reason_mask(), marks.queue_reason_bits(reason));
    let is_reply = direction(REPLY).into_iter().chain(set_reason(QueueReason::EstablishedReply));
    let mut rules = Vec::new();
    for chain in [REVALIDATE, REVALIDATE_INPUT] {
        rules.push(rule(chain, "return for ICMP errors", related.clone()));
        rules.push(rule(
            chain,
            "return for the node's own packets",
            local_source().into_iter().chain(return_.clone()),
        ));
    }
    rules.push(rule(REVALIDATE, "leave connections not accepted yet to postrouting", not_accepted.clone()));
    rules.extend(return_if_cached(REVALIDATE, FlowKey::Forward));
    rules.extend(return_if_cached(REVALIDATE, FlowKey::Reply));
    rules.push(rule(
        REVALIDATE,
        "set the queue reason: established connection",
        set_reason(QueueReason::Established),
    ));
    rules.push(rule(REVALIDATE, "set the queue reason: reply of an established connection", is_reply));
    // Only the sender's egress is evaluated for packets to the node, and the sender's replies are not its
    // egress.
    rules.push(rule(
        REVALIDATE_INPUT,
        "return for replies",
        direction(REPLY).into_iter().chain(return_.clone()),
    ));
    rules.push(rule(REVALIDATE_INPUT, "leave connections not accepted yet to input", not_accepted));
    rules.extend(return_if_cached(REVALIDATE_INPUT, FlowKey::Input));
    rules.push(rule(
        REVALIDATE_INPUT,
        "set the queue reason: established connection",
        set_reason(QueueReason::Established),
    ));
    for chain in [REVALIDATE, REVALIDATE_INPUT] {
        rules.extend(record_queued(marks, chain));
        rules.push(rule(chain, "queue", [Expression::Goto(NFQUEUE)]));
    }
    rules
}
