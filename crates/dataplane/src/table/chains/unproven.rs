//! The rules for packets whose connection may have been opened by either end.

use super::builder::Chains;
use super::names::UNPROVEN;
use crate::nft::expression::{Address, Comparison, ConntrackKey, Expression, Meta, Payload, REPLY};
use crate::nft::rule::Rule;
use crate::numbers::IPPROTO_TCP;
use crate::table::family::FAMILIES;
use crate::table::names::POSTROUTING;
use crate::table::rule::rule;

impl Chains<'_> {
    /// Packets for which neither a verdict nor a handshake proves who opened the connection: policy must
    /// allow both directions.
    pub(super) fn unproven_jumps(&self) -> [Rule; 2] {
        let reply = [
            Expression::LoadConnection(ConntrackKey::Direction),
            Expression::Compare(Comparison::Equal, vec![REPLY]),
            Expression::Goto(UNPROVEN),
        ];
        let mid_stream = [
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![IPPROTO_TCP]),
            Expression::LoadPayload(Payload::TcpFlags),
            Expression::Bits { mask: u32::from_ne_bytes([BEGINS_OR_ENDS, 0, 0, 0]), flip: 0 },
            Expression::Compare(Comparison::NotEqual, vec![SYN]),
            Expression::Goto(UNPROVEN),
        ];
        [
            rule(POSTROUTING, "check replies of connections that were not evaluated", reply),
            rule(POSTROUTING, "check TCP in mid-stream", mid_stream),
        ]
    }

    /// Either end may have opened the connection: both directions of both ends must be open, or the packet is
    /// queued.
    pub(super) fn unproven(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        rules.extend(self.look_up_denied(UNPROVEN));
        for family in &FAMILIES {
            for address in [Address::Source, Address::Destination] {
                for open in [family.open_egress, family.open_ingress] {
                    rules.push(self.enqueue_isolated(
                        UNPROVEN,
                        "queue if an end is not open",
                        family,
                        address,
                        open,
                    ));
                }
            }
        }
        rules.push(Self::pass_rest(UNPROVEN));
        rules
    }
}

/// TCP's flags (RFC 9293) that begin or end a connection: FIN, SYN, RST; and ACK.
const BEGINS_OR_ENDS: u8 = 0x01 | SYN | 0x04 | 0x10;

/// TCP's flag SYN. Alone, it begins a connection.
const SYN: u8 = 0x02;
