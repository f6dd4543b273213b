//! The data that several expressions share: registers, values, verdicts and timeouts.

use std::time::Duration;

use rustables::sys::{self, nft_registers};

use crate::netlink::Attributes;
use crate::numbers::IPPROTO_FRAGMENT;

/// The 16-byte register that every expression here reads and writes. It fits an IPv6 address. A longer key
/// continues in the registers after it.
pub(super) const REGISTER: nft_registers = sys::NFT_REG_1;

/// The register this many 32-bit words after the start of register 1. A 16-byte register has two names.
pub(super) fn register(words: u32) -> nft_registers {
    if words.is_multiple_of(4) { REGISTER + words / 4 } else { sys::NFT_REG32_00 + words }
}

pub(super) fn encode_fragment_header(data: &mut Attributes<'_>, offset: u32, length: u32, flags: u32) {
    data.be32(sys::NFTA_EXTHDR_DREG, REGISTER)
        .bytes(sys::NFTA_EXTHDR_TYPE, &[IPPROTO_FRAGMENT])
        .be32(sys::NFTA_EXTHDR_OFFSET, offset)
        .be32(sys::NFTA_EXTHDR_LEN, length)
        .be32(sys::NFTA_EXTHDR_FLAGS, flags)
        .be32(sys::NFTA_EXTHDR_OP, sys::NFT_EXTHDR_OP_IPV6);
}

pub(super) fn encode_timed(data: &mut Attributes<'_>, set: &str, operation: u32, stay: Duration) {
    let milliseconds = u64::try_from(stay.as_millis()).unwrap_or(u64::MAX);
    data.string(sys::NFTA_DYNSET_SET_NAME, set)
        .be32(sys::NFTA_DYNSET_OP, operation)
        .be32(sys::NFTA_DYNSET_SREG_KEY, REGISTER)
        .bytes(sys::NFTA_DYNSET_TIMEOUT, &milliseconds.to_be_bytes());
}

pub(super) fn encode_value(data: &mut Attributes<'_>, kind: u16, value: &[u8]) {
    data.nested(kind, |nested| {
        nested.bytes(sys::NFTA_DATA_VALUE, value);
    });
}

pub(super) fn encode_verdict(data: &mut Attributes<'_>, code: i32, chain: Option<&str>) {
    data.be32(sys::NFTA_IMMEDIATE_DREG, sys::NFT_REG_VERDICT)
        .nested(sys::NFTA_IMMEDIATE_DATA, |nested| verdict_data(nested, code, chain));
}

/// A verdict as data: `NF_` or `NFT_` code, and the chain where it needs one.
pub(crate) fn verdict_data(data: &mut Attributes<'_>, code: i32, chain: Option<&str>) {
    data.nested(sys::NFTA_DATA_VERDICT, |verdict| {
        verdict.be32(sys::NFTA_VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = chain {
            verdict.string(sys::NFTA_VERDICT_CHAIN, chain);
        }
    });
}
