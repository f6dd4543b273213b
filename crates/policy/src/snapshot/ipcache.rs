//! The ipcache: maps each address to the pod or nodes that have it. A persistent map, so that a change costs
//! the same in clusters of every size.
//!
//! Pods have neighbouring addresses, so entries are stored in pages of 64 addresses. This keeps the hash
//! table of [`pages`] small enough for the processor's caches. A page holds only the range from its first to
//! its last address in use.

mod entry;
mod page;
mod pages;

pub(crate) use self::entry::{IpCacheEntry, PodEntry};
use self::page::{OFFSET_BITS, Page, offset_in_page};
use self::pages::{PageNumber, Pages};
use crate::snapshot::address::{Address, AddressBits, AddressKey, address_of};

/// Every address that a pod or node has. The key of a page is the address without its last six bits. No page
/// is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct IpCache {
    ipv4: Pages<u32>,
    ipv6: Pages<u128>,
}

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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::inventory::Pod;
    use crate::labels::Labels;
    use crate::names::PodName;
    use crate::snapshot::address::key_of;
    use crate::snapshot::ids::IdentityId;

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
            workload: None,
        };
        IpCacheEntry {
            pod: Some(PodEntry::new(Arc::new(pod), IdentityId(5), true, true, None, None)),
            nodes: None,
        }
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
            (IdentityId(5), IdentityId(6), true, None)
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
