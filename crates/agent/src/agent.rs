//! The main thread of a running agent. It takes the agent from not ready to enforcing, and to standby when
//! another agent takes over.
//!
//! From: the source's updates. To: the [`Engine`](crate::engine::Engine). Invariant: if something is missing,
//! the agent stays live, reports in one sentence what it waits for, and retries. Rules that are in the kernel
//! stay there when the agent ends.
//!
//! ```text
//!  source, interfaces, nftables -> [ message ] -> [ event_loop ] -+-> [ startup ] -> [ installation ]
//!                                                                 +-> [ compilation ] -> [ enforcement ]
//!                                                                 +-> [ rules ], [ ports ], [ nflog ]
//!                                                                 +-> [ queues ], [ takeover ]
//! ```
//!
//! [`Agent`] has the state; each of these files adds methods to it.

mod backlog;
mod compilation;
mod compile_stats;
mod config;
mod enforcement;
mod event_loop;
mod installation;
mod message;
mod nflog;
mod nflog_records;
mod phase;
mod policy_records;
mod ports;
mod predecessor;
mod problem_log;
mod progress;
mod queue_counters;
mod queue_progress;
mod queues;
mod restored;
mod rules;
mod rules_watch;
mod startup;
mod state;
mod takeover;
mod vacated_addresses;

pub(crate) use config::AgentConfig;
pub(crate) use message::{Message, THREAD_NAME};
pub(crate) use state::Agent;
