//! The sets of table `inet` about ports and origins.

use crate::nft::set::{Carries, KeyType, Set};
use crate::table::family::{NODE_ADDRESSES_4, NODE_ADDRESSES_6};
use crate::table::names::INET;

const fn set(name: &'static str, id: u32, key: &'static [KeyType], carries: Carries) -> Set {
    Set { table: INET, name, id, key, carries, size: None }
}

/// Routed port and IPv4 source: accept, or the chain that continues.
pub(super) const SOURCES_4: Set =
    set("port-sources4", 201, &[KeyType::Interface, KeyType::Ipv4], Carries::Verdicts);
/// Routed port and IPv6 source: accept, or the chain that continues.
pub(super) const SOURCES_6: Set =
    set("port-sources6", 202, &[KeyType::Interface, KeyType::Ipv6], Carries::Verdicts);
/// Ports whose addresses are known. Bridged ones are among them, though they have no sources here.
pub(in crate::table) const SETTLED: Set = set("settled-ports", 203, &[KeyType::Interface], Carries::Keys);
/// Ports that may send from any address that is not taken.
pub(super) const EXEMPT: Set = set("exempt-ports", 204, &[KeyType::Interface], Carries::Keys);
/// Veth devices that belong to no pod.
pub(super) const OTHER_PORTS: Set = set("other-ports", 205, &[KeyType::Interface], Carries::Keys);
/// The node's own IPv4 addresses.
pub(super) const OWN_4: Set = set("own-addresses4", 206, &[KeyType::Ipv4], Carries::Keys);
/// The node's own IPv6 addresses.
pub(super) const OWN_6: Set = set("own-addresses6", 207, &[KeyType::Ipv6], Carries::Keys);
/// IPv4 addresses that are bound to a port.
pub(super) const TAKEN_4: Set = set("taken4", 208, &[KeyType::Ipv4], Carries::Keys);
/// IPv6 addresses that are bound to a port.
pub(super) const TAKEN_6: Set = set("taken6", 209, &[KeyType::Ipv6], Carries::Keys);
/// The IPv4 addresses of all nodes.
pub(in crate::table) const NODES_4: Set = set(NODE_ADDRESSES_4, 210, &[KeyType::Ipv4], Carries::Keys);
/// The IPv6 addresses of all nodes.
pub(in crate::table) const NODES_6: Set = set(NODE_ADDRESSES_6, 211, &[KeyType::Ipv6], Carries::Keys);
/// UDP ports of the overlay.
pub(in crate::table) const OVERLAY_PORTS: Set = set("overlay-ports", 212, &[KeyType::Port], Carries::Keys);
/// IP protocols of the overlay.
pub(in crate::table) const OVERLAY_PROTOCOLS: Set =
    set("overlay-protocols", 213, &[KeyType::Protocol], Carries::Keys);
/// Routed port and an IPv4 address behind it.
pub(super) const BEHIND_4: Set = set("behind4", 214, &[KeyType::Interface, KeyType::Ipv4], Carries::Keys);
/// Routed port and an IPv6 address behind it.
pub(super) const BEHIND_6: Set = set("behind6", 215, &[KeyType::Interface, KeyType::Ipv6], Carries::Keys);
/// The pods' bridges.
pub(in crate::table) const POD_BRIDGES: Set = set("pod-bridges", 216, &[KeyType::Interface], Carries::Keys);
/// UDP ports of overlays without authentication. Pods may not send to them outside the pod network either,
/// since a node may have the destination address.
pub(in crate::table) const FORGEABLE_PORTS: Set =
    set("forgeable-overlay-ports", 217, &[KeyType::Port], Carries::Keys);
/// IP protocols of overlays without authentication.
pub(in crate::table) const FORGEABLE_PROTOCOLS: Set =
    set("forgeable-overlay-protocols", 218, &[KeyType::Protocol], Carries::Keys);
/// The devices of overlays.
pub(in crate::table) const OVERLAY_DEVICES: Set =
    set("overlay-devices", 219, &[KeyType::Interface], Carries::Keys);

pub(super) const SETS: [Set; 19] = [
    FORGEABLE_PORTS,
    FORGEABLE_PROTOCOLS,
    OVERLAY_DEVICES,
    POD_BRIDGES,
    BEHIND_4,
    BEHIND_6,
    SOURCES_4,
    SOURCES_6,
    SETTLED,
    EXEMPT,
    OTHER_PORTS,
    OWN_4,
    OWN_6,
    TAKEN_4,
    TAKEN_6,
    NODES_4,
    NODES_6,
    OVERLAY_PORTS,
    OVERLAY_PROTOCOLS,
];
