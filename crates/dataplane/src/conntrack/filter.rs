//! Filters a dump of the connection tracking table: the kernel looks at an entry's addresses before it dumps
//! the entry (`ctnetlink_filter_match`, since Linux 5.8). Older kernels ignore the attribute and dump all
//! entries.

use std::net::IpAddr;

use super::attributes::{CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY};
use crate::netlink::Attributes;
use crate::numbers::{NFPROTO_IPV4, NFPROTO_IPV6};

const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC`: compare a tuple's source.
const SOURCE: u32 = 1;

/// An end of connections as policy evaluates them (see [`Entry::evaluated`](super::Entry::evaluated)). Each
/// is the source of a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The source of the first packet.
    Source(IpAddr),
    /// Its destination after DNAT, which is the source of replies.
    Destination(IpAddr),
}

impl End {
    /// The family that the request must have: `NFPROTO_`.
    pub(super) fn family(self) -> u8 {
        match self.address() {
            IpAddr::V4(_) => NFPROTO_IPV4,
            IpAddr::V6(_) => NFPROTO_IPV6,
        }
    }

    /// Writes the filter for entries with this end to a request.
    pub(super) fn write(self, attributes: &mut Attributes<'_>) {
        let (tuple, flags) = match self {
            Self::Source(_) => (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS),
            Self::Destination(_) => (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS),
        };
        let ip = |attributes: &mut Attributes<'_>| {
            match self.address() {
                IpAddr::V4(address) => attributes.bytes(CTA_IP_V4_SRC, &address.octets()),
                IpAddr::V6(address) => attributes.bytes(CTA_IP_V6_SRC, &address.octets()),
            };
        };
        // Unlike netfilter's other numbers this one is in host byte order (`nla_get_u32`).
        let fields = |attributes: &mut Attributes<'_>| {
            attributes.bytes(flags, &SOURCE.to_ne_bytes());
        };
        let addresses = |attributes: &mut Attributes<'_>| {
            attributes.nested(CTA_TUPLE_IP, ip);
        };
        attributes.nested(tuple, addresses).nested(CTA_FILTER, fields);
    }

    fn address(self) -> IpAddr {
        match self {
            Self::Source(address) | Self::Destination(address) => address,
        }
    }
}
