//! The socket through which the table is read and written.

use super::error::TableError;
use crate::netlink::Socket;

/// A socket to read and change rules, in the network namespace of the calling thread.
pub(super) fn open() -> Result<Socket, TableError> {
    Socket::open().map_err(TableError::from_reading)
}
