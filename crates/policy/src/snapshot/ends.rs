//! Who is at either end of a packet, as the rules of each direction see it.

use crate::decision::Direction;
use crate::packet::Packet;
use crate::snapshot::address::Address;
use crate::snapshot::hosts::{Host, HostPod};
use crate::snapshot::ports::Target;
use crate::snapshot::ruleset::PeerFacts;

/// Whether a pod at an end has labels that are unknown and that policies ask for.
#[inline]
pub(super) fn is_provisional(host: Option<&Host>) -> bool {
    host.and_then(|host| host.pod.as_ref()).is_some_and(HostPod::is_provisional)
}

/// Who is at either end of a packet.
pub(super) struct Ends<'a, A> {
    pub source_address: A,
    pub destination_address: A,
    pub source: Option<&'a Host>,
    pub destination: Option<&'a Host>,
}

impl<A: Address> Ends<'_, A> {
    /// The other end, as seen in `direction`.
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

    /// Who has the address of the end whose rules evaluate in `direction`.
    #[inline(always)]
    pub fn host(&self, direction: Direction) -> Option<&Host> {
        match direction {
            Direction::Ingress => self.destination,
            Direction::Egress => self.source,
        }
    }

    /// Who has the other end's address.
    #[inline(always)]
    pub fn peer_host(&self, direction: Direction) -> Option<&Host> {
        match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }

    /// Where the packet goes: named ports are the destination pod's in both directions (semantics 17).
    #[inline(always)]
    pub fn target(&self, packet: &Packet) -> Target<'_> {
        let names = self.destination.and_then(|host| host.pod.as_ref()).and_then(|pod| pod.ports.as_deref());
        Target { protocol: packet.protocol, port: packet.destination_port, names }
    }
}
