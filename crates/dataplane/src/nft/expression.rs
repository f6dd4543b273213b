//! The expressions of our rules: each loads, compares or sets one thing, or decides. All work on register 1.

use std::borrow::Cow;

use rustables::sys::{self, nft_registers};

use super::batch::PLAIN;
use super::queue::{Queue, QueueForm};
use crate::netlink::Attributes;

/// The 16-byte register that every expression here reads and writes: an IPv6 address fits.
const REGISTER: nft_registers = sys::NFT_REG_1;

/// One step of a rule. A comparison or lookup that fails ends the rule, and so does a load that isn't possible, such as
/// the mark of a connection when the packet belongs to none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expression {
    /// Loads something about the packet.
    LoadMeta(Meta),
    /// Stores the register as the packet's mark.
    StorePacketMark,
    /// Loads something about the packet's connection.
    LoadConnection(Connection),
    /// Stores the register as the connection's mark. Without a connection nothing happens, and the rule goes on.
    StoreConnectionMark,
    /// Loads bytes of the packet.
    LoadPayload(Payload),
    /// Loads the routing type (`RTN_`) of an address of the packet.
    LoadAddressType(Address),
    /// register = (register & mask) ^ flip, 32 bits in host order.
    Bits {
        /// Bits that stay.
        mask: u32,
        /// Bits that are then turned over.
        flip: u32,
    },
    /// Goes on if the register's first bytes compare so with these.
    Compare(Comparison, Vec<u8>),
    /// Goes on if the register's value is in the set.
    InSet(&'static str),
    /// Goes on if the register's value is not in the set.
    NotInSet(&'static str),
    /// The chain ends: on to the next chain of the hook.
    Accept,
    /// The packet ends.
    Drop,
    /// The packet goes to userspace; it comes back at the next chain of the hook.
    Queue(Queue, QueueForm),
}

/// What there is to know about a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meta {
    /// The packet mark, 32 bits in host order.
    Mark,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, a byte.
    Family,
    /// The transport protocol's number, a byte.
    Transport,
}

/// What there is to know about a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Connection {
    /// The connection mark, 32 bits in host order.
    Mark,
    /// The packet's direction in it, a byte: 0 or [`REPLY`]. An ICMP error has the direction opposite to
    /// the packet it is about (`nf_conntrack_inet_error`), and the mark of that packet's connection.
    Direction,
}

/// `IP_CT_DIR_REPLY`: against the direction of the connection's first packet.
pub(crate) const REPLY: u8 = 1;
/// `RTN_LOCAL`: the address is one of this network namespace's own.
pub(crate) const LOCAL: u32 = libc::RTN_LOCAL as u32;

/// Bytes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Payload {
    /// An address of an IPv4 header (RFC 791).
    V4(Address),
    /// An address of an IPv6 header (RFC 8200).
    V6(Address),
    /// The destination port of a UDP header (RFC 768), big-endian.
    UdpDestinationPort,
    /// The type of an ICMPv6 message (RFC 4443), a byte.
    Icmpv6Type,
}

/// One of a packet's two addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// Where the packet comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// How two values compare, as big-endian numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    /// The register is the value.
    Equal,
    /// The register is not the value.
    NotEqual,
    /// The register is the value or less.
    AtMost,
    /// The register is the value or more.
    AtLeast,
}

