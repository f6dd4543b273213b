//! The two ends of a packet, as the rules of each direction see them.

use crate::decision::Direction;
use crate::packet::Packet;
use crate::snapshot::address::Address;
use crate::snapshot::ipcache::{IpCacheEntry, PodEntry};
use crate::snapshot::ports::Target;
use crate::snapshot::ruleset::PacketPeer;

/// Whether the pod at an end has unknown labels that policies refer to.
#[inline]
pub(super) fn is_provisional(entry: Option<&IpCacheEntry>) -> bool {
    entry.and_then(|entry| entry.pod.as_ref()).is_some_and(PodEntry::is_provisional)
}

/// The two ends of a packet: addresses, and the entries that they have in the ipcache.
pub(super) struct Ends<'a, A> {
    pub source_address: A,
    pub destination_address: A,
    pub source: Option<&'a IpCacheEntry>,
    pub destination: Option<&'a IpCacheEntry>,
}

impl<A: Address> Ends<'_, A> {
    /// The peer, seen from the pod that `direction` is about.
    #[inline(always)]
    pub(super) fn peer(&self, direction: Direction) -> PacketPeer<A> {
        let address = match direction {
            Direction::Ingress => self.source_address,
            Direction::Egress => self.destination_address,
        };
        PacketPeer {
            address,
            identity: self
                .peer_entry(direction)
                .and_then(|entry| entry.pod.as_ref())
                .map(|pod| pod.identity()),
        }
    }

    /// The ipcache entry of the pod that `direction` is about.
    #[inline(always)]
    pub(super) fn subject_entry(&self, direction: Direction) -> Option<&IpCacheEntry> {
        match direction {
            Direction::Ingress => self.destination,
            Direction::Egress => self.source,
        }
    }

    /// The ipcache entry of the peer.
    #[inline(always)]
    pub(super) fn peer_entry(&self, direction: Direction) -> Option<&IpCacheEntry> {
        match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }

    /// The packet's destination. Named ports are the destination pod's in both directions (semantics 17).
    #[inline(always)]
    pub(super) fn target(&self, packet: &Packet) -> Target<'_> {
        let names =
            self.destination.and_then(|entry| entry.pod.as_ref()).and_then(|pod| pod.ports.as_deref());
        Target { protocol: packet.protocol, port: packet.destination_port, names }
    }
}
