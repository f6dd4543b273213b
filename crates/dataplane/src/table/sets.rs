//! What the sets about pods contain, and the messages that fill or update them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rustables::data_type::DataType;
use rustables::set::SetBuilder;
use rustables::{MsgType, sys};

use super::names::{INET, TABLE};
use super::open_addresses::OpenAddresses;
use crate::netlink::{self, Attributes, NetlinkError, Socket};
use crate::nft::batch::{Batch, Subject};
use crate::nft::set::{Carries, KeyType, Set};

/// This node's pod CIDRs, IPv4.
pub(super) const POD_CIDRS_4: &str = "pod-cidrs4";
/// This node's pod CIDRs, IPv6.
pub(super) const POD_CIDRS_6: &str = "pod-cidrs6";
/// Addresses of local pods that no policy isolates for ingress, IPv4.
pub(super) const OPEN_INGRESS_4: &str = "open-ingress4";
/// Addresses of local pods that no policy isolates for ingress, IPv6.
pub(super) const OPEN_INGRESS_6: &str = "open-ingress6";
/// Addresses of local pods that no policy isolates for egress, IPv4.
pub(super) const OPEN_EGRESS_4: &str = "open-egress4";
/// Addresses of local pods that no policy isolates for egress, IPv6.
pub(super) const OPEN_EGRESS_6: &str = "open-egress6";

/// Addresses of pods under revalidation, IPv4.
pub(super) const REVALIDATED_4: &str = "revalidated4";
/// Addresses of pods under revalidation, IPv6.
pub(super) const REVALIDATED_6: &str = "revalidated6";

/// Addresses of recently changed pods, IPv4: see `verdict_cache`.
pub(super) const CHANGED_4: &str = "changed4";
/// Addresses of recently changed pods, IPv6.
pub(super) const CHANGED_6: &str = "changed6";

/// Elements per message: a list is an attribute, which is limited to 64 KiB.
const ELEMENTS_A_MESSAGE: usize = 1000;

/// What all sets contain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Contents {
    pod_cidrs4: Vec<Boundary>,
    pod_cidrs6: Vec<Boundary>,
    ingress4: BTreeSet<Ipv4Addr>,
    ingress6: BTreeSet<Ipv6Addr>,
    egress4: BTreeSet<Ipv4Addr>,
    egress6: BTreeSet<Ipv6Addr>,
    changed4: BTreeSet<Ipv4Addr>,
    changed6: BTreeSet<Ipv6Addr>,
}

/// The start of an interval, or the first address after its end: the form in which the kernel stores it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Boundary {
    /// The address in network order.
    address: Vec<u8>,
    is_end: bool,
}

