//! Flows of packets without a conntrack entry (NOTRACK, or state invalid): without these chains each packet
//! would be queued.
//!
//! ```text
//!  enqueue    --goto-->  untracked
//!  untracked  --goto-->  untracked-reinjected  a worker's verdict: its flow key goes into the set of
//!                                              allowed or denied flows
//!             --jump-->  cached-untracked      the flow is allowed: accept
//!             --jump-->  denied-forward        the flow is denied: denied-again
//!             --goto-->  nfqueue               otherwise, and a set records that the packet is queued
//! ```
//!
//! If there is a conntrack entry, its mark records that a packet is queued, and the value of the packet's
//! verdict bit. Here a set records the same for the packet's flow key, until the verdict comes or
//! [`QUEUED_TIMEOUT`] is over. A packet's mark alone would prove nothing: other programs write marks, too. Of
//! two packets that are queued at the same time, the second is queued again, or finds the cached verdict of
//! the first.
//!
//! A full set disables nothing but the cache: the packet is queued as one that can't be reinjected.

use std::time::Duration;

use super::allowed::CACHE;
use super::denied::{DENIED, DENIED_FORWARD};
use super::flow_key::{FlowKey, MAX_FLOWS, flow_key, numbered_flow_key, return_for_changed};
use super::state::VerdictCache;
use crate::marks::{Mark, Marks, QueueReason};
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Comparison, Expression, Meta, UNICAST};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyType, Set};
use crate::table::family::{FAMILIES, Family, WITH_PORTS};
use crate::table::names::{INET, NFQUEUE};
use crate::table::rule::{is_denied, mark_packet, restore_mark, rule};

/// Takes packets without a connection.
pub(in crate::table) const UNTRACKED: &str = "untracked";

/// Takes reinjected packets without a connection.
const REINJECTED: &str = "untracked-reinjected";

/// Looks up a packet without a connection among the allowed flows.
pub(super) const CACHED_UNTRACKED: &str = "cached-untracked";

/// The chains whose rules are never rewritten.
pub(super) const CHAINS: [&str; 2] = [UNTRACKED, REINJECTED];

/// Counts packets that passed because their flow was cached as allowed.
pub(super) const COUNTER: &str = "untracked-packets";

/// Flow keys of queued packets, with the value that their verdict bit will have when they are reinjected.
const QUEUED_FLOWS: [Set; 2] = {
    let key: &[KeyType] = &[KeyType::Ipv4, KeyType::Ipv4, KeyType::Protocol, KeyType::Port, KeyType::Number];
    let carries = Carries::Timeouts;
    let v4 = Set { table: INET, name: "queued-flows4", id: 317, key, carries, size: Some(MAX_FLOWS) };
    let key = &[KeyType::Ipv6, KeyType::Ipv6, KeyType::Protocol, KeyType::Port, KeyType::Number];
    [v4, Set { name: "queued-flows6", id: 318, key, ..v4 }]
};

/// How long the rules wait for a verdict. A packet that is held for longer is queued again.
const QUEUED_TIMEOUT: Duration = Duration::from_secs(1);

/// How soon a key is removed after its packet is reinjected. Not all kernels let rules delete one.
const REMOVAL_DELAY: Duration = Duration::from_millis(1);

/// Creates the sets if they don't exist.
pub(super) fn create(batch: &mut Batch) {
    QUEUED_FLOWS.iter().for_each(|set| set.create(batch));
}

impl VerdictCache {
    /// The rules of `cached-untracked`. Of the packets of a flow, only those that a worker evaluates are
    /// recorded; the others are counted here.
    pub(super) fn cached_untracked(&self, family: &Family) -> Vec<Rule> {
        let in_generation = |generation| {
            let mut accept = family.is_it().to_vec();
            accept.extend([Expression::LoadMeta(Meta::Transport), Expression::InSet(WITH_PORTS)]);
            accept.extend(flow_key(generation, family, FlowKey::Forward));
            accept.extend([
                Expression::InSet(family.allowed),
                Expression::Count(COUNTER),
                Expression::Accept,
            ]);
            rule(CACHED_UNTRACKED, "accept packets of an allowed flow", accept)
        };
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.push(in_generation(self.latest));
            rules.extend(return_for_changed(CACHED_UNTRACKED, family));
        }
        rules.push(in_generation(self.stable));
        rules
    }
}

