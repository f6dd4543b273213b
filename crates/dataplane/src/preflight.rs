//! Preflight checks: the agent's requirements of the kernel and the node. A check that fails says what is
//! wrong and how to fix it. `doctor` and readiness use them.
//!
//! The checks change nothing: they send read requests, and a batch that is never committed. At most, a
//! request makes the kernel load a module that the agent requires anyway.
//!
//! Everything that belongs to a network namespace is read from that of the calling thread.

mod bridges;
mod files;
mod foreign_marks;
mod kernel;
mod origins;
mod other_rules;
mod version;

use ipnet::IpNet;
use serde::Serialize;

use self::files::Files;
pub use self::origins::{InstalledTables, installed_tables};
pub use self::version::KernelVersion;
use crate::marks::Marks;
use crate::queues::QueueRange;

/// A preflight check and its result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// A stable name, such as `br_netfilter`.
    pub name: &'static str,
    /// Its result.
    #[serde(flatten)]
    pub state: CheckState,
}

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CheckState {
    /// The requirement is met.
    Fine {
        /// What was found.
        what: String,
    },
    /// The requirement is met only in part, or may soon not be met, or it could not be checked.
    Warning {
        /// What was found.
        what: String,
        /// What to do about it.
        todo: String,
    },
    /// The requirement is not met: the agent is not ready.
    Wrong {
        /// What was found, and for which packets or connections policy is not enforced.
        what: String,
        /// What to do about it.
        todo: String,
        /// Whether no policy can be enforced without it. Otherwise the agent enforces the rest.
        prevents_enforcing: bool,
    },
}

impl CheckState {
    /// Whether it prevents the agent from becoming ready.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong { .. })
    }

    /// Whether it prevents the agent from enforcing any policy.
    pub fn prevents_enforcing(&self) -> bool {
        matches!(self, Self::Wrong { prevents_enforcing: true, .. })
    }

    fn fine(what: impl Into<String>) -> Self {
        Self::Fine { what: what.into() }
    }

    fn warning(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Warning { what: what.into(), todo: todo.into() }
    }

    fn wrong(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), todo: todo.into(), prevents_enforcing: true }
    }

    /// A requirement that is not met, although the rest of policy can be enforced.
    fn partly(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), todo: todo.into(), prevents_enforcing: false }
    }
}

/// The agent's configuration, as far as the checks depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreflightConfig {
    /// Pods have IPv4 addresses.
    pub ipv4: bool,
    /// Pods have IPv6 addresses.
    pub ipv6: bool,
    /// The pods of one node are attached to a bridge such as Flannel's `cni0`: their packets reach the rules
    /// only through br_netfilter.
    pub bridge: bool,
    /// DNS queries are evaluated before they are routed
    /// ([`TableConfig::prerouting_dns`](crate::table::TableConfig::prerouting_dns)).
    pub prerouting_dns: bool,
    /// The queues that the agent may use.
    pub queues: Vec<QueueRange>,
    /// This node's pod CIDRs, by which the pods' bridges are found. If they are empty (unknown), only
    /// Flannel's `cni0` is found.
    pub pod_cidrs: Vec<IpNet>,
    /// The agent's bits in marks, to look for rules of other programs that write them, and for rules of other
    /// policy engines. `None` skips these checks, which read all rules of the node: there may be many.
    pub marks: Option<Marks>,
}

impl Default for PreflightConfig {
    /// Both families, a bridge, no queues, and no checks of other programs' rules.
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: true,
            bridge: true,
            prerouting_dns: false,
            queues: Vec::new(),
            pod_cidrs: Vec::new(),
            marks: None,
        }
    }
}

/// Runs all checks, in the order in which they depend on each other.
pub fn check(config: &PreflightConfig) -> Vec<Check> {
    let mut checks = kernel::checks(config);
    let bridges = || bridges::pod_bridges(&config.pod_cidrs);
    checks.extend(files::checks(&Files::of_this_thread(), config, bridges, kernel::queues_in_use));
    checks
}

/// The name of a family in `nft`'s syntax.
fn family_name(family: u8) -> &'static str {
    match family.into() {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        libc::NFPROTO_BRIDGE => "bridge",
        libc::NFPROTO_ARP => "arp",
        libc::NFPROTO_NETDEV => "netdev",
        _ => "unknown",
    }
}
