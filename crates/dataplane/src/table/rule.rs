//! Builds rules, and the expressions that rules of several files share.

use crate::marks::{Mark, Marks};
use crate::nft::expression::{Address, Comparison, ConntrackKey, Expression, LOCAL, Meta};
use crate::nft::rule::Rule;

/// A rule of a chain, and its purpose.
pub(super) fn rule(
    chain: &'static str,
    purpose: &'static str,
    expressions: impl IntoIterator<Item = Expression>,
) -> Rule {
    Rule { chain, purpose, expressions: expressions.into_iter().collect(), comment: None }
}

/// Sets the bits `of` of the connection's mark to those of `value`. Does not match without a connection.
pub(super) fn mark_connection(of: Mark, value: Mark) -> [Expression; 3] {
    [
        Expression::LoadConnection(ConntrackKey::Mark),
        Expression::Bits { mask: !of.0, flip: value.0 },
        Expression::StoreConnectionMark,
    ]
}

/// Sets the bits `of` of the packet's mark to those of `value`.
pub(super) fn mark_packet(of: Mark, value: Mark) -> [Expression; 3] {
    [
        Expression::LoadMeta(Meta::Mark),
        Expression::Bits { mask: !of.0, flip: value.0 },
        Expression::StorePacketMark,
    ]
}

/// Records in the connection's mark that a packet is queued, and the value of the packet's verdict bit. If
/// another program had set the bit, the worker clears it.
pub(super) fn record_queued(marks: &Marks, chain: &'static str) -> [Rule; 2] {
    let queued = Mark(marks.queued().0 | marks.queued_inverted().0);
    let verdict_bit_is_set = [
        Expression::LoadMeta(Meta::Mark),
        Expression::Bits { mask: marks.verdict_bit().0, flip: 0 },
        Expression::Compare(Comparison::NotEqual, vec![0; 4]),
    ];
    [
        rule(chain, "record that the packet is queued", mark_connection(queued, marks.queued())),
        rule(
            chain,
            "record that the verdict bit is already set",
            verdict_bit_is_set.into_iter().chain(mark_connection(queued, marks.queued_inverted())),
        ),
    ]
}

/// Matches if a worker has denied the packet's flow.
pub(super) fn is_denied(marks: &Marks) -> [Expression; 3] {
    [
        Expression::LoadMeta(Meta::Mark),
        Expression::Bits { mask: marks.denied_mask().0, flip: 0 },
        Expression::Compare(Comparison::NotEqual, vec![0; 4]),
    ]
}

/// Restores the mark that the packet had before it was queued. It must have a verdict that allows it.
pub(super) fn restore_mark(marks: &Marks) -> [Expression; 3] {
    [
        Expression::LoadMeta(Meta::Mark),
        Expression::Bits { mask: u32::MAX, flip: marks.verdict_bit().0 | marks.agent_bits().0 },
        Expression::StorePacketMark,
    ]
}

/// Matches if the connection's state is one of these.
pub(super) fn state_is(states: u32) -> [Expression; 3] {
    [
        Expression::LoadConnection(ConntrackKey::State),
        Expression::Bits { mask: states, flip: 0 },
        Expression::Compare(Comparison::NotEqual, vec![0; 4]),
    ]
}

/// Matches if the packet comes from the node itself.
pub(super) fn local_source() -> [Expression; 2] {
    has_local(Address::Source)
}

/// Matches if an address of the packet is the node's own.
pub(super) fn has_local(address: Address) -> [Expression; 2] {
    [
        Expression::LoadAddressType(address),
        Expression::Compare(Comparison::Equal, LOCAL.to_ne_bytes().to_vec()),
    ]
}
