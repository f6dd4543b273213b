//! Packets that rules drop without queueing them to a worker: the reason, the count, and samples.
//!
//! ```text
//!  a rule drops a packet --> counter of its reason and sender        (read once a second)
//!                        \-> NFLOG, a sample a second at most    --> [ DropSample ]
//! ```
//!
//! So a flood takes neither a queue slot nor a record for each packet, but each of its packets is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use policy::Packet;

use crate::link::{InterfaceIndex, Mac};

/// Why a rule drops a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// The source address, the hardware address, or the sender that ARP or neighbour discovery claims is not
    /// bound to the port (semantics 30).
    SpoofedSource,
    /// The frame has a VLAN tag, or contains neither IP nor ARP (semantics 32).
    EtherType,
    /// A pod sends a router advertisement, a redirect or a multicast query (semantics 32).
    RouterAdvertisement,
    /// A neighbour discovery message is longer than any that is valid here (semantics 31), or ICMPv6 other
    /// than echo is fragmented (RFC 6980).
    NeighbourDiscovery,
    /// A packet to a multicast, broadcast or link-local address comes from a pod whose egress is isolated, or
    /// goes to a pod whose ingress is isolated (semantics 31).
    IsolatedScope,
    /// The bridge would send a frame to a port to which its destination is not bound (semantics 31).
    UnboundDestination,
    /// A pod sends the nodes' overlay protocol to a node (semantics 32), or out of the pod network.
    Overlay,
    /// A packet of the nodes' overlay protocol has a source that is not a node's address.
    ForeignOverlay,
    /// A packet from outside the node has one of this node's own addresses as its source (semantics 33).
    LocalSource,
    /// A TCP packet from or to an isolated pod neither belongs to a connection nor begins one.
    InvalidTcp,
    /// A packet belongs to a connection that policy has cut, whether or not conntrack still has an entry for
    /// it (semantics 35).
    Revoked,
    /// The port was not bound in time.
    UnboundPort,
    /// Policy denied the flow less than a cache lifetime ago, and no change has affected it since. This
    /// counts only the packets that are not recorded one by one.
    DeniedFlow,
    /// The sender exceeds its quota of the workers' queues.
    QueueQuota,
    /// A queue to the workers was full. The packets may be from any sender; they are counted for the sender
    /// with the most queued packets.
    QueueFull,
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::SpoofedSource,
        Self::EtherType,
        Self::RouterAdvertisement,
        Self::NeighbourDiscovery,
        Self::IsolatedScope,
        Self::UnboundDestination,
        Self::Overlay,
        Self::ForeignOverlay,
        Self::LocalSource,
        Self::InvalidTcp,
        Self::Revoked,
        Self::UnboundPort,
        Self::DeniedFlow,
        Self::QueueQuota,
        Self::QueueFull,
    ];

    /// The stable name of the reason, used in records and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::SpoofedSource => "spoofed-source",
            Self::EtherType => "ether-type",
            Self::RouterAdvertisement => "router-advertisement",
            Self::NeighbourDiscovery => "neighbour-discovery",
            Self::IsolatedScope => "isolated-scope",
            Self::UnboundDestination => "unbound-destination",
            Self::Overlay => "overlay",
            Self::ForeignOverlay => "foreign-overlay",
            Self::LocalSource => "local-source",
            Self::InvalidTcp => "invalid-tcp",
            Self::Revoked => "revoked",
            Self::UnboundPort => "unbound-port",
            Self::DeniedFlow => "denied-flow",
            Self::QueueQuota => "queue-quota",
            Self::QueueFull => "queue-full",
        }
    }

    /// The reason as a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::SpoofedSource => {
                "the source does not belong to the pod behind the port where the packet entered"
            }
            Self::EtherType => "pods send IP and ARP without VLAN tags only",
            Self::RouterAdvertisement => {
                "router advertisements, redirects and multicast queries come only from the node"
            }
            Self::NeighbourDiscovery => {
                "the message is longer than neighbour discovery needs, or is ICMPv6 in fragments"
            }
            Self::IsolatedScope => {
                "multicast, broadcast and link-local packets neither leave nor reach a pod that is isolated \
                 in that direction"
            }
            Self::UnboundDestination => {
                "the destination does not belong to the pod behind the port where the packet would leave"
            }
            Self::Overlay => {
                "pods do not send the nodes' overlay protocol to nodes, nor out of the pod network"
            }
            Self::ForeignOverlay => {
                "the nodes' overlay protocol comes only from nodes (--overlay-sources=nodes)"
            }
            Self::LocalSource => {
                "a packet that arrives from elsewhere has one of this node's own addresses as its source"
            }
            Self::InvalidTcp => "the TCP packet belongs to no connection and begins none",
            Self::Revoked => "policy has cut the connection, and it has not been silent for an hour since",
            Self::UnboundPort => "which addresses belong behind the port was not known in time",
            Self::DeniedFlow => {
                "policy has just denied a packet with these addresses, protocol and port, and too many \
                 follow to record each"
            }
            Self::QueueQuota => "the sender begins more flows than its share of the workers' queues allows",
            Self::QueueFull => "a queue to the workers was full; this sender had queued the most packets",
        }
    }

    /// Whether packets are counted by their source address and not by the interface where they entered, which
    /// is unknown at the hooks that drop them. Their source was checked before.
    pub(crate) fn is_by_source(self) -> bool {
        matches!(
            self,
            Self::Overlay
                | Self::ForeignOverlay
                | Self::InvalidTcp
                | Self::Revoked
                | Self::DeniedFlow
                | Self::QueueQuota
                | Self::QueueFull
        )
    }

    /// The reason's number in the kernel's sets.
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    /// The reason with this stable name.
    pub(crate) fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The origin of a dropped packet, as far as the rule's hook shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropOrigin {
    /// The interface where it entered; on a bridge, the port.
    Interface(InterfaceIndex),
    /// Its source address.
    Source(IpAddr),
}

