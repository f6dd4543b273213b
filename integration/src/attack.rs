//! Attacks: packets by which a pod tries to reach targets that policy denies, and whether they arrive.
//!
//! ```text
//!  [ kinds of attack ] -> Case + Mark -> [ frame ] -> [ wire ] (sent from the attacker's namespace)
//!                                                        |
//!        Report <- [ Suite ] <- [ Receivers ] (every pod, node and the host outside: which marks arrived?)
//!                         \<-- audit logs (Evidence)
//! ```
//!
//! - [`mark`], [`message`], [`packet`], [`frame`]: the bytes that are sent.
//! - [`wire`], [`receivers`]: sending and receiving.
//! - [`topology`], [`flow`]: the addresses of all targets, and existing connections.
//! - [`case`], [`suite`], [`evidence`], [`report`]: one attempt, all attempts, the audit logs, and a table of
//!   outcomes.
//! - [`layout`], [`controls`]: the attacked cluster, and what must work in it.
//! - Each other module is one kind of attack.
//!
//! Invariant: an attempt counts as denied only if, until the end of the suite, its mark arrives nowhere where
//! policy forbids it.

pub mod case;
pub mod controls;
pub mod ether_type;
pub mod evidence;
pub mod flow;
pub mod forged_originator;
pub mod forged_source;
pub mod forwarding_table;
pub mod frame;
pub mod group_address;
pub mod icmp_error;
pub mod joined_fragments;
pub mod layout;
pub mod link_local;
pub mod malformed;
pub mod mark;
pub mod marks;
pub mod message;
pub mod mismatch;
pub mod multicast;
pub mod neighbour_cache;
pub mod neighbour_discovery;
pub mod overlay;
pub mod own_node;
pub mod packet;
pub mod receivers;
pub mod report;
pub mod suite;
pub mod tcp_state;
pub mod topology;
pub mod wire;

pub use case::{Case, Evidence};
pub use flow::Flow;
pub use mark::Mark;
pub use receivers::Receivers;
pub use report::Report;
pub use suite::Suite;
pub use topology::Topology;
