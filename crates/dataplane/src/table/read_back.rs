//! What the keys of the kernel's sets say, read back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::ports::{Attachment, InterfaceIndex, Mac, Port};

/// The interface with which a key begins.
pub(super) fn index_of(key: &[u8]) -> Option<InterfaceIndex> {
    Some(InterfaceIndex(u32::from_ne_bytes(*key.first_chunk()?)))
}

/// The address that these bytes are, in network order.
pub(super) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// A port that the kernel's sets name by its number alone.
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
