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
use crate::snapshot::ids::{IdentityId, NodeId};
use crate::snapshot::ipcache::pages::{PageNumber, Pages};
use crate::snapshot::ports::ResolvedPorts;

/// Every address that a pod or node has. The key of a page is the address without its last six bits. No page
/// is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct IpCache {
    ipv4: Pages<u32>,
    ipv6: Pages<u128>,
}

/// The entries of neighbouring addresses.
#[derive(Clone, Debug, Default)]
struct Page {
    /// The offset of the first entry, 0 to 63.
    first: u8,
    /// The entries from the first to the last; empty ones where no pod or node has the address.
    entries: Arc<[IpCacheEntry]>,
}

/// The owners of one address. Takes half a cache line.
#[derive(Clone, Debug, Default)]
#[repr(align(32))]
pub(crate) struct IpCacheEntry {
    /// The pod to which the address belongs.
    pub pod: Option<PodEntry>,
    /// The nodes that have the address as their own: nearly always none or one.
    pub nodes: Option<Arc<Vec<NodeId>>>,
}

/// A pod that has an address.
#[derive(Clone, Debug)]
pub(crate) struct PodEntry {
    pod: Arc<Pod>,
    /// The identity, shifted left by one; the lowest bit says whether this snapshot evaluates the pod.
    identity_and_evaluated: u32,
    /// The pod's node, or [`NO_NODE`]; combined with [`PROVISIONAL`].
    node_and_provisional: NodeId,
    /// Its named ports that policies refer to.
    pub ports: ResolvedPorts,
}

/// Set if policies refer to unknown labels of the pod or of its namespace. Shares a field with the node,
/// since both are rarely read.
const PROVISIONAL: NodeId = 1 << 31;

/// The node is not known.
const NO_NODE: NodeId = PROVISIONAL - 1;

impl IpCache {
    /// The entry of an address; `None` if no pod or node has it.
    #[inline(always)]
    pub(crate) fn get(&self, address: impl Address) -> Option<&IpCacheEntry> {
        let (page, offset) = match address.bits() {
            AddressBits::Ipv4(bits) => (self.ipv4.get(bits >> OFFSET_BITS)?, offset_in_page(bits.into())),
            AddressBits::Ipv6(bits) => (self.ipv6.get(bits >> OFFSET_BITS)?, offset_in_page(bits)),
        };
        page.entries.get(offset.wrapping_sub(page.first) as usize).filter(|entry| !entry.is_empty())
    }

    /// Replaces the entries of these addresses. No address occurs twice, and neighbours follow each other.
    pub(crate) fn update(&mut self, mut entries: Vec<(AddressKey, IpCacheEntry)>) {
        for of_page in entries.chunk_by_mut(|(one, _), (next, _)| one >> OFFSET_BITS == next >> OFFSET_BITS) {
            match address_of(of_page[0].0).bits() {
                AddressBits::Ipv4(bits) => update_page(&mut self.ipv4, bits >> OFFSET_BITS, of_page),
                AddressBits::Ipv6(bits) => update_page(&mut self.ipv6, bits >> OFFSET_BITS, of_page),
            }
        }
    }
}

/// Replaces entries of one page. Creates the page if needed, and removes it if it ends up empty.
fn update_page<N: PageNumber>(pages: &mut Pages<N>, number: N, entries: &mut [(AddressKey, IpCacheEntry)]) {
    if let Some(page) = pages.get_mut(number) {
        page.update(entries);
        if page.entries.is_empty() {
            pages.remove(number);
        }
    } else {
        let mut page = Page::default();
        page.update(entries);
        if !page.entries.is_empty() {
            pages.insert(number, page);
        }
    }
}

impl Page {
    /// Replaces entries; they come in ascending order of address.
    fn update(&mut self, updates: &mut [(AddressKey, IpCacheEntry)]) {
        let mut entries: Vec<IpCacheEntry> = match Arc::get_mut(&mut self.entries) {
            // No snapshot shares the page, so its entries can be moved.
            Some(entries) => entries.iter_mut().map(std::mem::take).collect(),
            None => self.entries.to_vec(),
        };
        let mut first = if entries.is_empty() { PAGE_ADDRESSES } else { self.first };
        for (key, entry) in updates {
            let offset = offset_in_page(*key);
            if offset < first {
                let before = if entries.is_empty() { 0 } else { (first - offset) as usize };
                entries.splice(..0, std::iter::repeat_n(IpCacheEntry::default(), before));
                first = offset;
            }
            let offset = (offset - first) as usize;
            if offset >= entries.len() {
                entries.resize_with(offset + 1, IpCacheEntry::default);
            }
            entries[offset] = std::mem::take(entry);
        }
        let is_used = |entry: &IpCacheEntry| !entry.is_empty();
        entries.truncate(entries.iter().rposition(is_used).map_or(0, |last| last + 1));
        let before = entries.iter().position(is_used).unwrap_or(0);
        *self = Self { first: first + before as u8, entries: entries.drain(before..).collect() };
    }
}

