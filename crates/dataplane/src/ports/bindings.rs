//! Which addresses are bound to which port: derived from the addresses in pods' namespaces, and from the pods
//! and addresses in the cluster.
//!
//! Pure: no IO and no clock. A pod with NET_ADMIN can give itself any address, so an address in its namespace
//! is only a claim. The rules, in order:
//!
//! 1. A port keeps its bindings until it is removed, or until rule 2, 3 or 5 removes them. The CNI plugin
//!    sets addresses before a process of the pod runs, so the first ones are authentic.
//! 2. An address is not bound to a port if the cluster assigns it to another pod than the port's, if it is
//!    outside the node's pod CIDRs, or if it is the node's own.
//! 3. If the CNI cache or the cluster lists the addresses of the port's pod, only these are bound to the
//!    port.
//! 4. A port is *settled* once all its addresses are known. Until then, its packets from other sources are
//!    held. Afterwards it gets new addresses by rule 3 only.
//! 5. If several ports claim a pod's address, it is bound to the port for which the CNI cache lists it.
//!    Otherwise it stays bound to its port if the cluster or the cache knew that port's pod. Otherwise, if it
//!    is the first address of exactly one new port, that port takes it from the one that had it: IPAM assigns
//!    no address that is in use. If it is the first address of no new port, it stays bound. In all other
//!    cases it is bound to no port. Of several ports with one hardware address, only one that had it before
//!    is bound.
//! 6. IPv6 link-local addresses are those in the pod's namespace. Each is bound to the first port that has
//!    it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::interfaces::{Interface, Interfaces};
use super::link_local::is_link_local;
use crate::link::{Attachment, InterfaceIndex, Overlay};

mod port;
mod role;
pub use port::{Conflict, Owners, Port, PortAddress};
use role::{Role, contains, pod_bridges, role};

/// The bindings of all ports, and the other properties of the node's interfaces on which the rules depend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bindings {
    /// The pods' ports.
    pub ports: BTreeMap<InterfaceIndex, Port>,
    /// Veth devices that are not pods' ports: the sources of their packets are not checked against bindings.
    pub other_ports: BTreeSet<InterfaceIndex>,
    /// The names of bridges that are not the pods'.
    pub other_bridges: BTreeSet<Arc<str>>,
    /// The pods' bridges.
    pub pod_bridges: BTreeSet<InterfaceIndex>,
    /// The node's own addresses, without link-local and loopback ones.
    pub own_addresses: BTreeSet<IpAddr>,
    /// The overlays of this node's devices.
    pub overlays: BTreeSet<Overlay>,
    /// The devices of these overlays.
    pub overlay_devices: BTreeSet<InterfaceIndex>,
    /// The addresses that several ports claim.
    pub conflicts: BTreeSet<Conflict>,
}

impl Bindings {
    /// Derives the bindings of these interfaces; `self` are the previous bindings.
    #[must_use]
    pub fn derive(&self, interfaces: &Interfaces, owners: &impl Owners) -> Self {
        let mut next = Self {
            own_addresses: interfaces.own_addresses().collect(),
            overlays: interfaces.overlays().collect(),
            overlay_devices: interfaces.overlay_devices().collect(),
            ..Self::default()
        };
        let pod_bridges = pod_bridges(interfaces, owners.pod_cidrs());
        for bridge in interfaces.iter().filter(|interface| interface.is_bridge()) {
            if pod_bridges.contains(&bridge.index) {
                next.pod_bridges.insert(bridge.index);
            } else {
                next.other_bridges.insert(Arc::clone(&bridge.name));
            }
        }
        let mut ports = Vec::new();
        for interface in interfaces.iter().filter(|interface| interface.is_veth()) {
            let before = self.ports.get(&interface.index);
            match role(interface, before, &pod_bridges, owners.pod_cidrs()) {
                Role::Port(attachment) => ports.push((interface, attachment)),
                Role::Other => drop(next.other_ports.insert(interface.index)),
                // Its packets are held until its namespace has an address.
                Role::Unknown => {}
            }
        }
        // Ports that are already bound come first, so that they keep their bindings (rule 1).
        ports.sort_by_key(|(interface, _)| (!self.ports.contains_key(&interface.index), interface.index));
        let mut claims: Vec<(InterfaceIndex, Port)> = ports
            .into_iter()
            .map(|(interface, attachment)| {
                let before = self.ports.get(&interface.index);
                (interface.index, port(interface, attachment, before, owners, &next.own_addresses))
            })
            .collect();
        self.resolve(&mut claims, owners, &mut next.conflicts);
        for (index, port) in &mut claims {
            let was_settled = self.ports.get(index).is_some_and(|before| before.is_settled);
            // A port that has lost its first addresses to another port may get them once that one is removed.
            port.is_settled &= was_settled || port.pod_addresses().next().is_some();
        }
        next.ports = claims.into_iter().collect();
        next
    }

