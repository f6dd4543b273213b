//! Link-local addresses. Every IPv6 interface has one, so they don't identify the pod behind a port.

use std::net::{IpAddr, Ipv6Addr};

/// Whether an address is valid on one link only: fe80::/10 (RFC 4291, 2.5.6). IPv4's 169.254.0.0/16 does not
/// count, because nodes route it, for metadata services and DNS caches.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if is_link_local_v6(address))
}

fn is_link_local_v6(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}