/// How many of the last bits of an address are its offset in a page.
const OFFSET_BITS: u32 = 6;

/// Addresses per page.
const PAGE_ADDRESSES: u8 = 1 << OFFSET_BITS;

/// The offset of an address in its page, from its bits or its key.
#[inline(always)]
fn offset_in_page(bits: u128) -> u8 {
    bits as u8 % PAGE_ADDRESSES
}

impl IpCacheEntry {
    /// Whether no pod or node has the address.
    #[inline]
    fn is_empty(&self) -> bool {
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

impl PodEntry {
    /// The entry of a pod. The identity is below 2^31; if the pod has two identities, it is the strict one.
    pub(crate) fn new(
        pod: Arc<Pod>,
        identity: IdentityId,
        provisional: bool,
        evaluated: bool,
        node: Option<NodeId>,
        ports: ResolvedPorts,
    ) -> Self {
        let identity_and_evaluated = identity << 1 | u32::from(evaluated);
        let node_and_provisional = node.unwrap_or(NO_NODE) | if provisional { PROVISIONAL } else { 0 };
        Self { pod, identity_and_evaluated, node_and_provisional, ports }
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
    pub(crate) fn identity(&self) -> IdentityId {
        self.identity_and_evaluated >> 1
    }

    /// The identity that reads unknown labels permissively (semantics 37); the same as [`PodEntry::identity`]
    /// if no labels are unknown.
    pub(crate) fn permissive_identity(&self) -> IdentityId {
        self.identity() + IdentityId::from(self.is_provisional())
    }

    /// Whether policies refer to unknown labels of the pod or of its namespace.
    #[inline]
    pub(crate) fn is_provisional(&self) -> bool {
        self.node_and_provisional & PROVISIONAL != 0
    }

    /// Whether this snapshot evaluates the pod.
    #[inline]
    pub(crate) fn is_evaluated(&self) -> bool {
        self.identity_and_evaluated & 1 == 1
    }

    /// Its node, if it is known.
    #[inline]
    pub(crate) fn node(&self) -> Option<NodeId> {
        let node = self.node_and_provisional & !PROVISIONAL;
        (node != NO_NODE).then_some(node)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::labels::Labels;
    use crate::snapshot::address::key_of;

    fn entry(name: &str) -> IpCacheEntry {
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
        IpCacheEntry { pod: Some(PodEntry::new(Arc::new(pod), 5, true, true, None, None)), nodes: None }
    }

    fn name_at(ipcache: &IpCache, address: &str) -> Option<String> {
        let address: IpAddr = address.parse().unwrap();
        let entry = ipcache.get(address)?;
        entry.pod.as_ref().map(|pod| pod.name().name.to_string())
    }

    #[test]
    fn an_entry_takes_half_a_cache_line() {
        assert_eq!(size_of::<IpCacheEntry>(), 32);
        let pod = entry("a").pod.unwrap();
        assert_eq!(
            (pod.identity(), pod.permissive_identity(), pod.is_evaluated(), pod.node()),
            (5, 6, true, None)
        );
    }

    #[test]
    fn neighbours_come_and_go_and_older_maps_stay_as_they_were() {
        let key = |address: &str| key_of(address.parse().unwrap());
        let mut ipcache = IpCache::default();
        let all = [("10.0.0.2", "a"), ("10.0.0.63", "b"), ("10.0.0.64", "c"), ("fd00::2", "d")];
        ipcache.update(all.map(|(address, name)| (key(address), entry(name))).into());
        let older = ipcache.clone();
        ipcache.update(vec![
            (key("10.0.0.2"), IpCacheEntry::default()),
            (key("10.0.0.3"), IpCacheEntry::default()),
            (key("10.0.0.63"), entry("e")),
            (key("10.0.0.64"), IpCacheEntry::default()),
            (key("10.0.0.128"), IpCacheEntry::default()),
        ]);
        let all = ["10.0.0.2", "10.0.0.63", "10.0.0.64", "fd00::2", "10.0.0.3", "fd00::3"];
        let names = |ipcache: &IpCache| all.map(|address| name_at(ipcache, address).unwrap_or_default());
        assert_eq!(names(&ipcache), ["", "e", "", "d", "", ""]);
        assert_eq!(names(&older), ["a", "b", "c", "d", "", ""]);
        for address in ["10.0.0.64", "10.0.0.128"] {
            assert!(ipcache.ipv4.get(key(address) as u32 >> OFFSET_BITS).is_none(), "no page is empty");
        }
        ipcache.update(vec![(key("10.0.0.0"), entry("f")), (key("10.0.0.2"), entry("g"))]);
        assert_eq!(names(&ipcache), ["g", "e", "", "d", "", ""], "before, between and after those that stay");
        assert_eq!(name_at(&ipcache, "10.0.0.0").as_deref(), Some("f"));
        assert_eq!(address_of(key("::ffff:10.0.0.2")), "10.0.0.2".parse::<IpAddr>().unwrap());
    }
}
