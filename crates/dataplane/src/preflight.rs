//! Preflight checks: the agent's requirements of the kernel and the node. A check that fails says what is
//! wrong and how to fix it. `doctor` and readiness use them.
//!
//! The checks change nothing: they send read requests, and a batch that is never committed. At most, a
//! request makes the kernel load a module that the agent requires anyway.
//!
//! Everything that belongs to a network namespace is read from that of the calling thread.

mod bridges;
mod config;
mod family;
mod files;
mod foreign_marks;
mod kernel;
mod origins;
mod other_rules;
mod result;
mod version;

pub use self::config::PreflightConfig;
use self::files::Files;
pub use self::origins::{InstalledTables, installed_tables};
pub use self::result::{Check, CheckState};
pub use self::version::{KernelVersion, NoKernelVersion};

/// Runs all checks, in the order in which they depend on each other.
pub fn check(config: &PreflightConfig) -> Vec<Check> {
    let mut checks = kernel::checks(config);
    let bridges = || bridges::pod_bridges(&config.pod_cidrs);
    checks.extend(files::checks(&Files::of_this_thread(), config, bridges, kernel::queues_in_use));
    checks
}
