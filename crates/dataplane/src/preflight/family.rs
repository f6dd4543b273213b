//! The names of netfilter's families.

/// The name of a family in `nft`'s syntax.
pub(super) fn family_name(family: u8) -> &'static str {
    match family.into() {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        libc::NFPROTO_BRIDGE => "bridge",
        libc::NFPROTO_ARP => "arp",
        libc::NFPROTO_NETDEV => "netdev",
        _ => "unknown",
    }
}
