//! The expressions of the agent's rules: each loads, compares or sets one value, or decides. All use register
//! 1; the parts of a key are stored side by side from there on.

use std::borrow::Cow;
use std::time::Duration;

use rustables::sys::{self, nft_registers};

use super::batch::PLAIN;
use super::queue::{Queue, QueueForm};
use crate::netlink::Attributes;

/// The 16-byte register that every expression here reads and writes. It fits an IPv6 address. A longer key
/// continues in the registers after it.
const REGISTER: nft_registers = sys::NFT_REG_1;

/// One step of a rule. A comparison or lookup that fails ends the rule, and so does a load that isn't
/// possible, such as the mark of a connection for a packet that belongs to none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expression {
    /// Loads metadata of the packet.
    LoadMeta(Meta),
    /// Stores the register as the packet's mark.
    StorePacketMark,
    /// Loads a property of the packet's connection.
    LoadConnection(Connection),
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

/// A token bucket of packets (`nft_limit`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rate {
    /// How many tokens are added per period.
    pub packets: u64,
    /// The period in seconds.
    pub seconds: u64,
    /// How many tokens the bucket holds. It starts full.
    pub burst: u32,
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

/// Metadata of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meta {
    /// The packet mark, 32 bits in host order.
    Mark,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, a byte.
    Family,
    /// The transport protocol's number, a byte.
    Transport,
    /// The index of the interface through which the packet entered, 32 bits in host order; 0 if the hook has
    /// none. In a bridge, the port.
    Iif,
    /// The index of the interface through which the packet leaves, in the same form.
    Oif,
    /// The kind of [`Meta::Iif`], such as `veth`: 16 bytes, padded with zeros. Ends the rule for a device
    /// without a kind.
    IifKind,
    /// The kind of [`Meta::Oif`], in the same form.
    OifKind,
    /// The name of the bridge through whose port the frame entered: 16 bytes, padded with zeros.
    BridgeName,
    /// The name of the bridge through whose port the frame leaves, in the same form.
    OutBridgeName,
    /// The protocol after the link layer's header (`ETH_P_`), 16 bits in network order.
    Protocol,
    /// Bytes from the network header on, 32 bits in host order.
    Length,
}

/// A property of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Connection {
    /// The connection mark, 32 bits in host order.
    Mark,
    /// The packet's direction in the connection, a byte: [`ORIGINAL`] or [`REPLY`]. An ICMP error has the
    /// direction opposite to the packet that it quotes (`nf_conntrack_inet_error`), and the mark of that
    /// packet's connection.
    Direction,
    /// The connection's state, as bits of a 32-bit number in host order, such as [`RELATED`]. A packet
    /// without a connection has a state as well.
    State,
}

/// `NF_CT_STATE_BIT(IP_CT_RELATED)`: an ICMP error about a connection, or the first packet of one that a
/// helper expects.
pub(crate) const RELATED: u32 = 1 << 2;
/// `NF_CT_STATE_INVALID_BIT`: the packet belongs to no connection.
pub(crate) const INVALID: u32 = 1 << 0;
/// `NF_CT_STATE_UNTRACKED_BIT`: the packet is exempt from connection tracking.
pub(crate) const UNTRACKED: u32 = 1 << 6;
/// `IP_CT_DIR_ORIGINAL`: the direction of the connection's first packet.
pub(crate) const ORIGINAL: u8 = 0;
/// `IP_CT_DIR_REPLY`: opposite to the direction of the connection's first packet.
pub(crate) const REPLY: u8 = 1;
/// `RTN_UNICAST`: the address is another host's, by a route.
pub(crate) const UNICAST: u32 = libc::RTN_UNICAST as u32;
/// `RTN_LOCAL`: the address belongs to this network namespace.
pub(crate) const LOCAL: u32 = libc::RTN_LOCAL as u32;

