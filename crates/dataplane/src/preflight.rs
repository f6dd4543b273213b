//! What the agent needs of kernel and node, each with what is wrong and what to do about it: for `doctor` and readiness.
//!
//! Looking changes nothing: the kernel is asked with requests that read, and with a batch that is never committed. At
//! most, asking makes the kernel load a module that the agent needs anyhow.
//!
//! All that belongs to a network namespace is that of the calling thread.

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

/// One thing that the agent needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// A stable name, such as `br_netfilter`.
    pub name: &'static str,
    /// How it stands.
    #[serde(flatten)]
    pub state: CheckState,
}

/// How a need stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CheckState {
    /// It is met.
    Fine {
        /// What was found.
        what: String,
    },
    /// It is met now, and may soon not be.
    Warning {
        /// What was found.
        what: String,
        /// What to do about it.
        todo: String,
    },
    /// It is not met: the agent is not ready.
    Wrong {
        /// What was found, and which packets or connections are not under policy.
        what: String,
        /// What to do about it.
        todo: String,
        /// Whether nothing can be enforced without it. If not, the agent enforces the rest.
        prevents_enforcing: bool,
    },
}

impl CheckState {
    /// Whether the agent can't be ready.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong { .. })
    }

    /// Whether the agent can't enforce anything.
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

    /// Not met, but the rest can be enforced.
    fn partly(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), todo: todo.into(), prevents_enforcing: false }
    }
}

/// What the agent is going to do, as far as needs depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreflightConfig {
    /// Pods have IPv4 addresses.
    pub ipv4: bool,
    /// Pods have IPv6 addresses.
    pub ipv6: bool,
    /// Pods of one node hang on a bridge, as Flannel's `cni0`: their packets reach the rules by br_netfilter alone.
    pub bridge: bool,
    /// DNS queries are evaluated before they are routed ([`TableConfig::prerouting_dns`](crate::table::TableConfig::prerouting_dns)).
    pub prerouting_dns: bool,
    /// The queues that the agent may use.
    pub queues: Vec<QueueRange>,
    /// This node's pod CIDRs, by which the pods' bridge is known; empty if they are unknown, which leaves Flannel's `cni0`.
    pub pod_cidrs: Vec<IpNet>,
    /// The agent's bits in marks, to look for rules of other programs that write them, and for other policy engines' rules. `None` doesn't
    /// look: to find them all rules of the node are read, which may be many.
    pub marks: Option<Marks>,
}

impl Default for PreflightConfig {
    /// Both families, Flannel's bridge, no queues, and no look at the rules of other programs.
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

/// Looks at all needs, in the order in which they build on one another.
pub fn check(config: &PreflightConfig) -> Vec<Check> {
    let mut needs = kernel::needs(config);
    let bridges = || bridges::pod_bridges(&config.pod_cidrs);
    needs.extend(files::needs(&Files::of_this_thread(), config, bridges, kernel::queues_in_use));
    needs
}

/// What `nft` calls a family.
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
