//! Room for the packets that all workers of an agent hold together.
//!
//! Invariant: no more places are taken than there are, and no source has more than its share: whoever floods from an address
//! that no pod has leaves room for others. Nobody waits: a place is there or it is not.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// One source has at most one place in so many...
const SHARES: u32 = 16;
/// ... but this many in any case: what a pod that starts sends at once.
const LEAST_SHARE: u32 = 8;
/// Sources are counted by their hash. Two that share a count share a share.
const COUNTS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    places: u32,
    share: u32,
    taken: AtomicU32,
    by_source: Box<[AtomicU32]>,
    /// With keys of this process's own: nobody outside can tell whose count another's address falls on.
    hasher: RandomState,
}

/// A place in a [`Room`]. To be given back: [`Room::give_back`].
#[derive(Debug)]
pub(crate) struct Place {
    /// Whose share it is of.
    count: usize,
}

impl Room {
    /// With so many places.
    pub(crate) fn new(places: u32) -> Self {
        Self {
            places,
            share: (places / SHARES).max(LEAST_SHARE),
            taken: AtomicU32::new(0),
            by_source: (0..COUNTS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Takes a place for a packet from `source`; `None` if all are taken, or all of the source's share.
    pub(crate) fn take(&self, source: IpAddr) -> Option<Place> {
        let count = self.hasher.hash_one(source) as usize % COUNTS;
        if !add_one(&self.by_source[count], self.share) {
            return None;
        }
        if !add_one(&self.taken, self.places) {
            self.by_source[count].fetch_sub(1, Relaxed);
            return None;
        }
        Some(Place { count })
    }

    /// Gives a place back.
    pub(crate) fn give_back(&self, place: Place) {
        self.taken.fetch_sub(1, Relaxed);
        self.by_source[place.count].fetch_sub(1, Relaxed);
    }
}

/// Whether there was room for one more.
fn add_one(count: &AtomicU32, most: u32) -> bool {
    count.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> IpAddr {
        [10, 244, 1, number].into()
    }

    #[test]
    fn a_flood_from_one_address_takes_its_share_and_no_more() {
        let room = Room::new(320);
        let flood: Vec<Place> = std::iter::from_fn(|| room.take(source(1))).collect();
        assert_eq!(flood.len(), 20);
        // A few may share its count.
        let others = (2..102).filter(|&number| room.take(source(number)).is_some()).count();
        assert!(others >= 90, "{others} of 100 others found a place");
        flood.into_iter().for_each(|place| room.give_back(place));
        assert!(room.take(source(1)).is_some(), "its places are free again");
    }

    #[test]
    fn no_more_are_taken_than_there_are() {
        let room = Room::new(10);
        let mut places: Vec<Place> = (0..=255).filter_map(|number| room.take(source(number))).collect();
        assert_eq!(places.len(), 10);
        places.extend(room.take(source(1)));
        assert_eq!(places.len(), 10);
        room.give_back(places.remove(0));
        assert!((0..=255).any(|number| room.take(source(number)).is_some()));
        assert!(Room::new(0).take(source(1)).is_none());
    }
}