/// Bytes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Payload {
    /// An address of an IPv4 header (RFC 791).
    V4(Address),
    /// An address of an IPv6 header (RFC 8200).
    V6(Address),
    /// The destination port of a TCP, UDP or SCTP header, big-endian. All three have it at the same offset.
    DestinationPort,
    /// The source port of one of these headers, big-endian.
    SourcePort,
    /// The type of an ICMPv6 message (RFC 4443), a byte.
    Icmpv6Type,
    /// The target address of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4), 16 bytes.
    NeighbourTarget,
    /// Byte 13 of a TCP header (RFC 9293): its flags.
    TcpFlags,
    /// Flags and offset of an IPv4 fragment (RFC 791), 2 bytes.
    V4Fragment,
    /// The first byte of an IPv4 destination.
    V4DestinationStart,
    /// The first two bytes of an IPv6 destination.
    V6DestinationStart,
    /// The first two bytes of an IPv6 source.
    V6SourceStart,
    /// The hop limit of an IPv6 header, a byte.
    HopLimit,
    /// The first byte of a frame's destination. Its lowest bit marks a group address.
    DestinationMacStart,
    /// A frame's source, 6 bytes.
    SourceMac,
    /// A frame's protocol as written in the frame, 16 bits in network order: that of the outermost VLAN tag
    /// if there is one.
    EtherType,
    /// The operation of an ARP message (RFC 826), 2 bytes.
    ArpOperation,
    /// The sender's hardware address in an ARP message for Ethernet and IPv4 (RFC 826), 6 bytes.
    ArpSenderMac,
    /// The sender's protocol address in an ARP message for Ethernet and IPv4 (RFC 826), 4 bytes.
    ArpSenderAddress,
    /// The type of an ICMP message (RFC 792), a byte.
    IcmpType,
    /// The IPv4 destination of the packet that an ICMP error quotes.
    QuotedV4Destination,
    /// The IPv6 destination of the packet that an ICMPv6 error quotes (RFC 4443, 3).
    QuotedV6Destination,
    /// The first five bytes of a frame's destination.
    DestinationMacGroup,
}

/// One of a packet's two addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// Where the packet comes from.
    Source,
    /// Where it goes.
    Destination,
}

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
                data.be32(sys::NFTA_CT_KEY, Connection::Mark.number()).be32(sys::NFTA_CT_SREG, REGISTER);
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

fn encode_fragment_header(data: &mut Attributes<'_>, offset: u32, length: u32, flags: u32) {
    data.be32(sys::NFTA_EXTHDR_DREG, REGISTER)
        .bytes(sys::NFTA_EXTHDR_TYPE, &[libc::IPPROTO_FRAGMENT as u8])
        .be32(sys::NFTA_EXTHDR_OFFSET, offset)
        .be32(sys::NFTA_EXTHDR_LEN, length)
        .be32(sys::NFTA_EXTHDR_FLAGS, flags)
        .be32(sys::NFTA_EXTHDR_OP, sys::NFT_EXTHDR_OP_IPV6);
}

fn encode_timed(data: &mut Attributes<'_>, set: &str, operation: u32, stay: Duration) {
    let milliseconds = u64::try_from(stay.as_millis()).unwrap_or(u64::MAX);
    data.string(sys::NFTA_DYNSET_SET_NAME, set)
        .be32(sys::NFTA_DYNSET_OP, operation)
        .be32(sys::NFTA_DYNSET_SREG_KEY, REGISTER)
        .bytes(sys::NFTA_DYNSET_TIMEOUT, &milliseconds.to_be_bytes());
}

fn encode_limit(data: &mut Attributes<'_>, set: &str, rate: Rate, stay: Duration, flags: u32) {
    encode_timed(data, set, sys::NFT_DYNSET_OP_UPDATE, stay);
    data.nested(sys::NFTA_DYNSET_EXPR, |limit| {
        limit.string(sys::NFTA_EXPR_NAME, "limit").nested(sys::NFTA_EXPR_DATA, |data| {
            data.bytes(sys::NFTA_LIMIT_RATE, &rate.packets.to_be_bytes())
                .bytes(sys::NFTA_LIMIT_UNIT, &rate.seconds.to_be_bytes())
                .be32(sys::NFTA_LIMIT_BURST, rate.burst)
                .be32(sys::NFTA_LIMIT_TYPE, sys::NFT_LIMIT_PKTS)
                .be32(sys::NFTA_LIMIT_FLAGS, flags);
        });
    });
}

fn encode_value(data: &mut Attributes<'_>, kind: u16, value: &[u8]) {
    data.nested(kind, |nested| {
        nested.bytes(sys::NFTA_DATA_VALUE, value);
    });
}

fn encode_verdict(data: &mut Attributes<'_>, code: i32, chain: Option<&str>) {
    data.be32(sys::NFTA_IMMEDIATE_DREG, sys::NFT_REG_VERDICT)
        .nested(sys::NFTA_IMMEDIATE_DATA, |nested| verdict_data(nested, code, chain));
}

