//! The rules of `table::bridge` and `table::origin` in Rust, for packets that met those rules before their
//! port was bound.
//!
//! Pure: takes a packet's bytes and its port, and returns the verdict. Invariant: it passes no packet that
//! the rules would drop.

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy::{Packet, Protocol};

use super::link_local::is_link_local;
use crate::drops::DropReason;
use crate::link::Mac;

/// The properties of a port on which the check of a packet depends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortState {
    /// The hardware address from which its frames come; `None` for a routed port, whose frames end at the
    /// node.
    pub mac: Option<Mac>,
    /// The addresses that are bound to it.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether these are all its addresses: a packet with another source is spoofed.
    pub is_settled: bool,
    /// Whether a policy isolates the pod's egress, or the pod is unknown.
    pub isolates_egress: bool,
}

/// The verdict on a packet of a new port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PortVerdict {
    /// It passes: its source is bound to the port.
    Pass,
    /// It is dropped: its source is not bound to the port, or pods may not send such packets.
    Drop(DropReason),
    /// It is held: the port is not bound to this source yet.
    Wait,
}

/// `IPPROTO_IGMP`.
const IGMP: Protocol = Protocol(2);
/// See `table::link_rules`.
const LONGEST_NEIGHBOUR_DISCOVERY: usize = 40 + 24 + 2 * 8;

/// RFC 792.
const ICMP_REDIRECT: u8 = 5;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// RFC 2710, RFC 3810.
const LISTENER_QUERY: u8 = 130;
/// RFC 3376.
const MEMBERSHIP_QUERY: u8 = 0x11;

/// Checks a packet of a port. `bytes` start at the IP header, and are at least the first 128 of the packet's
/// `length` bytes. `packet` is the result of parsing them.
pub(super) fn check(
    port: Option<&PortState>,
    mac: Option<Mac>,
    packet: &Packet,
    bytes: &[u8],
    length: usize,
) -> PortVerdict {
    let Some(port) = port else { return PortVerdict::Wait };
    let unbound_source =
        if port.is_settled { PortVerdict::Drop(DropReason::SpoofedSource) } else { PortVerdict::Wait };
    if port.mac.is_some_and(|expected| mac != Some(expected)) {
        return unbound_source;
    }
    let discovery = Discovery::read(packet, bytes, length);
    if matches!(discovery, Some(Discovery::Router)) {
        return PortVerdict::Drop(DropReason::RouterAdvertisement);
    }
    if packet.source().is_unspecified() {
        return match discovery {
            Some(Discovery::Solicitation(target)) if port.addresses.contains(&target) => PortVerdict::Pass,
            Some(Discovery::RouterSolicitation | Discovery::Listener) => PortVerdict::Pass,
            _ => unbound_source,
        };
    }
    if !port.addresses.contains(&packet.source()) {
        return unbound_source;
    }
    if (packet.protocol, packet.icmp_type) == (Protocol::ICMP, Some(ICMP_REDIRECT)) {
        return PortVerdict::Drop(DropReason::RouterAdvertisement);
    }
    if packet.protocol == IGMP && ipv4_content(bytes).first() == Some(&MEMBERSHIP_QUERY) {
        return PortVerdict::Drop(DropReason::RouterAdvertisement);
    }
    if quotes_another(packet, bytes, &port.addresses) {
        return PortVerdict::Drop(DropReason::SpoofedSource);
    }
    match discovery {
        Some(Discovery::TooLong) => PortVerdict::Drop(DropReason::NeighbourDiscovery),
        Some(Discovery::Advertisement(target)) if !port.addresses.contains(&target) => unbound_source,
        Some(_) => PortVerdict::Pass,
        None if packet.protocol == IGMP && packet.destination().is_multicast() => PortVerdict::Pass,
        // Policy can't evaluate a link-local source.
        None if is_link_local(packet.source()) && is_unicast_beyond_the_link(packet) => {
            PortVerdict::Drop(DropReason::IsolatedScope)
        }
        None if !port.isolates_egress || is_unicast_beyond_the_link(packet) => PortVerdict::Pass,
        None => PortVerdict::Drop(DropReason::IsolatedScope),
    }
}

