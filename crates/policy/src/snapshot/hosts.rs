//! From an address to the pod or node that has it, as a persistent map: one event costs the same in every cluster size.
//!
//! Addresses of pods come in runs, so they are kept in pages of 64 neighbours: the table of [`pages`] stays small enough for
//! the processor's caches, and a page holds only the addresses that are there.

mod pages;

use std::net::IpAddr;
use std::sync::Arc;

use crate::inventory::Pod;
use crate::names::PodName;
use crate::snapshot::hosts::pages::Pages;
use crate::snapshot::ports::ResolvedPorts;
use crate::snapshot::ruleset::ClassId;

/// A node, as the compiler numbers nodes.
pub(crate) type NodeId = u32;

/// An address, both families in one space (semantics 26).
pub(crate) type AddressKey = u128;

/// Where `address` is kept.
#[inline]
pub(crate) fn key_of(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(address) => 0xffff_0000_0000 | u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The canonical address kept at `key`.
pub(crate) fn address_of(key: AddressKey) -> IpAddr {
    IpAddr::V6(key.into()).to_canonical()
}

/// Every address that something in the cluster has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    /// By all but the last six bits of an address. No page is empty.
    pages: Pages,
}

/// Neighbours.
#[derive(Clone, Debug)]
struct Page {
    /// Which of the 64 addresses are there.
    present: u64,
    /// They, in order: as many as there are bits in `present`.
    hosts: Arc<[Host]>,
}

/// Who has an address: half a line of memory.
#[derive(Clone, Debug, Default)]
#[repr(align(32))]
pub(crate) struct Host {
    /// The pod to which the address belongs.
    pub pod: Option<HostPod>,
    /// The nodes whose own address it is: nearly always none or one.
    pub nodes: Option<Arc<Vec<NodeId>>>,
}

/// A pod behind an address.
#[derive(Clone, Debug)]
pub(crate) struct HostPod {
    pod: Arc<Pod>,
    /// The class, and in the lowest bit whether this snapshot judges the pod.
    class_and_judged: u32,
    /// Its node, or [`NO_NODE`].
    node: NodeId,
    /// Its named ports that policies mention.
    pub ports: ResolvedPorts,
}

/// Stands for a node that is not known.
const NO_NODE: NodeId = NodeId::MAX;

impl Hosts {
    /// Who has an address.
    #[inline]
    pub(crate) fn get(&self, key: AddressKey) -> Option<&Host> {
        let page = self.pages.get(key >> 6)?;
        let bit = bit_of(key);
        if page.present & bit == 0 { None } else { page.hosts.get(page.place(bit)) }
    }

    /// Says who has an address.
    pub(crate) fn insert(&mut self, key: AddressKey, host: Host) {
        let bit = bit_of(key);
        match self.pages.get_mut(key >> 6) {
            None => self.pages.insert(key >> 6, Page { present: bit, hosts: Arc::from([host]) }),
            Some(page) => page.replace(bit, Some(host)),
        }
    }

    /// Says that nobody has an address.
    pub(crate) fn remove(&mut self, key: AddressKey) {
        let bit = bit_of(key);
        let Some(page) = self.pages.get_mut(key >> 6).filter(|page| page.present & bit != 0) else {
            return;
        };
        page.replace(bit, None);
        if page.present == 0 {
            self.pages.remove(key >> 6);
        }
    }
}

impl Page {
    /// How many addresses come before that of `bit`.
    #[inline]
    fn place(&self, bit: u64) -> usize {
        (self.present & (bit - 1)).count_ones() as usize
    }

    /// Puts `host` where `bit` is, or nothing.
    fn replace(&mut self, bit: u64, host: Option<Host>) {
        let place = self.place(bit);
        let after = place + usize::from(self.present & bit != 0);
        self.present = if host.is_some() { self.present | bit } else { self.present & !bit };
        self.hosts = match Arc::get_mut(&mut self.hosts) {
            // No snapshot shares the page: its hosts can move.
            Some(hosts) => {
                let (before, after) = hosts.split_at_mut(after);
                let before = before[..place].iter_mut().map(std::mem::take);
                before.chain(host).chain(after.iter_mut().map(std::mem::take)).collect()
            }
            None => {
                let (before, after) = (&self.hosts[..place], &self.hosts[after..]);
                before.iter().cloned().chain(host).chain(after.iter().cloned()).collect()
            }
        };
    }
}

