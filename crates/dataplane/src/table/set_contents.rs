//! What a group of sets contains. The sets are filled as a whole, or updated with the differences.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::nft::batch::Batch;
use crate::nft::set::{ElementVerdict, Elements, Key, Set};
use crate::ports::Overlay;

/// The elements of a group of sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SetContents {
    sets: &'static [Set],
    /// The elements by the set's name. Invariant: one entry for each of `sets`.
    elements: BTreeMap<&'static str, Elements>,
}

impl SetContents {
    /// Empty sets.
    pub(super) fn new(sets: &'static [Set]) -> Self {
        Self { sets, elements: sets.iter().map(|set| (set.name, Elements::new())).collect() }
    }

    /// Adds an element to a map.
    pub(super) fn put_verdict(&mut self, map: Set, key: Vec<u8>, verdict: ElementVerdict) {
        self.elements.entry(map.name).or_default().insert(key, Some(verdict));
    }

    /// Adds a key to a set.
    pub(super) fn put(&mut self, set: Set, key: Vec<u8>) {
        self.elements.entry(set.name).or_default().insert(key, None);
    }

    /// Adds an address to the set of its family.
    pub(super) fn put_address(&mut self, (v4, v6): (Set, Set), address: IpAddr) {
        self.put(if address.is_ipv4() { v4 } else { v6 }, Key::default().address(address).bytes());
    }

    /// Adds overlays to the sets of UDP ports and of IP protocols.
    pub(super) fn put_overlays<'a>(
        &mut self,
        (ports, protocols): (Set, Set),
        overlays: impl IntoIterator<Item = &'a Overlay>,
    ) {
        for overlay in overlays {
            match overlay {
                Overlay::Udp(port) => self.put(ports, port.to_be_bytes().to_vec()),
                Overlay::Protocol(protocol) => self.put(protocols, vec![*protocol]),
            }
        }
    }

    fn of(&self, set: &Set) -> &Elements {
        static NONE: Elements = Elements::new();
        self.elements.get(set.name).unwrap_or(&NONE)
    }

    /// Empties the sets and fills them with these elements, whatever they contain.
    pub(super) fn fill(&self, batch: &mut Batch) {
        self.sets.iter().for_each(|set| set.fill(self.of(set), batch));
    }

    /// Turns sets that contain `old` into sets that contain these elements. Adds nothing to the batch for a
    /// set that stays the same.
    pub(super) fn change_from(&self, old: &Self, batch: &mut Batch) {
        self.sets.iter().for_each(|set| set.change(old.of(set), self.of(set), batch));
    }
}