impl Contents {
    /// Contents for these networks, open addresses, and recently changed addresses. An IPv4-mapped IPv6
    /// address counts as the IPv4 address (semantics 26).
    pub(super) fn new(
        pod_cidrs: &[IpNet],
        open: &OpenAddresses,
        changed: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let (mut ranges4, mut ranges6) = (Vec::new(), Vec::new());
        for cidr in pod_cidrs {
            match cidr {
                IpNet::V4(net) => {
                    ranges4.push((net.network().to_bits().into(), net.broadcast().to_bits().into()))
                }
                IpNet::V6(net) => ranges6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        let (ingress4, ingress6) = by_family(open.ingress.iter().copied());
        let (egress4, egress6) = by_family(open.egress.iter().copied());
        let (changed4, changed6) = by_family(changed);
        Self {
            pod_cidrs4: boundaries(ranges4, 4),
            pod_cidrs6: boundaries(ranges6, 16),
            ingress4,
            ingress6,
            egress4,
            egress6,
            changed4,
            changed6,
        }
    }

    /// Creates the sets if they don't exist.
    pub(super) fn create(batch: &mut Batch) {
        for (id, name) in (1..).zip([POD_CIDRS_4, OPEN_INGRESS_4, OPEN_EGRESS_4, REVALIDATED_4, CHANGED_4]) {
            create::<Ipv4Addr>(batch, name, id);
        }
        for (id, name) in (6..).zip([POD_CIDRS_6, OPEN_INGRESS_6, OPEN_EGRESS_6, REVALIDATED_6, CHANGED_6]) {
            create::<Ipv6Addr>(batch, name, id);
        }
    }

    /// Empties the sets and fills them with these elements, whatever they contain.
    pub(super) fn fill(&self, batch: &mut Batch) {
        for name in [
            POD_CIDRS_4,
            POD_CIDRS_6,
            OPEN_INGRESS_4,
            OPEN_INGRESS_6,
            OPEN_EGRESS_4,
            OPEN_EGRESS_6,
            CHANGED_4,
            CHANGED_6,
        ] {
            flush(batch, name);
        }
        add_boundaries(batch, POD_CIDRS_4, &self.pod_cidrs4);
        add_boundaries(batch, POD_CIDRS_6, &self.pod_cidrs6);
        elements(batch, OPEN_INGRESS_4, MsgType::Add, &self.ingress4);
        elements(batch, OPEN_INGRESS_6, MsgType::Add, &self.ingress6);
        elements(batch, OPEN_EGRESS_4, MsgType::Add, &self.egress4);
        elements(batch, OPEN_EGRESS_6, MsgType::Add, &self.egress6);
        elements(batch, CHANGED_4, MsgType::Add, &self.changed4);
        elements(batch, CHANGED_6, MsgType::Add, &self.changed6);
    }

    /// Turns sets that contain `old` into sets that contain these elements. The few intervals are rewritten
    /// if they differ; for addresses only the differences are sent.
    pub(super) fn change_from(&self, old: &Self, batch: &mut Batch) {
        for (name, old, new) in [
            (POD_CIDRS_4, &old.pod_cidrs4, &self.pod_cidrs4),
            (POD_CIDRS_6, &old.pod_cidrs6, &self.pod_cidrs6),
        ] {
            if old != new {
                flush(batch, name);
                add_boundaries(batch, name, new);
            }
        }
        change(batch, OPEN_INGRESS_4, &old.ingress4, &self.ingress4);
        change(batch, OPEN_INGRESS_6, &old.ingress6, &self.ingress6);
        change(batch, OPEN_EGRESS_4, &old.egress4, &self.egress4);
        change(batch, OPEN_EGRESS_6, &old.egress6, &self.egress6);
        change(batch, CHANGED_4, &old.changed4, &self.changed4);
        change(batch, CHANGED_6, &old.changed6, &self.changed6);
    }
}

/// Makes the sets of pods under revalidation contain these addresses, whatever they contain.
pub(super) fn fill_revalidated(addresses: &BTreeSet<IpAddr>, batch: &mut Batch) {
    let (v4, v6) = by_family(addresses.iter().copied());
    flush(batch, REVALIDATED_4);
    flush(batch, REVALIDATED_6);
    elements(batch, REVALIDATED_4, MsgType::Add, &v4);
    elements(batch, REVALIDATED_6, MsgType::Add, &v6);
}

/// The addresses in the sets of pods under revalidation; none if the sets don't exist.
pub(super) fn read_revalidated(socket: &mut Socket) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let set = |name, key| Set { table: INET, name, id: 0, key, carries: Carries::Keys, size: None };
    let v4 = set(REVALIDATED_4, &[KeyType::Ipv4]).read(socket)?.into_keys();
    let v6 = set(REVALIDATED_6, &[KeyType::Ipv6]).read(socket)?.into_keys();
    let v4 = v4.filter_map(|key| <[u8; 4]>::try_from(key).ok()).map(IpAddr::from);
    let v6 = v6.filter_map(|key| <[u8; 16]>::try_from(key).ok()).map(IpAddr::from);
    Ok(v4.chain(v6).collect())
}

fn by_family(addresses: impl IntoIterator<Item = IpAddr>) -> (BTreeSet<Ipv4Addr>, BTreeSet<Ipv6Addr>) {
    let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
    for address in addresses {
        match address.to_canonical() {
            IpAddr::V4(address) => v4.insert(address),
            IpAddr::V6(address) => v6.insert(address),
        };
    }
    (v4, v6)
}

/// The boundaries of the union of these ranges (first and last address). Adjacent and overlapping ranges
/// become one, because the kernel refuses intervals that overlap.
fn boundaries(mut ranges: Vec<(u128, u128)>, octets: usize) -> Vec<Boundary> {
    ranges.sort_unstable();
    let mut union: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match union.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => union.push((first, last)),
        }
    }
    let highest = if octets == 4 { u128::from(u32::MAX) } else { u128::MAX };
    let boundary =
        |address: u128, is_end| Boundary { address: address.to_be_bytes()[16 - octets..].to_vec(), is_end };
    let mut boundaries = Vec::new();
    for (first, last) in union {
        boundaries.push(boundary(first, false));
        // An interval up to the highest address has no end.
        if last < highest {
            boundaries.push(boundary(last + 1, true));
        }
    }
    boundaries
}

