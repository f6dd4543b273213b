//! Parses the first bytes of a packet, as NFQUEUE copies them, into a [`policy::Packet`].
//!
//! From: a queue's worker. To: [`policy::Snapshot::evaluate`]. The bytes are untrusted: a packet that can't
//! be parsed with certainty is [`Unparsable`], and an unparsable packet is denied (semantics 28).
//!
//! Invariant: the evaluated packet belongs to the connection that the kernel tracks. Extension headers are
//! skipped, and ports are read, exactly where conntrack does (`ipv6_skip_exthdr`, `nf_ct_get_tuple`).
//! Otherwise a verdict on one connection would accept another.

use std::net::IpAddr;

use etherparse::{
    IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice, ip_number,
};
use policy::{Packet, Protocol};

#[cfg(test)]
mod tests;

/// How many bytes of a packet the kernel copies to a worker: an IPv4 header with all its options (60) and a
/// TCP header with all its options (60) fit.
pub const COPY_RANGE: usize = COPY_LENGTH as usize;

/// [`COPY_RANGE`] in the width that netlink messages have for it.
pub(crate) const COPY_LENGTH: u16 = 128;

/// UDP-Lite (RFC 3828).
const UDP_LITE: Protocol = Protocol(136);

/// The length of an IPv6 header, in bytes.
const IPV6_HEADER: usize = 40;

/// Why a packet can't be evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Unparsable {
    /// There are no bytes.
    #[error("it is empty")]
    Empty,
    /// It is neither IPv4 nor IPv6.
    #[error("it claims IP version {0}")]
    Version(u8),
    /// The IP header is truncated, or its length field is less than the minimum.
    #[error("its IP header is cut short or claims an impossible length")]
    IpHeader,
    /// The packet length in the IP header is less than the header, or more than the received bytes.
    #[error("its IP header claims {claimed} bytes and {copied} are there")]
    Length {
        /// The length in the header, in bytes.
        claimed: usize,
        /// The length of the copy, in bytes.
        copied: usize,
    },
    /// An IPv6 extension header is malformed, out of place, or not completely within the copied bytes.
    #[error(
        "an IPv6 extension header ({0}) is malformed, out of place or not within the first {COPY_RANGE} bytes"
    )]
    ExtensionHeader(u8),
    /// The transport header is malformed, or not completely within the copied bytes.
    #[error("its {0} header is malformed or not within the first {COPY_RANGE} bytes")]
    TransportHeader(Protocol),
}

/// Parses a packet that starts with its IP header. Only the first [`COPY_RANGE`] bytes are read. That many
/// bytes or more may be the beginning of a longer packet; fewer are a complete packet.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Packet, Unparsable> {
    let bytes = bytes.get(..COPY_RANGE).unwrap_or(bytes);
    match bytes.first().map(|byte| byte >> 4) {
        Some(4) => parse_ipv4(bytes),
        Some(6) => parse_ipv6(bytes),
        Some(version) => Err(Unparsable::Version(version)),
        None => Err(Unparsable::Empty),
    }
}

fn parse_ipv4(bytes: &[u8]) -> Result<Packet, Unparsable> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|_| Unparsable::IpHeader)?;
    let start = header.slice().len();
    let payload = payload(bytes, start, usize::from(header.total_len()))?;
    // An authentication header (51) is not parsed: conntrack tracks it as a protocol without ports.
    let packet = Packet::new(
        IpAddr::V4(header.source_addr()),
        IpAddr::V4(header.destination_addr()),
        Protocol(header.protocol().0),
    );
    // Only the first fragment has the ports (semantics 27).
    if header.fragments_offset().value() > 0 { Ok(packet) } else { transport(packet, payload) }
}

fn parse_ipv6(bytes: &[u8]) -> Result<Packet, Unparsable> {
    let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|_| Unparsable::IpHeader)?;
    let claimed = match header.payload_length() {
        0 => 0,
        length => IPV6_HEADER + usize::from(length),
    };
    // A length of 0 with nothing after the header is a complete packet, not a jumbogram.
    let payload =
        if claimed == 0 && bytes.len() < COPY_RANGE { &[] } else { payload(bytes, IPV6_HEADER, claimed)? };
    let extensions = skip_extensions(header.next_header(), payload)?;
    let packet = Packet::new(
        IpAddr::V6(header.source_addr()),
        IpAddr::V6(header.destination_addr()),
        Protocol(extensions.next.0),
    );
    if extensions.later_fragment { Ok(packet) } else { transport(packet, extensions.rest) }
}

