//! Community ID, version 1 (<https://github.com/corelight/community-id-spec>): a hash of a connection's
//! addresses, protocol and ports, the same in both directions. Zeek, Suricata and Wireshark compute it, too,
//! so records can be joined with theirs.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use policy::{Packet, Protocol};
use sha1::{Digest as _, Sha1};

/// The length of a SHA-1 digest in base64.
const ENCODED: usize = 28;

/// The ID of a connection, with seed 0. Shown as `1:` and the digest in base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CommunityId([u8; 20]);

impl CommunityId {
    /// The ID of a packet's connection. `None` if the packet lacks the ports or the ICMP type and code that
    /// belong to it, as a later fragment does.
    pub fn of(packet: &Packet) -> Option<Self> {
        let (ports, is_one_way) = match packet.protocol {
            Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
                (Some((packet.source_port?, packet.destination_port?)), false)
            }
            Protocol::ICMP | Protocol::ICMPV6 => {
                let (kind, code) = (packet.icmp_type?, packet.icmp_code?);
                match counterpart(packet.protocol, kind) {
                    Some(answer) => (Some((kind.into(), answer.into())), false),
                    None => (Some((kind.into(), code.into())), true),
                }
            }
            _ => (None, false),
        };
        let (source_port, destination_port) = ports.unwrap_or_default();
        let mut ends = [(packet.source(), source_port), (packet.destination(), destination_port)];
        // The smaller end comes first. A message that has no answer has a direction.
        if !is_one_way && ends[1] < ends[0] {
            ends.swap(0, 1);
        }
        // Seed, two addresses, protocol and padding, two ports.
        let mut input = [0; 2 + 2 * 16 + 2 + 4];
        let mut length = 2;
        let mut add = |bytes: &[u8]| {
            input[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        for (address, _) in ends {
            match address {
                IpAddr::V4(address) => add(&address.octets()),
                IpAddr::V6(address) => add(&address.octets()),
            }
        }
        add(&[packet.protocol.0, 0]);
        if ports.is_some() {
            ends.iter().for_each(|(_, port)| add(&port.to_be_bytes()));
        }
        Some(Self(Sha1::digest(&input[..length]).into()))
    }

    /// The digest in base64, without the version.
    pub(crate) fn encoded(&self) -> [u8; ENCODED] {
        let mut text = [0; ENCODED];
        // 20 bytes are 28 characters.
        let _ = STANDARD.encode_slice(self.0, &mut text);
        text
    }
}

/// The type of the ICMP message that answers this type, as Zeek maps them; `None` if there is none.
fn counterpart(protocol: Protocol, kind: u8) -> Option<u8> {
    /// Echo, timestamp, information, router solicitation, address mask.
    const ICMP: [(u8, u8); 5] = [(8, 0), (13, 14), (15, 16), (10, 9), (17, 18)];
    /// Echo, listener query, router solicitation, neighbour solicitation, who are you, home agent.
    const ICMPV6: [(u8, u8); 6] = [(128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)];
    let pairs: &[(u8, u8)] = if protocol == Protocol::ICMP { &ICMP } else { &ICMPV6 };
    pairs.iter().find_map(|(request, reply)| match kind {
        kind if kind == *request => Some(*reply),
        kind if kind == *reply => Some(*request),
        _ => None,
    })
}

impl fmt::Display for CommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = self.encoded();
        f.write_str("1:")?;
        f.write_str(str::from_utf8(&encoded).unwrap_or_default())
    }
}

/// The text is not a Community ID of version 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a Community ID of version 1: `1:` and 20 bytes in base64")]
pub struct NoCommunityId;

impl FromStr for CommunityId {
    type Err = NoCommunityId;

