//! Why an NFLOG group can't be read.

use crate::netlink::NetlinkError;

/// The NFLOG group can't be read, or no longer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CacheLogError {
    /// Another program has bound the group.
    #[error(
        "NFLOG group {group} is taken by {owner}: stop that program, or choose another number with \
         --nflog-group"
    )]
    Taken {
        /// The group.
        group: u16,
        /// The program, as far as it can be identified.
        owner: String,
    },
    /// The kernel refused to bind the group or to set it up.
    #[error(
        "NFLOG group {group} can't be set up (load the modules nft_log and nfnetlink_log, or start the agent \
         with --audit-log off)"
    )]
    Setup {
        /// The group.
        group: u16,
        /// What the kernel answered.
        source: NetlinkError,
    },
    /// The socket failed later.
    #[error("cannot receive from NFLOG group {group} (the agent tries to bind it again each second)")]
    Receive {
        /// The group.
        group: u16,
        /// What the kernel answered.
        source: NetlinkError,
    },
}
