//! The status of a running agent: the documented type behind `/status`, `/metrics` and `kube-verdict status`.

pub(crate) mod origins;
mod packets;
mod problem;
mod source;

use std::time::Duration;

use cluster::ReadCounts;
use policy::Tier;
use serde::{Deserialize, Serialize};

pub(crate) use self::origins::{NewPorts, OriginsStatus, Protection};
pub(crate) use self::packets::{DefaultDenies, PacketCount, Packets};
pub(crate) use self::problem::ProblemStatus;
pub(crate) use self::source::{ConnectionStatus, SavedState, SourceStatus};

/// The status of an agent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The program's version.
    pub version: String,
    /// The agent's process ID.
    pub pid: u32,
    /// The node whose policy it enforces.
    pub node: String,
    /// The phase in which it is.
    pub phase: PhaseName,
    /// The agent's successor; null unless it is superseded.
    #[serde(default)]
    pub successor: Option<Successor>,
    /// Whether the source's policy is in force on this node.
    pub ready: bool,
    /// Why it is not ready, in one sentence each; empty if it is.
    pub not_ready: Vec<String>,
    /// Why it must be restarted; null if it need not.
    pub dead: Option<String>,
    /// The snapshot's generation under which workers evaluate packets.
    pub published_generation: u64,
    /// The snapshot's generation that is in force on this node, even for established connections.
    pub applied_generation: u64,
    /// The connections to the API server; null if a folder is the source.
    #[serde(default)]
    pub source: Option<SourceStatus>,
    /// The state on disk; null without --state-dir.
    #[serde(default)]
    pub state: Option<SavedState>,
    /// This agent's rules in the kernel; null before they are installed, and once another agent has taken
    /// over.
    pub table: Option<TableStatus>,
    /// This node's pod CIDRs.
    pub pod_cidrs: Vec<String>,
    /// The number of known objects.
    pub inventory: InventoryStatus,
    /// Packets evaluated.
    pub packets: Packets,
    /// Packets that were held until a pod is known.
    pub hold: HoldStatus,
    /// This agent's queues in the kernel.
    pub queues: Vec<QueueStatus>,
    /// Packets lost in full queues; null if no queue was full.
    #[serde(default)]
    pub full_queue: Option<FullQueue>,
    /// Sweeps over connections.
    pub sweeps: Sweeps,
    /// Periods in which packets could pass unevaluated because other programs had changed the rules.
    #[serde(default)]
    pub bypasses: Bypasses,
    /// The last change that came in force.
    pub last_change: Option<ChangeStatus>,
    /// The audit log.
    pub audit: AuditStatus,
    /// The kernel's conntrack table; null if it can't be read.
    pub conntrack: Option<ConntrackStatus>,
    /// How much the source has read; null before its first update.
    #[serde(default)]
    pub read: Option<ReadCounts>,
    /// All current problems of the source's objects.
    pub problems: Vec<ProblemStatus>,
    /// The policies that are in force on this node, and how often each decided.
    pub policies: Vec<PolicyStatus>,
    /// Verdicts of default deny, by the isolated pod's namespace and direction.
    #[serde(default)]
    pub default_denies: Vec<DefaultDenies>,
    /// The valid origins of packets; null before the rules are installed, and once another agent has taken
    /// over.
    #[serde(default)]
    pub origins: Option<OriginsStatus>,
}

/// The phase of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PhaseName {
    /// Its rules are not installed yet: something is missing, or it has just started.
    #[default]
    Starting,
    /// Its rules are in the kernel.
    Enforcing,
    /// Another agent has taken over, or the rules were removed. This agent gives verdicts on packets in its
    /// queues and changes nothing.
    Superseded,
    /// It is ending.
    Stopping,
}

/// The successor of a superseded agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Successor {
    /// Another agent enforces.
    Agent,
    /// Another agent had taken over and has ended; its rules are still in the kernel.
    AgentGone,
    /// The kernel has no rules, or none that packets pass: this is what `kube-verdict cleanup` leaves.
    RulesRemoved,
}

/// The rules in the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TableStatus {
    /// How rules queue packets: `native` (nft_queue) or `target` (xtables NFQUEUE).
    pub form: String,
    /// The queue numbers, `first-last`.
    pub queues: String,
    /// Whether new connections pass while no agent runs (`open`) or are dropped (`closed`).
    pub fail_mode: String,
}

/// The number of known objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct InventoryStatus {
    /// Pods of all nodes.
    pub pods: u64,
    /// Namespaces.
    pub namespaces: u64,
    /// Nodes.
    pub nodes: u64,
    /// Policies of all kinds.
    pub policies: u64,
    /// ClusterNetworkPolicies among them.
    #[serde(default)]
    pub cluster_network_policies: u64,
    /// AdminNetworkPolicies among them.
    #[serde(default)]
    pub admin_network_policies: u64,
    /// BaselineAdminNetworkPolicies among them.
    #[serde(default)]
    pub baseline_admin_network_policies: u64,
}

/// The number of packets that were held because their verdict depends on an unknown pod, since the agent
/// started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HoldStatus {
    /// Held now.
    pub now: u64,
    /// Held in total.
    pub held: u64,
    /// Held packets that were allowed when the pod became known.
    pub allowed: u64,
    /// Held packets that were denied when the pod became known.
    pub denied: u64,
    /// Held packets that reached `--hold-timeout`, and were then decided by `--on-unknown-pod`.
    pub expired: u64,
    /// Packets that were not held because of a limit, and were decided by `--on-unknown-pod` at once.
    pub over_limit: u64,
    /// Packets that were dropped without a verdict: retransmissions of a connection whose first packet was
    /// held.
    pub repeated: u64,
}

