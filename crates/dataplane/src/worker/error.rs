//! Why a queue can't be served.

use std::io;

use super::socket::SocketOwner;
use crate::queues::QueueNumber;

/// A queue can't be served, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Netfilter's netlink socket can't be opened.
    #[error(
        "no netlink socket for NFQUEUE (the kernel must have nfnetlink_queue: `modprobe nfnetlink_queue`)"
    )]
    Open(#[source] io::Error),
    /// Another program serves a queue of this number.
    #[error(
        "NFQUEUE {queue} is taken by {owner}: stop that program, or choose other numbers with --queue-base"
    )]
    Taken {
        /// The queue.
        queue: QueueNumber,
        /// Which program has bound it.
        owner: SocketOwner,
    },
    /// The process lacks `CAP_NET_ADMIN`.
    #[error(
        "NFQUEUE {queue} can't be bound without CAP_NET_ADMIN: run as root, or add the capability NET_ADMIN"
    )]
    NotPermitted {
        /// The queue.
        queue: QueueNumber,
    },
    /// The kernel refused to bind a queue or to set it up.
    #[error(
        "NFQUEUE {queue} can't be set up: {setting} (the kernel must have nfnetlink_queue: \
         `modprobe nfnetlink_queue`)"
    )]
    Setup {
        /// The queue.
        queue: QueueNumber,
        /// The setting that failed.
        setting: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The thread can't be started.
    #[error(
        "no thread for NFQUEUE {queue} (the limit on processes may be reached: `ulimit -u`, or the \
         container's pids limit)"
    )]
    Thread {
        /// The queue.
        queue: QueueNumber,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The socket failed while packets came.
    #[error("NFQUEUE {queue} is no longer served (restart the agent)")]
    Receive {
        /// The queue.
        queue: QueueNumber,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The thread ended by a panic.
    #[error(
        "NFQUEUE {queue} is no longer served: its thread panicked; restart the agent and report the message \
         it printed"
    )]
    Panicked {
        /// The queue.
        queue: QueueNumber,
    },
}
