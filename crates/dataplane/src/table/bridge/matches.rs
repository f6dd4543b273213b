//! Expressions that match destinations by their scope.

use super::names::{IP, IPV6};
use crate::nft::expression::{Comparison, Expression, Meta, Payload};
use crate::table::link_rules::is;

/// Matches IPv4 multicast (224.0.0.0/4), the reserved addresses after it, and broadcast.
pub(super) fn is_multicast4() -> Vec<Expression> {
    let mut expressions = is(Meta::Protocol, &IP).to_vec();
    expressions.extend([
        Expression::LoadPayload(Payload::V4DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![224]),
    ]);
    expressions
}

/// Matches ff00::/8.
pub(super) fn is_multicast6() -> Vec<Expression> {
    let mut expressions = is(Meta::Protocol, &IPV6).to_vec();
    expressions.extend([
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![0xff, 0x00]),
    ]);
    expressions
}

/// Matches an IPv6 destination in fe80::/10.
pub(super) fn is_link_local() -> [Expression; 3] {
    [
        Expression::LoadPayload(Payload::V6DestinationStart),
        Expression::Compare(Comparison::AtLeast, vec![0xfe, 0x80]),
        Expression::Compare(Comparison::AtMost, vec![0xfe, 0xbf]),
    ]
}
