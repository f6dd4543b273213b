//! The state of the agent's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use audit::Audit;
use cluster::{Problem, Update, Watch};
use dataplane::cache_log::History;
use dataplane::conntrack::Conntrack;
use dataplane::ports::{Interfaces, PortMonitor, PortQueue};
use policy::{Compiler, PolicyName, Scope, Snapshot};

use super::backlog::Backlog;
use super::config::AgentConfig;
use super::message::Message;
use super::nflog_records::NflogRecords;
use super::phase::Phase;
use super::predecessor::Predecessor;
use super::problem_log::ProblemLog;
use super::queue_counters::QueueCounters;
use super::queue_progress::QueueProgress;
use super::rules_watch::RulesWatch;
use super::vacated_addresses::VacatedAddresses;
use crate::health::{Health, PolicyState};
use crate::memory::HeapTrimmer;
use crate::origins::OriginTracker;

/// See the module.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(super) config: AgentConfig,
    pub(super) health: Arc<Health>,
    pub(super) audit: Audit,
    pub(super) inbox: Receiver<Message>,
    pub(super) outbox: Sender<Message>,
    /// The node's interfaces as the monitor last read them; `None` once the agent has taken them.
    pub(super) latest_interfaces: Arc<Mutex<Option<Interfaces>>>,
    /// The source's updates that the agent has not taken yet, merged into one.
    pub(super) latest_update: Arc<Mutex<Option<Update>>>,
    pub(super) compiler: Compiler,
    /// The source is watched until this is dropped.
    pub(super) watch: Option<Watch>,
    /// The newest snapshot; `None` before the source was read.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) phase: Phase,
    pub(super) vacated_addresses: VacatedAddresses,
    /// Whether the newest snapshot must be applied again to all connections, for example because applying it
    /// failed.
    pub(super) must_reapply: bool,
    /// Changed and deleted policies of the newest snapshot whose change is not in force yet.
    pub(super) policy_states: BTreeMap<PolicyName, PolicyState>,
    /// The UIDs of policies, where the source has them.
    pub(super) policy_uids: BTreeMap<PolicyName, Arc<str>>,
    /// Large policies that are not compiled yet.
    pub(super) backlog: Backlog,
    /// When the state on disk was written, while it replaces a part of the source.
    pub(super) restored: Option<SystemTime>,
    /// The progress of another agent's queues, while this agent leaves enforcing to it.
    pub(super) queue_progress: QueueProgress,
    /// The problems of the source's objects.
    pub(super) problems: Arc<[Problem]>,
    /// Whether `problems` have changed since they were last reported.
    pub(super) has_new_problems: bool,
    /// A hash of the refusals that were last reported.
    pub(super) reported_refusals: u64,
    pub(super) problem_log: ProblemLog,
    pub(super) heap_trimmer: HeapTrimmer,
    /// Policies that exceed their namespace's budget.
    pub(super) refused: BTreeSet<PolicyName>,
    /// Policies that were changed or deleted after the snapshot in force.
    pub(super) changed_policies: BTreeSet<PolicyName>,
    /// The agent from which this one took over, as long as it has bound its queues.
    pub(super) predecessor: Option<Predecessor>,
    pub(super) nflog: NflogRecords,
    pub(super) history: Arc<History>,
    /// The valid origins of packets.
    pub(super) origins: OriginTracker,
    /// Interfaces are watched until this is dropped.
    pub(super) monitor: Option<PortMonitor>,
    /// Watches for changes of the rules by other programs.
    pub(super) rules: RulesWatch,
    /// Holds packets of new ports.
    pub(super) port_queue: Option<PortQueue>,
    pub(super) queue_counters: QueueCounters,
    /// Deletes connections of deleted pods. It stays open, since closing a netfilter socket can take the
    /// kernel long (`nft_rcv_nl_event`).
    pub(super) conntrack: Option<Conntrack>,
}

impl Agent {
    /// An agent that receives messages from `inbox`. `outbox` is the other end of that channel, by which the
    /// agent's watchers send it messages.
    pub(crate) fn new(
        config: AgentConfig,
        health: Arc<Health>,
        audit: Audit,
        inbox: Receiver<Message>,
        outbox: Sender<Message>,
    ) -> Self {
        let compiler = Compiler::new(Scope::Node(Arc::clone(&config.node)))
            .on_unknown_pod(config.on_unknown_pod)
            .budget(config.budget);
        let origins = OriginTracker::new(config.origins.clone());
        Self {
            config,
            health,
            audit,
            inbox,
            outbox,
            latest_interfaces: Arc::default(),
            latest_update: Arc::default(),
            compiler,
            watch: None,
            snapshot: None,
            phase: Phase::Starting,
            vacated_addresses: VacatedAddresses::default(),
            must_reapply: false,
            policy_states: BTreeMap::new(),
            policy_uids: BTreeMap::new(),
            backlog: Backlog::default(),
            restored: None,
            queue_progress: QueueProgress::default(),
            problems: Arc::default(),
            has_new_problems: true,
            reported_refusals: 0,
            problem_log: ProblemLog::default(),
            heap_trimmer: HeapTrimmer::default(),
            refused: BTreeSet::new(),
            changed_policies: BTreeSet::new(),
            predecessor: None,
            nflog: NflogRecords::default(),
            history: Arc::default(),
            origins,
            monitor: None,
            rules: RulesWatch::new(),
            port_queue: None,
            queue_counters: QueueCounters::default(),
            conntrack: None,
        }
    }
}
