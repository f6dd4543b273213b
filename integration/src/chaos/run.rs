//! A run: a cluster under load, and a model that checks each outcome against policy.
//!
//! From: a plan. To: totals, or the first outcome that was wrong. Invariant: all random choices come from the
//! seed. Only the timing depends on the machine.

use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use fastrand::Rng;
use jiff::Timestamp;

use super::assessment::Assessment;
use super::attempt::Attempt;
use super::audit_reader::Denial;
use super::clients::{ClientView, Clients};
use super::fault::{Fault, Undo};
use super::fixture;
use super::model::Model;
use super::node::{Node, Process};
use super::streams::Streams;
use super::totals::{Plan, Totals};
use super::world::{CLUSTER_FILE, DATA, METRICS, POLICY_FILE, Pod, World};
use crate::busy::Busy;
use crate::cluster::Links;
use crate::static_api::StaticApi;
use crate::testbed::Testbed;

/// The index of the node whose agents may have an API server as their source.
pub(super) const API_NODE: usize = 1;
/// How often the run checks outcomes and agents.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// How soon after an attempt or a change the audit log must record the bypass, on a busy machine.
pub(super) const RECORD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long agents may take to enforce the newest world after all faults are undone, on a busy machine.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a sweep may take: the revalidation of existing connections after an agent's start or a change.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a record may wait to be written. A killed agent loses the records that wait.
pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug)]
pub struct Run {
    // Dropped in this order: users of the testbed before the testbed.
    pub(super) clients: Clients,
    pub(super) streams: Streams,
    pub(super) nodes: Vec<Node>,
    pub(super) busy: Option<Busy>,
    /// The API server that is the source of the second node's agents; `None` if that is the folder of
    /// manifests.
    pub(super) api: Option<StaticApi>,
    pub(super) testbed: Testbed,
    pub(super) model: Model,
    pub(super) random: Rng,
    /// The active faults' undoing, and when each is due.
    pub(super) due: Vec<(Instant, Undo)>,
    /// The manifest that is invalid.
    pub(super) broken: Option<&'static str>,
    /// When the last sweep may have started: a world came into force or an agent started.
    pub(super) sweep_started: Instant,
    /// The number of pods that were created in namespace `roll`, for their names.
    pub(super) rolled_pods: u32,
    pub(super) totals: Totals,
    pub(super) attempts: Receiver<Attempt>,
    pub(super) suspects: Vec<(Attempt, Vec<String>)>,
    /// Denied attempts for which a record is expected.
    pub(super) denials: Vec<(Denial, [Instant; 2])>,
    pub(super) started: Instant,
    logs_read: Instant,
    log: Vec<String>,
    pub(super) plan: Plan,
}

impl Run {
    /// Builds the cluster, starts agents and clients, and waits until policy is in force.
    pub fn new(plan: Plan) -> Result<Self> {
        let mut random = Rng::with_seed(plan.seed);
        let links = if random.bool() { Links::Vxlan } else { Links::Routes };
        let mut flags = vec!["--fail-mode=closed".to_owned()];
        flags.extend(
            random
                .choice(["--verdict-cache-ttl=off", "--verdict-cache-ttl=2s", "--verdict-cache-ttl=5s"])
                .map(str::to_owned),
        );
        let testbed = fixture::cluster().links(links).build()?;
        fixture::keep_bridge_addresses(&testbed)?;
        let world = World::first(testbed.cluster().pods.iter().map(Pod::from));
        let (attempts, inbox) = channel();
        let clients = Clients::new(ClientView::of(&testbed, &world), attempts);
        let names: Vec<String> = testbed.cluster().nodes.iter().map(|node| node.name.clone()).collect();
        let (mut api, mut kubeconfig) = (None, None);
        if random.bool() {
            let server =
                StaticApi::start(testbed.namespace(&names[API_NODE])?, 0, world.objects(testbed.cluster()))?;
            kubeconfig = Some(server.write_kubeconfig(testbed.manifests().sibling_file("kubeconfig"))?);
            api = Some(server);
        }
        let node = |(at, name): (usize, &String)| {
            Node::new(&testbed, name, &flags, kubeconfig.as_deref().filter(|_| at == API_NODE))
        };
        let nodes = names.iter().enumerate().map(node).collect::<Result<_>>()?;
        let now = Instant::now();
        let mut run = Self {
            clients,
            streams: Streams::new(
                fixture::routes(&world, &fixture::STEADY, DATA),
                fixture::routes(&world, &fixture::CONDITIONAL, METRICS),
            ),
            nodes,
            busy: None,
            api,
            model: Model::new(world, now),
            random,
            due: Vec::new(),
            broken: None,
            sweep_started: now,
            rolled_pods: 0,
            totals: Totals::default(),
            attempts: inbox,
            suspects: Vec::new(),
            denials: Vec::new(),
            started: now,
            logs_read: now,
            log: Vec::new(),
            testbed,
            plan,
        };
        let source = if run.api.is_some() { "an API server" } else { "the folder" };
        run.log_event(&format!(
            "{links:?}, flags {}, source of {}: {source}",
            flags.join(" "),
            names[API_NODE]
        ));
        run.start_agents_and_clients()?;
        Ok(run)
    }