    fn from_str(text: &str) -> Result<Self, NoCommunityId> {
        let mut digest = [0; 20];
        let encoded =
            text.strip_prefix("1:").filter(|encoded| encoded.len() == ENCODED).ok_or(NoCommunityId)?;
        match STANDARD.decode_slice(encoded, &mut digest) {
            Ok(20) => Ok(Self(digest)),
            _ => Err(NoCommunityId),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data sets that the specification publishes (`baseline/baseline_deflt.json`), and its example of
    /// both directions. For ICMP: type and code.
    const BASELINE: [(u8, &str, &str, u16, u16, &str); 23] = [
        (
            58,
            "fe80::200:86ff:fe05:80da",
            "fe80::260:97ff:fe07:69ea",
            135,
            0,
            "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
        ),
        (
            58,
            "fe80::260:97ff:fe07:69ea",
            "fe80::200:86ff:fe05:80da",
            136,
            0,
            "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
        ),
        (
            58,
            "fe80::260:97ff:fe07:69ea",
            "fe80::200:86ff:fe05:80da",
            135,
            0,
            "1:zavyT/cezQr1fmImYCwYnMXbgck=",
        ),
        (
            58,
            "fe80::200:86ff:fe05:80da",
            "fe80::260:97ff:fe07:69ea",
            136,
            0,
            "1:zavyT/cezQr1fmImYCwYnMXbgck=",
        ),
        (
            58,
            "3ffe:501:1800:2345::2",
            "3ffe:507:0:1:200:86ff:fe05:80da",
            3,
            0,
            "1:2ObVBgIn28oZvibYZhZMBgh7WdQ=",
        ),
        (
            58,
            "3ffe:501:410:0:2c0:dfff:fe47:33e",
            "3ffe:507:0:1:200:86ff:fe05:80da",
            1,
            4,
            "1:hLZd0XGWojozrvxqE0dWB1iM6R0=",
        ),
        (
            58,
            "3ffe:507:0:1:200:86ff:fe05:80da",
            "3ffe:501:0:1001::2",
            128,
            0,
            "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=",
        ),
        (
            58,
            "3ffe:501:0:1001::2",
            "3ffe:507:0:1:200:86ff:fe05:80da",
            129,
            0,
            "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=",
        ),
        (58, "fe80::200:86ff:fe05:80da", "ff02::2", 133, 0, "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0="),
        (58, "fe80::260:97ff:fe07:69ea", "ff02::1", 134, 0, "1:pkvHqCL88/tg1k4cPigmZXUtL00="),
        (1, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
        (1, "192.168.0.1", "192.168.0.89", 0, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
        (1, "10.0.0.1", "10.0.0.2", 11, 0, "1:YHxtAirCG//0OzkcVAukqKQN9xM="),
        (
            6,
            "2001:470:e5bf:dead:4957:2174:e82c:4887",
            "2607:f8b0:400c:c03::1a",
            63943,
            25,
            "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
        ),
        (
            6,
            "2607:f8b0:400c:c03::1a",
            "2001:470:e5bf:dead:4957:2174:e82c:4887",
            25,
            63943,
            "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
        ),
        (132, "192.168.170.8", "192.168.170.56", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
        (132, "192.168.170.56", "192.168.170.8", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
        (6, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        (6, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        (17, "192.168.1.52", "8.8.8.8", 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        (17, "8.8.8.8", "192.168.1.52", 53, 54585, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        (46, "10.1.12.1", "10.1.12.2", 0, 0, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="),
        (46, "10.1.12.2", "10.1.12.1", 0, 0, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="),
    ];

    fn packet((protocol, source, destination, first, second): (u8, &str, &str, u16, u16)) -> Packet {
        let address = |text: &str| text.parse().expect("address");
        let mut packet = Packet::new(address(source), address(destination), Protocol(protocol));
        match packet.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => {
                packet.icmp_type = Some(first.try_into().expect("a type"));
                packet.icmp_code = Some(second.try_into().expect("a code"));
            }
            Protocol(46) => {}
            _ => (packet.source_port, packet.destination_port) = (Some(first), Some(second)),
        }
        packet
    }

    #[test]
    fn ids_are_those_of_the_specifications_data_sets() {
        for (protocol, source, destination, first, second, expected) in BASELINE {
            let case = (protocol, source, destination, first, second);
            let id = CommunityId::of(&packet(case)).expect("an ID");
            assert_eq!(id.to_string(), expected, "{case:?}");
            assert_eq!(expected.parse(), Ok(id));
        }
    }

    #[test]
    fn a_packet_without_its_ports_has_no_id() {
        let mut fragment = packet((17, "10.0.0.1", "10.0.0.2", 1, 2));
        fragment.source_port = None;
        assert_eq!(CommunityId::of(&fragment), None);
        let mut ping = packet((1, "10.0.0.1", "10.0.0.2", 8, 0));
        ping.icmp_code = None;
        assert_eq!(CommunityId::of(&ping), None);
        for text in [
            "",
            "1:",
            "2:LQU9qZlK+B5F3KDmev6m5PMibrg=",
            "1:LQU9qZlK+B5F3KDmev6m5PMibrg",
            "1:LQU9qZlK+B5F3KDmev6m5PMib!g=",
        ] {
            assert_eq!(text.parse::<CommunityId>(), Err(NoCommunityId), "{text}");
        }
    }
}