/// A verdict as data: `NF_` or `NFT_` code, and the chain where it needs one.
pub(crate) fn verdict_data(data: &mut Attributes<'_>, code: i32, chain: Option<&str>) {
    data.nested(sys::NFTA_DATA_VERDICT, |verdict| {
        verdict.be32(sys::NFTA_VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            verdict.string(sys::NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// The register this many 32-bit words after the start of register 1. A 16-byte register has two names.
fn register(words: u32) -> nft_registers {
    if words.is_multiple_of(4) { REGISTER + words / 4 } else { sys::NFT_REG32_00 + words }
}

impl Meta {
    fn encode(self, data: &mut Attributes<'_>, register: nft_registers) {
        data.be32(sys::NFTA_META_KEY, self.number()).be32(sys::NFTA_META_DREG, register);
    }

    fn number(self) -> u32 {
        match self {
            Self::Mark => sys::NFT_META_MARK,
            Self::Family => sys::NFT_META_NFPROTO,
            Self::Transport => sys::NFT_META_L4PROTO,
            Self::Iif => sys::NFT_META_IIF,
            Self::Oif => sys::NFT_META_OIF,
            Self::IifKind => sys::NFT_META_IIFKIND,
            Self::OifKind => sys::NFT_META_OIFKIND,
            Self::BridgeName => sys::NFT_META_BRI_IIFNAME,
            Self::OutBridgeName => sys::NFT_META_BRI_OIFNAME,
            Self::Protocol => sys::NFT_META_PROTOCOL,
            Self::Length => sys::NFT_META_LEN,
        }
    }
}

impl Connection {
    fn number(self) -> u32 {
        match self {
            Self::Mark => sys::NFT_CT_MARK,
            Self::Direction => sys::NFT_CT_DIRECTION,
            Self::State => sys::NFT_CT_STATE,
        }
    }
}

impl Payload {
    fn encode(self, data: &mut Attributes<'_>, register: nft_registers) {
        let (base, offset, length) = self.place();
        data.be32(sys::NFTA_PAYLOAD_DREG, register)
            .be32(sys::NFTA_PAYLOAD_BASE, base)
            .be32(sys::NFTA_PAYLOAD_OFFSET, offset)
            .be32(sys::NFTA_PAYLOAD_LEN, length);
    }

    /// Header (`NFT_PAYLOAD_`), offset and length in bytes.
    fn place(self) -> (u32, u32, u32) {
        match self {
            Self::V4(Address::Source) => (sys::NFT_PAYLOAD_NETWORK_HEADER, 12, 4),
            Self::V4(Address::Destination) => (sys::NFT_PAYLOAD_NETWORK_HEADER, 16, 4),
            Self::V6(Address::Source) => (sys::NFT_PAYLOAD_NETWORK_HEADER, 8, 16),
            Self::V6(Address::Destination) => (sys::NFT_PAYLOAD_NETWORK_HEADER, 24, 16),
            Self::DestinationPort => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
            Self::SourcePort => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2),
            Self::Icmpv6Type => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1),
            Self::NeighbourTarget => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 8, 16),
            Self::TcpFlags => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1),
            Self::V4Fragment => (sys::NFT_PAYLOAD_NETWORK_HEADER, 6, 2),
            Self::V4DestinationStart => (sys::NFT_PAYLOAD_NETWORK_HEADER, 16, 1),
            Self::V6DestinationStart => (sys::NFT_PAYLOAD_NETWORK_HEADER, 24, 2),
            Self::V6SourceStart => (sys::NFT_PAYLOAD_NETWORK_HEADER, 8, 2),
            Self::HopLimit => (sys::NFT_PAYLOAD_NETWORK_HEADER, 7, 1),
            Self::DestinationMacStart => (sys::NFT_PAYLOAD_LL_HEADER, 0, 1),
            Self::SourceMac => (sys::NFT_PAYLOAD_LL_HEADER, 6, 6),
            Self::EtherType => (sys::NFT_PAYLOAD_LL_HEADER, 12, 2),
            Self::ArpOperation => (sys::NFT_PAYLOAD_NETWORK_HEADER, 6, 2),
            Self::ArpSenderMac => (sys::NFT_PAYLOAD_NETWORK_HEADER, 8, 6),
            Self::IcmpType => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1),
            Self::QuotedV4Destination => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 8 + 16, 4),
            Self::QuotedV6Destination => (sys::NFT_PAYLOAD_TRANSPORT_HEADER, 8 + 24, 16),
            Self::DestinationMacGroup => (sys::NFT_PAYLOAD_LL_HEADER, 0, 5),
            Self::ArpSenderAddress => (sys::NFT_PAYLOAD_NETWORK_HEADER, 14, 4),
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
