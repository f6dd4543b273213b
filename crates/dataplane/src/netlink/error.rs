//! Why a netlink request failed.

use nix::errno::Errno;

/// A netlink request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetlinkError {
    /// A system call on the socket failed.
    #[error("netlink socket: {call}: {errno}")]
    Socket {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// The kernel refused a message.
    #[error("the kernel refused message {sequence}: {errno}")]
    Refused {
        /// The sequence number of the message.
        sequence: u32,
        /// Why.
        errno: Errno,
    },
    /// The dumped objects changed while they were read, so some may be missing or duplicated: the dump must
    /// be repeated.
    #[error("the kernel's table changed while it was read")]
    Interrupted,
}

impl NetlinkError {
    /// The error number.
    pub fn errno(self) -> Errno {
        match self {
            Self::Socket { errno, .. } | Self::Refused { errno, .. } => errno,
            Self::Interrupted => Errno::EINTR,
        }
    }
}
