//! What the sets about pods contain, and the messages that fill or update them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustables::data_type::DataType;
use rustables::set::SetBuilder;
use rustables::{MsgType, sys};

use super::names::{INET, TABLE};
use super::open_addresses::OpenAddresses;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::batch::{Batch, Subject};
use crate::nft::set::{Carries, KeyType, Set};

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
    ingress4: BTreeSet<Ipv4Addr>,
    ingress6: BTreeSet<Ipv6Addr>,
    egress4: BTreeSet<Ipv4Addr>,
    egress6: BTreeSet<Ipv6Addr>,
    changed4: BTreeSet<Ipv4Addr>,
    changed6: BTreeSet<Ipv6Addr>,
}

impl Contents {
    /// Contents for these open addresses and recently changed addresses. An IPv4-mapped IPv6 address counts
    /// as the IPv4 address (semantics 26).
    pub(super) fn new(open: &OpenAddresses, changed: impl IntoIterator<Item = IpAddr>) -> Self {
        let (ingress4, ingress6) = by_family(open.ingress.iter().copied());
        let (egress4, egress6) = by_family(open.egress.iter().copied());
        let (changed4, changed6) = by_family(changed);
        Self { ingress4, ingress6, egress4, egress6, changed4, changed6 }
    }

    /// Creates the sets if they don't exist.
    pub(super) fn create(batch: &mut Batch) {
        for (id, name) in (1..).zip([OPEN_INGRESS_4, OPEN_EGRESS_4, REVALIDATED_4, CHANGED_4]) {
            create::<Ipv4Addr>(batch, name, id);
        }
        for (id, name) in (5..).zip([OPEN_INGRESS_6, OPEN_EGRESS_6, REVALIDATED_6, CHANGED_6]) {
            create::<Ipv6Addr>(batch, name, id);
        }
    }

    /// Empties the sets and fills them with these elements, whatever they contain.
    pub(super) fn fill(&self, batch: &mut Batch) {
        for name in [OPEN_INGRESS_4, OPEN_INGRESS_6, OPEN_EGRESS_4, OPEN_EGRESS_6, CHANGED_4, CHANGED_6] {
            flush(batch, name);
        }
        elements(batch, OPEN_INGRESS_4, MsgType::Add, &self.ingress4);
        elements(batch, OPEN_INGRESS_6, MsgType::Add, &self.ingress6);
        elements(batch, OPEN_EGRESS_4, MsgType::Add, &self.egress4);
        elements(batch, OPEN_EGRESS_6, MsgType::Add, &self.egress6);
        elements(batch, CHANGED_4, MsgType::Add, &self.changed4);
        elements(batch, CHANGED_6, MsgType::Add, &self.changed6);
    }

    /// Turns sets that contain `old` into sets that contain these elements. Only the differences are sent.
    pub(super) fn change_from(&self, old: &Self, batch: &mut Batch) {
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

fn create<Address: DataType>(batch: &mut Batch, name: &'static str, id: u32) {
    batch.library(Subject::plain(format!("set {name}")), |library| {
        // The builder requires that the table has a name, which it has.
        if let Ok(builder) = SetBuilder::<Address>::new(name, &INET.library()) {
            let (mut set, _) = builder.finish();
            set.family = rustables::ProtocolFamily::Inet;
            library.add(&set.with_id(id).with_flags(0_u32), MsgType::Add);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_counts_as_ipv4() {
        let open = OpenAddresses {
            ingress: ["::ffff:10.0.0.1".parse().expect("an address")].into(),
            egress: ["fd00::1".parse().expect("an address")].into(),
        };
        let contents = Contents::new(&open, []);
        assert_eq!(contents.ingress4, [Ipv4Addr::new(10, 0, 0, 1)].into());
        assert!(contents.ingress6.is_empty() && contents.egress4.is_empty());
        assert_eq!(contents.egress6.len(), 1);
    }

    #[test]
    fn no_difference_sends_no_message() {
        let open =
            OpenAddresses { ingress: ["10.0.0.1".parse().expect("an address")].into(), egress: [].into() };
        let contents = Contents::new(&open, []);
        let mut batch = Batch::default();
        contents.change_from(&contents.clone(), &mut batch);
        assert!(batch.is_empty());
    }
}
