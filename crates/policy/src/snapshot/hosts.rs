//! The ipcache: maps each address to the pod or nodes that have it. A persistent map, so that a change costs
//! the same in clusters of every size.
//!
//! Pods have neighbouring addresses, so entries are stored in pages of 64 addresses. This keeps the hash
//! table of [`pages`] small enough for the processor's caches. A page holds only the range from its first to
//! its last address in use.

mod pages;

use std::sync::Arc;

use crate::inventory::Pod;
use crate::names::PodName;
use crate::snapshot::address::{Address, AddressBits, AddressKey, address_of};
use crate::snapshot::hosts::pages::{PageNumber, Pages};
use crate::snapshot::ids::{ClassId, NodeId};
use crate::snapshot::ports::ResolvedPorts;

/// Every address that a pod or node has. The key of a page is the address without its last six bits. No page
/// is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    ipv4: Pages<u32>,
    ipv6: Pages<u128>,
}

/// The entries of neighbouring addresses.
#[derive(Clone, Debug, Default)]
struct Page {
    /// The offset of the first entry, 0 to 63.
    first: u8,
    /// The entries from the first to the last; empty ones where no pod or node has the address.
    hosts: Arc<[Host]>,
}

/// The owners of one address. Takes half a cache line.
#[derive(Clone, Debug, Default)]
#[repr(align(32))]
pub(crate) struct Host {
    /// The pod to which the address belongs.
    pub pod: Option<HostPod>,
    /// The nodes that have the address as their own: nearly always none or one.
    pub nodes: Option<Arc<Vec<NodeId>>>,
}

/// A pod that has an address.
#[derive(Clone, Debug)]
pub(crate) struct HostPod {
    pod: Arc<Pod>,
    /// The identity, shifted left by one; the lowest bit says whether this snapshot evaluates the pod.
    class_and_evaluated: u32,
    /// The pod's node, or [`NO_NODE`]; combined with [`PROVISIONAL`].
    node_and_unsure: NodeId,
    /// Its named ports that policies refer to.
    pub ports: ResolvedPorts,
}

/// Set if policies refer to unknown labels of the pod or of its namespace. Shares a field with the node,
/// since both are rarely read.
const UNSURE: NodeId = 1 << 31;

/// The node is not known.
const NO_NODE: NodeId = UNSURE - 1;

impl Hosts {
    /// The entry of an address; `None` if no pod or node has it.
    #[inline(always)]
    pub(crate) fn get(&self, address: impl Address) -> Option<&Host> {
        let (page, place) = match address.bits() {
            AddressBits::Ipv4(bits) => (self.ipv4.get(bits >> PLACE_BITS)?, place_of(bits.into())),
            AddressBits::Ipv6(bits) => (self.ipv6.get(bits >> PLACE_BITS)?, place_of(bits)),
        };
        page.hosts.get(place.wrapping_sub(page.first) as usize).filter(|host| !host.is_nobody())
    }

    /// Replaces the entries of these addresses. No address occurs twice, and neighbours follow each other.
    pub(crate) fn update(&mut self, mut hosts: Vec<(AddressKey, Host)>) {
        for of_page in hosts.chunk_by_mut(|(one, _), (next, _)| one >> PLACE_BITS == next >> PLACE_BITS) {
            match address_of(of_page[0].0).bits() {
                AddressBits::Ipv4(bits) => update_page(&mut self.ipv4, bits >> PLACE_BITS, of_page),
                AddressBits::Ipv6(bits) => update_page(&mut self.ipv6, bits >> PLACE_BITS, of_page),
            }
        }
    }
}

/// Replaces entries of one page. Creates the page if needed, and removes it if it ends up empty.
fn update_page<N: PageNumber>(pages: &mut Pages<N>, number: N, hosts: &mut [(AddressKey, Host)]) {
    if let Some(page) = pages.get_mut(number) {
        page.update(hosts);
        if page.hosts.is_empty() {
            pages.remove(number);
        }
    } else {
        let mut page = Page::default();
        page.update(hosts);
        if !page.hosts.is_empty() {
            pages.insert(number, page);
        }
    }
}

impl Page {
    /// Replaces entries; they come in ascending order of address.
    fn update(&mut self, updates: &mut [(AddressKey, Host)]) {
        let mut hosts: Vec<Host> = match Arc::get_mut(&mut self.hosts) {
            // No snapshot shares the page, so its entries can be moved.
            Some(hosts) => hosts.iter_mut().map(std::mem::take).collect(),
            None => self.hosts.to_vec(),
        };
        let mut first = if hosts.is_empty() { PLACES } else { self.first };
        for (key, host) in updates {
            let place = place_of(*key);
            if place < first {
                let before = if hosts.is_empty() { 0 } else { (first - place) as usize };
                hosts.splice(..0, std::iter::repeat_n(Host::default(), before));
                first = place;
            }
            let place = (place - first) as usize;
            if place >= hosts.len() {
                hosts.resize_with(place + 1, Host::default);
            }
            hosts[place] = std::mem::take(host);
        }
        let there = |host: &Host| !host.is_nobody();
        hosts.truncate(hosts.iter().rposition(there).map_or(0, |last| last + 1));
        let before = hosts.iter().position(there).unwrap_or(0);
        *self = Self { first: first + before as u8, hosts: hosts.drain(before..).collect() };
    }
}