    fn start_agents_and_clients(&mut self) -> Result<()> {
        self.write_file(CLUSTER_FILE)?;
        self.write_file(POLICY_FILE)?;
        let now = self.started;
        for at in 0..self.nodes.len() {
            let name = self.nodes[at].name.clone();
            self.model.pause(&name, now);
            self.nodes[at].start(&self.testbed, &mut self.random)?;
        }
        self.converge()?;
        let pods: Vec<String> = self.model.newest().pods.keys().cloned().collect();
        for pod in pods {
            self.clients.start(&self.testbed, &pod, &mut self.random)?;
        }
        self.started = Instant::now();
        Ok(())
    }

    /// Prints an event, and keeps it for the report of a later failure.
    pub(super) fn log_event(&mut self, text: &str) {
        let route = format!(
            "{} [{:7.2} s] {text}",
            Timestamp::now().strftime("%H:%M:%S%.3f"),
            self.started.elapsed().as_secs_f64()
        );
        anstream::println!("{route}");
        self.log.push(route);
    }

    pub(super) fn log_node_event(&mut self, at: usize, text: &str) {
        self.log_event(&format!("{}: {text}", self.nodes[at].name));
    }

    /// Schedules the undoing of a fault after a random number of milliseconds in a range.
    pub(super) fn schedule_undo(&mut self, range: std::ops::Range<u64>, undo: Undo) {
        let pause = Duration::from_millis(self.random.u64(range));
        self.due.push((Instant::now() + pause, undo));
    }

    /// Writes one of the manifests for the newest world.
    pub(super) fn write_file(&mut self, file: &'static str) -> Result<()> {
        let text = self.text(file);
        if let Some(api) = &self.api {
            api.replace(self.model.newest().objects(self.testbed.cluster()));
        }
        self.testbed.manifests().write(file, &text).map(drop)
    }

    /// The text of a manifest for the newest world.
    pub(super) fn text(&self, file: &'static str) -> String {
        match file {
            POLICY_FILE => self.model.newest().policy_text(),
            _ => self.model.newest().cluster_text(self.testbed.cluster()),
        }
    }

    /// Lets clients choose their attempts by the newest world.
    pub(super) fn publish_world(&self) {
        self.clients.set_view(ClientView::of(&self.testbed, self.model.newest()));
    }

    /// Assesses new attempts, checks the streams, and reads the agents' status and audit logs.
    pub(super) fn tick(&mut self) -> Result<()> {
        self.follow_agents()?;
        let attempts: Vec<Attempt> = self.attempts.try_iter().collect();
        for attempt in attempts {
            self.assess(attempt)?;
        }
        if self.logs_read.elapsed() > Duration::from_millis(500) {
            self.logs_read = Instant::now();
            self.read_logs()?;
        }
        let damaged: Vec<String> = self
            .nodes
            .iter()
            .filter(|node| node.faults.damaged.is_some())
            .map(|node| node.name.clone())
            .collect();
        self.streams.maintain(&self.testbed, &self.model, &damaged)
    }

    fn follow_agents(&mut self) -> Result<()> {
        let now = Instant::now();
        for node in &mut self.nodes {
            node.check_alive()?;
            let is_able = node.enforces() && !node.faults.is_down && !node.faults.conntrack_full;
            if is_able && self.model.is_paused(&node.name) {
                self.model.resume(&node.name, now);
                self.streams.recover(&node.name, now);
                self.sweep_started = now;
            }
        }
        if self.model.settled().is_none() {
            let markers = self.model.newest().markers();
            let in_force = |node: &Node| {
                markers
                    .iter()
                    .map(|marker| node.agent_watcher.in_force(marker))
                    .collect::<Option<Vec<_>>>()?
                    .into_iter()
                    .max()
            };
            let times: Option<Vec<Instant>> = self.nodes.iter().map(in_force).collect();
            if let Some(at) = times.and_then(|times| times.into_iter().max()) {
                self.model.settle(at);
                self.sweep_started = now;
            }
        }
        Ok(())
    }

