//! Messages of transport protocols and ICMP, with their checksums.

use std::net::IpAddr;

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ESP.
    pub const ESP: u8 = 50;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
    /// "For experimentation and testing".
    pub const UNKNOWN: u8 = 253;
}

/// Flags of TCP.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// PSH.
    pub const PSH: u8 = 8;
    /// ACK.
    pub const ACK: u8 = 16;
    /// URG.
    pub const URG: u8 = 32;
}

/// The source and destination of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
}

impl Path {
    /// The path from `source` to `destination`, which must be of one family.
    pub fn new(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Self {
        Self { source: source.into(), destination: destination.into() }
    }

    /// The reverse path.
    pub fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    /// Whether it is an IPv6 path.
    pub fn is_v6(self) -> bool {
        self.destination.is_ipv6()
    }
}

/// A message of a protocol that IP carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its protocol.
    pub protocol: u8,
    /// Its header and payload.
    pub bytes: Vec<u8>,
}

/// A UDP datagram.
pub fn udp(path: Path, ports: (u16, u16), data: &[u8]) -> Message {
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
    let bytes = [&pair(ports)[..], &length.to_be_bytes(), &[0, 0], data].concat();
    summed(path, protocol::UDP, bytes, 6)
}

/// A UDP-Lite datagram whose checksum covers all of it.
pub fn udp_lite(path: Path, ports: (u16, u16), data: &[u8]) -> Message {
    summed(path, protocol::UDP_LITE, [&pair(ports)[..], &[0; 4], data].concat(), 6)
}

/// A TCP segment with `flags` of [`flag`].
pub fn tcp(path: Path, ports: (u16, u16), flags: u8, (seq, ack): (u32, u32), data: &[u8]) -> Message {
    let header = [&pair(ports)[..], &seq.to_be_bytes(), &ack.to_be_bytes()].concat();
    // A header of five 32-bit words, the flags, a window, the checksum, and no urgent data.
    let bytes = [&header[..], &[5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0], data].concat();
    summed(path, protocol::TCP, bytes, 16)
}

/// A message of ICMP or ICMPv6, according to the path's family. `rest` is the second word of its header.
pub fn icmp(path: Path, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Message {
    let bytes = [&[kind, code, 0, 0][..], &rest, data].concat();
    if path.is_v6() {
        return summed(path, protocol::ICMPV6, bytes, 2);
    }
    let sum = checksum(&bytes);
    Message { protocol: protocol::ICMP, bytes: with_sum(bytes, 2, sum) }
}

/// An echo request or reply.
pub fn echo(path: Path, is_reply: bool, identifier: u16, data: &[u8]) -> Message {
    let kind = match (path.is_v6(), is_reply) {
        (false, false) => 8,
        (false, true) => 0,
        (true, false) => 128,
        (true, true) => 129,
    };
    let [high, low] = identifier.to_be_bytes();
    icmp(path, kind, 0, [high, low, 0, 1], data)
}

/// An SCTP INIT that carries the data as a parameter (RFC 9260, section 3.3.2).
pub fn sctp(ports: (u16, u16), data: &[u8]) -> Message {
    let padded = [data, &vec![0; data.len().next_multiple_of(4) - data.len()]].concat();
    let parameter = [&0xc000_u16.to_be_bytes(), &length16(4 + data.len())[..], &padded].concat();
    let chunk = [&[1, 0], &length16(20 + parameter.len())[..], &[0, 0, 0, 9, 0, 1, 0, 0]].concat();
    let chunk = [&chunk[..], &[0, 1, 0, 1, 0, 0, 0, 1], &parameter].concat();
    // No verification tag yet; the checksum is little-endian.
    let mut bytes = [&pair(ports)[..], &[0; 8], &chunk].concat();
    let sum = crc32c(&bytes).to_le_bytes();
    bytes[8..12].copy_from_slice(&sum);
    Message { protocol: protocol::SCTP, bytes }
}

/// A DCCP request that carries the data (RFC 4340, section 5).
pub fn dccp(path: Path, ports: (u16, u16), data: &[u8]) -> Message {
    // A header of five 32-bit words, a long sequence number, and a service code.
    let bytes = [&pair(ports)[..], &[5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], data].concat();
    summed(path, protocol::DCCP, bytes, 6)
}

/// A message of any protocol, from its bytes.
pub fn raw(protocol: u8, bytes: &[u8]) -> Message {
    Message { protocol, bytes: bytes.to_vec() }
}

/// The internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// The bytes of an address.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Writes the checksum over pseudo header and bytes at offset `at`, where the bytes are zero.
fn summed(path: Path, protocol: u8, bytes: Vec<u8>, at: usize) -> Message {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let pseudo = [octets(path.source), octets(path.destination), length.to_vec(), vec![0, 0, 0, protocol]];
    let mut all = pseudo.concat();
    all.extend_from_slice(&bytes);
    // Zero would mean that there is no checksum.
    let sum = Some(checksum(&all)).filter(|sum| *sum != 0).unwrap_or(0xffff);
    Message { protocol, bytes: with_sum(bytes, at, sum) }
}

fn with_sum(mut bytes: Vec<u8>, at: usize, sum: u16) -> Vec<u8> {
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn pair((source, destination): (u16, u16)) -> [u8; 4] {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    [a, b, c, d]
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn crc32c(bytes: &[u8]) -> u32 {
    /// Castagnoli's polynomial, reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        // RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
