//! Ethernet frames: untagged, tagged, and those of protocols other than IP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::octets;
use super::packet::ether_type;

/// A hardware address.
pub type Mac = [u8; 6];

/// The hardware address of all stations.
pub const BROADCAST: Mac = [0xff; 6];

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const DOT1Q: u16 = 0x8100;
/// EtherType of an 802.1ad tag.
pub const DOT1AD: u16 = 0x88a8;

/// A frame of any type.
pub fn of_type(to: Mac, from: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ether_type.to_be_bytes(), payload].concat()
}

/// The frame that carries an IP packet of either version.
pub fn of_packet(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    of_type(to, from, ether_type(packet), packet)
}

/// The frame that carries an IP packet behind VLAN tags: pairs of type and tag, outermost first.
pub fn tagged(to: Mac, from: Mac, tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let mut bytes = [&to[..], &from].concat();
    for (kind, tag) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(tag.to_be_bytes());
    }
    bytes.extend(ether_type(packet).to_be_bytes());
    bytes.extend_from_slice(packet);
    bytes
}

/// A frame of IEEE 802.3 with an LLC and SNAP header, which carries an IP packet (RFC 1042).
pub fn snap(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    let llc = [&[0xaa, 0xaa, 3, 0, 0, 0], &ether_type(packet).to_be_bytes()[..], packet].concat();
    of_type(to, from, u16::try_from(llc.len()).unwrap_or_default(), &llc)
}

/// The fields of an ARP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// 1 for a request, 2 for a reply.
    pub operation: u8,
    /// The hardware address and address that the sender claims.
    pub sender: (Mac, Ipv4Addr),
    /// The target's hardware address and address.
    pub target: (Mac, Ipv4Addr),
}

/// The frame that carries an ARP packet, followed by other bytes.
pub fn arp(to: Mac, from: Mac, arp: Arp, behind: &[u8]) -> Vec<u8> {
    let Arp { operation, sender, target } = arp;
    let payload = [
        &[0, 1, 8, 0, 6, 4, 0, operation][..],
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
        behind,
    ];
    of_type(to, from, ARP, &payload.concat())
}

/// The hardware address to which a multicast address is mapped (RFC 1112, RFC 2464); that of all stations for
/// other IPv4 addresses.
pub fn group_mac(group: IpAddr) -> Mac {
    let bytes = octets(group);
    match group {
        IpAddr::V4(group) if !group.is_multicast() => BROADCAST,
        IpAddr::V4(_) => [1, 0, 0x5e, bytes[1] & 0x7f, bytes[2], bytes[3]],
        IpAddr::V6(_) => [0x33, 0x33, bytes[12], bytes[13], bytes[14], bytes[15]],
    }
}

/// The solicited-node group of an address (RFC 4291, section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_mapped_to_hardware_addresses() {
        assert_eq!(group_mac("224.0.0.251".parse().unwrap()), [1, 0, 0x5e, 0, 0, 251]);
        assert_eq!(group_mac("255.255.255.255".parse().unwrap()), BROADCAST);
        let group = solicited_node("fd00::1:2:3".parse().unwrap());
        assert_eq!(group_mac(group.into()), [0x33, 0x33, 0xff, 2, 0, 3]);
    }
}
