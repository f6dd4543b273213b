//! Flows of packets that have no conntrack entry (NOTRACK, or state invalid): each packet would be a question of its own.
//!
//! ```text
//!  ask        --goto-->  untracked
//!  untracked  --goto-->  untracked-answered  a worker's answer: its flow key goes into the set of allowed or denied flows
//!             --jump-->  cached-untracked  the key is in the former: accept
//!             --jump-->  denied-forward  the key is in the latter: denied-again
//!             --goto-->  nfqueue  else, and it is noted that a worker is asked
//! ```
//!
//! Where there is an entry, its mark says that a worker is asked about a packet, and what the packet's answer bit is. Here a set says so, of
//! the packet's flow key, until the answer comes or [`ASKED_FOR`] is over. A packet's mark alone would prove nothing: other programs
//! write marks, too. Of two packets that wait at once the second is asked about again, or finds the first one's verdict.
//!
//! A set that is full ends nothing but the cache: the packet is asked about as one that can't come back.

use std::time::Duration;

use super::super::INET;
use super::super::chain_names::NFQUEUE;
use super::super::family::{FAMILIES, Family};
use super::super::rule::{mark_packet, rule};
use super::denied::{DENIED, DENIED_FORWARD};
use super::{CACHE, MOST, PairOf, VerdictCache, WITH_PORTS, leave, pair_in};
use crate::marks::{Mark, Marks, Question};
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Comparison, Expression, Meta, UNICAST};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyPart, Set};

/// Takes packets without a connection.
pub(in super::super) const UNTRACKED: &str = "untracked";
/// Takes a worker's answer about one.
const ANSWERED: &str = "untracked-answered";
/// Looks for a packet without a connection among allowed and denied flows.
pub(super) const CACHED_UNTRACKED: &str = "cached-untracked";
/// Its chains whose rules stay.
pub(super) const CHAINS: [&str; 2] = [UNTRACKED, ANSWERED];
/// Counts packets that passed because their flow had just been allowed.
pub(super) const COUNTER: &str = "untracked-packets";

/// Flow keys of packets about which workers are asked, with the value of their answer bit once they are answered.
const ASKED: [Set; 2] = {
    let key: &[KeyPart] = &[KeyPart::Ipv4, KeyPart::Ipv4, KeyPart::Protocol, KeyPart::Port, KeyPart::Number];
    let carries = Carries::Timeouts;
    let v4 = Set { table: INET, name: "asked4", id: 317, key, carries, size: Some(MOST) };
    let key = &[KeyPart::Ipv6, KeyPart::Ipv6, KeyPart::Protocol, KeyPart::Port, KeyPart::Number];
    [v4, Set { name: "asked6", id: 318, key, ..v4 }]
};

/// How long an answer is waited for. A packet that is held for longer is asked about again.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// How soon a key goes that was answered. Not all kernels let rules delete one.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Creates the sets where they don't exist.
pub(super) fn create(batch: &mut Batch) {
    ASKED.iter().for_each(|set| set.create(batch));
}

impl VerdictCache {
    /// The rules of `cached-untracked`. What passes is recorded once for each time that a worker is asked, and counted here.
    pub(super) fn cached_untracked(&self, family: &Family) -> Vec<Rule> {
        let in_epoch = |epoch| {
            let mut accept = family.is_it().to_vec();
            accept.extend([Expression::LoadMeta(Meta::Transport), Expression::InSet(WITH_PORTS)]);
            accept.extend(pair_in(epoch, family, PairOf::Forwarded));
            accept.extend([
                Expression::InSet(family.allowed),
                Expression::Count(COUNTER),
                Expression::Accept,
            ]);
            rule(CACHED_UNTRACKED, "let packets of an allowed flow pass", accept)
        };
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.push(in_epoch(self.latest));
            rules.extend(leave(CACHED_UNTRACKED, family));
        }
        rules.push(in_epoch(self.lasting));
        rules
    }
}

