//! What the table is made from: the settings of an agent.

use std::time::Duration;

use ipnet::IpNet;
use policy::Generation;

use super::open_addresses::OpenAddresses;
use super::origins::Origins;
use crate::marks::Marks;
use crate::queues::QueueNumber;

/// The configuration of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableConfig {
    /// The bits through which rules and workers communicate.
    pub marks: Marks,
    /// What happens to first packets while no agent listens.
    pub fail_mode: FailMode,
    /// Whether DNS queries of local pods are evaluated before they are routed: needed on kernels before 6.12.
    pub prerouting_dns: bool,
    /// The agent that serves the queues, for people who read the ruleset: `node-a pid 123`. It is the comment
    /// of the queue rule, and up to 127 bytes of it are shown.
    pub holder: String,
    /// This node's pod CIDRs, of both families. Packets from and to them are evaluated.
    pub pod_cidrs: Vec<IpNet>,
    /// Pod addresses that need no verdict.
    pub open: OpenAddresses,
    /// How the kernel caches verdicts; `None` if every connection goes to a worker.
    pub verdict_cache: Option<VerdictCacheConfig>,
    /// How many packets of each sender may be queued; `None` for no limit.
    pub queue_quota: Option<QueueQuota>,
    /// The generation of the snapshot that `open` comes from.
    pub generation: Generation,
    /// Where packets may come from; `None` if sources are not checked.
    pub origin: Option<OriginConfig>,
    /// Whether replies pass because connection tracking calls them replies, until
    /// [`Table::distrust_replies`](super::Table::distrust_replies). Set by an agent that finds connections
    /// that no agent has evaluated.
    pub trust_replies: bool,
}

/// What happens to first packets while no agent listens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailMode {
    /// They pass, unevaluated.
    Open,
    /// They are dropped. Connections that were accepted before continue.
    Closed,
}

/// What the kernel caches, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerdictCacheConfig {
    /// How long after its verdict a flow is cached, busy or not; milliseconds at the finest. Then it is
    /// evaluated again.
    pub ttl: Duration,
    /// The NFLOG group to which each connection of a cached flow is logged; `None` for no log.
    pub log_group: Option<u16>,
}

/// How many packets of one sender may be queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueQuota {
    /// Packets per second; at least 1.
    pub rate: u32,
    /// Packets at once, after a while without any; at least 1. Less than the length of a queue.
    pub burst: u32,
}

/// What the rules about origins depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginConfig {
    /// The queue in which packets of new ports wait: see [`PortQueue`](crate::ports::PortQueue).
    pub queue: QueueNumber,
    /// The NFLOG group for examples of dropped packets, at most one per second for each reason and sender;
    /// `None` for no examples.
    pub log_group: Option<u16>,
    /// Whether overlay packets are dropped if their source is not a node's address.
    pub overlay_sources_are_nodes: bool,
    /// What the sets contain at first.
    pub origins: Origins,
}
