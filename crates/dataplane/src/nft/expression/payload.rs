//! Bytes of a packet that a rule loads.

use rustables::sys::{self, nft_registers};

use crate::netlink::Attributes;

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

impl Payload {
    pub(super) fn encode(self, data: &mut Attributes<'_>, register: nft_registers) {
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
