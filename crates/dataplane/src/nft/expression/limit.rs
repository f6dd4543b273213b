//! A rate limit per key of a set.

use std::time::Duration;

use rustables::sys;

use super::encode::encode_timed;
use crate::netlink::Attributes;

/// A token bucket of packets (`nft_limit`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rate {
    /// How many tokens are added per period.
    pub packets: u64,
    /// The period in seconds.
    pub seconds: u64,
    /// How many tokens the bucket holds. It starts full.
    pub burst: u32,
}

pub(super) fn encode_limit(data: &mut Attributes<'_>, set: &str, rate: Rate, stay: Duration, flags: u32) {
    encode_timed(data, set, sys::NFT_DYNSET_OP_UPDATE, stay);
    data.nested(sys::NFTA_DYNSET_EXPR, |limit| {
        limit.string(sys::NFTA_EXPR_NAME, "limit").nested(sys::NFTA_EXPR_DATA, |data| {
            data.bytes(sys::NFTA_LIMIT_RATE, &rate.packets.to_be_bytes())
                .bytes(sys::NFTA_LIMIT_UNIT, &rate.seconds.to_be_bytes())
                .be32(sys::NFTA_LIMIT_BURST, rate.burst)
                .be32(sys::NFTA_LIMIT_TYPE, sys::NFT_LIMIT_PKTS)
                .be32(sys::NFTA_LIMIT_FLAGS, flags);
        });
    });
}
