//! The main thread of a running agent. It takes the agent from not ready to enforcing, and to standby when
//! another agent takes over.
//!
//! From: the source's updates. To: the [`Engine`]. Invariant: if something is missing, the agent stays live,
//! reports in one sentence what it waits for, and retries. Rules that are in the kernel stay there when the
//! agent ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use audit::Audit;
use cluster::{Connections, Problem, ResourceVersion, Update, Watch};
use dataplane::cache_log::History;
use dataplane::conntrack::Conntrack;
use dataplane::drops::DropCounts;
use dataplane::ports::{Interfaces, Monitor, PortQueue, read_interfaces};
use dataplane::preflight::{self, CheckState};
use dataplane::queues::QueueRange;
use dataplane::table::{
    FailMode, ForeignChange, OriginConfig, Origins, RulesListener, Table, TableConfig, TableError,
    VerdictCacheConfig,
};
use dataplane::workers::{Workers, WorkersConfig};
use policy::{Affected, Change, Compilation, Compiler, PolicyName, Published, Scope, Snapshot};

use crate::engine::{Engine, EngineError, open_addresses};
use crate::error_chain::chain;
use crate::health::{Condition, Health, PolicyState};
use crate::memory;
use crate::nodes;
use crate::origins::{OriginTracker, overlay_flows};
use crate::revoked::{RevokedConnections, RevokedRegistry};
use crate::status::{self, Successor};
use crate::sweeper::Sweeper;
use crate::sync::lock;

mod backlog;
mod config;
mod nflog;
mod owners;
mod phase;
mod ports;
mod predecessor;
mod problem_log;
mod progress;
mod queues;
mod restored;
mod rules;
mod successor;
use backlog::Backlog;
pub use config::AgentConfig;
use nflog::NflogRecords;
use owners::{AddressOwners, Before};
use phase::Phase;
use predecessor::Predecessor;
use problem_log::ProblemLog;
use rules::RulesWatch;

/// The name of the agent's thread: nftables' notifications name it as the program that wrote the rules.
pub const THREAD_NAME: &str = "kube-verdict";

/// How often the agent checks its state and the kernel's.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the agent retries to start enforcing, and repeats a failed preflight check.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How often policies from the backlog are compiled, at least, while other changes arrive.
const BACKLOG_INTERVAL: Duration = Duration::from_millis(100);

/// How often an enforcing agent runs the preflight checks.
const PREFLIGHT_INTERVAL: Duration = Duration::from_secs(10);

/// A message to the agent's thread.
#[derive(Debug)]
pub enum Message {
    /// The source changed.
    Update,
    /// The node's interfaces were read again.
    Interfaces,
    /// Another program changed the agent's rules.
    RulesChanged(ForeignChange),
    /// The agent must end.
    Stop,
}

/// See the module.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    health: Arc<Health>,
    audit: Audit,
    inbox: Receiver<Message>,
    outbox: Sender<Message>,
    /// The node's interfaces as the monitor last read them; `None` once the agent has taken them.
    latest_interfaces: Arc<Mutex<Option<Interfaces>>>,
    /// The source's updates that the agent has not taken yet, merged into one.
    latest_update: Arc<Mutex<Option<Update>>>,
    compiler: Compiler,
    /// The source is watched until this is dropped.
    watch: Option<Watch>,
    /// The newest snapshot; `None` before the source was read.
    snapshot: Option<Arc<Snapshot>>,
    phase: Phase,
    address_owners: AddressOwners,
    /// Whether the newest snapshot must be applied again to all connections, for example because applying it
    /// failed.
    must_reapply: bool,
    /// Changed and deleted policies of the newest snapshot whose change is not in force yet.
    policy_states: BTreeMap<PolicyName, PolicyState>,
    /// Large policies that are not compiled yet.
    backlog: Backlog,
    /// When the state on disk was written, while it replaces a part of the source.
    restored: Option<SystemTime>,
    /// The progress of another agent's queues, while this agent leaves enforcing to it.
    queue_progress: restored::QueueProgress,
    /// The problems of the source's objects.
    problems: Arc<[Problem]>,
    /// Whether `problems` have changed since they were last reported.
    has_new_problems: bool,
    /// A hash of the refusals that were last reported.
    reported_refusals: u64,
    problem_log: ProblemLog,
    heap_trimmer: memory::HeapTrimmer,
    /// Policies that exceed their namespace's budget.
    refused: BTreeSet<PolicyName>,
    /// Policies that were changed or deleted after the snapshot in force.
    changed_policies: BTreeSet<PolicyName>,
    /// The agent from which this one took over, as long as it has bound its queues.
    predecessor: Option<Predecessor>,
    nflog: NflogRecords,
    history: Arc<History>,
    /// The valid origins of packets.
    origins: OriginTracker,
    /// Interfaces are watched until this is dropped.
    monitor: Option<Monitor>,
    /// Watches for changes of the rules by other programs.
    rules: RulesWatch,
    /// Holds packets of new ports.
    port_queue: Option<PortQueue>,
    queue_counters: queues::QueueCounters,
    /// Deletes connections of deleted pods. It stays open, since closing a netfilter socket can take the
    /// kernel long (`nft_rcv_nl_event`).
    conntrack: Option<Conntrack>,
}

