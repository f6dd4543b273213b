//! The bridge table's sets.

use super::table_id::TABLE;
use crate::nft::set::{Carries, KeyType, Set};

const fn set(name: &'static str, id: u32, key: &'static [KeyType], carries: Carries) -> Set {
    Set { table: TABLE, name, id, key, carries, size: None }
}

/// Port, frame's source, protocol, IPv4 source: the chain that continues.
pub(super) const BOUND_4: Set = set(
    "bound4",
    101,
    &[KeyType::Interface, KeyType::Mac, KeyType::EtherType, KeyType::Ipv4],
    Carries::Verdicts,
);
/// Port, frame's source, protocol, IPv6 source: the chain that continues.
pub(super) const BOUND_6: Set = set(
    "bound6",
    102,
    &[KeyType::Interface, KeyType::Mac, KeyType::EtherType, KeyType::Ipv6],
    Carries::Verdicts,
);
/// Port, frame's source, protocol, and the sender that ARP names: its hardware address and its IPv4 address,
/// or 0.0.0.0 for a probe.
pub(super) const BOUND_ARP: Set = set(
    "bound-arp",
    103,
    &[KeyType::Interface, KeyType::Mac, KeyType::EtherType, KeyType::Mac, KeyType::Ipv4],
    Carries::Keys,
);
/// Port and an IPv4 address behind it. The packet that an ICMP error quotes must have been sent to such an
/// address.
pub(super) const OWN_4: Set = set("own4", 114, &[KeyType::Interface, KeyType::Ipv4], Carries::Keys);
/// Port and an IPv6 address behind it. The packet that an ICMPv6 error quotes must have been sent to such an
/// address, and neighbour discovery may advertise only such addresses.
pub(super) const OWN_6: Set = set("own6", 104, &[KeyType::Interface, KeyType::Ipv6], Carries::Keys);
/// IPv4 addresses that are bound to a port, and the node's own.
pub(super) const TAKEN_4: Set = set("taken4", 105, &[KeyType::Ipv4], Carries::Keys);
/// IPv6 addresses that are bound to a port, and the node's own.
pub(super) const TAKEN_6: Set = set("taken6", 106, &[KeyType::Ipv6], Carries::Keys);
/// Port, protocol, IPv4 destination.
pub(super) const DELIVER_4: Set =
    set("deliver4", 107, &[KeyType::Interface, KeyType::EtherType, KeyType::Ipv4], Carries::Keys);
/// Port, protocol, IPv6 destination.
pub(super) const DELIVER_6: Set =
    set("deliver6", 108, &[KeyType::Interface, KeyType::EtherType, KeyType::Ipv6], Carries::Keys);
/// Ports whose addresses are known.
pub(super) const SETTLED: Set = set("settled-ports", 109, &[KeyType::Interface], Carries::Keys);
/// Ports whose pods isolate no ingress.
pub(super) const OPEN: Set = set("open-ports", 110, &[KeyType::Interface], Carries::Keys);
/// Ports whose pods may send from other addresses, by the administrator's choice.
pub(super) const EXEMPT_PORTS: Set = set("exempt-ports", 111, &[KeyType::Interface], Carries::Keys);
/// Veth devices that belong to no pod.
pub(super) const OTHER_PORTS: Set = set("other-ports", 112, &[KeyType::Interface], Carries::Keys);
/// UDP ports of the overlay.
pub(super) const OVERLAY_PORTS: Set = set("overlay-ports", 115, &[KeyType::Port], Carries::Keys);
/// IP protocols of the overlay.
pub(super) const OVERLAY_PROTOCOLS: Set = set("overlay-protocols", 116, &[KeyType::Protocol], Carries::Keys);
/// IPv4 addresses of nodes.
pub(super) const NODES_4: Set = set("node-addresses4", 117, &[KeyType::Ipv4], Carries::Keys);
/// IPv6 addresses of nodes.
pub(super) const NODES_6: Set = set("node-addresses6", 118, &[KeyType::Ipv6], Carries::Keys);
/// Bridges that do not belong to the pods.
pub(super) const OTHER_BRIDGES: Set = set("other-bridges", 113, &[KeyType::InterfaceName], Carries::Keys);
/// Hardware addresses that are bound to a port.
pub(super) const TAKEN_MACS: Set = set("taken-macs", 119, &[KeyType::Mac], Carries::Keys);
/// Port and the hardware address that is bound to it.
pub(super) const OWN_MACS: Set = set("own-macs", 120, &[KeyType::Interface, KeyType::Mac], Carries::Keys);

pub(super) const SETS: [Set; 20] = [
    TAKEN_MACS,
    OWN_MACS,
    OVERLAY_PORTS,
    OVERLAY_PROTOCOLS,
    NODES_4,
    NODES_6,
    BOUND_4,
    BOUND_6,
    BOUND_ARP,
    OWN_4,
    OWN_6,
    TAKEN_4,
    TAKEN_6,
    DELIVER_4,
    DELIVER_6,
    SETTLED,
    OPEN,
    EXEMPT_PORTS,
    OTHER_PORTS,
    OTHER_BRIDGES,
];