fn create<Address: DataType>(batch: &mut Batch, name: &'static str, id: u32) {
    batch.library(Subject::plain(format!("set {name}")), |library| {
        // The builder requires that the table has a name, which it has.
        if let Ok(builder) = SetBuilder::<Address>::new(name, &INET.library()) {
            let (mut set, _) = builder.finish();
            set.family = rustables::ProtocolFamily::Inet;
            let flags = if matches!(name, POD_CIDRS_4 | POD_CIDRS_6) { sys::NFT_SET_INTERVAL } else { 0 };
            library.add(&set.with_id(id).with_flags(flags), MsgType::Add);
        }
    });
}

fn flush(batch: &mut Batch, name: &'static str) {
    batch.raw(Subject::plain(format!("emptying set {name}")), sys::NFT_MSG_DELSETELEM, 0, |list| {
        list.string(sys::NFTA_SET_ELEM_LIST_TABLE, TABLE).string(sys::NFTA_SET_ELEM_LIST_SET, name);
    });
}

fn change<Address: DataType + Ord>(
    batch: &mut Batch,
    name: &'static str,
    old: &BTreeSet<Address>,
    new: &BTreeSet<Address>,
) {
    elements(batch, name, MsgType::Del, old.difference(new));
    elements(batch, name, MsgType::Add, new.difference(old));
}

fn elements<'a, Address: DataType + 'a>(
    batch: &mut Batch,
    name: &'static str,
    action: MsgType,
    addresses: impl IntoIterator<Item = &'a Address>,
) {
    let verb = if action == MsgType::Add { "adding to" } else { "removing from" };
    let mut addresses = addresses.into_iter().peekable();
    while addresses.peek().is_some() {
        batch.library(Subject::plain(format!("{verb} set {name}")), |library| {
            if let Ok(mut builder) = SetBuilder::<Address>::new(name, &INET.library()) {
                addresses.by_ref().take(ELEMENTS_A_MESSAGE).for_each(|address| builder.add(address));
                library.add(&builder.finish().1, action);
            }
        });
    }
}

/// Adds interval elements, which the library does not support.
fn add_boundaries(batch: &mut Batch, name: &'static str, boundaries: &[Boundary]) {
    for boundaries in boundaries.chunks(ELEMENTS_A_MESSAGE) {
        let subject = Subject::plain(format!("adding to set {name}"));
        batch.raw(subject, sys::NFT_MSG_NEWSETELEM, netlink::CREATE, |message| {
            message.string(sys::NFTA_SET_ELEM_LIST_TABLE, TABLE).string(sys::NFTA_SET_ELEM_LIST_SET, name);
            message.nested(sys::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                boundaries.iter().for_each(|boundary| boundary.encode(list));
            });
        });
    }
}

