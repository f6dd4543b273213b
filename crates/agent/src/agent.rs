//! The thread of a running agent: from not ready to enforcing, and on to standing by where another takes over.
//!
//! From: the source's updates. To: the [`Engine`]. Invariant: whatever is missing, the agent stays live, says in one sentence
//! what it waits for, and tries again; rules that are in the kernel stay there when it ends.

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
use crate::health::{Health, PolicyState, Topic};
use crate::memory;
use crate::nodes;
use crate::origins::{OriginTracker, overlay_flows};
use crate::revoked::{Register, RevokedConnections};
use crate::status::{self, Successor};
use crate::sweeper::Sweeper;

mod backlog;
mod config;
mod kernel_records;
mod notes;
mod owners;
mod phase;
mod ports;
mod predecessor;
mod problem_log;
mod queues;
mod restored;
mod rules;
mod successor;
use backlog::Backlog;
pub use config::AgentConfig;
use kernel_records::KernelRecords;
use owners::{AddressOwners, Before};
use phase::Phase;
use predecessor::Predecessor;
use problem_log::ProblemLog;
use rules::RulesWatch;

/// The name of the agent's thread: nftables' notifications give it as the program that wrote the rules.
pub const THREAD_NAME: &str = "kube-verdict";

/// How often the agent looks whether all is still as it was.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// How often it tries again what did not work.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// How long policies that wait are passed over, at most, while other changes come.
const CATCH_UP: Duration = Duration::from_millis(100);

/// How often it looks at the needs of a running agent.
const CHECK_NEEDS: Duration = Duration::from_secs(10);

/// What the agent's thread is told.
#[derive(Debug)]
pub enum Message {
    /// The source changed.
    Update,
    /// The node's interfaces were read again.
    Interfaces,
    /// Another program changed our rules.
    RulesChanged(ForeignChange),
    /// End.
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
    /// The node's interfaces as the monitor has read them last, until they are taken in.
    latest_interfaces: Arc<Mutex<Option<Interfaces>>>,
    /// What the source said since an update was taken, as one.
    latest_update: Arc<Mutex<Option<Update>>>,
    compiler: Compiler,
    /// The source is read and watched while this lives.
    watch: Option<Watch>,
    /// The newest; `None` before the source was read.
    snapshot: Option<Arc<Snapshot>>,
    phase: Phase,
    address_owners: AddressOwners,
    /// Whether the newest snapshot is not in force yet though it was tried.
    behind: bool,
    /// Policies of the newest snapshot, and those that are gone with it, that are not in force yet.
    policy_states: BTreeMap<PolicyName, PolicyState>,
    /// Large policies that wait to be compiled.
    backlog: Backlog,
    /// When the state on disk was written, while it stands in for a part of the source.
    restored: Option<SystemTime>,
    /// What another agent answers to which this one leaves enforcing.
    answers: restored::Answers,
    /// What is wrong with the source's objects.
    problems: Arc<[Problem]>,
    /// Whether these have not been noted yet.
    has_new_problems: bool,
    /// A hash of the refusals that were noted last.
    noted_refusals: u64,
    problem_log: ProblemLog,
    growth: memory::Growth,
    /// Policies beyond their namespace's budget.
    refused: BTreeSet<PolicyName>,
    /// Policies that changed, or are gone, since the snapshot that is in force.
    changed_policies: BTreeSet<PolicyName>,
    /// The agent from which this one took over, until its queues are no longer bound.
    predecessor: Option<Predecessor>,
    kernel_records: KernelRecords,
    history: Arc<History>,
    /// Where packets may come from.
    origins: OriginTracker,
    /// Interfaces are followed while this lives.
    monitor: Option<Monitor>,
    /// What other programs do to the rules.
    rules: RulesWatch,
    /// Packets of new ports wait here.
    port_queue: Option<PortQueue>,
    queue_looks: queues::QueueLooks,
    /// For connections of pods that are gone. It stays open: to close a netfilter socket can take the kernel long
    /// (`nft_rcv_nl_event`).
    conntrack: Option<Conntrack>,
}

