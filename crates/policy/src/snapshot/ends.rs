//! The two ends of a packet, as the rules of each direction see them.

use crate::decision::Direction;
use crate::packet::Packet;
use crate::snapshot::address::Address;
use crate::snapshot::hosts::{Host, HostPod};
use crate::snapshot::ports::Target;
use crate::snapshot::ruleset::PeerFacts;

/// Whether the pod at an end has unknown labels that policies refer to.
#[inline]
pub(super) fn is_provisional(host: Option<&Host>) -> bool {
    host.and_then(|host| host.pod.as_ref()).is_some_and(HostPod::is_provisional)
}

/// The two ends of a packet: addresses, and the entries that they have in the ipcache.
pub(super) struct Ends<'a, A> {
    pub source_address: A,
    pub destination_address: A,
    pub source: Option<&'a Host>,
    pub destination: Option<&'a Host>,
}

impl<A: Address> Ends<'_, A> {
    /// The peer, seen from the pod that `direction` is about.
    #[inline(always)]
    pub fn peer(&self, direction: Direction) -> PeerFacts<A> {
        let address = match direction {
            Direction::Ingress => self.source_address,
            Direction::Egress => self.destination_address,
        };
        PeerFacts {
            address,
            class: self.peer_host(direction).and_then(|host| host.pod.as_ref()).map(|pod| pod.class()),
        }
    }

    /// The ipcache entry of the pod that `direction` is about.
    #[inline(always)]
    pub fn host(&self, direction: Direction) -> Option<&Host> {
        match direction {
            Direction::Ingress => self.destination,
            Direction::Egress => self.source,
        }
    }

    /// The ipcache entry of the peer.
    #[inline(always)]
    pub fn peer_host(&self, direction: Direction) -> Option<&Host> {
        match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }

    /// The packet's destination. Named ports are the destination pod's in both directions (semantics 17).
    #[inline(always)]
    pub fn target(&self, packet: &Packet) -> Target<'_> {
        let names = self.destination.and_then(|host| host.pod.as_ref()).and_then(|pod| pod.ports.as_deref());
        Target { protocol: packet.protocol, port: packet.destination_port, names }
    }
}
