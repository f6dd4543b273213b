//! IP packets: headers, options, extension headers and fragments.

use std::net::IpAddr;

use super::message::{Message, Path, checksum, octets};

/// The default hop limit.
const HOP_LIMIT: u8 = 64;

/// IPv6's extension header "fragment".
const FRAGMENT: u8 = 44;

/// The packet that carries `message` along `path`.
pub fn packet(path: Path, message: &Message) -> Vec<u8> {
    packet_for(path, message, HOP_LIMIT)
}

/// [`packet`] with a hop limit (in IPv4, the time to live).
pub fn packet_for(path: Path, message: &Message, hop_limit: u8) -> Vec<u8> {
    let header = match (path.source, path.destination) {
        (IpAddr::V4(_), _) => header4(path, message, hop_limit, &[], 0),
        (IpAddr::V6(_), _) => header6(path, message.protocol, hop_limit, message.bytes.len()),
    };
    [header, message.bytes.clone()].concat()
}

/// An IPv4 packet with options, whose length is a multiple of four.
pub fn packet_with_options(path: Path, message: &Message, options: &[u8]) -> Vec<u8> {
    [header4(path, message, HOP_LIMIT, options, 0), message.bytes.clone()].concat()
}

/// An IPv6 packet with one extension header of type `kind` and these bytes before the message. The next
/// header, the first byte, is overwritten.
pub fn packet_with_extension(path: Path, message: &Message, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut extension = bytes.to_vec();
    extension[0] = message.protocol;
    let payload = [extension, message.bytes.clone()].concat();
    [header6(path, kind, HOP_LIMIT, payload.len()), payload].concat()
}

/// The fragments of the packet that carries `message`, split before each of the offsets `at`, which are
/// multiples of eight.
pub fn fragments(path: Path, message: &Message, identification: u16, at: &[usize]) -> Vec<Vec<u8>> {
    let mut begins = vec![0];
    begins.extend_from_slice(at);
    let ends = at.iter().copied().chain([message.bytes.len()]);
    begins
        .iter()
        .zip(ends)
        .map(|(begin, end)| {
            let part = &message.bytes[*begin..end];
            let is_last = end == message.bytes.len();
            fragment(path, message.protocol, identification, (*begin, is_last), part)
        })
        .collect()
}

/// [`fragments`] in IPv6 with a hop limit.
pub fn fragments_for(
    path: Path,
    message: &Message,
    identification: u16,
    at: &[usize],
    hop_limit: u8,
) -> Vec<Vec<u8>> {
    let mut packets = fragments(path, message, identification, at);
    packets.iter_mut().for_each(|packet| packet[7] = hop_limit);
    packets
}

/// One fragment. Its offset `begin` is a multiple of eight.
pub fn fragment(
    path: Path,
    protocol: u8,
    identification: u16,
    (begin, is_last): (usize, bool),
    part: &[u8],
) -> Vec<u8> {
    let offset = u16::try_from(begin).unwrap_or_default();
    let message = Message { protocol, bytes: part.to_vec() };
    if path.is_v6() {
        let word = offset | u16::from(!is_last);
        let [high, low] = word.to_be_bytes();
        let [id_high, id_low] = identification.to_be_bytes();
        return packet_with_extension(path, &message, FRAGMENT, &[0, 0, high, low, 0, 0, id_high, id_low]);
    }
    let word = (offset / 8) | if is_last { 0 } else { 0x2000 };
    let mut header = header4(path, &message, HOP_LIMIT, &[], word);
    header[4..6].copy_from_slice(&identification.to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header, part.to_vec()].concat()
}

/// The EtherType of an IP packet, according to its version.
pub fn ether_type(packet: &[u8]) -> u16 {
    if packet.first().is_some_and(|byte| byte >> 4 == 6) { 0x86dd } else { 0x0800 }
}

fn header4(path: Path, message: &Message, hop_limit: u8, options: &[u8], fragment: u16) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap_or_default();
    let length = u16::try_from(20 + options.len() + message.bytes.len()).unwrap_or(u16::MAX);
    let mut header = vec![0x40 | words, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 1]);
    header.extend(fragment.to_be_bytes());
    header.extend([hop_limit, message.protocol, 0, 0]);
    header.extend(octets(path.source));
    header.extend(octets(path.destination));
    header.extend_from_slice(options);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn header6(path: Path, next: u8, hop_limit: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([next, hop_limit]);
    header.extend(octets(path.source));
    header.extend(octets(path.destination));
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::message;

    #[test]
    fn packets_of_both_families_have_the_standard_layout() {
        let path = Path::new([10, 0, 0, 1], [10, 0, 0, 2]);
        let bytes = packet(path, &message::udp(path, (1, 2), b"x"));
        assert_eq!(bytes[..10], [0x45, 0, 0, 29, 0, 1, 0, 0, 64, 17]);
        assert_eq!((checksum(&bytes[..20]), ether_type(&bytes)), (0, 0x0800));
        let path = Path::new([0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 2]);
        let bytes = packet(path, &message::udp(path, (1, 2), b"x"));
        assert_eq!(bytes[..8], [0x60, 0, 0, 0, 0, 9, 17, 64]);
        assert_eq!(ether_type(&bytes), 0x86dd);
    }

    #[test]
    fn fragments_cover_the_message() {
        let path = Path::new([10, 0, 0, 1], [10, 0, 0, 2]);
        let parts = fragments(path, &message::raw(17, &[7; 20]), 5, &[8, 16]);
        let words: Vec<_> = parts.iter().map(|part| (part[6], part[7], part.len())).collect();
        assert_eq!(words, [(0x20, 0, 28), (0x20, 1, 28), (0, 2, 24)]);
    }
}
