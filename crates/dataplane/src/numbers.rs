//! Numbers of the kernel's headers, in the width that they have in messages and packets. `libc` and
//! `rustables` have them as wider integers.
//!
//! Invariant: a number that does not fit its width does not compile.

/// A netfilter family: all of them.
pub(crate) const NFPROTO_UNSPEC: u8 = byte(libc::NFPROTO_UNSPEC);
/// A netfilter family: IPv4 and IPv6 in one table.
pub(crate) const NFPROTO_INET: u8 = byte(libc::NFPROTO_INET);
/// A netfilter family: IPv4.
pub(crate) const NFPROTO_IPV4: u8 = byte(libc::NFPROTO_IPV4);
/// A netfilter family: IPv6.
pub(crate) const NFPROTO_IPV6: u8 = byte(libc::NFPROTO_IPV6);
/// A netfilter family: frames at the hooks of bridges.
pub(crate) const NFPROTO_BRIDGE: u8 = byte(libc::NFPROTO_BRIDGE);

/// The IP protocol ICMP (RFC 792).
pub(crate) const IPPROTO_ICMP: u8 = byte(libc::IPPROTO_ICMP);
/// The IP protocol IGMP (RFC 9776).
pub(crate) const IPPROTO_IGMP: u8 = byte(libc::IPPROTO_IGMP);
/// The IP protocol TCP (RFC 9293).
pub(crate) const IPPROTO_TCP: u8 = byte(libc::IPPROTO_TCP);
/// The IP protocol UDP (RFC 768).
pub(crate) const IPPROTO_UDP: u8 = byte(libc::IPPROTO_UDP);
/// The number of IPv6's fragment header (RFC 8200).
pub(crate) const IPPROTO_FRAGMENT: u8 = byte(libc::IPPROTO_FRAGMENT);
/// The IP protocol ICMPv6 (RFC 4443).
pub(crate) const IPPROTO_ICMPV6: u8 = byte(libc::IPPROTO_ICMPV6);
/// The IP protocol SCTP (RFC 9260).
pub(crate) const IPPROTO_SCTP: u8 = byte(libc::IPPROTO_SCTP);

/// The type of a netlink message with an error.
pub(crate) const NLMSG_ERROR: u16 = two_bytes(libc::NLMSG_ERROR.cast_unsigned());
/// The attribute of a batch with the ruleset's generation.
pub(crate) const NFNL_BATCH_GENID: u16 = two_bytes(rustables::sys::NFNL_BATCH_GENID);

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked during compilation")]
const fn byte(number: i32) -> u8 {
    assert!(0 <= number && number <= u8::MAX as i32, "the number has one byte");
    number as u8
}

#[expect(clippy::cast_possible_truncation, reason = "checked during compilation")]
const fn two_bytes(number: u32) -> u16 {
    assert!(number <= u16::MAX as u32, "the number has two bytes");
    number as u16
}