/// The rules that are never rewritten. `quota` is the rule that drops packets over a sender's quota.
pub(in crate::table) fn rules(marks: &Marks, caches: bool, quota: Rule) -> Vec<Rule> {
    let set_reason = |reason| mark_packet(marks.queue_reason_mask(), marks.queue_reason_bits(reason));
    let mut rules = Vec::new();
    if caches {
        rules.extend(FAMILIES.iter().zip(0..).flat_map(|(family, number)| {
            [0, 1].map(|verdict_bit| {
                let has_verdict_key = key_if(has_verdict(marks, verdict_bit), verdict_bit, family);
                let set = QUEUED_FLOWS[number].name;
                // The key must not vouch for a second packet.
                let accept = [
                    Expression::InSet(set),
                    Expression::RefreshInSet(set, REMOVAL_DELAY),
                    Expression::Goto(REINJECTED),
                ];
                let expressions = has_verdict_key.into_iter().chain(accept);
                rule(UNTRACKED, "accept reinjected packets with a verdict", expressions)
            })
        }));
        rules.push(rule(UNTRACKED, "look up cached flows", [Expression::Jump(CACHED_UNTRACKED)]));
        rules.push(rule(UNTRACKED, "look up denied flows", [Expression::Jump(DENIED_FORWARD)]));
    }
    rules.push(quota);
    rules.push(rule(UNTRACKED, "set the queue reason: untracked", set_reason(QueueReason::Untracked)));
    if caches {
        rules.extend(FAMILIES.iter().zip(0..).flat_map(|(family, number)| {
            [0, 1].map(|verdict_bit| {
                let record = Expression::RefreshInSet(QUEUED_FLOWS[number].name, QUEUED_TIMEOUT);
                // Packets to the node itself are evaluated for egress only, and queued each time.
                let expressions = [
                    Expression::LoadAddressType(Address::Destination),
                    Expression::Compare(Comparison::Equal, UNICAST.to_ne_bytes().to_vec()),
                ]
                .into_iter()
                .chain(key_if(verdict_bit_is(marks, verdict_bit), 1 - verdict_bit, family))
                .chain([record])
                .chain(set_reason(QueueReason::UntrackedFlow));
                rule(UNTRACKED, "record that the packet is queued", expressions)
            })
        }));
        let denied = is_denied(marks).into_iter().chain([Expression::Goto(DENIED)]);
        rules.extend([
            rule(REINJECTED, "drop denied packets", denied),
            rule(REINJECTED, "restore the packet's mark", restore_mark(marks)),
            rule(REINJECTED, "cache allowed flows", [Expression::Jump(CACHE)]),
            rule(REINJECTED, "accept allowed packets", [Expression::Accept]),
        ]);
    }
    rules.push(rule(UNTRACKED, "queue", [Expression::Goto(NFQUEUE)]));
    rules
}

/// Matches if the packet's verdict bit has this value.
fn verdict_bit_is(marks: &Marks, verdict_bit: u32) -> [Expression; 3] {
    mark_is(marks.verdict_bit(), Mark(verdict_bit * marks.verdict_bit().0))
}

/// Matches if the packet's verdict bit has this value, and a worker of this agent may have set it.
fn has_verdict(marks: &Marks, verdict_bit: u32) -> [Expression; 3] {
    mark_is(
        Mark(marks.verdict_bit().0 | marks.agent_mask().0),
        Mark((verdict_bit * marks.verdict_bit().0) | marks.agent_bits().0),
    )
}

fn mark_is(mask: Mark, value: Mark) -> [Expression; 3] {
    [
        Expression::LoadMeta(Meta::Mark),
        Expression::Bits { mask: mask.0, flip: 0 },
        Expression::Compare(Comparison::Equal, value.0.to_ne_bytes().to_vec()),
    ]
}

/// Matches on a condition, and loads the packet's flow key with this value of its verdict bit.
fn key_if(condition: [Expression; 3], verdict_bit: u32, family: &Family) -> Vec<Expression> {
    let mut expressions = condition.to_vec();
    expressions.extend(family.is_it());
    expressions.extend([Expression::LoadMeta(Meta::Transport), Expression::InSet(WITH_PORTS)]);
    expressions.extend(numbered_flow_key(verdict_bit, family, FlowKey::Forward));
    expressions
}
