//! Why the table could not be read or written, with what to do about it.

use nix::errno::Errno;

use crate::netlink::NetlinkError;
use crate::nft::batch::{Refusal, Subject};

/// The table could not be read or written. After a failed change, the state from before is still in force.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// The caller lacks `CAP_NET_ADMIN`.
    #[error(
        "nftables can't be read or changed without CAP_NET_ADMIN: run as root or add the capability NET_ADMIN"
    )]
    NotPermitted,
    /// The kernel has no nf_tables.
    #[error(
        "the kernel has no nf_tables: load the module nf_tables, or use a kernel built with CONFIG_NF_TABLES \
         and CONFIG_NF_TABLES_INET"
    )]
    NoNfTables,
    /// The kernel lacks a feature that a rule needs.
    #[error(
        "the kernel refused the {object} ({errno}): load its modules ({modules}), or use a kernel that has \
         them"
    )]
    Lacks {
        /// What was refused.
        object: String,
        /// The modules that the object needs.
        modules: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// The kernel has neither form of the queue rule.
    #[error(
        "the kernel can't hand packets to userspace from nftables: load the module nft_queue (or nft_compat \
         and xt_NFQUEUE), or use a kernel built with CONFIG_NFT_QUEUE"
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
        "the {object} exists already with another hook, priority or type ({errno}), left by another version: \
         run `kube-verdict cleanup` while no agent is running, and start again"
    )]
    OtherKind {
        /// What exists already.
        object: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// Another agent's queues are in the rules.
    #[error(
        "another agent has taken the rules over: they send packets to queues {0} now, so this agent may not \
         change them"
    )]
    Superseded(crate::queues::QueueRange),
    /// The rules are gone.
    #[error(
        "the rules of table inet or bridge kube-verdict are gone: another program deleted them; the agent \
         writes them again"
    )]
    Missing,
    /// The ruleset changed during each attempt.
    #[error("other programs keep changing the ruleset of this network namespace: try again later")]
    Unquiet,
    /// Any other refusal.
    #[error("the kernel refused the {object}: {errno}")]
    Refused {
        /// What was refused.
        object: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// The netlink socket failed.
    #[error("netlink communication with nftables failed")]
    Socket(#[source] NetlinkError),
}

impl TableError {
    /// From the failure of a request that reads.
    pub(crate) fn from_reading(error: NetlinkError) -> Self {
        match error {
            NetlinkError::Refused { errno: Errno::EPERM, .. } => Self::NotPermitted,
            // nfnetlink's error for a subsystem that does not exist.
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
            // `nft_table_lookup`'s error for a table with another owner.
            Refusal::Message(_, Errno::EPERM) => Self::Held,
            Refusal::Message(Subject { object, .. }, errno @ (Errno::EEXIST | Errno::EBUSY)) => {
                Self::OtherKind { object, errno }
            }
            // `nf_tables_updchain`'s error for a chain with another hook or priority.
            Refusal::Message(subject, errno @ Errno::EOPNOTSUPP) if subject.is_plain() => {
                Self::OtherKind { object: subject.object, errno }
            }
            Refusal::Message(
                Subject { object, modules },
                errno @ (Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT),
            ) => Self::Lacks { object, modules, errno },
            Refusal::Message(Subject { object, .. }, errno) => Self::Refused { object, errno },
            Refusal::Outdated => Self::Unquiet,
            Refusal::Socket(error) => Self::Socket(error),
        }
    }
}
