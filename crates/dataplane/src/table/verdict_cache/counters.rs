//! The kernel's counts of the verdict cache's hits.

use rustables::sys;

use super::{allowed, denied, untracked};
use crate::netlink::{self, AttributeReader, Header, Messages, Socket};
use crate::nft::batch::{Batch, Subject};
use crate::nft::{FAMILY, message_kind};
use crate::table::error::TableError;
use crate::table::names::TABLE;
use crate::table::socket::open;

/// Creates the counters if they don't exist.
pub(super) fn create(batch: &mut Batch) {
    for counter in [allowed::COUNTER, denied::COUNTER, untracked::COUNTER] {
        let modules = "nft_counter".to_owned();
        let subject = Subject { object: format!("counter {counter}"), modules };
        batch.raw(subject, sys::NFT_MSG_NEWOBJ, netlink::CREATE, |object| {
            object
                .string(sys::NFTA_OBJ_TABLE, TABLE)
                .string(sys::NFTA_OBJ_NAME, counter)
                .be32(sys::NFTA_OBJ_TYPE, sys::NFT_OBJECT_COUNTER)
                .nested(sys::NFTA_OBJ_DATA, |_| {});
        });
    }
}

/// The kernel's counts of connections that passed, and of packets that were dropped, because their flow was
/// cached.
#[derive(Debug)]
pub struct CacheCounters {
    socket: Socket,
}

impl CacheCounters {
    /// Opens the counters of the calling thread's network namespace.
    pub fn open() -> Result<Self, TableError> {
        Ok(Self { socket: open()? })
    }

    /// How many connections of allowed flows passed since the table was created, under previous agents too.
    ///
    /// # Errors
    /// [`TableError::Refused`] if there is no table.
    pub fn count(&mut self) -> Result<u64, TableError> {
        self.read(allowed::COUNTER)
    }

    /// How many packets of denied flows were dropped since the table was created.
    ///
    /// # Errors
    /// [`TableError::Refused`] if there is no table.
    pub fn denied(&mut self) -> Result<u64, TableError> {
        self.read(denied::COUNTER)
    }

    /// How many packets without a connection passed because their flow was cached as allowed, since the table
    /// was created.
    ///
    /// # Errors
    /// [`TableError::Refused`] if there is no table.
    pub fn untracked(&mut self) -> Result<u64, TableError> {
        self.read(untracked::COUNTER)
    }

    fn read(&mut self, counter: &str) -> Result<u64, TableError> {
        let sequence = self.socket.next_sequence();
        let mut request = Messages::default();
        let kind = message_kind(sys::NFT_MSG_GETOBJ);
        request.push(Header { kind, flags: netlink::REQUEST, sequence, family: FAMILY }, |object| {
            object
                .string(sys::NFTA_OBJ_TABLE, TABLE)
                .string(sys::NFTA_OBJ_NAME, counter)
                .be32(sys::NFTA_OBJ_TYPE, sys::NFT_OBJECT_COUNTER);
        });
        let read = self.socket.request(request.as_bytes(), sequence, |answer| {
            let attribute = |bytes, kind| Some(AttributeReader::new(bytes).find(|(k, _)| *k == kind)?.1);
            let data = attribute(answer.attributes, sys::NFTA_OBJ_DATA)?;
            Some(u64::from_be_bytes(attribute(data, sys::NFTA_COUNTER_PACKETS)?.try_into().ok()?))
        });
        read.map_err(TableError::from_reading)
    }
}
