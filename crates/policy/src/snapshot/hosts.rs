//! From an address to the pod or node that has it, as a persistent map: one event costs the same in every
//! cluster size.
//!
//! Addresses of pods come in runs, so they are kept in pages of 64 neighbours: the table of [`pages`] stays
//! small enough for the processor's caches, and a page holds no more than what lies between the first and the
//! last address that is there.

mod pages;

use std::sync::Arc;

use crate::inventory::Pod;
use crate::names::PodName;
use crate::snapshot::address::{Address, AddressBits, AddressKey, address_of};
use crate::snapshot::hosts::pages::{PageNumber, Pages};
use crate::snapshot::ids::{ClassId, NodeId};
use crate::snapshot::ports::ResolvedPorts;

/// Every address that something in the cluster has: pages by all but the last six bits of an address, of
/// which none is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    ipv4: Pages<u32>,
    ipv6: Pages<u128>,
}

/// Neighbours.
#[derive(Clone, Debug, Default)]
struct Page {
    /// The place of the first of them, of 64.
    first: u8,
    /// From the first to the last, nobody among them where an address is not there.
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
    /// The class, and in the lowest bit whether this snapshot evaluates the pod.
    class_and_evaluated: u32,
    /// Its node, or [`NO_NODE`]; and [`UNSURE`].
    node_and_unsure: NodeId,
    /// Its named ports that policies mention.
    pub ports: ResolvedPorts,
}

/// Set if policies ask for labels of the pod, or of its namespace, that are unknown. Seldom looked at, and so
/// is the node.
const UNSURE: NodeId = 1 << 31;

/// Stands for a node that is not known.
const NO_NODE: NodeId = UNSURE - 1;

impl Hosts {
    /// Who has an address.
    #[inline(always)]
    pub(crate) fn get(&self, address: impl Address) -> Option<&Host> {
        let (page, place) = match address.bits() {
            AddressBits::Ipv4(bits) => (self.ipv4.get(bits >> PLACE_BITS)?, place_of(bits.into())),
            AddressBits::Ipv6(bits) => (self.ipv6.get(bits >> PLACE_BITS)?, place_of(bits)),
        };
        page.hosts.get(place.wrapping_sub(page.first) as usize).filter(|host| !host.is_nobody())
    }

    /// Says who has each of these addresses now: none twice, and neighbours one after the other.
    pub(crate) fn update(&mut self, mut hosts: Vec<(AddressKey, Host)>) {
        for of_page in hosts.chunk_by_mut(|(one, _), (next, _)| one >> PLACE_BITS == next >> PLACE_BITS) {
            match address_of(of_page[0].0).bits() {
                AddressBits::Ipv4(bits) => update_page(&mut self.ipv4, bits >> PLACE_BITS, of_page),
                AddressBits::Ipv6(bits) => update_page(&mut self.ipv6, bits >> PLACE_BITS, of_page),
            }
        }
    }
}

/// Puts hosts into the page of this number, which is there afterwards if somebody is left in it.
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
    /// Puts each of these hosts where its address belongs, in ascending order.
    fn update(&mut self, updates: &mut [(AddressKey, Host)]) {
        let mut hosts: Vec<Host> = match Arc::get_mut(&mut self.hosts) {
            // No snapshot shares the page: its hosts can move.
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

/// The last bits of an address: they say where in its page it is.
const PLACE_BITS: u32 = 6;

/// Addresses of a page.
const PLACES: u8 = 1 << PLACE_BITS;

/// The place of an address, by its bits or its key, in its page.
#[inline(always)]
fn place_of(bits: u128) -> u8 {
    bits as u8 % PLACES
}

impl Host {
    /// Whether nobody has the address.
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
    /// A pod of a class below 2^31, of two the cautious one.
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

    /// What is known of it.
    pub(crate) fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Its name.
    pub(crate) fn name(&self) -> &PodName {
        &self.pod.name
    }

    /// The class of its pod.
    #[inline]
    pub(crate) fn class(&self) -> ClassId {
        self.class_and_evaluated >> 1
    }

    /// The class by which its labels, where they are unknown, deny nothing (semantics 37); else its class.
    pub(crate) fn hopeful_class(&self) -> ClassId {
        self.class() + ClassId::from(self.is_provisional())
    }

    /// Whether policies ask for labels of the pod, or of its namespace, that are unknown.
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
