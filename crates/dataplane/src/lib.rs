//! The kernel's side: nftables rules, NFQUEUE workers, conntrack marks, packet parsing.
//!
//! ```text
//!  [ Table ]  rules send first packets to -> NFQUEUE -> [ Workers ] -> parse -> Snapshot::evaluate -> verdict mark
//!                                                                                     |
//!  chain allowed: verdict mark -> ACCEPTED in the connection mark                     v
//!           |                                                                     Evaluation -> (audit)
//!           v                                                                         ^
//!  pairs cached for some seconds: their next connections pass -> NFLOG -> [ CacheLog ]
//!
//!  [ Sweep ]  conntrack entries of evaluated pods -> evaluate again -> REVOKED set or cleared
//! ```
//!
//! - [`marks`], [`queues`]: the bits and numbers that rules and workers must agree on.
//! - [`netlink`]: messages to and from the kernel's netfilter subsystems.
//! - [`table`]: chains, sets and rules in the kernel, and how they change. [`needs`]: what that asks of kernel and node.
//! - [`ports`]: which pod is behind which interface. [`drops`]: what rules drop by themselves.
//! - [`packet`]: the first 128 bytes of a packet -> [`policy::Packet`].
//! - [`workers`], [`worker`]: a pinned thread for each queue, from the kernel's question to its verdict; packets about which a
//!   pod decides that is not known yet wait here.
//! - [`queue_statistics`]: what waits in the queues, and what they dropped.
//! - [`cached`]: connections that passed without a question, heard of afterwards.
//! - [`conntrack`], [`sweep`]: connections that exist already, evaluated again when policy changes.
#![deny(unsafe_code)]

pub mod cache_log;
pub mod conntrack;
pub mod drops;
pub mod marks;
pub mod netlink;
mod nft;
pub mod packet;
pub mod ports;
pub mod preflight;
pub mod queue_statistics;
pub mod queues;
pub mod sweep;
pub mod table;
pub mod worker;
pub mod workers;