impl Boundary {
    fn encode(&self, list: &mut Attributes<'_>) {
        list.nested(sys::NFTA_LIST_ELEM, |element| {
            element.nested(sys::NFTA_SET_ELEM_KEY, |key| {
                key.bytes(sys::NFTA_DATA_VALUE, &self.address);
            });
            if self.is_end {
                element.be32(sys::NFTA_SET_ELEM_FLAGS, sys::NFT_SET_ELEM_INTERVAL_END);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts_and_ends(cidrs: &[&str]) -> Vec<(String, bool)> {
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().expect("a CIDR")).collect();
        let contents = Contents::new(&cidrs, &OpenAddresses::default(), []);
        let v4 = contents.pod_cidrs4.iter().map(|boundary| {
            let octets: [u8; 4] = boundary.address[..].try_into().expect("four octets");
            (Ipv4Addr::from(octets).to_string(), boundary.is_end)
        });
        let v6 = contents.pod_cidrs6.iter().map(|boundary| {
            let octets: [u8; 16] = boundary.address[..].try_into().expect("sixteen octets");
            (Ipv6Addr::from(octets).to_string(), boundary.is_end)
        });
        v4.chain(v6).collect()
    }

    fn expected(boundaries: &[(&str, bool)]) -> Vec<(String, bool)> {
        boundaries.iter().map(|(address, is_end)| ((*address).to_owned(), *is_end)).collect()
    }

    #[test]
    fn a_network_ends_at_the_address_after_it() {
        assert_eq!(
            starts_and_ends(&["10.244.1.7/24"]),
            expected(&[("10.244.1.0", false), ("10.244.2.0", true)])
        );
        assert_eq!(
            starts_and_ends(&["fd00:1::/64"]),
            expected(&[("fd00:1::", false), ("fd00:1:0:1::", true)])
        );
    }

    #[test]
    fn adjacent_and_overlapping_networks_become_one_interval() {
        let one = expected(&[("10.0.0.0", false), ("10.0.4.0", true)]);
        assert_eq!(starts_and_ends(&["10.0.2.0/23", "10.0.0.0/23"]), one);
        assert_eq!(starts_and_ends(&["10.0.0.0/22", "10.0.1.0/24", "10.0.0.0/22"]), one);
        let two =
            expected(&[("10.0.0.0", false), ("10.0.1.0", true), ("10.0.2.0", false), ("10.0.3.0", true)]);
        assert_eq!(starts_and_ends(&["10.0.2.0/24", "10.0.0.0/24"]), two);
    }

    #[test]
    fn an_interval_up_to_the_highest_address_has_no_end() {
        assert_eq!(starts_and_ends(&["0.0.0.0/0", "10.0.0.0/8"]), expected(&[("0.0.0.0", false)]));
        assert_eq!(starts_and_ends(&["255.255.255.255/32"]), expected(&[("255.255.255.255", false)]));
        assert_eq!(starts_and_ends(&["::/0"]), expected(&[("::", false)]));
        assert_eq!(starts_and_ends(&["8000::/1", "::/1"]), expected(&[("::", false)]));
    }

    #[test]
    fn a_mapped_address_counts_as_ipv4() {
        let open = OpenAddresses {
            ingress: ["::ffff:10.0.0.1".parse().expect("an address")].into(),
            egress: ["fd00::1".parse().expect("an address")].into(),
        };
        let contents = Contents::new(&[], &open, []);
        assert_eq!(contents.ingress4, [Ipv4Addr::new(10, 0, 0, 1)].into());
        assert!(contents.ingress6.is_empty() && contents.egress4.is_empty());
        assert_eq!(contents.egress6.len(), 1);
    }

    #[test]
    fn no_difference_sends_no_message() {
        let contents = Contents::new(&["10.0.0.0/8".parse().expect("a CIDR")], &OpenAddresses::default(), []);
        let mut batch = Batch::default();
        contents.change_from(&contents.clone(), &mut batch);
        assert!(batch.is_empty());
    }
}
