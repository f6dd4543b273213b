//! The kernel's side: nftables rules, NFQUEUE workers, conntrack marks, packet parsing.
//!
//! ```text
//!  [ Table ]  queues first packets -> NFQUEUE -> [ Workers ] -> parse -> Snapshot::evaluate -> verdict mark
//!                                                                                |
//!  chain allowed: verdict mark -> ACCEPTED in the connection mark                v
//!           |                                                                Evaluation -> (audit)
//!           v                                                                    ^
//!  flow keys cached for some seconds: their next connections pass -> NFLOG -> [ CacheLog ]
//!
//!  [ Sweep ]  conntrack entries of evaluated pods -> evaluate again -> REVOKED set or cleared
//! ```
//!
//! - [`marks`], [`queues`]: the bits and numbers that rules and workers must agree on.
//! - [`netlink`]: messages to and from the kernel's netfilter subsystems.
//! - [`table`]: chains, sets and rules in the kernel, and how they change. [`preflight`]: what they require
//!   of the kernel and the node.
//! - [`ports`]: which pod is behind which interface, in the types of `link`. [`drops`]: packets that rules
//!   drop without a worker.
//! - [`packet`]: the first 128 bytes of a packet -> [`policy::Packet`].
//! - [`workers`], [`worker`]: a pinned thread for each queue, from the queued packet to its verdict. Packets
//!   whose pod is not known yet are held here.
//! - [`queue_statistics`]: how many packets wait in the queues, and how many the queues dropped.
//! - [`cache_log`]: packets that the kernel decided from its caches, recorded afterwards.
//! - [`conntrack`], [`sweep`]: existing connections, evaluated again when policy changes.
#![deny(unsafe_code)]
// A cast that might change a number must say why it does not.
#![cfg_attr(
    not(test),
    warn(
        clippy::cast_lossless,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod cache_log;
pub mod conntrack;
pub mod drops;
pub mod error_chain;
mod link;
pub mod marks;
pub mod netlink;
mod nft;
mod numbers;
pub mod packet;
pub mod ports;
pub mod preflight;
pub mod queue_statistics;
pub mod queues;
pub mod sweep;
pub mod table;
pub mod worker;
pub mod workers;
