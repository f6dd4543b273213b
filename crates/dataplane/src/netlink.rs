//! Messages to and from the kernel's netfilter subsystems (`include/uapi/linux/netlink.h`,
//! `netfilter/nfnetlink.h`): only what the libraries lack, and what is needed to read a large conntrack table
//! fast.
//!
//! No length that is read is trusted: a truncated message ends the iteration.

mod error;
mod message;
mod socket;

pub use error::NetlinkError;
pub(crate) use message::message_length;
pub use message::{
    ACK, APPEND, AttributeReader, Attributes, CREATE, DUMP, Header, Messages, PortId, REQUEST, Received,
};
pub use socket::Socket;
