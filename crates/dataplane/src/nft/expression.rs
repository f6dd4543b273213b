//! The expressions of the agent's rules: each loads, compares or sets one value, or decides. All use register
//! 1; the parts of a key are stored side by side from there on.

mod connection;
mod encode;
mod limit;
mod meta;
mod payload;

use std::borrow::Cow;
use std::time::Duration;

use rustables::sys;

pub(crate) use self::connection::{ConntrackKey, INVALID, ORIGINAL, RELATED, REPLY, UNTRACKED};
pub(crate) use self::encode::verdict_data;
use self::encode::{REGISTER, encode_fragment_header, encode_timed, encode_value, encode_verdict, register};
pub(crate) use self::limit::Rate;
use self::limit::encode_limit;
pub(crate) use self::meta::Meta;
pub(crate) use self::payload::{Address, Payload};
use super::batch::PLAIN;
use super::queue::{Queue, QueueForm};
use crate::netlink::Attributes;

/// One step of a rule. A comparison or lookup that fails ends the rule, and so does a load that isn't
/// possible, such as the mark of a connection for a packet that belongs to none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expression {
    /// Loads metadata of the packet.
    LoadMeta(Meta),
    /// Stores the register as the packet's mark.
    StorePacketMark,
    /// Loads a property of the packet's connection.
    LoadConnection(ConntrackKey),
    /// Stores the register as the connection's mark. Without a connection it does nothing, and the rule
    /// continues.
    StoreConnectionMark,
    /// Loads bytes of the packet.
    LoadPayload(Payload),
    /// Loads whether an IPv6 packet has a fragment header (RFC 8200, 4.5) at any position: a byte, 1 or 0.
    LoadHasFragmentHeader,
    /// Loads the third and fourth byte of that header: the fragment's offset in the upper 13 bits. Ends the
    /// rule if there is none.
    LoadFragmentOffset,
    /// Loads the routing type (`RTN_`) of an address of the packet.
    LoadAddressType(Address),
    /// Loads one part of a concatenated key, at this many 32-bit words after the start of the key.
    LoadKeyPart(KeyPart, u32),
    /// register = (register & mask) ^ flip, 32 bits in host order.
    Bits {
        /// Bits that are kept.
        mask: u32,
        /// Bits that are inverted afterwards.
        flip: u32,
    },
    /// Converts a 32-bit number from host order to network order, in which comparisons are made.
    ToNetworkOrder,
    /// Continues if the register's first bytes compare like this with the value.
    Compare(Comparison, Vec<u8>),
    /// Continues if the register's value is in the set.
    InSet(&'static str),
    /// Continues if the register's value is not in the set.
    NotInSet(&'static str),
    /// Applies the verdict that the map has for the register's value; continues if it has none.
    VerdictOf(&'static str),
    /// Adds the register's value to the set, unless it is a member, for this long (in milliseconds at the
    /// finest). Later matches don't extend the time. Ends the rule if the set is full.
    AddToSet(&'static str, Duration),
    /// Adds the register's value to the set, or restarts its timeout. Ends the rule if the set is full.
    RefreshInSet(&'static str, Duration),
    /// Counts the packet in the set's counter for the register's value, which is kept until it has counted
    /// none for this long. Ends the rule if the set is full.
    CountInSet(&'static str, Duration),
    /// Takes a token from the set's bucket for the register's value, which is kept until it has not been used
    /// for this long. Ends the rule if the bucket is empty, or if the set is full.
    Limit(&'static str, Rate, Duration),
    /// Takes a token like [`Expression::Limit`], but continues only if the bucket is empty.
    OverLimit(&'static str, Rate, Duration),
    /// Counts the packet in a counter of the table.
    Count(&'static str),
    /// Sends a copy of the packet to the listener of an NFLOG group, if there is one, and continues.
    Log(Log),
    /// Continues with the rules of another chain, and returns here if none of them decides.
    Jump(&'static str),
    /// Continues with the rules of another chain. If none of them decides, returns to where a return from
    /// this chain would lead.
    Goto(&'static str),
    /// Returns to the rule after the jump to this chain.
    Return,
    /// Accepts the packet in this base chain. It continues with the next chain of the hook.
    Accept,
    /// Drops the packet.
    Drop,
    /// Sends the packet to userspace. The verdict says where it is reinjected: at the next chain of the hook
    /// (NF_ACCEPT), or at this one again (NF_REPEAT).
    Queue(Queue, QueueForm),
}

/// A copy of a packet for userspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Log {
    /// The NFLOG group.
    pub group: u16,
    /// A text that accompanies it; the kernel takes up to 127 bytes.
    pub prefix: String,
    /// How many bytes of the packet are copied, from its IP header on.
    pub length: u32,
}

/// A part of a concatenated key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyPart {
    /// Bytes of the packet, padded with zeros to whole words.
    Payload(Payload),
    /// The transport protocol's number, in a separate word.
    Transport,
    /// This number, in host order.
    Number(u32),
    /// Metadata of the packet.
    Meta(Meta),
}

/// `RTN_UNICAST`: the address is another host's, by a route.
pub(crate) const UNICAST: u32 = libc::RTN_UNICAST as u32;
/// `RTN_LOCAL`: the address belongs to this network namespace.
pub(crate) const LOCAL: u32 = libc::RTN_LOCAL as u32;

/// A comparison of two values as big-endian numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    /// The register equals the value.
    Equal,
    /// The register differs from the value.
    NotEqual,
    /// The register is less than or equal to the value.
    AtMost,
    /// The register is greater than or equal to the value.
    AtLeast,
}

impl Expression {
    /// The kernel modules that it needs.
    pub(crate) fn modules(&self) -> &'static str {
        match self {
            Self::LoadConnection(_) | Self::StoreConnectionMark => "nft_ct",
            Self::LoadAddressType(_) => "nft_fib_inet",
            Self::Count(_) => "nft_objref",
            Self::Limit(..) | Self::OverLimit(..) => "nft_limit",
            Self::Log(_) => "nft_log and nfnetlink_log",
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
            Self::LoadHasFragmentHeader | Self::LoadFragmentOffset => "exthdr",
            Self::LoadKeyPart(KeyPart::Payload(_), _) => "payload",
            Self::LoadKeyPart(KeyPart::Transport | KeyPart::Meta(_), _) => "meta",
            Self::LoadKeyPart(KeyPart::Number(_), _) => "immediate",
            Self::Bits { .. } => "bitwise",
            Self::ToNetworkOrder => "byteorder",
            Self::Compare(..) => "cmp",
            Self::InSet(_) | Self::NotInSet(_) | Self::VerdictOf(_) => "lookup",
            Self::AddToSet(..)
            | Self::RefreshInSet(..)
            | Self::CountInSet(..)
            | Self::Limit(..)
            | Self::OverLimit(..) => "dynset",
            Self::Count(_) => "objref",
            Self::Log(_) => "log",
            Self::Jump(_) | Self::Goto(_) | Self::Return | Self::Accept | Self::Drop => "immediate",
            Self::Queue(_, form) => Queue::name(*form),
        }
    }

    fn encode_data(&self, data: &mut Attributes<'_>) {
        match self {
            Self::LoadMeta(key) => key.encode(data, REGISTER),
            Self::StorePacketMark => {
                data.be32(sys::NFTA_META_KEY, Meta::Mark.number()).be32(sys::NFTA_META_SREG, REGISTER);
            }
            Self::LoadConnection(key) => {
                data.be32(sys::NFTA_CT_KEY, key.number()).be32(sys::NFTA_CT_DREG, REGISTER);
            }
            Self::StoreConnectionMark => {
                data.be32(sys::NFTA_CT_KEY, ConntrackKey::Mark.number()).be32(sys::NFTA_CT_SREG, REGISTER);
            }
            Self::LoadPayload(payload) => payload.encode(data, REGISTER),
            Self::LoadHasFragmentHeader => encode_fragment_header(data, 0, 1, sys::NFT_EXTHDR_F_PRESENT),
            Self::LoadFragmentOffset => encode_fragment_header(data, 2, 2, 0),
            Self::LoadKeyPart(part, words) => match part {
                KeyPart::Payload(payload) => payload.encode(data, register(*words)),
                KeyPart::Transport => Meta::Transport.encode(data, register(*words)),
                KeyPart::Meta(meta) => meta.encode(data, register(*words)),
                KeyPart::Number(number) => {
                    data.be32(sys::NFTA_IMMEDIATE_DREG, register(*words));
                    encode_value(data, sys::NFTA_IMMEDIATE_DATA, &number.to_ne_bytes());
                }
            },
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
            Self::ToNetworkOrder => {
                data.be32(sys::NFTA_BYTEORDER_SREG, REGISTER)
                    .be32(sys::NFTA_BYTEORDER_DREG, REGISTER)
                    .be32(sys::NFTA_BYTEORDER_OP, sys::NFT_BYTEORDER_HTON)
                    .be32(sys::NFTA_BYTEORDER_LEN, 4)
                    .be32(sys::NFTA_BYTEORDER_SIZE, 4);
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
            Self::VerdictOf(map) => {
                data.string(sys::NFTA_LOOKUP_SET, map)
                    .be32(sys::NFTA_LOOKUP_SREG, REGISTER)
                    .be32(sys::NFTA_LOOKUP_DREG, sys::NFT_REG_VERDICT);
            }
            Self::AddToSet(set, stay) => encode_timed(data, set, sys::NFT_DYNSET_OP_ADD, *stay),
            Self::RefreshInSet(set, stay) => encode_timed(data, set, sys::NFT_DYNSET_OP_UPDATE, *stay),
            Self::CountInSet(set, stay) => {
                encode_timed(data, set, sys::NFT_DYNSET_OP_UPDATE, *stay);
                data.nested(sys::NFTA_DYNSET_EXPR, |counter| {
                    counter.string(sys::NFTA_EXPR_NAME, "counter").nested(sys::NFTA_EXPR_DATA, |_| {});
                });
            }
            Self::Limit(set, rate, stay) => encode_limit(data, set, *rate, *stay, 0),
            Self::OverLimit(set, rate, stay) => encode_limit(data, set, *rate, *stay, sys::NFT_LIMIT_F_INV),
            Self::Count(counter) => {
                data.be32(sys::NFTA_OBJREF_IMM_TYPE, sys::NFT_OBJECT_COUNTER)
                    .string(sys::NFTA_OBJREF_IMM_NAME, counter);
            }
            Self::Log(Log { group, prefix, length }) => {
                data.be16(sys::NFTA_LOG_GROUP, *group)
                    .string(sys::NFTA_LOG_PREFIX, prefix)
                    .be32(sys::NFTA_LOG_SNAPLEN, *length);
            }
            Self::Jump(chain) => encode_verdict(data, sys::NFT_JUMP, Some(chain)),
            Self::Goto(chain) => encode_verdict(data, sys::NFT_GOTO, Some(chain)),
            Self::Return => encode_verdict(data, sys::NFT_RETURN, None),
            Self::Accept => encode_verdict(data, libc::NF_ACCEPT, None),
            Self::Drop => encode_verdict(data, libc::NF_DROP, None),
            Self::Queue(queue, form) => queue.encode(*form, data),
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

/// The kernel modules that these expressions need, each once.
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
