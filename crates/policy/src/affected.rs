//! The connections with a decision that a change may alter.
//!
//! From: [`Compiler::apply`](crate::Compiler::apply), which derives it from what it recompiled. To: the
//! agent, which flushes cached verdicts, revalidates packets and sweeps connections of these addresses only.
//! Invariant: if the decision on a packet differs from that of the previous snapshot, [`Affected::contains`]
//! is true for its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// More affected addresses than this count as all. Revalidating the packets of this many pods keeps the
/// workers busier than a sweep.
pub const MAX_ADDRESSES: usize = 1024;

/// The connections that a change affects: see the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Affected {
    /// Any connection may be affected.
    #[default]
    All,
    /// Connections of at most [`MAX_ADDRESSES`] addresses, in canonical form: an IPv4 address is never
    /// IPv4-mapped.
    Addresses(BTreeMap<IpAddr, AffectedPeers>),
}

/// The peers of an address's affected connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AffectedPeers {
    /// Every address.
    Any,
    /// ANY of these addresses: those of pods with rulesets that the change of the peer makes a difference to.
    Only(Arc<BTreeSet<IpAddr>>),
}

impl Affected {
    /// No connection is affected.
    pub const NONE: Self = Self::Addresses(BTreeMap::new());

    /// All connections of these addresses.
    pub fn any_peer(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let addresses = addresses.into_iter().map(|address| (address.to_canonical(), AffectedPeers::Any));
        Self::Addresses(addresses.collect()).bounded()
    }

    /// Whether no connection is affected.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Addresses(addresses) if addresses.is_empty())
    }

    /// The addresses that have affected connections; `None` if any address may have some.
    pub fn addresses(&self) -> Option<BTreeSet<IpAddr>> {
        match self {
            Self::All => None,
            Self::Addresses(addresses) => Some(addresses.keys().copied().collect()),
        }
    }

    /// Whether ANY connection of an address, in canonical form, is affected.
    pub fn has(&self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Addresses(addresses) => addresses.contains_key(&address),
        }
    }

    /// Whether connections between these two canonical addresses are affected, no matter which end opened
    /// them.
    pub fn contains(&self, one: IpAddr, other: IpAddr) -> bool {
        let Self::Addresses(addresses) = self else { return true };
        let is_peer = |address: IpAddr, peer: IpAddr| match addresses.get(&address) {
            Some(AffectedPeers::Any) => true,
            Some(AffectedPeers::Only(peers)) => peers.contains(&peer),
            None => false,
        };
        is_peer(one, other) || is_peer(other, one)
    }

    /// The union: what either of two changes affects.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let (Self::Addresses(mut addresses), Self::Addresses(others)) = (self, other) else {
            return Self::All;
        };
        for (address, peers) in others {
            let both = match (addresses.remove(&address), peers) {
                (None, peers) => peers,
                (Some(AffectedPeers::Only(some)), AffectedPeers::Only(others)) => {
                    AffectedPeers::Only(Arc::new(&*some | &*others))
                }
                (Some(AffectedPeers::Any), _) | (Some(_), AffectedPeers::Any) => AffectedPeers::Any,
            };
            addresses.insert(address, both);
        }
        Self::Addresses(addresses).bounded()
    }

    fn bounded(self) -> Self {
        match self {
            Self::Addresses(addresses) if addresses.len() > MAX_ADDRESSES => Self::All,
            bounded => bounded,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn only(of: u8, peers: &[u8]) -> Affected {
        let peers = peers.iter().copied().map(address).collect();
        Affected::Addresses([(address(of), AffectedPeers::Only(Arc::new(peers)))].into())
    }

    #[test]
    fn a_connection_is_affected_no_matter_which_end_opened_it() {
        let affected = only(1, &[2]).or(Affected::any_peer([address(9)]));
        for (one, other, expected) in [(1, 2, true), (1, 3, false), (2, 3, false), (9, 3, true), (1, 9, true)]
        {
            assert_eq!(affected.contains(address(one), address(other)), expected, "{one} and {other}");
            assert_eq!(affected.contains(address(other), address(one)), expected, "{other} and {one}");
        }
        assert!(Affected::All.contains(address(1), address(2)));
    }

    #[test]
    fn either_of_two_changes_affects_a_connection() {
        assert_eq!(only(1, &[2]).or(only(1, &[3])), only(1, &[2, 3]));
        assert_eq!(only(1, &[2]).or(Affected::any_peer([address(1)])), Affected::any_peer([address(1)]));
        assert_eq!(Affected::any_peer([address(1)]).or(only(1, &[2])), Affected::any_peer([address(1)]));
        assert_eq!(Affected::NONE.or(Affected::NONE), Affected::NONE);
        assert_eq!(only(1, &[2]).or(Affected::All), Affected::All);
        let many = |range: std::ops::Range<u32>| {
            Affected::any_peer(range.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))))
        };
        let most = MAX_ADDRESSES as u32;
        assert_ne!(many(0..most), Affected::All);
        assert_eq!(many(0..most).or(many(most..most + 1)), Affected::All);
    }
}
