//! The properties of a packet that a verdict depends on: after DNAT, before SNAT, and defragmented (semantics
//! 12, 27).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IP protocol number, as assigned by IANA. Numbers are compared exactly: SCTP or an unknown protocol is
/// never treated as TCP (semantics 14).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Internet Control Message Protocol (RFC 792).
    pub const ICMP: Self = Self(1);
    /// Transmission Control Protocol (RFC 9293).
    pub const TCP: Self = Self(6);
    /// User Datagram Protocol (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// Stream Control Transmission Protocol (RFC 9260).
    pub const SCTP: Self = Self(132);
}

/// The names as Kubernetes and the kernel write them.
const PROTOCOL_NAMES: [(Protocol, &str); 5] = [
    (Protocol::TCP, "TCP"),
    (Protocol::UDP, "UDP"),
    (Protocol::SCTP, "SCTP"),
    (Protocol::ICMP, "ICMP"),
    (Protocol::ICMPV6, "ICMPv6"),
];

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOL_NAMES.iter().find(|(protocol, _)| protocol == self) {
            Some((_, name)) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

/// The text is not the name or number of an IP protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownProtocol(pub String);

impl fmt::Display for UnknownProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no protocol: use TCP, UDP, SCTP, ICMP, ICMPv6 or a number from 0 to 255", self.0)
    }
}

impl std::error::Error for UnknownProtocol {}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    /// Parses a name (in any case) or a number from 0 to 255.
    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        PROTOCOL_NAMES
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(text))
            .map(|(protocol, _)| *protocol)
            .or_else(|| text.parse().ok().map(Self))
            .ok_or_else(|| UnknownProtocol(text.to_owned()))
    }
}

/// The first packet of a connection, as the hook that evaluates it sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    /// Canonical: `::ffff:a.b.c.d` is stored as the IPv4 address (semantics 26).
    source: IpAddr,
    /// Canonical, as for `source`.
    destination: IpAddr,
    /// The transport protocol, after all IPv6 extension headers.
    pub protocol: Protocol,
    /// Source port; `None` if the protocol has no ports or the packet carries none. Recorded, never
    /// evaluated.
    pub source_port: Option<u16>,
    /// Destination port. `None` matches only rules without ports (semantics 25, 27).
    pub destination_port: Option<u16>,
    /// The ICMP or ICMPv6 type; `None` for other protocols.
    pub icmp_type: Option<u8>,
    /// The ICMP or ICMPv6 code; `None` for other protocols. Recorded, never evaluated.
    pub icmp_code: Option<u8>,
    /// The flags of the TCP header (RFC 9293: FIN is the lowest bit); `None` for other protocols. Recorded,
    /// never evaluated: see `is_mid_stream`.
    pub tcp_flags: Option<u8>,
    /// Whether it is a TCP packet that does not open a connection. It does not show which end opened the
    /// connection (semantics 34).
    pub is_mid_stream: bool,
}

impl Packet {
    /// A packet without ports or ICMP type; set these fields where they apply.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: Protocol) -> Self {
        Self {
            source: source.to_canonical(),
            destination: destination.to_canonical(),
            protocol,
            source_port: None,
            destination_port: None,
            icmp_type: None,
            icmp_code: None,
            tcp_flags: None,
            is_mid_stream: false,
        }
    }

    /// The same packet with destination port `port`.
    #[must_use]
    pub fn to_port(mut self, port: u16) -> Self {
        self.destination_port = Some(port);
        self
    }

    /// The same packet with these flags in its TCP header. It opens a connection if SYN is the only one of
    /// FIN, SYN, RST and ACK.
    #[inline]
    #[must_use]
    pub fn with_tcp_flags(mut self, flags: u8) -> Self {
        const FIN_SYN_RST_ACK: u8 = 0x17;
        const SYN: u8 = 0x02;
        self.tcp_flags = Some(flags);
        self.is_mid_stream = flags & FIN_SYN_RST_ACK != SYN;
        self
    }

    /// The packet in the opposite direction, to which this one is a reply.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }

    /// The source address: canonical, after DNAT, before SNAT.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// The destination address: canonical, after DNAT, before SNAT.
    pub fn destination(&self) -> IpAddr {
        self.destination
    }
}
