//! The two address families, and the names of the sets about each.

use super::{pod_cidrs, sets};
use crate::nft::expression::{Address, Comparison, Expression, Meta, Payload};
use crate::numbers::{NFPROTO_IPV4, NFPROTO_IPV6};

/// The allowed flows, IPv4.
pub(super) const ALLOWED_4: &str = "allowed4";
/// The allowed flows, IPv6.
pub(super) const ALLOWED_6: &str = "allowed6";
/// The IPv4 addresses of all nodes.
pub(super) const NODE_ADDRESSES_4: &str = "node-addresses4";
/// The IPv6 addresses of all nodes.
pub(super) const NODE_ADDRESSES_6: &str = "node-addresses6";

/// The protocols whose flows are cached: those with ports.
pub(super) const WITH_PORTS: &str = "protocols-with-ports";

/// An address family: its number (`NFPROTO_`), and the names of the sets about it.
pub(super) struct Family {
    pub(super) number: u8,
    pub(super) payload: fn(Address) -> Payload,
    /// The length of an address in 32-bit words.
    pub(super) words: u32,
    pub(super) allowed: &'static str,
    pub(super) revalidated: &'static str,
    pub(super) changed: &'static str,
    pub(super) node_addresses: &'static str,
    pub(super) pod_cidrs: &'static str,
    pub(super) open_ingress: &'static str,
    pub(super) open_egress: &'static str,
}

/// Both families.
pub(super) const FAMILIES: [Family; 2] = [
    Family {
        number: NFPROTO_IPV4,
        payload: Payload::V4,
        words: 1,
        allowed: ALLOWED_4,
        revalidated: sets::REVALIDATED_4,
        changed: sets::CHANGED_4,
        node_addresses: NODE_ADDRESSES_4,
        pod_cidrs: pod_cidrs::POD_CIDRS_4,
        open_ingress: sets::OPEN_INGRESS_4,
        open_egress: sets::OPEN_EGRESS_4,
    },
    Family {
        number: NFPROTO_IPV6,
        payload: Payload::V6,
        words: 4,
        allowed: ALLOWED_6,
        revalidated: sets::REVALIDATED_6,
        changed: sets::CHANGED_6,
        node_addresses: NODE_ADDRESSES_6,
        pod_cidrs: pod_cidrs::POD_CIDRS_6,
        open_ingress: sets::OPEN_INGRESS_6,
        open_egress: sets::OPEN_EGRESS_6,
    },
];

impl Family {
    /// Matches if the packet is of this family.
    pub(super) fn is_it(&self) -> [Expression; 2] {
        [Expression::LoadMeta(Meta::Family), Expression::Compare(Comparison::Equal, vec![self.number])]
    }
}
