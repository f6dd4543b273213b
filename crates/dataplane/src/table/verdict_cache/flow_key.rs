//! The flow key of a packet, and whether its pods changed recently.

use super::generation::CacheGeneration;
use crate::nft::expression::{Address, Expression, KeyPart, Payload};
use crate::nft::rule::Rule;
use crate::table::family::Family;
use crate::table::rule::rule;

/// Maximum number of flows per set. A full set caches no more, and packets are queued instead.
pub(super) const MAX_FLOWS: u32 = 32_767;

/// How a flow key is built from a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::table) enum FlowKey {
    /// For a forwarded packet in the direction of its connection's first packet.
    Forward,
    /// For a forwarded reply: the key of its connection, with source and destination exchanged.
    Reply,
    /// For a packet to the node itself.
    Input,
}

/// Loads the packet's flow key in a cache generation.
pub(super) fn flow_key(generation: CacheGeneration, family: &Family, key: FlowKey) -> [Expression; 5] {
    let number = match key {
        FlowKey::Forward | FlowKey::Reply => generation.number(),
        FlowKey::Input => generation.input_number(),
    };
    numbered_flow_key(number, family, key)
}

/// Loads the packet's flow key, with this number as its last part.
pub(super) fn numbered_flow_key(number: u32, family: &Family, key: FlowKey) -> [Expression; 5] {
    let (from, to, port) = match key {
        FlowKey::Forward | FlowKey::Input => {
            (Address::Source, Address::Destination, Payload::DestinationPort)
        }
        FlowKey::Reply => (Address::Destination, Address::Source, Payload::SourcePort),
    };
    let words = family.words;
    let payload = |payload, at| Expression::LoadKeyPart(KeyPart::Payload(payload), at);
    [
        payload((family.payload)(from), 0),
        payload((family.payload)(to), words),
        Expression::LoadKeyPart(KeyPart::Transport, 2 * words),
        payload(port, 2 * words + 1),
        Expression::LoadKeyPart(KeyPart::Number(number), 2 * words + 2),
    ]
}

/// Matches if the pod at this end changed recently.
pub(super) fn is_changed(family: &Family, end: Address) -> [Expression; 2] {
    [Expression::LoadPayload((family.payload)(end)), Expression::InSet(family.changed)]
}

/// Returns early for recently changed pods: their flows in the stable generation are out of date.
pub(super) fn return_for_changed(chain: &'static str, family: &Family) -> [Rule; 2] {
    [Address::Source, Address::Destination].map(|end| {
        let changed = family.is_it().into_iter().chain(is_changed(family, end));
        let return_ = changed.chain([Expression::Return]);
        rule(chain, "return for recently changed pods", return_)
    })
}