/// The bytes after the header of an IPv4 packet.
fn ipv4_content(bytes: &[u8]) -> &[u8] {
    let header = usize::from(bytes.first().copied().unwrap_or_default() & 0x0f) * 4;
    bytes.get(header..).unwrap_or_default()
}

/// Whether a packet is an ICMP error about a packet that was not sent to one of these addresses.
fn quotes_another(packet: &Packet, bytes: &[u8], addresses: &BTreeSet<IpAddr>) -> bool {
    let quoted = match (packet.protocol, packet.icmp_type) {
        (Protocol::ICMP, Some(3 | 4 | 11 | 12)) => {
            let octets = ipv4_content(bytes).get(24..28).and_then(|octets| <[u8; 4]>::try_from(octets).ok());
            octets.map(IpAddr::from)
        }
        // After extension headers the quoted packet is not parsed, and counts as another's.
        (Protocol::ICMPV6, Some(1..=4)) => {
            let octets = bytes.get(72..88).and_then(|octets| <[u8; 16]>::try_from(octets).ok());
            octets.filter(|_| bytes.get(6) == Some(&Protocol::ICMPV6.0)).map(IpAddr::from)
        }
        _ => return false,
    };
    quoted.is_none_or(|quoted| !addresses.contains(&quoted))
}

/// Whether a packet goes to a unicast address that is not link-local.
fn is_unicast_beyond_the_link(packet: &Packet) -> bool {
    match packet.destination() {
        IpAddr::V4(address) => address.octets()[0] < 224,
        IpAddr::V6(address) => address.octets()[0] < 0xff && !is_link_local(IpAddr::V6(address)),
    }
}

/// A message of the link's own protocols (RFC 4861, RFC 3810).
enum Discovery {
    RouterSolicitation,
    Solicitation(IpAddr),
    Advertisement(IpAddr),
    /// A report of a multicast listener.
    Listener,
    /// Router advertisement or redirect.
    Router,
    TooLong,
}

