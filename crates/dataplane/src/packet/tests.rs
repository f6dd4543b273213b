//! Properties that hold for any bytes. Named packets are in `tests/resources/packets`.

use etherparse::{IpFragOffset, Ipv4Options, Ipv6FlowLabel, PacketBuilder};
use proptest::prelude::*;

use super::*;

/// Bytes that begin like a packet more often than random bytes: the parser rejects most others at the first
/// byte.
fn untrusted() -> impl Strategy<Value = Vec<u8>> {
    let chained = prop::sample::select(vec![0u8, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132, 135]);
    let anything = || prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        anything(),
        (5u8..16, anything(), chained.clone()).prop_map(|(words, mut bytes, protocol)| {
            bytes.resize(bytes.len().max(20), 0);
            (bytes[0], bytes[9]) = (0x40 | words, protocol);
            let length = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes
        }),
        (prop::collection::vec((chained.clone(), 0u8..4, any::<[u8; 6]>()), 0..12), chained, anything())
            .prop_map(|(headers, last, rest)| {
                let mut bytes = vec![0; 40];
                bytes[0] = 0x60;
                let mut next_at = 6;
                for (kind, eights, content) in headers {
                    bytes[next_at] = kind;
                    next_at = bytes.len();
                    bytes.extend([0, eights]);
                    bytes.extend(content);
                    bytes.resize(bytes.len() + usize::from(eights) * 8, 0);
                }
                bytes[next_at] = last;
                bytes.extend(rest);
                let length = (bytes.len() - 40) as u16;
                bytes[4..6].copy_from_slice(&length.to_be_bytes());
                bytes
            }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn any_bytes_are_parsed_as_a_packet_or_an_error(bytes in untrusted()) {
        if let Ok(packet) = parse(&bytes) {
            let with_ports = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, UDP_LITE];
            let has_ports = with_ports.contains(&packet.protocol);
            prop_assert!(has_ports || packet.destination_port.is_none());
            prop_assert_eq!(packet.source_port.is_some(), packet.destination_port.is_some());
            prop_assert!(packet.icmp_type.is_none() || packet.destination_port.is_none());
        }
    }

    #[test]
    fn bytes_after_the_copy_range_are_ignored(
        mut bytes in untrusted(), fill: u8, more in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        bytes.resize(bytes.len().max(COPY_RANGE), fill);
        let cut = &bytes[..COPY_RANGE];
        let longer = [cut, &more].concat();
        prop_assert_eq!(parse(cut), parse(&longer));
    }

    #[test]
    fn an_ipv4_packet_with_options_is_parsed(
        source: [u8; 4], destination: [u8; 4], words in 0usize..=10, from: u16, to: u16, size in 0usize..1500,
    ) {
        let options = Ipv4Options::try_from(&[1u8; 40][..words * 4]).unwrap();
        let time_to_live = 9;
        let header =
            etherparse::Ipv4Header { source, destination, options, time_to_live, ..Default::default() };
        let header = etherparse::IpHeaders::Ipv4(header, Default::default());
        let builder = PacketBuilder::ip(header).udp(from, to);
        let payload = vec![0x5a; size];
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &payload).unwrap();
        let mut expected = Packet::new(source.into(), destination.into(), Protocol::UDP).to_port(to);
        expected.source_port = Some(from);
        prop_assert_eq!(parse(&bytes[..bytes.len().min(COPY_RANGE)]), Ok(expected));
    }

    #[test]
    fn an_ipv6_packet_is_parsed(
        source: [u8; 16], destination: [u8; 16], from: u16, to: u16, size in 0usize..1500,
    ) {
        let header = etherparse::Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: 0,
            next_header: ip_number::TCP,
            hop_limit: 9,
            source,
            destination,
        };
        let header = etherparse::IpHeaders::Ipv6(header, Default::default());
        let builder = PacketBuilder::ip(header).tcp(from, to, 1, 1024);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &vec![0x5a; size]).unwrap();
        let mut expected = Packet::new(source.into(), destination.into(), Protocol::TCP).to_port(to);
        expected.source_port = Some(from);
        // Without SYN it does not begin a connection.
        expected = expected.with_tcp_flags(0);
        prop_assert!(expected.is_mid_stream);
        prop_assert_eq!(parse(&bytes[..bytes.len().min(COPY_RANGE)]), Ok(expected));
    }

    #[test]
    fn only_syn_alone_begins_a_connection(flags: u8) {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).tcp(1, 2, 3, 4).write(&mut bytes, b"x").unwrap();
        bytes[20 + 13] = flags;
        // FIN, SYN, RST, PSH, ACK, URG and two congestion control flags (RFC 9293).
        let begins = flags & 0b0001_0111 == 0b0000_0010;
        let parsed = parse(&bytes).map(|packet| (packet.is_mid_stream, packet.tcp_flags));
        prop_assert_eq!(parsed, Ok((!begins, Some(flags))));
    }

    #[test]
    fn an_icmp_packet_has_type_and_code(kind: u8, code: u8) {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).icmpv4_raw(kind, code, [0; 4]);
        builder.write(&mut bytes, b"x").unwrap();
        let parsed = parse(&bytes).map(|packet| (packet.icmp_type, packet.icmp_code, packet.tcp_flags));
        prop_assert_eq!(parsed, Ok((Some(kind), Some(code), None)));
    }

    #[test]
    fn a_later_fragment_has_no_ports(offset in 1u16..8192, to: u16) {
        let header = etherparse::Ipv4Header {
            source: [10, 0, 0, 1],
            destination: [10, 0, 1, 2],
            fragment_offset: IpFragOffset::try_new(offset).unwrap(),
            ..Default::default()
        };
        let builder = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, Default::default())).udp(1, to);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[0; 32]).unwrap();
        prop_assert_eq!(parse(&bytes).map(|packet| packet.destination_port), Ok(None));
    }
}
