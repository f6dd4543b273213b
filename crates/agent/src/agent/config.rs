//! An agent's configuration: the validated flags of `run` that its thread needs.

use std::sync::Arc;
use std::time::Duration;

use cluster::{Source, StateDir};
use dataplane::marks::Marks;
use dataplane::preflight::PreflightConfig;
use dataplane::queues::{QueueNumber, QueueRange};
use dataplane::table::{FailMode, QueueQuota};
use dataplane::workers::HoldLimits;
use ipnet::IpNet;
use policy::{Budget, Verdict};

use crate::origins::OriginSettings;
use crate::overrides::PodCidrs;

/// An agent's configuration.
#[derive(Clone, Debug)]
pub(crate) struct AgentConfig {
    /// Where objects come from.
    pub source: Source,
    /// Where the state is saved on disk; `None` if it isn't.
    pub state_dir: Option<StateDir>,
    /// The node whose pods are evaluated.
    pub node: Arc<str>,
    /// How large the policies of one namespace, and of all namespaces, may be.
    pub budget: Budget,
    /// Overrides the Node object.
    pub pod_cidrs: PodCidrs,
    /// What rules do with the first packets of connections while no agent has bound the queues.
    pub fail_mode: FailMode,
    /// The verdict on packets whose pod did not become known in time.
    pub on_unknown_pod: Verdict,
    /// How long such packets are held, and how many at most.
    pub hold: HoldLimits,
    /// The two ranges of queues to choose from.
    pub queues: [QueueRange; 2],
    /// Packets that may wait in one queue.
    pub queue_length: u32,
    /// How many packets of each sender are queued for workers; `None` for any number.
    pub queue_quota: Option<QueueQuota>,
    /// The mark bits by which rules and workers communicate.
    pub marks: Marks,
    /// How long the kernel caches a verdict; `None` if every connection is queued for a worker.
    pub verdict_cache: Option<Duration>,
    /// The NFLOG groups that receive cached connections, for even ranges of queues and for odd ones; `None`
    /// if nothing is recorded.
    pub log_groups: Option<[u16; 2]>,
    /// Whether every connection is evaluated, so that it is recorded.
    pub record_open: bool,
    /// Whether DNS queries are evaluated before they are routed.
    pub prerouting_dns: bool,
    /// Whether this node's pods are connected by a bridge.
    pub bridge: bool,
    /// The flags about the origins of packets.
    pub origins: OriginSettings,
}

impl AgentConfig {
    /// The NFLOG group that belongs to these queues.
    pub(super) fn log_group(&self, queues: QueueRange) -> Option<u16> {
        // A predecessor with another base number may still have bound its own group.
        self.log_groups.map(|groups| groups[usize::from(queues.is_odd())])
    }

    /// The queue of new ports that belongs to these queues. There is one for each range, numbered after both
    /// ranges.
    pub(super) fn port_queue(&self, queues: QueueRange) -> QueueNumber {
        let [first, second] = self.queues;
        second.first.plus(second.count + u16::from(queues != first))
    }

    /// The configuration of the preflight checks.
    pub(super) fn preflight(&self, pod_cidrs: &[IpNet], queues: &[QueueRange]) -> PreflightConfig {
        PreflightConfig {
            ipv4: pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv4()),
            ipv6: pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6()),
            bridge: self.bridge,
            prerouting_dns: self.prerouting_dns,
            queues: queues.to_vec(),
            pod_cidrs: pod_cidrs.to_vec(),
            // Only `doctor` looks for foreign rules: they don't prevent enforcing policy.
            marks: None,
        }
    }
}
