//! The first bytes of a packet, as NFQUEUE copies them -> [`policy::Packet`].
//!
//! From: a queue's worker. To: [`policy::Snapshot::evaluate`]. The bytes come from anybody, so nothing in them is trusted:
//! what can't be read with certainty is [`Unparsable`], and an unparsable packet is denied (semantics 28).
//!
//! Invariant: the packet evaluated is the connection that the kernel tracks. Extension headers are skipped, and ports are
//! read, exactly where conntrack does (`ipv6_skip_exthdr`, `nf_ct_get_tuple`): else a verdict on one thing would open
//! the way to another.

use std::net::IpAddr;

use etherparse::{
    IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice, ip_number,
};
use policy::{Packet, Protocol};

#[cfg(test)]
mod tests;

/// How many bytes of a packet the kernel copies to a worker: an IPv4 header with all its options (60) and a TCP header
/// with all of its own (60) fit.
pub const COPY_RANGE: usize = 128;

/// UDP-Lite (RFC 3828).
const UDP_LITE: Protocol = Protocol(136);

/// TCP's flags (RFC 9293) that begin or end a connection: FIN, SYN, RST; and ACK.
const BEGINS_OR_ENDS: u8 = 0x01 | SYN | 0x04 | 0x10;
/// TCP's flag SYN: alone, it begins a connection.
const SYN: u8 = 0x02;

/// The bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;

/// Why a packet can't be evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Unparsable {
    /// Not one byte.
    #[error("it is empty")]
    Empty,
    /// Neither IPv4 nor IPv6.
    #[error("it claims IP version {0}")]
    Version(u8),
    /// The IP header is cut short, or claims to be shorter than any.
    #[error("its IP header is cut short or claims an impossible length")]
    IpHeader,
    /// The length in the IP header covers less than the header, or more than was sent.
    #[error("its IP header claims {claimed} bytes and {copied} are there")]
    Length {
        /// What the header claims, in bytes.
        claimed: usize,
        /// What is there, in bytes.
        copied: usize,
    },
    /// An IPv6 extension header is malformed, out of place, or not wholly within the copied bytes.
    #[error(
        "an IPv6 extension header ({0}) is malformed, out of place or not within the first {COPY_RANGE} bytes"
    )]
    ExtensionHeader(u8),
    /// The transport header is malformed, or not within the copied bytes.
    #[error("its {0} header is malformed or not within the first {COPY_RANGE} bytes")]
    TransportHeader(Protocol),
}

/// Reads a packet that starts with its IP header. Only the first [`COPY_RANGE`] bytes are looked at; that many bytes
/// or more may be the beginning of a longer packet, fewer are a whole one.
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
    // An authentication header (51) is not looked into: conntrack tracks it as a protocol without ports.
    let packet = Packet::new(
        IpAddr::V4(header.source_addr()),
        IpAddr::V4(header.destination_addr()),
        Protocol(header.protocol().0),
    );
    // The ports are in the first fragment alone (semantics 27).
    if header.fragments_offset().value() > 0 { Ok(packet) } else { transport(packet, payload) }
}

fn parse_ipv6(bytes: &[u8]) -> Result<Packet, Unparsable> {
    let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|_| Unparsable::IpHeader)?;
    let claimed = match header.payload_length() {
        0 => 0,
        length => IPV6_HEADER + usize::from(length),
    };
    // A length of 0 with nothing behind the header is a whole packet, not a jumbogram.
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

/// The bytes behind the IP header, without what may stand behind the packet's own end. `claimed` counts from the
/// packet's start; 0 is how the kernel writes the length of a packet above 65,535 bytes (BIG TCP, RFC 2675).
fn payload(bytes: &[u8], start: usize, claimed: usize) -> Result<&[u8], Unparsable> {
    let cut = bytes.len() == COPY_RANGE;
    let end = if cut && (claimed == 0 || claimed > COPY_RANGE) { COPY_RANGE } else { claimed };
    bytes.get(start..end).ok_or(Unparsable::Length { claimed, copied: bytes.len() })
}

/// What stands behind the IPv6 extension headers.
struct AfterExtensions<'a> {
    next: IpNumber,
    rest: &'a [u8],
    /// The packet is a fragment other than the first: `rest` is data, and what `next` names isn't there.
    later_fragment: bool,
}

/// Skips the extension headers that the kernel skips: hop-by-hop, routing, destination, fragment, authentication. Others
/// (ESP, mobility, HIP, Shim6) are protocols without ports, to the kernel and to us. Each header is at least 8 bytes, so a
/// chain ends within the copy.
fn skip_extensions(first: IpNumber, payload: &[u8]) -> Result<AfterExtensions<'_>, Unparsable> {
    let (mut next, mut rest) = (first, payload);
    loop {
        let malformed = Unparsable::ExtensionHeader(next.0);
        let (length, following) = match next {
            // RFC 8200, 4.1: only directly behind the IPv6 header.
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

/// Adds ports, or the ICMP type, where the protocol has them. The least header that the protocol allows must be there.
fn transport(mut packet: Packet, bytes: &[u8]) -> Result<Packet, Unparsable> {
    const TCP_HEADER: usize = 20;
    const UDP_HEADER: usize = 8;
    const SCTP_COMMON_HEADER: usize = 12;
    const ICMP_HEADER: usize = 8;
    let malformed = Unparsable::TransportHeader(packet.protocol);
    let least = match packet.protocol {
        Protocol::TCP => TCP_HEADER,
        Protocol::UDP | UDP_LITE => UDP_HEADER,
        Protocol::SCTP => SCTP_COMMON_HEADER,
        Protocol::ICMP | Protocol::ICMPV6 => ICMP_HEADER,
        _ => return Ok(packet),
    };
    let header = bytes.get(..least).ok_or(malformed)?;
    match packet.protocol {
        // ICMP is a protocol of IPv4 and ICMPv6 one of IPv6: the other way round the type means nothing, and a packet of
        // IPv4 can't pass as neighbour discovery.
        Protocol::ICMP => packet.icmp_type = packet.destination().is_ipv4().then_some(header[0]),
        Protocol::ICMPV6 => packet.icmp_type = packet.destination().is_ipv6().then_some(header[0]),
        // RFC 9293: the data offset counts words and covers the header itself.
        Protocol::TCP if usize::from(header[12] >> 4) * 4 < TCP_HEADER => return Err(malformed),
        Protocol::TCP => {
            (packet.source_port, packet.destination_port) = ports(header);
            packet.is_mid_stream = header[13] & BEGINS_OR_ENDS != SYN;
        }
        // All others carry the two ports first.
        _ => (packet.source_port, packet.destination_port) = ports(header),
    }
    Ok(packet)
}

/// The two ports with which the header begins.
#[inline]
fn ports(header: &[u8]) -> (Option<u16>, Option<u16>) {
    let port = |at: usize| Some(u16::from_be_bytes([header[at], header[at + 1]]));
    (port(0), port(2))
}