impl Agent {
    /// An agent that hears from `inbox` and sends itself the source's updates by `outbox`, its other end.
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
            behind: false,
            policy_states: BTreeMap::new(),
            backlog: Backlog::default(),
            restored: None,
            answers: restored::Answers::default(),
            problems: Arc::default(),
            has_new_problems: true,
            noted_refusals: 0,
            problem_log: ProblemLog::default(),
            growth: memory::Growth::default(),
            refused: BTreeSet::new(),
            changed_policies: BTreeSet::new(),
            predecessor: None,
            kernel_records: KernelRecords::default(),
            history: Arc::default(),
            origins,
            monitor: None,
            rules: RulesWatch::new(),
            port_queue: None,
            queue_looks: queues::QueueLooks::default(),
            conntrack: None,
        }
    }

    /// Runs until it is told to end.
    pub fn run(mut self) {
        let now = Instant::now();
        let (mut try_at, mut look_at, mut check_at) = (now, now + LOOK_AROUND, now + TRY_AGAIN);
        let mut catch_up_at = now;
        loop {
            let now = Instant::now();
            if self.phase.is_starting() && now >= try_at {
                self.bring_up();
                try_at = Instant::now() + TRY_AGAIN;
            }
            if now >= look_at {
                self.look_around();
                self.log_repeated_problems();
                look_at = now + LOOK_AROUND;
            }
            if now >= check_at && self.phase.is_enforcing() {
                // Our queues are ours by now.
                self.check_needs(&[]);
                // What an operator has just mended is seen soon.
                let is_waited_for = self.health.state().is_not_ready(Topic::Needs);
                check_at = now + if is_waited_for { TRY_AGAIN } else { CHECK_NEEDS };
            }
            self.sweep();
            if self.phase.is_enforcing() {
                self.restore_rules();
            }
            let wake = match &self.phase {
                _ if self.is_behind() => Instant::now(),
                Phase::Starting => look_at.min(try_at),
                Phase::Enforcing(engine) if !self.behind => {
                    engine.sweep_at().map_or(look_at, |at| look_at.min(at))
                }
                Phase::Enforcing(_) | Phase::Superseded(_) => look_at,
            };
            let wake = self.rules.restore_at().map_or(wake, |at| wake.min(at));
            match self.inbox.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(message) => {
                    let Some(News { foreign_change, interfaces, update }) = self.news(message) else { break };
                    // Packets may pass unevaluated.
                    if let Some(change) = foreign_change {
                        self.rules_changed(change);
                    }
                    // New ports first: their packets wait.
                    if let Some(interfaces) = interfaces {
                        self.origins.set_interfaces(interfaces);
                        self.refresh_origins();
                    }
                    if let Some(update) = update {
                        self.update(update);
                        // What was missing may just have come.
                        try_at = Instant::now();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => catch_up_at = now,
            }
            // Also where one change comes after the other.
            if Instant::now() >= catch_up_at {
                self.catch_up();
                catch_up_at = Instant::now() + CATCH_UP;
            }
        }
        self.end();
    }

    /// All messages that wait, as one; `None` if the agent is to end.
    fn news(&self, first: Message) -> Option<News> {
        let mut news = News::default();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Update => match (&mut news.update, ports::lock(&self.latest_update).take()) {
                    (Some(before), Some(update)) => before.then(update),
                    (None, update) => news.update = update,
                    (Some(_), None) => {}
                },
                Message::Interfaces => {
                    news.interfaces = ports::lock(&self.latest_interfaces).take().or(news.interfaces)
                }
                // The first says since when; to write the rules again once undoes all.
                Message::RulesChanged(change) => drop(news.foreign_change.get_or_insert(change)),
                Message::Stop => return None,
            }
            next = self.inbox.try_recv().ok();
        }
        Some(news)
    }

    /// Takes the next steps towards enforcing, as far as they go.
    fn bring_up(&mut self) {
        let Some(watch) = &self.watch else { return self.open_source() };
        let Some(snapshot) = self.snapshot.clone() else {
            if let Some(why) = watch.connections().and_then(Connections::waits_for) {
                self.health.state().not_ready(Topic::Source, why);
            }
            return;
        };
        let waits_for = watch.connections().and_then(Connections::waits_for);
        if let Some(why) = self.leaves_enforcing(waits_for) {
            return self.health.state().not_ready(Topic::Source, why);
        }
        let mut state = self.health.state();
        state.settled(Topic::Source);
        if snapshot.pod_cidrs().is_empty() {
            state.not_ready(
                Topic::Node,
                nodes::without_pod_cidr(&self.config.node, self.compiler.inventory()),
            );
            return;
        }
        state.settled(Topic::Node);
        drop(state);
        if !self.check_needs(&self.config.queues) {
            return;
        }
        match self.install(&snapshot) {
            Ok(engine) => {
                self.phase = Phase::Enforcing(engine);
                self.health.state().settled(Topic::Install);
                // Adopts the connections that exist.
                self.put_in_force_again();
                self.health.state().settled(Topic::Starting);
            }
            Err(why) => self.health.state().not_ready(Topic::Install, format!("{why:#}")),
        }
    }

    /// Whether policy can be enforced, if only in part: what is missing then is said, and keeps the agent from being ready. `queues` must be
    /// free, or be served by an agent.
    fn check_needs(&self, queues: &[QueueRange]) -> bool {
        let pod_cidrs = self.snapshot.as_ref().map_or(&[][..], |snapshot| snapshot.pod_cidrs());
        let needs = preflight::check(&self.config.needs(pod_cidrs, queues));
        let wrong: Vec<String> = needs
            .iter()
            .filter_map(|need| match &need.state {
                CheckState::Wrong { what, todo, .. } => Some(format!("{}: {what}: {todo}", need.name)),
                CheckState::Fine { .. } | CheckState::Warning { .. } => None,
            })
            .collect();
        let mut state = self.health.state();
        if wrong.is_empty() {
            state.settled(Topic::Needs);
        } else {
            state.not_ready(Topic::Needs, wrong.join("; "));
        }
        !needs.iter().any(|need| need.state.prevents_enforcing())
    }

    /// Begins to watch the source: its first update comes when all of it is known.
    fn open_source(&mut self) {
        let (outbox, latest) = (self.outbox.clone(), Arc::clone(&self.latest_update));
        // One message at most waits, and of each policy its newest version, however often it changes.
        let publish = move |update| {
            let mut latest = ports::lock(&latest);
            match &mut *latest {
                Some(before) => before.then(update),
                None => {
                    *latest = Some(update);
                    // If there is no agent any more, nothing is to be changed.
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
                state.settled(Topic::Source);
                drop(state);
                self.watch = Some(watch);
            }
            Err(error) => state.not_ready(Topic::Source, format!("the source can't be read: {error}")),
        }
    }

    /// Sets up queues, workers and rules, in this order: no packet may come before it can be answered.
    fn install(&mut self, snapshot: &Arc<Snapshot>) -> anyhow::Result<Engine> {
        let in_use = Table::queues_in_use()?;
        let listener = RulesListener::open()?;
        // Under rules that let nothing pass unevaluated every connection is marked already.
        let trust_replies = Table::passes_unevaluated()?;
        // First bindings stay: an agent before this one has seen them first.
        self.origins.begin(read_interfaces()?, Table::bindings_in_force()?);
        let snapshot = &self.with_own_addresses(snapshot);
        let (published, workers, queues) = self.start_workers(snapshot, in_use)?;
        let marks = self.config.marks;
        // Another agent may take over at any time, also while this one is stopped.
        let open_conntrack = || Conntrack::open_for(queues);
        self.conntrack = Some(open_conntrack()?);
        let register = Arc::new(Mutex::new(Register::new(open_conntrack()?, marks, Arc::clone(snapshot))));
        let sweeper = Sweeper::start(open_conntrack()?, marks, Arc::clone(&register))?;
        let holders = workers.holders();
        self.health.set_workers(Some(workers));
        self.history.publish(snapshot, Instant::now());
        let (origins, left) = self.origins.derive(snapshot, self.compiler.inventory());
        let overlay = overlay_flows(&origins);
        self.kernel_records.begin();
        self.listen_to_kernel(queues);
        let config = self.table_config(snapshot, queues, origins, trust_replies);
        let log_group = self.kernel_records.group(self.config.log_group(queues));
        let installed = self.follow_ports(queues).and_then(|()| Ok(Table::install(config, queues)?));
        let mut table = match installed {
            Ok(table) => table,
            Err(error) => {
                self.health.set_workers(None);
                self.kernel_records.end();
                (self.port_queue, self.monitor) = (None, None);
                return Err(error);
            }
        };
        self.kernel_records.rules_log_to(log_group);
        self.rules.begin(listener, &table, self.outbox.clone());
        self.release_ports();
        let dropped = table.drop_counts().unwrap_or_else(|error| {
            tracing::warn!(%error, "the counts of dropped packets can't be read: those of an agent before are recorded again");
            DropCounts::new()
        });
        self.origins.ledger.begin(dropped);
        self.predecessor = in_use.filter(|theirs| *theirs != queues).map(Predecessor::new);
        let origins_status = self.origins_status(table.protections(), snapshot);
        let mut state = self.health.state();
        state.queues = Some(queues);
        // Under one lock, so that no status has rules without their protections.
        state.status.phase = status::Phase::Enforcing;
        state.status.table = Some(self.table_status(&table));
        state.status.origins = Some(origins_status);
        drop(state);
        tracing::info!(%queues, form = ?table.form(), node = %self.config.node, "rules installed");
        let (record_open, history) = (self.config.record_open, Arc::clone(&self.history));
        let revoked = RevokedConnections::new(register);
        let mut engine = Engine::new(published, holders, table, sweeper, record_open, history, revoked);
        engine.set_overlay(overlay);
        engine.reassign(left);
        Ok(engine)
    }

    /// Starts workers on the range of queues that the rules in the kernel don't use, and whose answers they don't accept. If that range is
    /// taken, perhaps by a stopped agent, starts them on the other one.
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
        let answers_alike = |range: &QueueRange| in_use.is_some_and(|used| used.is_odd() == range.is_odd());
        ranges.sort_by_key(|range| (overlaps(range), answers_alike(range)));
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
        // The second range will do if the rules name it and its queues are free: its agent has ended, and no more answers of it come. It
        // will also do if the rules name no range, or one whose answers differ.
        let can_be_second = overlaps(&ranges[1]) || !answers_alike(&ranges[1]);
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
        let log_group = self.kernel_records.group(self.config.log_group(queues));
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

    /// The source changed: compiles, and puts the result in force if there are rules.
    fn update(&mut self, mut update: Update) {
        let first = self.snapshot.is_none();
        let mut changes = std::mem::take(&mut update.changes);
        let lacks_node = first && self.lacks_node(&changes);
        if first {
            changes.splice(0..0, self.config.pod_cidrs.first());
            self.health.state().settled(Topic::Source);
        }
        for (name, standing) in policy_states(&changes, std::mem::take(&mut update.versions)) {
            standing.replace_in(&mut self.policy_states, name);
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
            self.note_standing(restored, &never_understood);
            self.note_problems();
            // A version that means the same is in force already.
            if self.phase.is_enforcing() && !self.behind {
                let policies = self.policies_in_force();
                self.health.state().in_force(policies);
            }
            return;
        }
        self.compile(changes);
        // What is said to be the source's is in force.
        self.note_standing(restored, &never_understood);
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

    /// Whether the source's first changes have Nodes, but not this agent's. Only with `--pod-cidr`: without it, the agent is not ready and
    /// says why. A source whose Nodes may not be read has none.
    fn lacks_node(&self, changes: &[Change]) -> bool {
        let mut names = changes.iter().filter_map(|change| match change {
            Change::Node(node) => Some(&node.name),
            _ => None,
        });
        let is_hidden = self.config.pod_cidrs.first().is_some();
        is_hidden
            && names.next().is_some_and(|first| {
                *first != self.config.node && names.all(|name| *name != self.config.node)
            })
    }

    /// Whether policies wait that could be compiled now.
    fn is_behind(&self) -> bool {
        !self.backlog.is_empty() || self.compiler.is_behind()
    }

    /// Compiles some of the policies that wait, if there are any.
    fn catch_up(&mut self) {
        if self.is_behind() {
            let changes = self.backlog.next();
            self.compile(changes);
            // Large objects were read and compiled.
            memory::give_back();
        }
    }

    /// The policies that are in force with the newest snapshot: all that changed but those in the backlog.
    fn policies_in_force(&mut self) -> BTreeMap<PolicyName, PolicyState> {
        let (waiting, in_force) = std::mem::take(&mut self.policy_states)
            .into_iter()
            .partition(|(name, _)| self.backlog.holds(name));
        self.policy_states = waiting;
        in_force
    }

    /// Compiles the changes, and puts the result in force if there are rules.
    fn compile(&mut self, changes: Vec<Change>) {
        let (started, count) = (Instant::now(), changes.len() as u64);
        self.changed_policies.extend(changes.iter().filter_map(|change| match change {
            Change::Policy(policy) => Some(policy.name.clone()),
            Change::PolicyGone(name) => Some(name.clone()),
            _ => None,
        }));
        let tallies = self.audit.monitor();
        for change in &changes {
            if let Change::PolicyGone(policy) = change {
                tallies.tallies().forget(policy);
            }
        }
        let before = Before::new(&changes, self.compiler.inventory(), self.snapshot.as_deref());
        let pod_cidrs = &self.config.pod_cidrs;
        let changes = changes.into_iter().map(|change| pod_cidrs.apply(change));
        let Compilation { snapshot, affected } = self.compiler.apply(changes);
        // An earlier change that is not in force may affect others.
        let mut affected = if self.behind { Affected::All } else { affected };
        self.changed_policies.extend(self.compiler.readmitted().iter().cloned());
        self.note_problems();
        if let Some(engine) = self.phase.engine() {
            let reassigned = self.address_owners.reassigned(before, &snapshot, &affected);
            affected = affected.or(Affected::any_peer(reassigned.iter().copied()));
            engine.reassign(reassigned);
        }
        self.describe(&snapshot);
        self.snapshot = Some(snapshot);
        self.put_in_force(affected, Compiled { changes: count, elapsed: started.elapsed() });
    }

    /// Puts the newest snapshot in force again, and evaluates all connections.
    fn put_in_force_again(&mut self) {
        self.put_in_force(Affected::All, Compiled::default());
    }

    /// Puts the newest snapshot in force, which was `compiled` and affects these connections. Does nothing before the rules are installed.
    fn put_in_force(&mut self, mut affected: Affected, compiled: Compiled) {
        let is_superseded = self.phase.is_superseded();
        let (Some(engine), Some(snapshot)) = (self.phase.engine(), &self.snapshot) else { return };
        if !affected.is_none() || self.origins.depends_on_labels() {
            let (origins, left) = self.origins.derive(snapshot, self.compiler.inventory());
            engine.set_overlay(overlay_flows(&origins));
            let is_news = engine.table().set_origins(origins);
            engine.reassign(left);
            if is_news && affected.is_none() {
                affected = Affected::All;
            }
        }
        let generation = snapshot.generation().0;
        self.health.state().status.published_generation = generation;
        if is_superseded {
            // Packets that were queued for this agent follow the newest policy; kernel state is the other agent's.
            engine.publish(snapshot);
            return;
        }
        match engine.put_in_force(snapshot, affected) {
            Ok(applied) => {
                self.behind = false;
                self.watch.iter().for_each(|watch| watch.permit_state(true));
                self.release_ports();
                let policies = self.policies_in_force();
                self.health.state().in_force(policies);
                let changed = std::mem::take(&mut self.changed_policies);
                // Those that are refused are named by a line of their own.
                let policies = changed.difference(&self.refused).cloned().collect();
                self.note(generation, policies, &compiled, &applied);
                self.end_bypass();
            }
            Err(error) => {
                self.behind = true;
                self.failed(generation, &error);
            }
        }
    }

    /// Goes on with sweeps: of connections of pods that changed.
    fn sweep(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.enforcing(), &self.snapshot) else { return };
        // What is not in force is tried again, and swept with it.
        if self.behind {
            return;
        }
        match engine.sweep(snapshot) {
            Ok(None) => {}
            Ok(Some(swept)) => self.note_sweep(&swept),
            Err(error) => {
                self.behind = true;
                self.failed(snapshot.generation().0, &error);
            }
        }
    }

    /// No packet of a connection that exists and that policy allows may wait for an answer when this agent is gone.
    fn sweep_to_the_end(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.enforcing(), &self.snapshot) else { return };
        if engine.sweep_at().is_some() {
            match engine.sweep_now(snapshot) {
                Ok(swept) => self.note_sweep(&swept),
                Err(error) if error.is_superseded() => self.superseded(),
                Err(error) => {
                    tracing::warn!(%error, "connections of pods that changed wait for the next agent")
                }
            }
        }
    }

    fn failed(&mut self, generation: u64, error: &EngineError) {
        match error {
            error if error.is_superseded() => self.superseded(),
            EngineError::Table(TableError::Missing) => self.rules.missing(),
            EngineError::Grace => self.health.state().status.dead = Some(error.to_string()),
            _ => {}
        }
        if self.phase.is_enforcing() {
            self.health
                .state()
                .not_ready(Topic::Change, format!("generation {generation} is not wholly in force: {error}"));
        }
    }

    /// Once a second: is everything still as it was?
    fn look_around(&mut self) {
        self.growth.look();
        if let Some(why) = self.health.dead_worker() {
            let mut state = self.health.state();
            state.not_ready(Topic::Workers, why.clone());
            state.status.dead = Some(why);
        }
        if !self.phase.is_enforcing() {
            return self.note_successor();
        }
        self.look_at_kernel_records();
        self.record_full_queues();
        self.record_drops();
        if self.port_queue.as_ref().is_some_and(PortQueue::has_ended) {
            self.health.state().not_ready(
                Topic::Workers,
                "the thread for packets of new ports has ended: start the agent again",
            );
        }
        if self.rules.has_ended() {
            self.health.state().not_ready(
                Topic::Workers,
                "the thread that notices changes of the rules has ended: start the agent again",
            );
        }
        self.look_at_predecessor();
        match self.phase.enforcing().map(|engine| engine.table().superseded()) {
            Some(Ok(true)) => self.superseded(),
            Some(Err(TableError::Missing)) => self.rules.missing(),
            // Reading the rules is not enforcing them: what stands, stands.
            Some(Err(error)) => tracing::warn!(%error, "cannot look at the rules"),
            Some(Ok(false)) if !self.rules.is_damaged() => self.rules.seen(),
            Some(Ok(false)) | None => {}
        }
        self.restore_rules();
        if self.behind {
            self.put_in_force_again();
        }
    }

    /// The rules name another agent's queues now, or none: from here on this agent only answers what was queued for it.
    fn superseded(&mut self) {
        self.behind = false;
        self.phase.supersede();
        self.watch.iter().for_each(|watch| watch.permit_state(false));
        self.hand_over_rules();
        let mut state = self.health.state();
        state.status.phase = status::Phase::Superseded;
        // The rules in the kernel are the other agent's.
        (state.status.table, state.status.origins) = (None, None);
        state.settled(Topic::Change);
        state.settled(Topic::Rules);
        state.settled(Topic::Records);
        drop(state);
        self.note_successor();
    }

    /// Ends in order: no more updates, then what is queued is answered, then what was evaluated is recorded. The rules stay.
    fn end(mut self) {
        self.sweep_to_the_end();
        self.log_rest_of_problems();
        self.rules.end();
        let superseded = self.phase.is_superseded();
        let mut state = self.health.state();
        let successor = state.status.successor;
        state.stopping();
        drop(state);
        self.watch = None;
        // New connections are the next agent's business at once, and not when what is cached has run out.
        match self.phase.engine().map(|engine| engine.table().forget()) {
            Some(Err(error)) if !superseded => {
                tracing::warn!(%error, "what is cached stays until it runs out")
            }
            _ => {}
        }
        let installed = !self.phase.is_starting();
        self.phase = Phase::Starting;
        self.health.set_workers(None);
        (self.port_queue, self.monitor) = (None, None);
        self.kernel_records.end();
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
                "stay: new connections that need a verdict wait for the next agent, and are dropped"
            }
        };
        tracing::info!(records = audit.written, lost = audit.lost, rules, "ended");
    }
}

/// What it took to compile a snapshot.
#[derive(Debug, Default)]
struct Compiled {
    /// How many changes of objects it was made from.
    changes: u64,
    elapsed: Duration,
}

/// What came since the agent's thread looked last.
#[derive(Debug, Default)]
struct News {
    foreign_change: Option<ForeignChange>,
    interfaces: Option<Interfaces>,
    update: Option<Update>,
}

/// What becomes of policies with these changes. A version can change though the policy means the same.
fn policy_states(
    changes: &[Change],
    versions: Vec<(PolicyName, Option<ResourceVersion>)>,
) -> impl Iterator<Item = (PolicyName, PolicyState)> {
    let changed = changes.iter().filter_map(|change| match change {
        Change::Policy(policy) => Some((policy.name.clone(), PolicyState::There(None))),
        Change::PolicyGone(name) => Some((name.clone(), PolicyState::Gone)),
        _ => None,
    });
    let versions = versions.into_iter().map(|(name, version)| match version {
        Some(version) => (name, PolicyState::There(Some(version))),
        None => (name, PolicyState::Gone),
    });
    changed.chain(versions)
}
