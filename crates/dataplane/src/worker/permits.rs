//! Permits to hold a packet: a semaphore that all workers of an agent share, with a quota for each sender.
//!
//! Invariant: the permits taken are at most the limit, at most a quota for each sender, and at most half of
//! the limit for all senders that are identified by source address alone. So a flood leaves permits for
//! others, even from a pod that may send from any address (`--exempt-origin`) or from a host outside. Taking
//! a permit never blocks.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::link::InterfaceIndex;

/// The quota of one sender is one permit in this many...
const SENDERS: u32 = 16;
/// ... but at least this many: what a starting pod sends at once.
const MIN_QUOTA: u32 = 8;
/// Senders are counted by their hash. Two that share a count share a quota.
const COUNTS: usize = 1024;

/// The sender of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Sender {
    /// The bridge port where it entered.
    Port(InterfaceIndex),
    /// Its source address, where the kernel does not report the port: between two pods of one bridge, whose
    /// sources were checked at their ports, on routed ports, and from other nodes.
    Source(IpAddr),
}

impl Sender {
    /// The sender of a packet from `source` that entered at this port; 0 if the kernel does not report it.
    pub(crate) fn new(port: InterfaceIndex, source: IpAddr) -> Self {
        if port.0 == 0 { Self::Source(source) } else { Self::Port(port) }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Permits {
    limit: u32,
    quota: u32,
    taken: AtomicU32,
    /// The part of `taken` by senders that are identified by source address alone.
    by_source: AtomicU32,
    by_sender: Box<[AtomicU32]>,
    /// Keyed by this process, so that no sender can predict whose count it shares.
    hasher: RandomState,
}

/// A permit, which must be given back by [`Permits::release`].
#[derive(Debug)]
pub(crate) struct Permit {
    /// The index of the sender's count.
    count: usize,
    is_by_source: bool,
}

impl Permits {
    /// Permits for this many packets, which all workers together hold at most.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit,
            quota: (limit / SENDERS).max(MIN_QUOTA),
            taken: AtomicU32::new(0),
            by_source: AtomicU32::new(0),
            by_sender: (0..COUNTS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Takes a permit for a packet from `sender`; `None` if ANY limit is reached: the sender's quota, the
    /// half of the senders identified by address, or the limit of all.
    pub(crate) fn take(&self, sender: Sender) -> Option<Permit> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash select a count")]
        let count = self.hasher.hash_one(sender) as usize % COUNTS;
        let is_by_source = matches!(sender, Sender::Source(_));
        let half = (self.limit / 2).max(MIN_QUOTA);
        let limits = [
            Some((&self.by_sender[count], self.quota)),
            is_by_source.then_some((&self.by_source, half)),
            Some((&self.taken, self.limit)),
        ];
        for (index, (counter, limit)) in limits.into_iter().flatten().enumerate() {
            if !add_one(counter, limit) {
                limits.into_iter().flatten().take(index).for_each(|(counter, _)| subtract_one(counter));
                return None;
            }
        }
        Some(Permit { count, is_by_source })
    }

    /// Gives a permit back.
    pub(crate) fn release(&self, permit: Permit) {
        subtract_one(&self.taken);
        subtract_one(&self.by_sender[permit.count]);
        if permit.is_by_source {
            subtract_one(&self.by_source);
        }
    }
}

/// Adds one if the count is below `limit`. Returns whether it was.
fn add_one(count: &AtomicU32, limit: u32) -> bool {
    count.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1)).is_ok()
}

fn subtract_one(count: &AtomicU32) {
    count.fetch_sub(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> Sender {
        Sender::new(InterfaceIndex(0), [10, 244, 1, number].into())
    }

    /// Takes as many permits as possible for a port whose pod sends each packet from another address.
    fn flood(permits: &Permits, port: u32) -> Vec<Permit> {
        let sender = |number| Sender::new(InterfaceIndex(port), [192, 0, 2, number].into());
        (0..=255).map_while(|number| permits.take(sender(number))).collect()
    }

    #[test]
    fn a_flood_from_one_address_takes_at_most_its_quota() {
        let permits = Permits::new(320);
        let flood: Vec<Permit> = std::iter::from_fn(|| permits.take(source(1))).collect();
        assert_eq!(flood.len(), 20);
        // A few may share the flood's count.
        let others = (2..102).filter(|&number| permits.take(source(number)).is_some()).count();
        assert!(others >= 90, "{others} of 100 others got a permit");
        flood.into_iter().for_each(|permit| permits.release(permit));
        assert!(permits.take(source(1)).is_some(), "its permits are free again");
    }

    #[test]
    fn a_flood_from_one_port_takes_that_ports_quota_regardless_of_its_sources() {
        let permits = Permits::new(320);
        assert_eq!(flood(&permits, 7).len(), 20);
        assert!(permits.take(source(1)).is_some());
        assert!((8..20).any(|port| flood(&permits, port).len() == 20));
    }

    #[test]
    fn a_flood_from_many_addresses_leaves_half_of_the_permits_to_ports() {
        let permits = Permits::new(320);
        assert_eq!(flood(&permits, 0).len(), 160);
        // A few may share a count.
        let of_ports: usize = (1..=200).map(|port| flood(&permits, port).len()).sum();
        assert_eq!(of_ports, 160);
    }

    #[test]
    fn at_most_the_limit_is_taken() {
        let permits = Permits::new(10);
        let mut taken: Vec<Permit> =
            (1..=255).filter_map(|port| permits.take(Sender::Port(InterfaceIndex(port)))).collect();
        assert_eq!(taken.len(), 10);
        assert!(permits.take(source(1)).is_none());
        permits.release(taken.remove(0));
        assert!(permits.take(source(1)).is_some());
        assert!(Permits::new(0).take(source(1)).is_none());
    }
}
