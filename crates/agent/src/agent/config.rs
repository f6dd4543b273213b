//! What an agent is to do: the command line of `run`, as far as its thread needs it, valid.

use std::sync::Arc;
use std::time::Duration;

use cluster::{Source, StateDir};
use dataplane::marks::Marks;
use dataplane::preflight::PreflightConfig;
use dataplane::queues::QueueRange;
use dataplane::table::{FailMode, QueueQuota};
use dataplane::workers::HoldLimits;
use ipnet::IpNet;
use policy::{Budget, Verdict};

use crate::origins::OriginSettings;
use crate::overrides::PodCidrs;

/// What an agent is to do.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where objects come from.
    pub source: Source,
    /// Where the last policy is kept on disk; `None` if it isn't.
    pub state_dir: Option<StateDir>,
    /// The node whose pods are evaluated.
    pub node: Arc<str>,
    /// How large the policies of one namespace, and of all, may be.
    pub budget: Budget,
    /// Over the Node object's.
    pub pod_cidrs: PodCidrs,
    /// What rules do with first packets while no agent listens.
    pub fail_mode: FailMode,
    /// What becomes of packets of unknown pods in the end.
    pub on_unknown_pod: Verdict,
    /// How long they wait before that, and how many.
    pub hold: HoldLimits,
    /// The two ranges of queues to choose from.
    pub queues: [QueueRange; 2],
    /// Packets that may wait in one queue.
    pub queue_length: u32,
    /// How many packets each sender may ask workers about; `None` for any number.
    pub queue_quota: Option<QueueQuota>,
    /// The bits by which rules and workers speak.
    pub marks: Marks,
    /// How long the kernel caches an allowed pair; `None` if it is to ask about every connection.
    pub verdict_cache: Option<Duration>,
    /// The NFLOG groups that hear of cached connections, of even ranges of queues and of odd ones; `None` if nothing is recorded.
    pub log_groups: Option<[u16; 2]>,
    /// Whether every connection is evaluated, so that it is recorded.
    pub record_open: bool,
    /// Whether DNS queries are evaluated before they are routed.
    pub prerouting_dns: bool,
    /// Whether this node's pods hang on a bridge.
    pub bridge: bool,
    /// What the command line says of where packets may come from.
    pub origins: OriginSettings,
}

impl AgentConfig {
    /// The NFLOG group that goes with these queues.
    pub(super) fn log_group(&self, queues: QueueRange) -> Option<u16> {
        // A predecessor with another base number may still listen to its own.
        self.log_groups.map(|groups| groups[usize::from(queues.is_odd())])
    }

    /// The queue of new ports that goes with these queues: behind both ranges, one for each.
    pub(super) fn port_queue(&self, queues: QueueRange) -> u16 {
        let [first, second] = self.queues;
        second.first + second.count + u16::from(queues != first)
    }

    /// What this asks of kernel and node.
    pub(super) fn needs(&self, pod_cidrs: &[IpNet], queues: &[QueueRange]) -> PreflightConfig {
        PreflightConfig {
            ipv4: pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv4()),
            ipv6: pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6()),
            bridge: self.bridge,
            prerouting_dns: self.prerouting_dns,
            queues: queues.to_vec(),
            pod_cidrs: pod_cidrs.to_vec(),
            // Foreign rules keep no agent from enforcing policy: `doctor` looks for them.
            marks: None,
        }
    }
}
