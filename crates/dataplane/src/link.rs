//! The types by which links, ports and overlays are described.

use std::fmt;

/// The UDP ports of Flannel's WireGuard devices. rtnetlink does not show a device's port.
pub(crate) const FLANNELS_WIREGUARD: [u16; 2] = [51820, 51821];

/// An interface's number in a network namespace (`ifindex`), at least 1. A new interface never gets the
/// number of an existing one.
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

/// How a pod is attached to the node (the CNI specification's term).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Attachment {
    /// By a veth that is plugged into the pods' bridge (CNI plugins bridge and flannel).
    Bridged,
    /// By a separate veth, with a route to the pod (CNI plugin ptp).
    Routed,
}

/// A protocol in which nodes encapsulate pods' packets to other nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Overlay {
    /// A UDP port: VXLAN, Geneve, WireGuard, Flannel's UDP backend.
    Udp(u16),
    /// An IP protocol: IPIP, ESP.
    Protocol(u8),
}

impl Overlay {
    /// Whether receivers authenticate the sender of a packet by a key. Receivers of other overlays accept
    /// packets from any address.
    pub(crate) fn is_authenticated(self) -> bool {
        match self {
            Self::Udp(port) => FLANNELS_WIREGUARD.contains(&port),
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
