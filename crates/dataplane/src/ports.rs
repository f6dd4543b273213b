//! Which pod is behind which interface: so that a packet is from where it entered, whatever its addresses say.
//!
//! ```text
//!  rtnetlink --> [ Monitor ] --> Interfaces --+
//!                                             +--> [ Bindings::derive ] --> Bindings --> sets of the bridge table and of
//!  snapshot, CNI cache, previous bindings ----+                                         inet prerouting (`table`)
//!
//!  a packet of a port without bindings --queue--> [ PortQueue ]  waits there until the port has some --> [ check ]
//! ```
//!
//! A *port* is an interface of the node through which a pod's packets enter: a veth plugged into the pods' bridge, or, with a CNI
//! that routes, a veth of its own. A *binding* says that an address belongs behind a port.
//!
//! From: the kernel's interfaces, what the cluster says of pods. To: [`crate::table`]. Invariant: an address is bound to one port at
//! most, and stays there until the port goes or the cluster gives it to another pod (semantics 30).

mod bindings;
mod check;
mod interfaces;
mod learning;
mod link_local;
mod monitor;
mod queue;

use std::fmt;

pub use bindings::{Bindings, Conflict, Owners, Port};
pub use check::PortState;
pub use interfaces::{BridgeNetfilter, Interface, Interfaces, InterfacesError, read_interfaces};
pub use learning::set_link_local_learning;
pub(crate) use link_local::is_link_local;
pub use monitor::Monitor;
pub use queue::{PortQueue, PortQueueConfig, PortQueueCounters};

/// An interface's number in a network namespace (`ifindex`), at least 1. A new interface never gets the number of one that is there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct InterfaceIndex(pub u32);

impl fmt::Display for InterfaceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// How a port is attached to the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Attachment {
    /// Plugged into the pods' bridge (CNI plugins bridge and flannel).
    Bridged,
    /// On its own, with a route to the pod (CNI plugin ptp).
    Routed,
}

/// A protocol by which nodes carry pods' packets to one another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Overlay {
    /// A UDP port: VXLAN, Geneve, WireGuard, Flannel's UDP backend.
    Udp(u16),
    /// An IP protocol: IPIP, ESP.
    Protocol(u8),
}

impl Overlay {
    /// Whether a receiver knows by a key who sent a packet. Others take packets from any address.
    pub(crate) fn is_authenticated(self) -> bool {
        match self {
            Self::Udp(port) => interfaces::FLANNELS_WIREGUARD.contains(&port),
            Self::Protocol(protocol) => i32::from(protocol) == libc::IPPROTO_ESP,
        }
    }
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(port) => write!(f, "{port}/udp"),
            Self::Protocol(protocol) => write!(f, "protocol {protocol}"),
        }
    }
}