/// How many of the last bits of an address are its offset in a page.
const PLACE_BITS: u32 = 6;

/// Addresses per page.
const PLACES: u8 = 1 << PLACE_BITS;

/// The offset of an address in its page, from its bits or its key.
#[inline(always)]
fn place_of(bits: u128) -> u8 {
    bits as u8 % PLACES
}

impl Host {
    /// Whether no pod or node has the address.
    #[inline]
    fn is_nobody(&self) -> bool {
        self.pod.is_none() && self.nodes.is_none()
    }

    /// Whether the address is a node's own.
    #[inline]
    pub(crate) fn is_of_a_node(&self) -> bool {
        self.nodes.is_some()
    }

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
    /// The entry of a pod. The identity is below 2^31; if the pod has two identities, it is the strict one.
    pub(crate) fn new(
        pod: Arc<Pod>,
        class: ClassId,
        unsure: bool,
        evaluated: bool,
        node: Option<NodeId>,
        ports: ResolvedPorts,
    ) -> Self {
        let class_and_evaluated = class << 1 | u32::from(evaluated);
        let node_and_unsure = node.unwrap_or(NO_NODE) | if unsure { UNSURE } else { 0 };
        Self { pod, class_and_evaluated, node_and_unsure, ports }
    }

    /// The pod.
    pub(crate) fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Its name.
    pub(crate) fn name(&self) -> &PodName {
        &self.pod.name
    }

    /// The pod's identity; the strict one if it has two.
    #[inline]
    pub(crate) fn class(&self) -> ClassId {
        self.class_and_evaluated >> 1
    }

    /// The identity that reads unknown labels permissively (semantics 37); the same as [`PodEntry::identity`]
    /// if no labels are unknown.
    pub(crate) fn hopeful_class(&self) -> ClassId {
        self.class() + ClassId::from(self.is_provisional())
    }

    /// Whether policies refer to unknown labels of the pod or of its namespace.
    #[inline]
    pub(crate) fn is_provisional(&self) -> bool {
        self.node_and_unsure & UNSURE != 0
    }

    /// Whether this snapshot evaluates the pod.
    #[inline]
    pub(crate) fn is_evaluated(&self) -> bool {
        self.class_and_evaluated & 1 == 1
    }

    /// Its node, if it is known.
    #[inline]
    pub(crate) fn node(&self) -> Option<NodeId> {
        let node = self.node_and_unsure & !UNSURE;
        (node != NO_NODE).then_some(node)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::labels::Labels;
    use crate::snapshot::address::key_of;

    fn host(name: &str) -> Host {
        let pod = Pod {
            name: PodName::new("web", name),
            labels: Labels::none(),
            addresses: Vec::new(),
            ports: Vec::new(),
            node: None,
            host_network: false,
            reported: 0,
            created: 0,
            uid: Default::default(),
        };
        Host { pod: Some(HostPod::new(Arc::new(pod), 5, true, true, None, None)), nodes: None }
    }

    fn name_at(hosts: &Hosts, address: &str) -> Option<String> {
        let address: IpAddr = address.parse().unwrap();
        let host = hosts.get(address)?;
        host.pod.as_ref().map(|pod| pod.name().name.to_string())
    }

    #[test]
    fn a_host_is_half_a_line_of_memory() {
        assert_eq!(size_of::<Host>(), 32);
        let pod = host("a").pod.unwrap();
        assert_eq!((pod.class(), pod.hopeful_class(), pod.is_evaluated(), pod.node()), (5, 6, true, None));
    }

    #[test]
    fn neighbours_come_and_go_and_older_maps_stay_as_they_were() {
        let key = |address: &str| key_of(address.parse().unwrap());
        let mut hosts = Hosts::default();
        let all = [("10.0.0.2", "a"), ("10.0.0.63", "b"), ("10.0.0.64", "c"), ("fd00::2", "d")];
        hosts.update(all.map(|(address, name)| (key(address), host(name))).into());
        let older = hosts.clone();
        hosts.update(vec![
            (key("10.0.0.2"), Host::default()),
            (key("10.0.0.3"), Host::default()),
            (key("10.0.0.63"), host("e")),
            (key("10.0.0.64"), Host::default()),
            (key("10.0.0.128"), Host::default()),
        ]);
        let all = ["10.0.0.2", "10.0.0.63", "10.0.0.64", "fd00::2", "10.0.0.3", "fd00::3"];
        let names = |hosts: &Hosts| all.map(|address| name_at(hosts, address).unwrap_or_default());
        assert_eq!(names(&hosts), ["", "e", "", "d", "", ""]);
        assert_eq!(names(&older), ["a", "b", "c", "d", "", ""]);
        for address in ["10.0.0.64", "10.0.0.128"] {
            assert!(hosts.ipv4.get(key(address) as u32 >> PLACE_BITS).is_none(), "no page is empty");
        }
        hosts.update(vec![(key("10.0.0.0"), host("f")), (key("10.0.0.2"), host("g"))]);
        assert_eq!(names(&hosts), ["g", "e", "", "d", "", ""], "before, between and after those that stay");
        assert_eq!(name_at(&hosts, "10.0.0.0").as_deref(), Some("f"));
        assert_eq!(address_of(key("::ffff:10.0.0.2")), "10.0.0.2".parse::<IpAddr>().unwrap());
    }
}
