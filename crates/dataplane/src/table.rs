//! The nftables table of this agent: which packets go to userspace, and which connections need no further
//! verdict.
//!
//! Place in a packet's life: the first step (`postrouting` queues it for the workers) and the last (`allowed`
//! marks its connection). Place in a policy's life: [`Table::update`] at the start of the sweep.
//!
//! Invariants: every change is one batch, committed whole or not at all; pod CIDRs come in a batch before it
//! (see `pod_cidrs`). Chains are created once and never deleted or recreated while an agent lives, because
//! deleting any base chain drops every queued packet of the network namespace. An agent that another one has
//! superseded changes nothing any more, not even in a race: its batches are valid for one generation of the
//! ruleset only.
//!
//! No change waits for the RCU grace period in which the kernel frees what the change before it deleted
//! (tenths of a second on a busy node). For that, an agent sends all its batches over one socket, and never
//! rewrites the queue rule.
//!
//! Calls without a [`Table`] act in the network namespace of the calling thread. A [`Table`] acts in the
//! namespace in which it was installed.

mod bridge;
mod chains;
mod config;
mod drops;
mod error;
mod family;
mod handle;
mod install;
mod installed_rules;
mod link_rules;
mod monitor;
mod names;
mod objects;
mod open_addresses;
mod origin;
mod origins;
mod own_rules;
mod pod_cidrs;
mod queue_form;
mod queues;
mod quota;
mod read_back;
mod retire;
mod revalidation;
mod revoked;
mod revoked_connections;
mod rule;
mod senders;
mod set_contents;
mod sets;
mod socket;
mod update;
mod verdict_cache;

pub use self::config::{FailMode, OriginConfig, QueueQuota, TableConfig, VerdictCacheConfig};
pub use self::error::TableError;
pub use self::handle::{Protections, Table};
pub(crate) use self::installed_rules::{check_holder, read_generation};
pub use self::monitor::{Changed, ForeignChange, Program, RulesListener, RulesMonitor};
pub use self::names::TABLE;
pub use self::open_addresses::OpenAddresses;
pub use self::origins::Origins;
pub(crate) use self::own_rules::OwnRules;
pub(crate) use self::queue_form::available_form;
pub use self::verdict_cache::CacheCounters;
pub(crate) use self::verdict_cache::{DENIED_PREFIX, LOG_PREFIX};
pub use crate::nft::queue::QueueForm;

#[cfg(test)]
mod tests;