/// The bytes after the IP header, without any bytes after the packet's end. `claimed` counts from the
/// packet's start; the kernel writes 0 as the length of a packet above 65,535 bytes (BIG TCP, RFC 2675).
fn payload(bytes: &[u8], start: usize, claimed: usize) -> Result<&[u8], Unparsable> {
    let cut = bytes.len() == COPY_RANGE;
    let end = if cut && (claimed == 0 || claimed > COPY_RANGE) { COPY_RANGE } else { claimed };
    bytes.get(start..end).ok_or(Unparsable::Length { claimed, copied: bytes.len() })
}

/// The part of a packet after its IPv6 extension headers.
struct AfterExtensions<'a> {
    next: IpNumber,
    rest: &'a [u8],
    /// The packet is a fragment other than the first: it lacks the header that `next` names.
    later_fragment: bool,
}

/// Skips the extension headers that the kernel skips: hop-by-hop, routing, destination, fragment,
/// authentication. Others (ESP, mobility, HIP, Shim6) are treated as protocols without ports, as in the
/// kernel. Each header is at least 8 bytes, so a chain ends within the copy.
fn skip_extensions(first: IpNumber, payload: &[u8]) -> Result<AfterExtensions<'_>, Unparsable> {
    let (mut next, mut rest) = (first, payload);
    loop {
        let malformed = Unparsable::ExtensionHeader(next.0);
        let (length, following) = match next {
            // RFC 8200, 4.1: only directly after the IPv6 header.
            ip_number::IPV6_HOP_BY_HOP if rest.len() != payload.len() => return Err(malformed),
            ip_number::IPV6_HOP_BY_HOP | ip_number::IPV6_ROUTE | ip_number::IPV6_DEST_OPTIONS => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest).map_err(|_| malformed)?;
                (header.slice().len(), header.next_header())
            }
            ip_number::AUTH => {
                let header = IpAuthHeaderSlice::from_slice(rest).map_err(|_| malformed)?;
                (header.slice().len(), header.next_header())
            }
            ip_number::IPV6_FRAG => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest).map_err(|_| malformed)?;
                if header.fragment_offset().value() > 0 {
                    return Ok(AfterExtensions {
                        next: header.next_header(),
                        rest: &[],
                        later_fragment: true,
                    });
                }
                (header.slice().len(), header.next_header())
            }
            _ => return Ok(AfterExtensions { next, rest, later_fragment: false }),
        };
        next = following;
        rest = rest.get(length..).ok_or(malformed)?;
    }
}

/// Adds the ports or the ICMP type, where the protocol has them. The minimal header of the protocol must be
/// complete.
fn transport(mut packet: Packet, bytes: &[u8]) -> Result<Packet, Unparsable> {
    const TCP_HEADER: usize = 20;
    const UDP_HEADER: usize = 8;
    const SCTP_COMMON_HEADER: usize = 12;
    const ICMP_HEADER: usize = 8;
    let malformed = Unparsable::TransportHeader(packet.protocol);
    let min_length = match packet.protocol {
        Protocol::TCP => TCP_HEADER,
        Protocol::UDP | UDP_LITE => UDP_HEADER,
        Protocol::SCTP => SCTP_COMMON_HEADER,
        Protocol::ICMP | Protocol::ICMPV6 => ICMP_HEADER,
        _ => return Ok(packet),
    };
    let header = bytes.get(..min_length).ok_or(malformed)?;
    match packet.protocol {
        // ICMP belongs to IPv4 and ICMPv6 to IPv6. In the other family the type is ignored, so that an IPv4
        // packet can't pass as neighbour discovery.
        Protocol::ICMP if packet.destination().is_ipv4() => {
            (packet.icmp_type, packet.icmp_code) = icmp(header)
        }
        Protocol::ICMPV6 if packet.destination().is_ipv6() => {
            (packet.icmp_type, packet.icmp_code) = icmp(header);
        }
        Protocol::ICMP | Protocol::ICMPV6 => {}
        // RFC 9293: the data offset counts 32-bit words and includes the header.
        Protocol::TCP if usize::from(header[12] >> 4) * 4 < TCP_HEADER => return Err(malformed),
        Protocol::TCP => {
            (packet.source_port, packet.destination_port) = ports(header);
            packet = packet.with_tcp_flags(header[13]);
        }
        // All other protocols here begin with the two ports.
        _ => (packet.source_port, packet.destination_port) = ports(header),
    }
    Ok(packet)
}

/// The type and the code at the beginning of an ICMP or ICMPv6 header.
#[inline]
fn icmp(header: &[u8]) -> (Option<u8>, Option<u8>) {
    (Some(header[0]), Some(header[1]))
}

/// The two ports at the beginning of the header.
#[inline]
fn ports(header: &[u8]) -> (Option<u16>, Option<u16>) {
    let port = |at: usize| Some(u16::from_be_bytes([header[at], header[at + 1]]));
    (port(0), port(2))
}
