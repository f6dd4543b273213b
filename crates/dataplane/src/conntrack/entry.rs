//! One entry of the connection tracking table, parsed in place without allocating.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::{Packet, Protocol};

use super::attributes::{
    CTA_ID, CTA_IP_V4_DST, CTA_IP_V4_SRC, CTA_IP_V6_DST, CTA_IP_V6_SRC, CTA_MARK, CTA_PROTO_DST_PORT,
    CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_STATUS, CTA_TUPLE_IP,
    CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_TUPLE_REPLY, CTA_ZONE,
};
use crate::marks::Mark;
use crate::netlink::{AttributeReader, Attributes, Received};

/// The type of an attribute that contains attributes (`NLA_F_NESTED`).
pub(super) fn nested(kind: u16) -> u16 {
    kind | 1 << 15
}

/// The kernel's id of an entry: a hash of its tuples and of its memory address (`nf_ct_get_id`). A later
/// entry with the same tuple has another id, unless it has the same memory address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConntrackId(pub u32);

/// One direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// The source of its packets.
    pub source: IpAddr,
    /// Their destination.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Source port; `None` where the protocol has none.
    pub source_port: Option<u16>,
    /// Destination port; `None` where the protocol has none.
    pub destination_port: Option<u16>,
    /// The ICMP or ICMPv6 type; `None` for other protocols.
    pub icmp_type: Option<u8>,
}

/// One tracked connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub family: u8,
    /// The tuple of its first packet as it was sent, before DNAT.
    pub original: Tuple,
    /// The tuple of replies: its source is the first packet's destination after DNAT, and its destination is
    /// the first packet's source after SNAT.
    pub reply: Tuple,
    /// The conntrack zone; `None` for the default zone.
    pub zone: Option<u16>,
    /// The connection mark.
    pub mark: Mark,
    /// `IPS_` bits.
    pub status: u32,
    /// The kernel's id of the entry.
    pub id: ConntrackId,
    /// `CTA_TUPLE_ORIG` as the kernel wrote it: identifies the entry in a request.
    pub(super) original_bytes: &'a [u8],
}

/// Identifies an entry in requests after the visit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryName {
    family: u8,
    zone: Option<u16>,
    id: ConntrackId,
    /// `CTA_TUPLE_ORIG` as the kernel wrote it.
    tuple: Box<[u8]>,
}

/// Identifies an entry that is being visited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EntryRef<'a> {
    pub(super) family: u8,
    pub(super) zone: Option<u16>,
    pub(super) id: ConntrackId,
    pub(super) tuple: &'a [u8],
}

impl EntryRef<'_> {
    /// Writes the entry's tuple and zone to a request: the kernel's own bytes, so that any protocol is
    /// supported.
    pub(super) fn write(&self, attributes: &mut Attributes<'_>) {
        attributes.bytes(nested(CTA_TUPLE_ORIG), self.tuple);
        if let Some(zone) = self.zone {
            attributes.be16(CTA_ZONE, zone);
        }
    }
}

impl EntryName {
    /// Whether it identifies an entry with the same tuple, which may be a later connection.
    pub fn has_tuple_of(&self, other: &Self) -> bool {
        let Self { family, zone, id: _, tuple } = self;
        (family, zone, tuple) == (&other.family, &other.zone, &other.tuple)
    }

    pub(super) fn as_ref(&self) -> EntryRef<'_> {
        let Self { family, zone, id, tuple } = self;
        EntryRef { family: *family, zone: *zone, id: *id, tuple }
    }
}

impl<'a> Entry<'a> {
    /// Parses an entry of a dump; `None` if it lacks a tuple.
    pub fn parse(message: &Received<'a>) -> Option<Self> {
        let (mut original, mut reply, mut original_bytes) = (None, None, [].as_slice());
        let (mut zone, mut mark, mut status, mut id) = (None, Mark::NONE, 0, ConntrackId(0));
        for (kind, value) in AttributeReader::new(message.attributes) {
            match kind {
                CTA_TUPLE_ORIG => (original, original_bytes) = (Tuple::parse(value), value),
                CTA_TUPLE_REPLY => reply = Tuple::parse(value),
                CTA_STATUS => status = be32(value)?,
                CTA_MARK => mark = Mark(be32(value)?),
                CTA_ID => id = ConntrackId(be32(value)?),
                CTA_ZONE => zone = Some(be16(value)?),
                _ => {}
            }
        }
        Some(Self {
            family: message.family,
            original: original?,
            reply: reply?,
            zone,
            mark,
            status,
            id,
            original_bytes,
        })
    }

    /// Its identification in later requests.
    pub fn name(&self) -> EntryName {
        let EntryRef { family, zone, id, tuple } = self.name_ref();
        EntryName { family, zone, id, tuple: tuple.into() }
    }

    pub(super) fn name_ref(&self) -> EntryRef<'a> {
        EntryRef { family: self.family, zone: self.zone, id: self.id, tuple: self.original_bytes }
    }

    /// The packet by which policy evaluates this connection: after DNAT and before SNAT (semantics 12). Its
    /// source is that of the first packet. Its destination is the source of the replies, which shows the
    /// result of DNAT; the result of SNAT shows only in the replies' destination.
    pub fn evaluated(&self) -> Packet {
        let mut packet = Packet::new(self.original.source, self.reply.source, self.original.protocol);
        packet.source_port = self.original.source_port;
        packet.destination_port = self.reply.source_port;
        // As in a packet: the ICMP type counts in IPv4 only, the ICMPv6 type in IPv6 only.
        let own_family = (packet.protocol == Protocol::ICMPV6) == packet.destination().is_ipv6();
        packet.icmp_type = self.original.icmp_type.filter(|_| own_family);
        packet
    }
}

impl Tuple {
    fn parse(attributes: &[u8]) -> Option<Self> {
        let (mut source, mut destination) = (None, None);
        let (mut protocol, mut source_port, mut destination_port, mut icmp_type) = (None, None, None, None);
        for (kind, value) in AttributeReader::new(attributes) {
            match kind {
                CTA_TUPLE_IP => {
                    for (kind, value) in AttributeReader::new(value) {
                        match kind {
                            CTA_IP_V4_SRC => source = ipv4(value),
                            CTA_IP_V4_DST => destination = ipv4(value),
                            CTA_IP_V6_SRC => source = ipv6(value),
                            CTA_IP_V6_DST => destination = ipv6(value),
                            _ => {}
                        }
                    }
                }
                CTA_TUPLE_PROTO => {
                    for (kind, value) in AttributeReader::new(value) {
                        match kind {
                            CTA_PROTO_NUM => protocol = value.first().copied().map(Protocol),
                            CTA_PROTO_SRC_PORT => source_port = be16(value),
                            CTA_PROTO_DST_PORT => destination_port = be16(value),
                            CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => icmp_type = value.first().copied(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(Self {
            source: source?,
            destination: destination?,
            protocol: protocol?,
            source_port,
            destination_port,
            icmp_type,
        })
    }
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn ipv4(value: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?)))
}

fn ipv6(value: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?)))
}
