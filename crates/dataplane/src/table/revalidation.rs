//! The window between a change of policy and the end of the sweep, in which the pods that the change concerns are watched.
//!
//! ```text
//!  postrouting, input: from or to a changing pod, not revoked  --jump-->  revalidate, revalidate-input
//!                                                   pair cached in this epoch: back, and on as ever; else: ask
//! ```
//!
//! A connection that was accepted before the change passes the ordinary rules until the sweep has come to it. In a large table of
//! connections that takes a while; so meanwhile a packet of such a pod passes only if its pair was allowed in the new epoch. If not, it
//! goes to a worker, like a first packet: once for each pair, since the verdict is cached. A reply is evaluated as the
//! connection that it belongs to, with its two ends exchanged; a mark on its way to the worker says so. A connection that was not
//! accepted yet is left to the ordinary rules.
//!
//! An agent that installs its rules over those of another keeps the window open until its first sweep is over: the other may have been
//! killed before its own sweep. A change that may affect any pod also keeps it open, and leaves that change's connections to a sweep.
//!
//! Left as they are, here as in the ordinary rules: what the node itself sends; ICMP errors; first packets, which are not accepted yet.
//! Replies of the node itself to a pod wait for the sweep. Outside of the window there is no trace of it in the way of a packet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::chain_names::{INPUT, NFQUEUE, POSTROUTING};
use super::family::{FAMILIES, Family};
use super::rule::{local_source, mark_packet, note_question, rule, state_is};
use super::verdict_cache::{PairOf, VerdictCache};
use super::{TableConfig, TableError, sets};
use crate::marks::Question;
use crate::netlink::Socket;
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Comparison, Connection, Expression, ORIGINAL, RELATED, REPLY};
use crate::nft::rule::Rule;

/// Evaluates packets of changing pods again.
pub(super) const REVALIDATE: &str = "revalidate";
/// The same for packets from changing pods to the node.
pub(super) const REVALIDATE_INPUT: &str = "revalidate-input";

/// Makes the changing pods those at these addresses.
pub(super) fn watch(changing: &BTreeSet<IpAddr>, batch: &mut Batch) {
    sets::fill_changing(changing, batch);
}

/// The changing pods by the rules in the kernel; none without rules.
pub(super) fn read(socket: &mut Socket) -> Result<BTreeSet<IpAddr>, TableError> {
    sets::read_changing(socket).map_err(TableError::from_reading)
}

/// The rules with which an evaluating chain begins during the window.
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
            Expression::LoadConnection(Connection::Mark),
            Expression::Bits { mask: config.marks.revoked().0, flip: 0 },
            Expression::Compare(Comparison::Equal, vec![0; 4]),
        ];
        expressions.extend(family.is_it());
        expressions.extend([
            Expression::LoadPayload((family.payload)(address)),
            Expression::InSet(family.changing),
            Expression::Jump(to),
        ]);
        rule(chain, "evaluate changing pods again", expressions)
    };
    FAMILIES.iter().flat_map(ends).map(jump).collect()
}

/// The rules of both chains.
pub(super) fn rules(config: &TableConfig, cache: &VerdictCache) -> Vec<Rule> {
    let marks = &config.marks;
    let direction = |direction| {
        [
            Expression::LoadConnection(Connection::Direction),
            Expression::Compare(Comparison::Equal, vec![direction]),
        ]
    };
    let back = [Expression::Return];
    let back_if_cached = |chain, pair_of| {
        FAMILIES.iter().map(move |family| {
            let way = if pair_of == PairOf::Reply { REPLY } else { ORIGINAL };
            let mut expressions = family.is_it().to_vec();
            expressions.extend(direction(way));
            expressions.extend(cache.pair(family, pair_of));
            expressions.extend([Expression::InSet(family.allowed), Expression::Return]);
            rule(chain, "leave a pair that was evaluated since", expressions)
        })
    };
    let related = state_is(RELATED).into_iter().chain(back.clone());
    let not_accepted = [
        Expression::LoadConnection(Connection::Mark),
        Expression::Bits { mask: marks.accepted().0, flip: 0 },
        Expression::Compare(Comparison::Equal, vec![0; 4]),
        Expression::Return,
    ];
    let question = |question| mark_packet(marks.questions(), marks.question(question));
    let say_reply = direction(REPLY).into_iter().chain(question(Question::EstablishedReply));
    let mut rules = Vec::new();
    for chain in [REVALIDATE, REVALIDATE_INPUT] {
        rules.push(rule(chain, "leave ICMP errors as they are", related.clone()));
        rules.push(rule(
            chain,
            "leave what the node itself sends",
            local_source().into_iter().chain(back.clone()),
        ));
    }
    rules.push(rule(REVALIDATE, "leave what was not accepted to postrouting", not_accepted.clone()));
    rules.extend(back_if_cached(REVALIDATE, PairOf::Forwarded));
    rules.extend(back_if_cached(REVALIDATE, PairOf::Reply));
    rules.push(rule(REVALIDATE, "say that the connection was evaluated", question(Question::Established)));
    rules.push(rule(REVALIDATE, "say that it is a reply", say_reply));
    // Only the sender's egress is evaluated on the way to the node: its replies are its own.
    rules.push(rule(REVALIDATE_INPUT, "leave replies", direction(REPLY).into_iter().chain(back.clone())));
    rules.push(rule(REVALIDATE_INPUT, "leave first packets to input", not_accepted));
    rules.extend(back_if_cached(REVALIDATE_INPUT, PairOf::Local));
    rules.push(rule(
        REVALIDATE_INPUT,
        "say that the connection was evaluated",
        question(Question::Established),
    ));
    for chain in [REVALIDATE, REVALIDATE_INPUT] {
        rules.extend(note_question(marks, chain));
        rules.push(rule(chain, "evaluate it again", [Expression::Goto(NFQUEUE)]));
    }
    rules
}