    /// Leaves each address to at most one port (rules 5 and 6). `claims` are in the order of precedence.
    fn resolve(
        &self,
        claims: &mut [(InterfaceIndex, Port)],
        owners: &impl Owners,
        conflicts: &mut BTreeSet<Conflict>,
    ) {
        let mut claimants: BTreeMap<PortAddress, Vec<usize>> = BTreeMap::new();
        for (position, (_, port)) in claims.iter().enumerate() {
            let is_bridged = port.attachment == Attachment::Bridged && !port.addresses.is_empty();
            let hardware = is_bridged.then_some(PortAddress::Mac(port.mac));
            for address in port.addresses.iter().map(|address| PortAddress::Ip(*address)).chain(hardware) {
                claimants.entry(address).or_default().push(position);
            }
        }
        let mut contested = BTreeSet::new();
        for (address, positions) in claimants.into_iter().filter(|(_, positions)| positions.len() > 1) {
            let winner = self.winner(address, &positions, claims, owners);
            // A port that has lost before does not cast doubt on the one that won.
            let in_doubt: Vec<usize> =
                positions.iter().copied().filter(|position| !claims[*position].1.has_lost).collect();
            if in_doubt.len() > 1 {
                contested.extend(in_doubt);
            }
            for position in positions.iter().copied().filter(|position| Some(*position) != winner) {
                let bound_to = winner.map(|winner| Arc::clone(&claims[winner].1.name));
                let loser = &mut claims[position].1;
                conflicts.insert(Conflict { address, bound_to, claimed_by: Arc::clone(&loser.name) });
                match address {
                    PortAddress::Ip(address) => {
                        loser.addresses.remove(&address);
                        loser.has_lost |= !is_link_local(address);
                    }
                    PortAddress::Mac(_) => {
                        loser.addresses.clear();
                        loser.has_lost = true;
                    }
                }
            }
        }
        for (position, (index, port)) in claims.iter_mut().enumerate() {
            let was_confirmed = self.ports.get(index).is_some_and(|before| before.is_confirmed);
            port.is_confirmed = was_confirmed || port.is_confirmed && !contested.contains(&position);
        }
    }

    /// The port, of those at `positions`, to which the address is bound; `None` if it is bound to none.
    fn winner(
        &self,
        address: PortAddress,
        positions: &[usize],
        claims: &[(InterfaceIndex, Port)],
        owners: &impl Owners,
    ) -> Option<usize> {
        let before = |position: usize| self.ports.get(&claims[position].0);
        let had_it = |position: &usize| {
            before(*position).is_some_and(|port| match address {
                PortAddress::Ip(address) => port.addresses.contains(&address),
                PortAddress::Mac(mac) => port.mac == mac && port.pod_addresses().next().is_some(),
            })
        };
        let holder = positions.iter().copied().find(had_it);
        let address = match address {
            PortAddress::Mac(_) => return holder,
            PortAddress::Ip(address) if is_link_local(address) => {
                return holder.or_else(|| positions.first().copied());
            }
            PortAddress::Ip(address) => address,
        };
        let is_listed = |position: &usize| {
            owners.in_cni_cache(&claims[*position].1.name).is_some_and(|listed| listed.contains(&address))
        };
        if let Some(listed) = positions.iter().copied().find(is_listed) {
            return Some(listed);
        }
        let is_first_address = |position: &usize| {
            before(*position).is_none_or(|port| !port.has_lost && port.pod_addresses().next().is_none())
        };
        let new: Vec<usize> = positions.iter().copied().filter(is_first_address).collect();
        match (holder, &new[..]) {
            (Some(holder), _) if before(holder).is_some_and(|port| port.is_confirmed) => Some(holder),
            (Some(holder), []) => Some(holder),
            (Some(_), [new]) => Some(*new),
            _ => None,
        }
    }