impl Expression {
    /// The kernel's modules that it needs.
    pub(crate) fn modules(&self) -> &'static str {
        match self {
            Self::LoadConnection(_) | Self::StoreConnectionMark => "nft_ct",
            Self::LoadAddressType(_) => "nft_fib_inet",
            Self::Queue(_, form) => form.modules(),
            _ => PLAIN,
        }
    }

    /// Writes the expression as an element of a rule's list.
    pub(crate) fn encode(&self, list: &mut Attributes<'_>) {
        list.nested(sys::NFTA_LIST_ELEM, |element| {
            element.string(sys::NFTA_EXPR_NAME, self.name());
            element.nested(sys::NFTA_EXPR_DATA, |data| self.encode_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::LoadMeta(_) | Self::StorePacketMark => "meta",
            Self::LoadConnection(_) | Self::StoreConnectionMark => "ct",
            Self::LoadPayload(_) => "payload",
            Self::LoadAddressType(_) => "fib",
            Self::Bits { .. } => "bitwise",
            Self::Compare(..) => "cmp",
            Self::InSet(_) | Self::NotInSet(_) => "lookup",
            Self::Accept | Self::Drop => "immediate",
            Self::Queue(_, form) => Queue::name(*form),
        }
    }

    fn encode_data(&self, data: &mut Attributes<'_>) {
        match self {
            Self::LoadMeta(key) => {
                data.be32(sys::NFTA_META_KEY, key.number()).be32(sys::NFTA_META_DREG, REGISTER);
            }
            Self::StorePacketMark => {
                data.be32(sys::NFTA_META_KEY, Meta::Mark.number()).be32(sys::NFTA_META_SREG, REGISTER);
            }
            Self::LoadConnection(key) => {
                data.be32(sys::NFTA_CT_KEY, key.number()).be32(sys::NFTA_CT_DREG, REGISTER);
            }
            Self::StoreConnectionMark => {
                data.be32(sys::NFTA_CT_KEY, Connection::Mark.number()).be32(sys::NFTA_CT_SREG, REGISTER);
            }
            Self::LoadPayload(payload) => {
                let (base, offset, length) = payload.place();
                data.be32(sys::NFTA_PAYLOAD_DREG, REGISTER)
                    .be32(sys::NFTA_PAYLOAD_BASE, base)
                    .be32(sys::NFTA_PAYLOAD_OFFSET, offset)
                    .be32(sys::NFTA_PAYLOAD_LEN, length);
            }
            Self::LoadAddressType(address) => {
                let flags = match address {
                    Address::Source => sys::NFTA_FIB_F_SADDR,
                    Address::Destination => sys::NFTA_FIB_F_DADDR,
                };
                data.be32(sys::NFTA_FIB_DREG, REGISTER)
                    .be32(sys::NFTA_FIB_RESULT, sys::NFT_FIB_RESULT_ADDRTYPE)
                    .be32(sys::NFTA_FIB_FLAGS, flags);
            }
            Self::Bits { mask, flip } => {
                data.be32(sys::NFTA_BITWISE_SREG, REGISTER)
                    .be32(sys::NFTA_BITWISE_DREG, REGISTER)
                    .be32(sys::NFTA_BITWISE_LEN, 4);
                encode_value(data, sys::NFTA_BITWISE_MASK, &mask.to_ne_bytes());
                encode_value(data, sys::NFTA_BITWISE_XOR, &flip.to_ne_bytes());
            }
            Self::Compare(comparison, value) => {
                data.be32(sys::NFTA_CMP_SREG, REGISTER).be32(sys::NFTA_CMP_OP, comparison.number());
                encode_value(data, sys::NFTA_CMP_DATA, value);
            }
            Self::InSet(set) => {
                data.string(sys::NFTA_LOOKUP_SET, set).be32(sys::NFTA_LOOKUP_SREG, REGISTER);
            }
            Self::NotInSet(set) => {
                data.string(sys::NFTA_LOOKUP_SET, set)
                    .be32(sys::NFTA_LOOKUP_SREG, REGISTER)
                    .be32(sys::NFTA_LOOKUP_FLAGS, sys::NFT_LOOKUP_F_INV);
            }
            Self::Accept => encode_verdict(data, libc::NF_ACCEPT),
            Self::Drop => encode_verdict(data, libc::NF_DROP),
            Self::Queue(queue, form) => queue.encode(*form, data),
        }
    }
}

fn encode_value(data: &mut Attributes<'_>, kind: u16, value: &[u8]) {
    data.nested(kind, |nested| {
        nested.bytes(sys::NFTA_DATA_VALUE, value);
    });
}

fn encode_verdict(data: &mut Attributes<'_>, code: i32) {
    data.be32(sys::NFTA_IMMEDIATE_DREG, sys::NFT_REG_VERDICT).nested(sys::NFTA_IMMEDIATE_DATA, |nested| {
        nested.nested(sys::NFTA_DATA_VERDICT, |verdict| {
            verdict.be32(sys::NFTA_VERDICT_CODE, code as u32);
        });
    });
}

impl Meta {
    fn number(self) -> u32 {
        match self {
            Self::Mark => sys::NFT_META_MARK,
            Self::Family => sys::NFT_META_NFPROTO,
            Self::Transport => sys::NFT_META_L4PROTO,
        }
    }
}

impl Connection {
    fn number(self) -> u32 {
        match self {
            Self::Mark => sys::NFT_CT_MARK,
            Self::Direction => sys::NFT_CT_DIRECTION,
        }
    }
}

impl Payload {
    /// Header (`NFT_PAYLOAD_`), offset and length in bytes.
    fn place(self) -> (u32, u32, u32) {
        match self {
            Self::V4(Address::Source) => (sys::NFT_PAYLOAD_NETWORK_HEADER, 12, 4),
            Self::V4(Address::Destination) => (sys::NFT_PAYLOAD_NETWORK_HEADER, 16, 4),
            Self::V6(Address::Source) => (sys::NFT_PAYLOAD_NETWORK_HEADER, 8, 16),
            Self::V6(Address::Destination) => (sys::NFT_PAYLOAD_NETWORK_HEADER, 24, 16),
            Self::UdpDestinationPort => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
            Self::Icmpv6Type => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1),
        }
    }
}

impl Comparison {
    fn number(self) -> u32 {
        match self {
            Self::Equal => sys::NFT_CMP_EQ,
            Self::NotEqual => sys::NFT_CMP_NEQ,
            Self::AtMost => sys::NFT_CMP_LTE,
            Self::AtLeast => sys::NFT_CMP_GTE,
        }
    }
}

/// The kernel's modules that these expressions need, each once.
pub(crate) fn modules(expressions: &[Expression]) -> Cow<'static, str> {
    let mut special: Vec<&str> = Vec::new();
    for modules in expressions.iter().map(Expression::modules).filter(|modules| *modules != PLAIN) {
        if !special.contains(&modules) {
            special.push(modules);
        }
    }
    if special.is_empty() { Cow::Borrowed(PLAIN) } else { Cow::Owned(special.join(", ")) }
}

#[cfg(test)]
mod tests;
