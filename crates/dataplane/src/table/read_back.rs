//! Decodes keys that are read back from the kernel's sets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::ports::{Attachment, InterfaceIndex, Mac, Port};

/// The interface at the start of a key.
pub(super) fn index_of(key: &[u8]) -> Option<InterfaceIndex> {
    Some(InterfaceIndex(u32::from_ne_bytes(*key.first_chunk()?)))
}

/// The address in these bytes, in network order.
pub(super) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// A port known only by its number in the kernel's sets.
pub(super) fn unnamed(attachment: Attachment) -> Port {
    Port {
        name: "".into(),
        attachment,
        mac: Mac::default(),
        addresses: BTreeSet::new(),
        is_settled: false,
        is_exempt: false,
        is_confirmed: false,
        has_lost: false,
    }
}