    pub(super) fn assess(&mut self, attempt: Attempt) -> Result<()> {
        match self.model.assess(&attempt) {
            Assessment::Passed => self.totals.passed += 1,
            Assessment::Stalled => self.totals.stalled += 1,
            Assessment::Changing => self.totals.changing += 1,
            Assessment::Suspect(nodes) => self.suspects.push((attempt, nodes)),
            Assessment::Wrong(why) => bail!("{why}: {}", attempt.describe(self.started)),
            Assessment::Denied => {
                self.totals.denied += 1;
                let time = [attempt.begun.0, attempt.ended.0];
                let (from, to) = (attempt.begun.0, attempt.ended.0 + FLUSH_TIMEOUT);
                let nodes: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
                let is_bypassed =
                    nodes.iter().any(|node| self.model.is_bypassed(node, (attempt.begun.1, attempt.ended.1)));
                if !self.model.had_pause(&nodes, from, to) && !is_bypassed {
                    self.denials.push(((attempt.source, attempt.destination), time));
                }
            }
        }
        Ok(())
    }

    /// Reads the audit logs. Every bypass must be recorded, and a denied attempt may pass only within a
    /// recorded bypass.
    pub(super) fn read_logs(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.audit_reader.read()?;
            let bypasses = node.audit_reader.bypasses.clone();
            if let Some((at, stamp)) = node.faults.damaged {
                if bypasses.iter().any(|(_, to)| *to >= stamp) {
                    node.faults.damaged = None;
                    self.streams.recover(&node.name, Instant::now());
                } else if node.process() == Process::Running && at.elapsed() > RECORD_TIMEOUT {
                    bail!(
                        "{}: rules were changed at {stamp}, but no bypass is recorded: {bypasses:?}",
                        node.name
                    );
                }
            }
            self.model.record_bypasses(&node.name, bypasses);
        }
        for (attempt, nodes) in std::mem::take(&mut self.suspects) {
            if self.model.is_excused(&attempt, &nodes) {
                self.totals.bypassed += 1;
                continue;
            }
            let is_pending =
                self.nodes.iter().any(|node| nodes.contains(&node.name) && node.faults.damaged.is_some());
            ensure!(
                is_pending || attempt.ended.0.elapsed() < RECORD_TIMEOUT,
                "an attempt denied on {nodes:?} passed without a recorded bypass: {}",
                attempt.describe(self.started)
            );
            self.suspects.push((attempt, nodes));
        }
        Ok(())
    }

    /// Waits until every agent enforces and the newest world is in force.
    pub(super) fn converge(&mut self) -> Result<()> {
        let end = Instant::now() + CONVERGENCE_TIMEOUT;
        loop {
            self.tick()?;
            let are_able = self.nodes.iter().all(|node| !self.model.is_paused(&node.name) && node.enforces());
            if are_able && self.model.settled().is_some() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{} is not in force on every node after {CONVERGENCE_TIMEOUT:?}", self.model.newest());
            }
            sleep(TICK);
        }
    }

    /// Whether a sweep may be in progress, so that connections of a node may stall if its agent is killed or
    /// suspended now.
    pub(super) fn may_be_sweeping(&self) -> bool {
        self.model.settled().is_none() || self.sweep_started.elapsed() < SWEEP_TIMEOUT
    }

    pub(super) fn print_state(&self, error: &anyhow::Error) {
        let from = self.log.len().saturating_sub(40);
        anstream::eprintln!(
            "--- {error:#}\n--- at {}, seed {}; the last faults:",
            Timestamp::now(),
            self.plan.seed
        );
        for route in &self.log[from..] {
            anstream::eprintln!("{route}");
        }
        anstream::eprintln!("--- the model\n{}", self.model.describe(self.started));
        for node in &self.nodes {
            anstream::eprintln!(
                "--- {}: {:?}, {:?}, bypasses {:?}",
                node.name,
                node.process(),
                node.faults,
                node.audit_reader.bypasses
            );
            node.print_state();
        }
        self.testbed.print_state();
    }

    /// The faults that the plan enables.
    pub(super) fn enabled_faults(&self) -> &[Fault] {
        if self.plan.only.is_empty() { &Fault::ALL } else { &self.plan.only }
    }
}