impl Agent {
    /// An agent that receives messages from `inbox`. `outbox` is the other end of that channel, by which the
    /// agent's watchers send it messages.
    pub fn new(
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
            address_owners: AddressOwners::default(),
            must_reapply: false,
            policy_states: BTreeMap::new(),
            backlog: Backlog::default(),
            restored: None,
            queue_progress: restored::QueueProgress::default(),
            problems: Arc::default(),
            has_new_problems: true,
            reported_refusals: 0,
            problem_log: ProblemLog::default(),
            heap_trimmer: memory::HeapTrimmer::default(),
            refused: BTreeSet::new(),
            changed_policies: BTreeSet::new(),
            predecessor: None,
            nflog: NflogRecords::default(),
            history: Arc::default(),
            origins,
            monitor: None,
            rules: RulesWatch::new(),
            port_queue: None,
            queue_counters: queues::QueueCounters::default(),
            conntrack: None,
        }
    }

    /// Runs until it receives [`Message::Stop`].
    pub fn run(mut self) {
        let now = Instant::now();
        let (mut start_at, mut check_at, mut preflight_at) =
            (now, now + CHECK_INTERVAL, now + RETRY_INTERVAL);
        let mut backlog_at = now;
        loop {
            let now = Instant::now();
            if self.phase.is_starting() && now >= start_at {
                self.start();
                start_at = Instant::now() + RETRY_INTERVAL;
            }
            if now >= check_at {
                self.check();
                self.log_repeated_problems();
                check_at = now + CHECK_INTERVAL;
            }
            if now >= preflight_at && self.phase.is_enforcing() {
                // This agent has bound its queues, so they need not be free.
                self.run_preflight(&[]);
                // A failed check is repeated soon, so that an operator sees the effect of a repair.
                let has_failed = self.health.state().is_not_ready(Condition::Preflight);
                preflight_at = now + if has_failed { RETRY_INTERVAL } else { PREFLIGHT_INTERVAL };
            }
            self.sweep();
            if self.phase.is_enforcing() {
                self.restore_rules();
            }
            let wake = match &self.phase {
                _ if self.has_backlog() => Instant::now(),
                Phase::Starting => check_at.min(start_at),
                Phase::Enforcing(engine) if !self.must_reapply => {
                    engine.sweep_at().map_or(check_at, |at| check_at.min(at))
                }
                Phase::Enforcing(_) | Phase::Superseded(_) => check_at,
            };
            let wake = self.rules.restore_at().map_or(wake, |at| wake.min(at));
            match self.inbox.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(message) => {
                    let Some(MessageBatch { foreign_change, interfaces, update }) = self.receive_all(message)
                    else {
                        break;
                    };
                    // Rules come first: packets may pass unevaluated.
                    if let Some(change) = foreign_change {
                        self.rules_changed(change);
                    }
                    // New ports come before policy: their packets are held.
                    if let Some(interfaces) = interfaces {
                        self.origins.set_interfaces(interfaces);
                        self.refresh_origins();
                    }
                    if let Some(update) = update {
                        self.update(update);
                        // The update may bring what the agent waits for.
                        start_at = Instant::now();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => backlog_at = now,
            }
            // A steady stream of messages must not delay the backlog.
            if Instant::now() >= backlog_at {
                self.compile_backlog();
                backlog_at = Instant::now() + BACKLOG_INTERVAL;
            }
        }
        self.end();
    }

    /// Merges `first` and all messages in the inbox; `None` if the agent must end.
    fn receive_all(&self, first: Message) -> Option<MessageBatch> {
        let mut batch = MessageBatch::default();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Update => match (&mut batch.update, lock(&self.latest_update).take()) {
                    (Some(before), Some(update)) => before.then(update),
                    (None, update) => batch.update = update,
                    (Some(_), None) => {}
                },
                Message::Interfaces => {
                    batch.interfaces = lock(&self.latest_interfaces).take().or(batch.interfaces)
                }
                // The first change tells when the bypass began. Restoring the rules once undoes all changes.
                Message::RulesChanged(change) => drop(batch.foreign_change.get_or_insert(change)),
                Message::Stop => return None,
            }
            next = self.inbox.try_recv().ok();
        }
        Some(batch)
    }

    /// Takes the next steps towards enforcing, until one of them has to wait.
    fn start(&mut self) {
        let Some(watch) = &self.watch else { return self.open_source() };
        let Some(snapshot) = self.snapshot.clone() else {
            if let Some(why) = watch.connections().and_then(Connections::waits_for) {
                self.health.state().not_ready(Condition::Source, why);
            }
            return;
        };
        let waits_for = watch.connections().and_then(Connections::waits_for);
        if let Some(why) = self.defers_to_other_agent(waits_for) {
            return self.health.state().not_ready(Condition::Source, why);
        }
        let mut state = self.health.state();
        state.met(Condition::Source);
        if snapshot.pod_cidrs().is_empty() {
            state.not_ready(
                Condition::Node,
                nodes::without_pod_cidr(&self.config.node, self.compiler.inventory()),
            );
            return;
        }
        state.met(Condition::Node);
        drop(state);
        if !self.run_preflight(&self.config.queues) {
            return;
        }
        match self.install(&snapshot) {
            Ok(engine) => {
                self.phase = Phase::Enforcing(engine);
                self.health.state().met(Condition::Install);
                // This adopts established connections.
                self.reapply();
                self.health.state().met(Condition::Started);
            }
            Err(why) => self.health.state().not_ready(Condition::Install, format!("{why:#}")),
        }
    }

    /// Runs the preflight checks. The agent is not ready while any of them fails. Returns whether policy can
    /// be enforced, at least in part. `queues` must be free or be served by an agent.
    fn run_preflight(&self, queues: &[QueueRange]) -> bool {
        let pod_cidrs = self.snapshot.as_ref().map_or(&[][..], |snapshot| snapshot.pod_cidrs());
        let checks = preflight::check(&self.config.preflight(pod_cidrs, queues));
        let wrong: Vec<String> = checks
            .iter()
            .filter_map(|check| match &check.state {
                CheckState::Wrong { what, todo, .. } => Some(format!("{}: {what}: {todo}", check.name)),
                CheckState::Fine { .. } | CheckState::Warning { .. } => None,
            })
            .collect();
        let mut state = self.health.state();
        if wrong.is_empty() {
            state.met(Condition::Preflight);
        } else {
            state.not_ready(Condition::Preflight, wrong.join("; "));
        }
        !checks.iter().any(|check| check.state.prevents_enforcing())
    }

    /// Starts to watch the source. Its first update comes when all of the source is known.
    fn open_source(&mut self) {
        let (outbox, latest) = (self.outbox.clone(), Arc::clone(&self.latest_update));
        // At most one message is queued, with the newest version of each policy, however often the source
        // changes.
        let publish = move |update| {
            let mut latest = lock(&latest);
            match &mut *latest {
                Some(before) => before.then(update),
                None => {
                    *latest = Some(update);
                    // This fails only if the agent has ended.
                    drop(outbox.send(Message::Update));
                }
            }
        };
        let state_dir = self.config.state_dir.as_ref();
        let opened = self.config.source.watch(state_dir, publish);
        let mut state = self.health.state();
        match opened {
            Ok(watch) => {
                state.connections = watch.connections().cloned();
                state.saved = watch.state().cloned();
                state.met(Condition::Source);
                drop(state);
                self.watch = Some(watch);
            }
            Err(error) => {
                state.not_ready(Condition::Source, format!("the source can't be read: {}", chain(&error)));
            }
        }
    }

    /// Sets up queues, workers and rules, in this order: no packet may be queued before a worker can give its
    /// verdict.
    fn install(&mut self, snapshot: &Arc<Snapshot>) -> anyhow::Result<Engine> {
        let in_use = Table::queues_in_use()?;
        let listener = RulesListener::open()?;
        // Under existing rules that let no packet pass unevaluated, every connection is already marked.
        let trust_replies = Table::passes_unevaluated()?;
        // Existing bindings stay: an earlier agent may have seen the addresses at another port first.
        self.origins.begin(read_interfaces()?, Table::bindings_in_force()?);
        let snapshot = &self.with_own_addresses(snapshot);
        let (published, workers, queues) = self.start_workers(snapshot, in_use)?;
        let marks = self.config.marks;
        // Another agent may take over at any time, even while this process is stopped (SIGSTOP).
        let open_conntrack = || Conntrack::open_for(queues);
        self.conntrack = Some(open_conntrack()?);
        let registry =
            Arc::new(Mutex::new(RevokedRegistry::new(open_conntrack()?, marks, Arc::clone(snapshot))));
        let sweeper = Sweeper::start(open_conntrack()?, marks, Arc::clone(&registry))?;
        let holders = workers.holders();
        self.health.set_workers(Some(workers));
        self.history.publish(snapshot, Instant::now());
        let (origins, unbound) = self.origins.derive(snapshot, self.compiler.inventory());
        let overlay = overlay_flows(&origins);
        self.nflog.begin();
        self.listen_to_nflog(queues);
        let config = self.table_config(snapshot, queues, origins, trust_replies);
        let log_group = self.nflog.group(self.config.log_group(queues));
        let installed = self.watch_ports(queues).and_then(|()| Ok(Table::install(config, queues)?));
        let mut table = match installed {
            Ok(table) => table,
            Err(error) => {
                self.health.set_workers(None);
                self.nflog.end();
                (self.port_queue, self.monitor) = (None, None);
                return Err(error);
            }
        };
        self.nflog.rules_log_to(log_group);
        self.rules.begin(listener, &table, self.outbox.clone());
        self.release_ports();
        let dropped = table.drop_counts().unwrap_or_else(|error| {
            tracing::warn!(
                error = %chain(&error),
                "the counts of dropped packets can't be read: the drops of an earlier agent are recorded \
                 again"
            );
            DropCounts::new()
        });
        self.origins.drops.begin(dropped);
        self.predecessor = in_use.filter(|theirs| *theirs != queues).map(Predecessor::new);
        let origins_status = self.origins_status(table.protections(), snapshot);
        let mut state = self.health.state();
        state.queues = Some(queues);
        // One lock covers all three, so that no status shows rules without their protections.
        state.status.phase = status::Phase::Enforcing;
        state.status.table = Some(self.table_status(&table));
        state.status.origins = Some(origins_status);
        drop(state);
        tracing::info!(%queues, form = ?table.form(), node = %self.config.node, "rules installed");
        let (record_open, history) = (self.config.record_open, Arc::clone(&self.history));
        let revoked = RevokedConnections::new(registry);
        let mut engine = Engine::new(published, holders, table, sweeper, record_open, history, revoked);
        engine.set_overlay(overlay);
        engine.reassign(unbound);
        Ok(engine)
    }

    /// Starts workers on the range of queues that the rules in the kernel don't use and don't accept verdicts
    /// from. If another process has bound that range, for example a stopped agent, starts them on the other
    /// one.
    fn start_workers(
        &self,
        snapshot: &Arc<Snapshot>,
        in_use: Option<QueueRange>,
    ) -> anyhow::Result<(Arc<Published>, Workers, QueueRange)> {
        let overlaps = |range: &QueueRange| {
            in_use
                .is_some_and(|used| range.numbers().any(|number| used.numbers().any(|other| other == number)))
        };
        let mut ranges = self.config.queues;
        let has_same_parity = |range: &QueueRange| in_use.is_some_and(|used| used.is_odd() == range.is_odd());
        ranges.sort_by_key(|range| (overlaps(range), has_same_parity(range)));
        let [first, second] = ranges.map(|queues| {
            let published = Published::new(Arc::clone(snapshot), usize::from(queues.count));
            let config = WorkersConfig {
                queues,
                marks: self.config.marks,
                caches_denied: self.config.verdict_cache.is_some(),
                queue_length: self.config.queue_length,
                fail_open: false,
                hold: self.config.hold,
            };
            move |audit: &Audit| {
                let recorder = |_| {
                    let mut recorder = audit.recorder();
                    move |evaluation| recorder.record(evaluation)
                };
                Workers::start(config, &published, recorder).map(|workers| (published, workers, queues))
            }
        });
        // The second range is safe if the rules use it and its queues are free: its agent has ended, so no
        // more of its verdicts arrive. It is also safe if the rules use no range, or one of the other parity,
        // whose verdicts differ.
        let can_be_second = overlaps(&ranges[1]) || !has_same_parity(&ranges[1]);
        match first(&self.audit) {
            Ok(started) => Ok(started),
            Err(_) if !overlaps(&ranges[0]) && can_be_second => Ok(second(&self.audit)?),
            Err(error) => Err(error.into()),
        }
    }

    fn table_config(
        &self,
        snapshot: &Snapshot,
        queues: QueueRange,
        origins: Origins,
        trust_replies: bool,
    ) -> TableConfig {
        let log_group = self.nflog.group(self.config.log_group(queues));
        let origin = OriginConfig {
            queue: self.config.port_queue(queues),
            log_group,
            overlay_sources_are_nodes: self.origins.settings().overlay_sources_are_nodes,
            origins,
        };
        TableConfig {
            marks: self.config.marks,
            fail_mode: self.config.fail_mode,
            prerouting_dns: self.config.prerouting_dns,
            holder: format!("{} pid {}", self.config.node, std::process::id()),
            pod_cidrs: snapshot.pod_cidrs().to_vec(),
            open: open_addresses(snapshot, self.config.record_open),
            verdict_cache: self.config.verdict_cache.map(|time| VerdictCacheConfig { time, log_group }),
            queue_quota: self.config.queue_quota,
            generation: snapshot.generation(),
            origin: Some(origin),
            trust_replies,
        }
    }

    fn table_status(&self, table: &Table) -> status::Table {
        status::Table {
            form: format!("{:?}", table.form()).to_lowercase(),
            queues: table.queues().to_string(),
            fail_mode: match self.config.fail_mode {
                FailMode::Open => "open".to_owned(),
                FailMode::Closed => "closed".to_owned(),
            },
        }
    }

    /// Compiles a change of the source, and applies the snapshot if the rules are installed.
    fn update(&mut self, mut update: Update) {
        let first = self.snapshot.is_none();
        let mut changes = std::mem::take(&mut update.changes);
        let lacks_node = first && self.lacks_node(&changes);
        if first {
            changes.splice(0..0, self.config.pod_cidrs.first());
            self.health.state().met(Condition::Source);
        }
        for (name, state) in policy_states(&changes, std::mem::take(&mut update.versions)) {
            state.replace_in(&mut self.policy_states, name);
        }
        if !first {
            changes = self.backlog.defer(changes);
        }
        if let Some(cni) = update.cni_ports.take() {
            self.origins.set_cni(cni);
            if changes.is_empty() && !first {
                self.refresh_origins();
            }
        }
        self.has_new_problems |= self.problems != update.problems;
        self.problems = update.problems;
        self.health.state().status.read = Some(update.read);
        let (restored, never_understood) = (update.restored, update.never_understood);
        if changes.is_empty() && !first {
            self.report_source_gaps(restored, &never_understood);
            self.report_problems();
            // Policies whose version changed and whose content did not are already in force.
            if self.phase.is_enforcing() && !self.must_reapply {
                let policies = self.policies_in_force();
                self.health.state().in_force(policies);
            }
            return;
        }
        self.compile(changes);
        // This comes last: what the status attributes to the source must be in force.
        self.report_source_gaps(restored, &never_understood);
        if lacks_node {
            let node = &*self.config.node;
            let known = nodes::others(node, self.compiler.inventory());
            tracing::warn!(
                node,
                known,
                "the source has Nodes, but none of this name: correct --node if it is misspelt"
            );
        }
    }

    /// Whether the source's first changes have Nodes, but not this agent's. Checked only with `--pod-cidr`:
    /// without it, the agent is not ready and reports the missing Node. If the agent may not read Nodes, the
    /// source has none.
    fn lacks_node(&self, changes: &[Change]) -> bool {
        let mut names = changes.iter().filter_map(|change| match change {
            Change::Node(node) => Some(&node.name),
            _ => None,
        });
        let has_pod_cidr_flag = self.config.pod_cidrs.first().is_some();
        has_pod_cidr_flag
            && names.next().is_some_and(|first| {
                *first != self.config.node && names.all(|name| *name != self.config.node)
            })
    }

    /// Whether policies remain to be compiled.
    fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.compiler.is_behind()
    }

    /// Compiles some policies of the backlog, if there are any.
    fn compile_backlog(&mut self) {
        if self.has_backlog() {
            let changes = self.backlog.next();
            self.compile(changes);
            // Large objects were read and compiled.
            memory::trim();
        }
    }

    /// The changed policies that are in force with the newest snapshot: all but those in the backlog.
    fn policies_in_force(&mut self) -> BTreeMap<PolicyName, PolicyState> {
        let (deferred, in_force) = std::mem::take(&mut self.policy_states)
            .into_iter()
            .partition(|(name, _)| self.backlog.holds(name));
        self.policy_states = deferred;
        in_force
    }

    /// Compiles the changes, and applies the snapshot if the rules are installed.
    fn compile(&mut self, changes: Vec<Change>) {
        let (started, count) = (Instant::now(), changes.len() as u64);
        self.changed_policies.extend(changes.iter().filter_map(|change| match change {
            Change::Policy(policy) => Some(policy.name.clone()),
            Change::PolicyGone(name) => Some(name.clone()),
            _ => None,
        }));
        let monitor = self.audit.monitor();
        for change in &changes {
            if let Change::PolicyGone(policy) = change {
                monitor.policy_verdicts().remove(policy);
            }
        }
        let before = Before::new(&changes, self.compiler.inventory(), self.snapshot.as_deref());
        let pod_cidrs = &self.config.pod_cidrs;
        let changes = changes.into_iter().map(|change| pod_cidrs.apply(change));
        let Compilation { snapshot, affected } = self.compiler.apply(changes);
        // An earlier change that is not in force yet may affect other connections.
        let mut affected = if self.must_reapply { Affected::All } else { affected };
        self.changed_policies.extend(self.compiler.readmitted().iter().cloned());
        self.report_problems();
        if let Some(engine) = self.phase.engine() {
            let reassigned = self.address_owners.reassigned(before, &snapshot, &affected);
            affected = affected.or(Affected::any_peer(reassigned.iter().copied()));
            engine.reassign(reassigned);
        }
        self.report_inventory(&snapshot);
        self.snapshot = Some(snapshot);
        self.apply(affected, Compiled { changes: count, elapsed: started.elapsed() });
    }

    /// Applies the newest snapshot again, and evaluates all connections.
    fn reapply(&mut self) {
        self.apply(Affected::All, Compiled::default());
    }

    /// Applies the newest snapshot, which affects these connections. Does nothing before the rules are
    /// installed.
    fn apply(&mut self, mut affected: Affected, compiled: Compiled) {
        let is_superseded = self.phase.is_superseded();
        let (Some(engine), Some(snapshot)) = (self.phase.engine(), &self.snapshot) else { return };
        if !affected.is_none() || self.origins.depends_on_labels() {
            let (origins, unbound) = self.origins.derive(snapshot, self.compiler.inventory());
            engine.set_overlay(overlay_flows(&origins));
            let is_changed = engine.table().set_origins(origins);
            engine.reassign(unbound);
            if is_changed && affected.is_none() {
                affected = Affected::All;
            }
        }
        let generation = snapshot.generation().0;
        self.health.state().status.published_generation = generation;
        if is_superseded {
            // Packets in this agent's queues are evaluated under the newest policy. The kernel's state
            // belongs to the other agent.
            engine.publish(snapshot);
            return;
        }
        match engine.apply(snapshot, affected) {
            Ok(applied) => {
                self.must_reapply = false;
                self.watch.iter().for_each(|watch| watch.permit_state(true));
                self.release_ports();
                let policies = self.policies_in_force();
                self.health.state().in_force(policies);
                let changed = std::mem::take(&mut self.changed_policies);
                // A separate log line names each refused policy.
                let policies = changed.difference(&self.refused).cloned().collect();
                self.report_applied(generation, policies, &compiled, &applied);
                self.end_bypass();
            }
            Err(error) => {
                self.must_reapply = true;
                self.failed(generation, &error);
            }
        }
    }

    /// Starts a due sweep of affected connections, or takes the report of one that has ended.
    fn sweep(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.enforcing(), &self.snapshot) else { return };
        // Applying the snapshot again also sweeps all connections.
        if self.must_reapply {
            return;
        }
        match engine.sweep(snapshot) {
            Ok(None) => {}
            Ok(Some(swept)) => self.report_sweep(&swept),
            Err(error) => {
                self.must_reapply = true;
                self.failed(snapshot.generation().0, &error);
            }
        }
    }

    /// Completes all due sweeps before the agent ends. Otherwise packets of affected connections would still
    /// be queued when no agent gives verdicts, even of those that policy allows.
    fn finish_sweeps(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.enforcing(), &self.snapshot) else { return };
        if engine.sweep_at().is_some() {
            match engine.sweep_now(snapshot) {
                Ok(swept) => self.report_sweep(&swept),
                Err(error) if error.is_superseded() => self.superseded(),
                Err(error) => tracing::warn!(
                    error = %chain(&error),
                    "final sweep failed; affected connections stall until an agent starts"
                ),
            }
        }
    }

    fn failed(&mut self, generation: u64, error: &EngineError) {
        match error {
            error if error.is_superseded() => self.superseded(),
            EngineError::Table(TableError::Missing) => self.rules.missing(),
            EngineError::Grace => self.health.state().status.dead = Some(chain(error)),
            _ => {}
        }
        if self.phase.is_enforcing() {
            let why = format!("generation {generation} is not wholly in force: {}", chain(error));
            self.health.state().not_ready(Condition::Change, why);
        }
    }

    /// Checks the agent's state and the kernel's, once a second.
    fn check(&mut self) {
        self.heap_trimmer.trim_if_grown();
        if let Some(why) = self.health.dead_worker() {
            let mut state = self.health.state();
            state.not_ready(Condition::Workers, why.clone());
            state.status.dead = Some(why);
        }
        if !self.phase.is_enforcing() {
            return self.report_successor();
        }
        self.check_nflog();
        self.record_full_queues();
        self.record_drops();
        if self.port_queue.as_ref().is_some_and(PortQueue::has_ended) {
            self.health.state().not_ready(
                Condition::Workers,
                "the thread for packets of new ports has ended: restart the agent",
            );
        }
        if self.rules.has_ended() {
            self.health.state().not_ready(
                Condition::Workers,
                "the thread that watches for changes of the rules has ended: restart the agent",
            );
        }
        self.check_predecessor();
        match self.phase.enforcing().map(|engine| engine.table().superseded()) {
            Some(Ok(true)) => self.superseded(),
            Some(Err(TableError::Missing)) => self.rules.missing(),
            // The rules enforce policy even if they can't be read.
            Some(Err(error)) => tracing::warn!(error = %chain(&error), "cannot read the rules"),
            Some(Ok(false)) if !self.rules.is_damaged() => self.rules.seen(),
            Some(Ok(false)) | None => {}
        }
        self.restore_rules();
        if self.must_reapply {
            self.reapply();
        }
    }

    /// Stops enforcing because the rules now name another agent's queues, or none. From here on, this agent
    /// only gives verdicts on packets in its queues.
    fn superseded(&mut self) {
        self.must_reapply = false;
        self.phase.supersede();
        self.watch.iter().for_each(|watch| watch.permit_state(false));
        self.hand_over_rules();
        let mut state = self.health.state();
        state.status.phase = status::Phase::Superseded;
        // The rules in the kernel belong to the other agent.
        (state.status.table, state.status.origins) = (None, None);
        state.met(Condition::Change);
        state.met(Condition::Rules);
        state.met(Condition::Nflog);
        drop(state);
        self.report_successor();
    }

    /// Ends in order: stops the updates, gives verdicts on all queued packets, and records all evaluations.
    /// The rules stay.
    fn end(mut self) {
        self.finish_sweeps();
        self.log_rest_of_problems();
        self.rules.end();
        let superseded = self.phase.is_superseded();
        let mut state = self.health.state();
        let successor = state.status.successor;
        state.stopping();
        drop(state);
        self.watch = None;
        // The next agent must evaluate new connections at once, not only after cached verdicts expire.
        match self.phase.engine().map(|engine| engine.table().forget()) {
            Some(Err(error)) if !superseded => {
                tracing::warn!(error = %chain(&error), "cached verdicts stay until they expire")
            }
            _ => {}
        }
        let installed = !self.phase.is_starting();
        self.phase = Phase::Starting;
        self.health.set_workers(None);
        (self.port_queue, self.monitor) = (None, None);
        self.nflog.end();
        let audit = self.audit.stop();
        let rules = match (installed, superseded, self.config.fail_mode) {
            (false, ..) => "none of this agent's",
            (true, true, _) => match successor {
                Some(Successor::RulesRemoved) => "removed, as by `kube-verdict cleanup`: nothing is enforced",
                Some(Successor::AgentGone) => "those of another agent, which is gone",
                Some(Successor::Agent) | None => "another agent's",
            },
            (true, false, FailMode::Open) => {
                "stay: new connections pass unevaluated until an agent runs again"
            }
            (true, false, FailMode::Closed) => {
                "stay: new connections that need a verdict are dropped until an agent runs again"
            }
        };
        tracing::info!(records = audit.written, lost = audit.lost, rules, "ended");
    }
}

/// Statistics of a compilation.
#[derive(Debug, Default)]
struct Compiled {
    /// How many changed objects were compiled.
    changes: u64,
    elapsed: Duration,
}

/// Messages that were received together, merged.
#[derive(Debug, Default)]
struct MessageBatch {
    foreign_change: Option<ForeignChange>,
    interfaces: Option<Interfaces>,
    update: Option<Update>,
}

/// The states of policies after these changes. A policy's version can change while its content stays the
/// same.
fn policy_states(
    changes: &[Change],
    versions: Vec<(PolicyName, Option<ResourceVersion>)>,
) -> impl Iterator<Item = (PolicyName, PolicyState)> {
    let changed = changes.iter().filter_map(|change| match change {
        Change::Policy(policy) => Some((policy.name.clone(), PolicyState::Present(None))),
        Change::PolicyGone(name) => Some((name.clone(), PolicyState::Removed)),
        _ => None,
    });
    let versions = versions.into_iter().map(|(name, version)| match version {
        Some(version) => (name, PolicyState::Present(Some(version))),
        None => (name, PolicyState::Removed),
    });
    changed.chain(versions)
}
