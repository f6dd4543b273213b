//! What the checks depend on.

use ipnet::IpNet;

use crate::marks::Marks;
use crate::queues::QueueRange;

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
