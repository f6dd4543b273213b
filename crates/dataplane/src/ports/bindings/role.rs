//! The purpose of a node's interfaces: which are pods' ports, and which are pods' bridges.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::port::Port;
use crate::link::{Attachment, InterfaceIndex};
use crate::ports::interfaces::{Interface, Interfaces};
use crate::ports::link_local::is_link_local;

/// The bridge of Flannel's CNI configuration. It is the pods' bridge even before it has an address.
const FLANNELS_BRIDGE: &str = "cni0";

/// The purpose of a veth device.
pub(super) enum Role {
    /// A pod's port.
    Port(Attachment),
    /// Any other purpose.
    Other,
    /// Unknown: its other end has no address yet.
    Unknown,
}

/// First match decides.
pub(super) fn role(
    interface: &Interface,
    before: Option<&Port>,
    pod_bridges: &BTreeSet<InterfaceIndex>,
    pod_cidrs: &[IpNet],
) -> Role {
    let was_routed_port = before
        .is_some_and(|port| port.attachment == Attachment::Routed && port.pod_addresses().next().is_some());
    let in_pod_cidrs = |address: &IpAddr| contains(pod_cidrs, *address);
    let is_global = |address: &&IpAddr| !is_link_local(**address);
    match interface.master {
        Some(master) if pod_bridges.contains(&master) => Role::Port(Attachment::Bridged),
        Some(_) => Role::Other,
        None if interface.peer_namespace.is_none() => Role::Other,
        // Rule 1: regardless of the addresses in its namespace now.
        None if was_routed_port => Role::Port(Attachment::Routed),
        // An uplink of the node, as in a node that is a container itself.
        None if interface
            .addresses
            .iter()
            .any(|address| !is_link_local(*address) && !in_pod_cidrs(address)) =>
        {
            Role::Other
        }
        None if interface.addresses_inside.iter().any(in_pod_cidrs) => Role::Port(Attachment::Routed),
        None if interface.addresses_inside.iter().filter(is_global).count() > 0 => Role::Other,
        None => Role::Unknown,
    }
}

/// The pods' bridges: those with ANY address in the pod CIDRs, and Flannel's by its name.
pub(super) fn pod_bridges(interfaces: &Interfaces, pod_cidrs: &[IpNet]) -> BTreeSet<InterfaceIndex> {
    let is_pods = |bridge: &&Interface| {
        &*bridge.name == FLANNELS_BRIDGE
            || bridge.addresses.iter().any(|address| contains(pod_cidrs, *address))
    };
    interfaces
        .iter()
        .filter(|interface| interface.is_bridge())
        .filter(is_pods)
        .map(|bridge| bridge.index)
        .collect()
}

/// Whether ANY of the CIDRs contains the address.
pub(super) fn contains(cidrs: &[IpNet], address: IpAddr) -> bool {
    cidrs.iter().any(|cidr| cidr.contains(&address))
}
