//! The sets of this node's pod CIDRs.
//!
//! From: the agent's configuration and the node object. To: the rules that queue packets. Invariant: whenever
//! the rules are in force, the sets contain what these rules expect.
//!
//! Therefore these sets are written in a batch of their own, BEFORE the batch that contains the rules. The
//! kernel replaces the content of a set with intervals at the end of a commit, a moment after the batch's
//! rules are in force (`nft_set_commit_update` in net/netfilter/nf_tables_api.c). In a new set, a packet
//! would find no address meanwhile. It would pass as a packet that no policy concerns, and its connection
//! would be marked as accepted.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;
use rustables::set::SetBuilder;
use rustables::{MsgType, sys};

use super::names::{INET, TABLE};
use super::objects::add_table;
use crate::netlink::{self, AttributeReader, Attributes, NetlinkError, Socket};
use crate::nft::batch::{Batch, Refusal, Subject};
use crate::nft::set::{Carries, KeyType, Set};

/// This node's pod CIDRs, IPv4.
pub(super) const POD_CIDRS_4: &str = "pod-cidrs4";
/// This node's pod CIDRs, IPv6.
pub(super) const POD_CIDRS_6: &str = "pod-cidrs6";

/// Elements per message: a list is an attribute, which is limited to 64 KiB.
const ELEMENTS_A_MESSAGE: usize = 1000;

/// What both sets contain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PodCidrs {
    v4: Vec<Boundary>,
    v6: Vec<Boundary>,
}

/// The start of an interval, or the first address after its end: the form in which the kernel stores it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Boundary {
    /// The address in network order.
    address: Vec<u8>,
    is_end: bool,
}

impl PodCidrs {
    pub(super) fn new(cidrs: &[IpNet]) -> Self {
        let (mut ranges4, mut ranges6) = (Vec::new(), Vec::new());
        for cidr in cidrs {
            match cidr {
                IpNet::V4(net) => {
                    ranges4.push((net.network().to_bits().into(), net.broadcast().to_bits().into()))
                }
                IpNet::V6(net) => ranges6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: boundaries(ranges4, 4), v6: boundaries(ranges6, 16) }
    }

    /// What the kernel's sets contain; `None` if one of them does not exist.
    ///
    /// # Errors
    /// [`NetlinkError`] if they can't be read.
    fn read(socket: &mut Socket) -> Result<Option<Self>, NetlinkError> {
        let v4 = read_boundaries(socket, POD_CIDRS_4, &[KeyType::Ipv4])?;
        let v6 = read_boundaries(socket, POD_CIDRS_6, &[KeyType::Ipv6])?;
        Ok(v4.zip(v6).map(|(v4, v6)| Self { v4, v6 }))
    }

    /// Creates the table and the sets if they don't exist, and makes the sets contain these networks. Does
    /// nothing if they already do. Returns whether the kernel was changed, and thus has a newer generation of
    /// the ruleset than this one.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was changed.
    pub(super) fn write(&self, socket: &mut Socket, generation: u32) -> Result<bool, Refusal> {
        if Self::read(socket).map_err(Refusal::Socket)?.as_ref() == Some(self) {
            return Ok(false);
        }
        let mut batch = Batch::default();
        self.create(&mut batch);
        batch.commit(socket, Some(generation)).map(|()| true)
    }

    /// Creates the table and the sets if they don't exist, and fills the sets, whatever they contain.
    pub(super) fn create(&self, batch: &mut Batch) {
        add_table(batch);
        let subject = |name| Subject::plain(format!("set {name}"));
        batch.library(subject(POD_CIDRS_4), |library| {
            // The builder requires that the table has a name, which it has.
            if let Ok(builder) = SetBuilder::<Ipv4Addr>::new(POD_CIDRS_4, &INET.library()) {
                library.add(&with_intervals(builder.finish().0, 1), MsgType::Add);
            }
        });
        batch.library(subject(POD_CIDRS_6), |library| {
            if let Ok(builder) = SetBuilder::<Ipv6Addr>::new(POD_CIDRS_6, &INET.library()) {
                library.add(&with_intervals(builder.finish().0, 2), MsgType::Add);
            }
        });
        self.fill(batch);
    }

    /// Empties the sets and fills them with these networks, whatever they contain.
    pub(super) fn fill(&self, batch: &mut Batch) {
        for (name, boundaries) in [(POD_CIDRS_4, &self.v4), (POD_CIDRS_6, &self.v6)] {
            let subject = Subject::plain(format!("emptying set {name}"));
            batch.raw(subject, sys::NFT_MSG_DELSETELEM, 0, |list| {
                list.string(sys::NFTA_SET_ELEM_LIST_TABLE, TABLE).string(sys::NFTA_SET_ELEM_LIST_SET, name);
            });
            add_boundaries(batch, name, boundaries);
        }
    }
}

fn with_intervals(mut set: rustables::set::Set, id: u32) -> rustables::set::Set {
    set.family = rustables::ProtocolFamily::Inet;
    set.with_id(id).with_flags(sys::NFT_SET_INTERVAL)
}

/// The boundaries in a set, sorted; `None` if it does not exist.
fn read_boundaries(
    socket: &mut Socket,
    name: &'static str,
    key: &'static [KeyType],
) -> Result<Option<Vec<Boundary>>, NetlinkError> {
    let set = Set { table: INET, name, id: 0, key, carries: Carries::Keys, size: None };
    match set.read_elements(socket, Boundary::decode) {
        Ok(mut boundaries) => {
            boundaries.sort_unstable();
            Ok(Some(boundaries))
        }
        Err(NetlinkError::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
        Err(error) => Err(error),
    }
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
    fn decode(element: &[u8]) -> Option<Self> {
        let attribute = |bytes, kind| Some(AttributeReader::new(bytes).find(|(k, _)| *k == kind)?.1);
        let key = attribute(attribute(element, sys::NFTA_SET_ELEM_KEY)?, sys::NFTA_DATA_VALUE)?;
        let flags = attribute(element, sys::NFTA_SET_ELEM_FLAGS).and_then(|flags| flags.try_into().ok());
        let is_end = u32::from_be_bytes(flags.unwrap_or_default()) & sys::NFT_SET_ELEM_INTERVAL_END != 0;
        Some(Self { address: key.to_vec(), is_end })
    }

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
        let contents = PodCidrs::new(&cidrs);
        let v4 = contents.v4.iter().map(|boundary| {
            let octets: [u8; 4] = boundary.address[..].try_into().expect("four octets");
            (Ipv4Addr::from(octets).to_string(), boundary.is_end)
        });
        let v6 = contents.v6.iter().map(|boundary| {
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
}