/// Dropped packets are counted by origin and reason.
pub type DropKey = (DropOrigin, DropReason);

/// Counts of dropped packets since the rules were first installed.
pub type DropCounts = BTreeMap<DropKey, u64>;

/// A sample of the packets that were dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DropSample {
    /// Why it was dropped.
    pub reason: DropReason,
    /// The interface where it entered; on a bridge, the port. 0 if it is unknown at the rule's hook.
    pub interface: InterfaceIndex,
    /// The frame's source; `None` where it has no Ethernet header.
    pub mac: Option<Mac>,
    /// The protocol after the Ethernet header (`ETH_P_`); that of the outer VLAN tag if there is one.
    pub ether_type: Option<u16>,
    /// The packet; `None` if it is not IP, or can't be parsed.
    pub packet: Option<Packet>,
    /// Whether it is counted by its interface regardless of the reason: it was dropped on the bridge, or by
    /// the queue of new ports.
    pub is_by_interface: bool,
}

impl DropSample {
    /// The key by which it is counted; `None` if that is its source and the packet could not be parsed.
    pub fn key(&self) -> Option<DropKey> {
        let origin = match self.reason.is_by_source() && !self.is_by_interface {
            true => DropOrigin::Source(self.packet?.source()),
            false => DropOrigin::Interface(self.interface),
        };
        Some((origin, self.reason))
    }
}

/// The log prefix of a dropped packet, which the reason's name follows.
pub(crate) const DROP_PREFIX: &str = "kube-verdict drop ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_number_name_and_sentence() {
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.number() as usize, number);
            assert_eq!(DropReason::from_code(reason.code()), Some(reason));
            assert!(!reason.sentence().is_empty());
            // The kernel takes 127 bytes of a log prefix.
            assert!(DROP_PREFIX.len() + reason.code().len() < 64);
        }
    }
}
