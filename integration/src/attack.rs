//! What a pod sends that wants to reach what policy denies, and whether it got there.
//!
//! ```text
//!  [ kinds of attack ] -> Case + Mark -> [ frame ] -> [ wire ] (out of the attacker's namespace)
//!                                                        |
//!        Report <- [ Suite ] <- [ Ears ] (every pod, node and the host outside: which marks arrived?)
//!                         \<-- audit logs (Evidence)
//! ```
//!
//! - [`mark`], [`message`], [`packet`], [`frame`]: what is sent, as bytes.
//! - [`wire`], [`ears`]: how it is sent, and who receives it.
//! - [`field`], [`flow`]: the addresses of all that can be aimed at, and connections that exist.
//! - [`case`], [`suite`], [`evidence`], [`report`]: one attempt, all of them, what audit logs say, and the outcome as a table.
//! - [`layout`], [`controls`]: the cluster that is attacked, and what must work in it.
//! - The other modules are one kind of attack each.
//!
//! Invariant: an attempt is denied only if its mark arrived nowhere where policy forbids it, up to the end of the suite.

pub mod case;
pub mod controls;
pub mod ears;
pub mod ether_type;
pub mod evidence;
pub mod field;
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
pub mod report;
pub mod suite;
pub mod tcp_state;
pub mod wire;

pub use case::{Case, Evidence};
pub use ears::Ears;
pub use field::Field;
pub use flow::Flow;
pub use mark::Mark;
pub use report::Report;
pub use suite::Suite;