/// The rules of the chains that stay. `quota` is the rule that drops what is over a sender's quota.
pub(in super::super) fn rules(marks: &Marks, caches: bool, quota: Rule) -> Vec<Rule> {
    let question = |question| mark_packet(marks.questions(), marks.question(question));
    let mut rules = Vec::new();
    if caches {
        rules.extend(FAMILIES.iter().zip(0..).flat_map(|(family, number)| {
            [0, 1].map(|answer| {
                let answered = key_if(is_answered(marks, answer), answer, family);
                let set = ASKED[number].name;
                // The set must not vouch for a second packet.
                let settle = [
                    Expression::InSet(set),
                    Expression::RefreshInSet(set, AT_ONCE),
                    Expression::Goto(ANSWERED),
                ];
                let expressions = answered.into_iter().chain(settle);
                rule(UNTRACKED, "settle what came back", expressions)
            })
        }));
        rules.push(rule(UNTRACKED, "see what is cached", [Expression::Jump(CACHED_UNTRACKED)]));
        rules.push(rule(UNTRACKED, "see what was denied", [Expression::Jump(DENIED_FORWARD)]));
    }
    rules.push(quota);
    rules.push(rule(UNTRACKED, "say that there is no connection", question(Question::Untracked)));
    if caches {
        rules.extend(FAMILIES.iter().zip(0..).flat_map(|(family, number)| {
            [0, 1].map(|answer| {
                let note = Expression::RefreshInSet(ASKED[number].name, ASKED_FOR);
                // What goes to the node itself is evaluated for egress alone, and asked about each time.
                let expressions = [
                    Expression::LoadAddressType(Address::Destination),
                    Expression::Compare(Comparison::Equal, UNICAST.to_ne_bytes().to_vec()),
                ]
                .into_iter()
                .chain(key_if(has_answer_bit(marks, answer), 1 - answer, family))
                .chain([note])
                .chain(question(Question::UntrackedFlow));
                rule(UNTRACKED, "say that a worker is asked", expressions)
            })
        }));
        let denied = [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: marks.denials().0, flip: 0 },
            Expression::Compare(Comparison::NotEqual, vec![0; 4]),
            Expression::Goto(DENIED),
        ];
        let turn_back = [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: u32::MAX, flip: marks.answer().0 | marks.turn().0 },
            Expression::StorePacketMark,
        ];
        rules.extend([
            rule(ANSWERED, "drop what came back denied", denied),
            rule(ANSWERED, "turn the packet's answer bits back", turn_back),
            rule(ANSWERED, "cache what was allowed", [Expression::Jump(CACHE)]),
            rule(ANSWERED, "accept what was allowed", [Expression::Accept]),
        ]);
    }
    rules.push(rule(UNTRACKED, "queue", [Expression::Goto(NFQUEUE)]));
    rules
}

/// Goes on if the packet's answer bit has this value.
fn has_answer_bit(marks: &Marks, answer: u32) -> [Expression; 3] {
    mark_is(marks.answer(), Mark(answer * marks.answer().0))
}

/// The same, if a worker of this agent may have answered.
fn is_answered(marks: &Marks, answer: u32) -> [Expression; 3] {
    mark_is(Mark(marks.answer().0 | marks.turns().0), Mark((answer * marks.answer().0) | marks.turn().0))
}

fn mark_is(mask: Mark, value: Mark) -> [Expression; 3] {
    [
        Expression::LoadMeta(Meta::Mark),
        Expression::Bits { mask: mask.0, flip: 0 },
        Expression::Compare(Comparison::Equal, value.0.to_ne_bytes().to_vec()),
    ]
}

/// Goes on on a condition, and loads the key of the packet's flow with this value of its answer bit.
fn key_if(condition: [Expression; 3], noted: u32, family: &Family) -> Vec<Expression> {
    let mut expressions = condition.to_vec();
    expressions.extend(family.is_it());
    expressions.extend([Expression::LoadMeta(Meta::Transport), Expression::InSet(WITH_PORTS)]);
    expressions.extend(pair_in(noted, family, PairOf::Forwarded));
    expressions
}