impl Discovery {
    /// `None` for other ICMPv6 messages, and for other protocols.
    fn read(packet: &Packet, bytes: &[u8], length: usize) -> Option<Self> {
        let kind = packet.icmp_type.filter(|_| packet.protocol == Protocol::ICMPV6)?;
        if matches!(kind, ROUTER_ADVERTISEMENT | REDIRECT | LISTENER_QUERY) {
            return Some(Self::Router);
        }
        if matches!(kind, 131 | 132 | 143) {
            return packet.destination().is_multicast().then_some(Self::Listener);
        }
        // Sent on this link: RFC 4861, 7.1.
        if bytes.get(7) != Some(&255) {
            return None;
        }
        // Neighbour discovery has no extension headers; with one, the target is not at this offset.
        let target = || {
            let target: [u8; 16] = bytes.get(48..64)?.try_into().ok()?;
            (bytes.get(6) == Some(&Protocol::ICMPV6.0)).then_some(IpAddr::from(target))
        };
        match kind {
            ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT
                if length > LONGEST_NEIGHBOUR_DISCOVERY =>
            {
                Some(Self::TooLong)
            }
            ROUTER_SOLICITATION => Some(Self::RouterSolicitation),
            NEIGHBOUR_SOLICITATION => Some(target().map_or(Self::TooLong, Self::Solicitation)),
            NEIGHBOUR_ADVERTISEMENT => Some(target().map_or(Self::TooLong, Self::Advertisement)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn port(addresses: &[&str], is_settled: bool, isolates_egress: bool) -> PortState {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        PortState { mac: Some(MAC), addresses, is_settled, isolates_egress }
    }

    fn udp4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let header = etherparse::PacketBuilder::ipv4(source, destination, 64).udp(1, 2);
        let mut bytes = Vec::new();
        header.write(&mut bytes, b"x").unwrap();
        bytes
    }

    fn icmpv6(source: &str, destination: &str, kind: u8, hop_limit: u8, body: &[u8]) -> Vec<u8> {
        let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let header = etherparse::PacketBuilder::ipv6(ip(source), ip(destination), hop_limit);
        let mut bytes = Vec::new();
        header.icmpv6_raw(kind, 0, [0; 4]).write(&mut bytes, body).unwrap();
        bytes
    }

    fn checked(port: Option<&PortState>, bytes: &[u8]) -> PortVerdict {
        check(port, Some(MAC), &parse(bytes).unwrap(), bytes, bytes.len())
    }

    #[test]
    fn s30_a_packet_is_held_until_its_port_is_bound_and_passes_from_a_bound_address() {
        let packet = udp4([10, 0, 0, 2], [10, 0, 0, 3]);
        assert_eq!(checked(None, &packet), PortVerdict::Wait);
        assert_eq!(checked(Some(&port(&[], false, true)), &packet), PortVerdict::Wait);
        assert_eq!(checked(Some(&port(&["10.0.0.2"], false, true)), &packet), PortVerdict::Pass);
        assert_eq!(
            checked(Some(&port(&["10.0.0.9"], false, true)), &packet),
            PortVerdict::Wait,
            "an address may follow"
        );
        let spoofed = PortVerdict::Drop(DropReason::SpoofedSource);
        assert_eq!(checked(Some(&port(&["10.0.0.9"], true, true)), &packet), spoofed);
        let other_mac = Some(Mac([2, 0, 0, 0, 0, 2]));
        let known = port(&["10.0.0.2"], true, false);
        assert_eq!(check(Some(&known), other_mac, &parse(&packet).unwrap(), &packet, packet.len()), spoofed);
    }

    #[test]
    fn s31_multicast_leaves_no_pod_whose_egress_is_isolated() {
        let to_all = udp4([10, 0, 0, 2], [224, 0, 0, 1]);
        assert_eq!(checked(Some(&port(&["10.0.0.2"], true, false)), &to_all), PortVerdict::Pass);
        let isolated = PortVerdict::Drop(DropReason::IsolatedScope);
        assert_eq!(checked(Some(&port(&["10.0.0.2"], true, true)), &to_all), isolated);
        let isolating = port(&["fe80::2"], true, true);
        assert_eq!(checked(Some(&isolating), &icmpv6("fe80::2", "fe80::3", 128, 64, b"")), isolated);
    }

    #[test]
    fn s32_a_redirect_is_dropped_regardless_of_what_it_quotes() {
        let quoted = udp4([10, 0, 0, 3], [10, 0, 0, 2]);
        let mut redirect = Vec::new();
        let header = etherparse::PacketBuilder::ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64);
        header.icmpv4_raw(5, 1, [10, 0, 0, 2]).write(&mut redirect, &quoted).unwrap();
        let known = port(&["10.0.0.2"], true, false);
        assert_eq!(checked(Some(&known), &redirect), PortVerdict::Drop(DropReason::RouterAdvertisement));
    }

    #[test]
    fn s31_s32_pods_advertise_only_their_own_addresses() {
        let own = |target: &str| target.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let known = port(&["fd00::2", "fe80::2"], true, true);
        let advertisement = |target| icmpv6("fd00::2", "ff02::1", 136, 255, &own(target));
        assert_eq!(checked(Some(&known), &advertisement("fd00::2")), PortVerdict::Pass);
        assert_eq!(
            checked(Some(&known), &advertisement("fd00::9")),
            PortVerdict::Drop(DropReason::SpoofedSource)
        );
        let duplicate = |target| icmpv6("::", "ff02::1:ff00:2", 135, 255, &own(target));
        assert_eq!(checked(Some(&known), &duplicate("fd00::2")), PortVerdict::Pass);
        assert_eq!(
            checked(Some(&known), &duplicate("fd00::9")),
            PortVerdict::Drop(DropReason::SpoofedSource)
        );
        let forwarded = icmpv6("fd00::2", "fe80::3", 136, 64, &own("fd00::2"));
        assert_eq!(checked(Some(&known), &forwarded), PortVerdict::Drop(DropReason::IsolatedScope));
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            let router = icmpv6("fe80::2", "ff02::1", kind, 255, &[0; 40]);
            assert_eq!(checked(Some(&known), &router), PortVerdict::Drop(DropReason::RouterAdvertisement));
        }
        let long = icmpv6("fd00::2", "fd00::3", 135, 255, &[0; 200]);
        assert_eq!(checked(Some(&known), &long), PortVerdict::Drop(DropReason::NeighbourDiscovery));
    }
}