#[inline]
fn bit_of(key: AddressKey) -> u64 {
    1 << (key as u64 & 63)
}

impl Host {
    /// Whether the address is `node`'s own.
    #[inline]
    pub(crate) fn is_of(&self, node: Option<NodeId>) -> bool {
        match (&self.nodes, node) {
            (Some(nodes), Some(node)) => nodes.contains(&node),
            _ => false,
        }
    }
}

impl HostPod {
    /// A pod of a class below 2^31.
    pub(crate) fn new(
        pod: Arc<Pod>,
        class: ClassId,
        judged: bool,
        node: Option<NodeId>,
        ports: ResolvedPorts,
    ) -> Self {
        let class_and_judged = class << 1 | u32::from(judged);
        Self { pod, class_and_judged, node: node.unwrap_or(NO_NODE), ports }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &PodName {
        &self.pod.name
    }

    /// The class of its pod.
    #[inline]
    pub(crate) fn class(&self) -> ClassId {
        self.class_and_judged >> 1
    }

    /// Whether this snapshot judges the pod.
    #[inline]
    pub(crate) fn is_judged(&self) -> bool {
        self.class_and_judged & 1 == 1
    }

    /// Its node, if it is known.
    #[inline]
    pub(crate) fn node(&self) -> Option<NodeId> {
        (self.node != NO_NODE).then_some(self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;

    fn host(name: &str) -> Host {
        let pod = Pod {
            name: PodName::new("web", name),
            labels: Labels::none(),
            addresses: Vec::new(),
            ports: Vec::new(),
            node: None,
            host_network: false,
            created: 0,
        };
        Host { pod: Some(HostPod::new(Arc::new(pod), 5, true, None, None)), nodes: None }
    }

    fn name_at(hosts: &Hosts, address: &str) -> Option<String> {
        let host = hosts.get(key_of(address.parse().unwrap()))?;
        host.pod.as_ref().map(|pod| pod.name().name.to_string())
    }

    #[test]
    fn a_host_is_half_a_line_of_memory() {
        assert_eq!(size_of::<Host>(), 32);
        let pod = host("a").pod.unwrap();
        assert_eq!((pod.class(), pod.is_judged(), pod.node()), (5, true, None));
    }

    #[test]
    fn neighbours_come_and_go_and_older_maps_stay_as_they_were() {
        let key = |address: &str| key_of(address.parse().unwrap());
        let mut hosts = Hosts::default();
        for (address, name) in [("10.0.0.2", "a"), ("10.0.0.63", "b"), ("10.0.0.64", "c"), ("fd00::2", "d")] {
            hosts.insert(key(address), host(name));
        }
        let older = hosts.clone();
        hosts.insert(key("10.0.0.63"), host("e"));
        hosts.remove(key("10.0.0.2"));
        hosts.remove(key("10.0.0.3"));
        hosts.remove(key("10.0.0.64"));
        let all = ["10.0.0.2", "10.0.0.63", "10.0.0.64", "fd00::2", "10.0.0.3", "fd00::3"];
        let names = |hosts: &Hosts| all.map(|address| name_at(hosts, address).unwrap_or_default());
        assert_eq!(names(&hosts), ["", "e", "", "d", "", ""]);
        assert_eq!(names(&older), ["a", "b", "c", "d", "", ""]);
        assert!(hosts.pages.get(key("10.0.0.64") >> 6).is_none(), "no page is empty");
        assert_eq!(address_of(key("::ffff:10.0.0.2")), "10.0.0.2".parse::<IpAddr>().unwrap());
    }
}