    /// All bound addresses, each with its port.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, InterfaceIndex)> + '_ {
        self.ports.iter().flat_map(|(index, port)| port.addresses.iter().map(|address| (*address, *index)))
    }

    /// The pod addresses that were bound to a port in `before` and are not bound to the same port now.
    pub fn left_since(&self, before: &Self) -> BTreeSet<IpAddr> {
        let is_pods = |(address, _): &(IpAddr, InterfaceIndex)| !is_link_local(*address);
        let now: BTreeSet<_> = self.addresses().collect();
        before
            .addresses()
            .filter(is_pods)
            .filter(|bound| !now.contains(bound))
            .map(|(address, _)| address)
            .collect()
    }
}

/// The port with the addresses that it claims, before conflicts with other ports are resolved.
fn port(
    interface: &Interface,
    attachment: Attachment,
    before: Option<&Port>,
    owners: &impl Owners,
    own_addresses: &BTreeSet<IpAddr>,
) -> Port {
    let mut addresses: BTreeSet<IpAddr> = before.map(|port| port.addresses.clone()).unwrap_or_default();
    let was_settled = before.is_some_and(|port| port.is_settled);
    let listed = owners.in_cni_cache(&interface.name).filter(|listed| !listed.is_empty());
    // The port's pod is the one that has its first address. An address in the pod's namespace is the weakest
    // evidence of that.
    let by_cache = listed.iter().flatten();
    let mut all = by_cache.chain(&addresses).chain(&interface.addresses_inside).copied();
    let first = all.find(|address| contains(owners.pod_cidrs(), *address));
    let pod = first.and_then(|address| Some((owners.pod_at(address)?, address)));
    let of_pod = pod.as_ref().map(|(pod, address)| owners.addresses_of(pod, *address));
    let of_pod = of_pod.filter(|addresses| !addresses.is_empty());
    if was_settled {
        // Rule 3. The namespace of a settled port is not read again, so `addresses_inside` may lack them.
        addresses.extend(listed.iter().flatten());
    }
    for address in &interface.addresses_inside {
        let is_listed = [&listed, &of_pod].into_iter().flatten().any(|listed| listed.contains(address));
        // Rules 4 and 6.
        if is_link_local(*address) || !was_settled || is_listed {
            addresses.insert(*address);
        }
    }
    let is_another_pods = |address: IpAddr| match (owners.pod_at(address), &pod) {
        (Some(owner), Some((pod, _))) => owner != *pod,
        // The port's pod is unknown, so the address may be its own.
        _ => false,
    };
    addresses.retain(|address| {
        is_link_local(*address)
            || contains(owners.pod_cidrs(), *address)
                && !own_addresses.contains(address)
                && !is_another_pods(*address)
                && listed.as_ref().or(of_pod.as_ref()).is_none_or(|listed| listed.contains(address))
    });
    let has_all = |listed: &Option<Vec<IpAddr>>| {
        listed.as_ref().is_some_and(|listed| {
            !listed.is_empty()
                && listed.iter().filter(|a| contains(owners.pod_cidrs(), **a)).all(|a| addresses.contains(a))
        })
    };
    let is_settled = was_settled
        || addresses.iter().any(|address| !is_link_local(*address))
            && (interface.is_settled || has_all(&listed) || has_all(&of_pod));
    Port {
        name: Arc::clone(&interface.name),
        attachment,
        // Rule 1: the hardware address that the pod's end has when the CNI plugin sets the first IP address.
        mac: before
            .filter(|port| port.pod_addresses().next().is_some())
            .map_or(interface.mac_inside, |port| port.mac),
        addresses,
        is_settled,
        is_confirmed: listed.is_some() || pod.is_some(),
        is_exempt: pod.is_some_and(|(pod, address)| owners.is_exempt(&pod, address)),
        has_lost: before.is_some_and(|port| port.has_lost),
    }
}

#[cfg(test)]
mod tests;
