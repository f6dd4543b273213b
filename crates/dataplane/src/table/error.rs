//! Why the table could not be read or written, in sentences to act on.

use nix::errno::Errno;

use crate::netlink::NetlinkError;
use crate::nft::batch::{Part, Refusal};

/// The table could not be read or written. After a failed change, what was in force before still is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// The caller lacks `CAP_NET_ADMIN`.
    #[error(
        "nftables can't be read or changed without CAP_NET_ADMIN: run as root or add the capability NET_ADMIN"
    )]
    NotPermitted,
    /// The kernel has no nf_tables.
    #[error(
        "the kernel has no nf_tables: load the module nf_tables, or use a kernel built with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"
    )]
    NoNfTables,
    /// The kernel lacks something that a rule needs.
    #[error(
        "the kernel refused the {object} ({errno}): load its modules ({modules}), or use a kernel that has them"
    )]
    Lacks {
        /// What was refused.
        object: String,
        /// The modules that it needs.
        modules: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel has neither form of the queue rule.
    #[error(
        "the kernel can't hand packets to userspace from nftables: load the module nft_queue (or nft_compat and \
         xt_NFQUEUE), or use a kernel built with CONFIG_NFT_QUEUE"
    )]
    NoQueue,
    /// Another program holds the table with nftables' owner flag.
    #[error(
        "the table inet kube-verdict is held by another program (nftables' owner flag): find it with \
         `nft list table inet kube-verdict`, stop it, and start again"
    )]
    Held,
    /// A chain or set of the same name but another kind exists.
    #[error(
        "the {object} exists already with another hook, priority or type ({errno}), left by another version: run \
         `kube-verdict cleanup` while no agent is running, and start again"
    )]
    OtherKind {
        /// What exists already.
        object: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// Another agent's queues are in the rules.
    #[error(
        "another agent has taken the rules over: they send packets to queues {0} now, so this agent may not change them"
    )]
    Superseded(crate::queues::QueueRange),
    /// The rules are gone.
    #[error(
        "the rules of table inet or bridge kube-verdict are gone: another program deleted them; the agent writes them again"
    )]
    Missing,
    /// The ruleset changed at every try.
    #[error(
        "the ruleset of this network namespace is being changed all the time by other programs: try again later"
    )]
    Unquiet,
    /// Any other refusal.
    #[error("the kernel refused the {object}: {errno}")]
    Refused {
        /// What was refused.
        object: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The netlink socket failed.
    #[error("talking to nftables: {0}")]
    Socket(NetlinkError),
}

impl TableError {
    /// Of a request that reads.
    pub(crate) fn from_reading(error: NetlinkError) -> Self {
        match error {
            NetlinkError::Refused { errno: Errno::EPERM, .. } => Self::NotPermitted,
            // What nfnetlink says of a subsystem that isn't there.
            NetlinkError::Refused { errno: Errno::EINVAL | Errno::EOPNOTSUPP, .. } => Self::NoNfTables,
            NetlinkError::Refused { errno, .. } => {
                Self::Refused { object: "request to read the rules".to_owned(), errno }
            }
            NetlinkError::Interrupted => Self::Unquiet,
            error @ NetlinkError::Socket { .. } => Self::Socket(error),
        }
    }
}

impl From<Refusal> for TableError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            // nfnetlink checks the capability before it looks at any message.
            Refusal::Whole(Errno::EPERM) => Self::NotPermitted,
            Refusal::Whole(Errno::EINVAL | Errno::EOPNOTSUPP) => Self::NoNfTables,
            Refusal::Whole(errno) => {
                Self::Refused { object: "batch for table inet kube-verdict".to_owned(), errno }
            }
            // `nft_table_lookup` says so of a table with another owner.
            Refusal::Part(_, Errno::EPERM) => Self::Held,
            Refusal::Part(Part { object, .. }, errno @ (Errno::EEXIST | Errno::EBUSY)) => {
                Self::OtherKind { object, errno }
            }
            // What `nf_tables_updchain` says of a chain that has another hook or priority.
            Refusal::Part(part, errno @ Errno::EOPNOTSUPP) if part.is_plain() => {
                Self::OtherKind { object: part.object, errno }
            }
            Refusal::Part(
                Part { object, modules },
                errno @ (Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT),
            ) => Self::Lacks { object, modules, errno },
            Refusal::Part(Part { object, .. }, errno) => Self::Refused { object, errno },
            Refusal::Outdated => Self::Unquiet,
            Refusal::Socket(error) => Self::Socket(error),
        }
    }
}