/// A queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct QueueStatus {
    /// Its number.
    pub number: u16,
    /// Packets that wait for a verdict.
    pub waiting: u32,
    /// Packets that the kernel dropped because the queue was full.
    pub dropped_full: u32,
    /// Packets that the kernel dropped because the worker's socket was full.
    pub dropped_by_socket: u32,
}

/// Packets that were lost because a queue, or a worker's socket, was full.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct FullQueue {
    /// The number of lost packets since the agent started.
    pub packets: u64,
    /// The sender of most queued packets when a queue was last full: a pod, or else an address. Null if it is
    /// unknown.
    pub sender: Option<String>,
}

/// The sums over all sweeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sweeps {
    /// The number of sweeps.
    pub count: u64,
    /// Connections that were no longer allowed.
    pub revoked: u64,
    /// Connections that were allowed again.
    pub restored: u64,
    /// The last sweep.
    pub last: SweepStatus,
}

/// A sweep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SweepStatus {
    /// Connections that were evaluated.
    pub connections: u64,
    /// Connections that were no longer allowed.
    pub revoked: u64,
    /// Connections that were allowed again.
    pub restored: u64,
    /// The duration in microseconds.
    pub micros: u64,
}

impl Sweeps {
    /// Adds a sweep.
    pub(crate) fn add(&mut self, sweep: SweepStatus) {
        self.count += 1;
        self.revoked += sweep.revoked;
        self.restored += sweep.restored;
        self.last = sweep;
    }
}

/// Periods in which packets could pass unevaluated, since the agent started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Bypasses {
    /// The number of periods.
    pub count: u64,
    /// Their total duration in microseconds.
    pub micros: u64,
    /// The last period; null if there was none.
    pub last: Option<BypassStatus>,
}

/// A period in which packets could pass unevaluated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct BypassStatus {
    /// When it began: RFC 3339, UTC.
    pub from: String,
    /// When the rules had been restored and all connections evaluated again: RFC 3339, UTC.
    pub to: String,
    /// The change to the rules.
    pub change: String,
    /// The name of the program that made the change; null if it is not known.
    pub program: Option<String>,
    /// The program's process ID; null if it is not known.
    pub pid: Option<u32>,
}

impl Bypasses {
    /// Adds a period of this duration.
    pub(crate) fn add(&mut self, bypass: BypassStatus, duration: Duration) {
        self.count += 1;
        self.micros += u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.last = Some(bypass);
    }
}

impl From<&audit::Bypass> for BypassStatus {
    fn from(bypass: &audit::Bypass) -> Self {
        let audit::Bypass { reason: _, from, to, change, program, pid } = bypass;
        let (change, program, pid) = (change.clone(), program.clone(), *pid);
        Self { from: from.to_string(), to: to.to_string(), change, program, pid }
    }
}

/// Statistics of applying a change; times in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ChangeStatus {
    /// The snapshot's generation.
    pub generation: u64,
    /// The number of objects that changed.
    pub changes: u64,
    /// How long compiling the snapshot took.
    pub compile_micros: u64,
    /// How long evaluations in flight took to end.
    pub grace_micros: u64,
    /// How long updating the rules' sets took.
    pub table_micros: u64,
}

/// The audit log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AuditStatus {
    /// Records written.
    pub written: u64,
    /// Records lost.
    pub lost: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Why records can't be written, or not to the configured path; null if they can.
    pub failing: Option<String>,
    /// What to do about `failing`; null if records can be written.
    #[serde(default)]
    pub remedy: Option<String>,
    /// Closed files that were removed, because there were more than --audit-keep or because they were larger
    /// than --audit-total-size.
    #[serde(default)]
    pub removed_files: u64,
    /// Why closed files can't be compressed or removed; null if they can.
    #[serde(default)]
    pub upkeep_problem: Option<String>,
}

/// The size of the conntrack table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ConntrackStatus {
    /// The number of entries.
    pub entries: u64,
    /// The limit on entries.
    pub max: u64,
}

/// A policy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PolicyStatus {
    /// `namespace/name`, or `name`.
    pub policy: String,
    /// The kind of its object: policies of different kinds can have the same name and tier.
    #[serde(default)]
    pub kind: String,
    /// `Admin`, `NetworkPolicy` or `Baseline`.
    #[serde(default)]
    pub tier: Tier,
    /// The priority of a cluster-wide policy within its tier: lower numbers are evaluated first. Null for a
    /// NetworkPolicy, and if the policy is not in force.
    #[serde(default)]
    pub priority: Option<u16>,
    /// The `metadata.resourceVersion` that is in force on this node, even for established connections. Null
    /// if a folder is the source, if the policy comes from the state on disk, or if it was deleted.
    #[serde(default)]
    pub resource_version: Option<String>,
    /// How often one of its rules allowed.
    pub allowed: u64,
    /// How often one of its rules denied. Default denies are in [`Status::default_denies`].
    pub denied: u64,
}

impl ConntrackStatus {
    /// Reads the size from `/proc/sys` of this network namespace.
    pub(crate) fn read() -> Option<Self> {
        let number = |name| {
            let path = format!("/proc/sys/net/netfilter/{name}");
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Some(Self { entries: number("nf_conntrack_count")?, max: number("nf_conntrack_max")? })
    }
}
