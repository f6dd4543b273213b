//! A run: a cluster under load, and a model that holds each outcome against policy.
//!
//! From: a plan. To: totals, or the first outcome that was wrong. Invariant: all that is random comes from the seed; what depends on the
//! machine is when each thing happens.

use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use fastrand::Rng;
use jiff::Timestamp;

use super::attempt::{ClientView, Clients};
use super::fault::{Fault, Undo};
use super::fixture;
use super::ledger::Denial;
use super::model::{Assessment, Attempt, Model};
use super::node::{Node, Process};
use super::streams::Streams;
use super::totals::{Plan, Totals};
use super::world::{CLUSTER_FILE, DATA, METRICS, POLICY_FILE, Pod, World};
use crate::busy::Busy;
use crate::cluster::Links;
use crate::static_api::StaticApi;
use crate::testbed::Testbed;

/// The node whose agents may have an API server as their source.
pub(super) const API_NODE: usize = 1;
/// How often the run looks at what came.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// How long after an attempt or a change the audit log must tell of the bypass in which it was, on a busy machine.
pub(super) const RECORDED_WITHIN: Duration = Duration::from_secs(20);
/// How long agents may take until all is as it is to be, on a busy machine.
const CONVERGED_WITHIN: Duration = Duration::from_secs(60);
/// How long an agent may evaluate existing connections again after it started, or after a change.
const SWEPT_WITHIN: Duration = Duration::from_secs(5);
/// How long a record may wait to be written. A killed agent loses the records that wait.
pub(super) const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Run {
    // Dropped in this order: who uses the testbed before it.
    pub(super) clients: Clients,
    pub(super) streams: Streams,
    pub(super) nodes: Vec<Node>,
    pub(super) busy: Option<Busy>,
    /// The source of the agents of the second node, if it is no folder.
    pub(super) api: Option<StaticApi>,
    pub(super) testbed: Testbed,
    pub(super) model: Model,
    pub(super) random: Rng,
    /// What ends faults, and when.
    pub(super) due: Vec<(Instant, Undo)>,
    /// The file that is broken.
    pub(super) broken: Option<&'static str>,
    /// When a world came into force, or an agent began, for the last time.
    pub(super) worked: Instant,
    /// Names of pods that come and go are numbered.
    pub(super) rolled: u32,
    pub(super) totals: Totals,
    pub(super) found: Receiver<Attempt>,
    pub(super) suspects: Vec<(Attempt, Vec<String>)>,
    /// Denied attempts for which a record is expected.
    pub(super) denials: Vec<(Denial, [Instant; 2])>,
    pub(super) started: Instant,
    looked: Instant,
    log: Vec<String>,
    pub(super) plan: Plan,
}

impl Run {
    /// Builds the cluster, starts agents, streams and clients, and waits until policy is in force.
    pub fn begin(plan: Plan) -> Result<Self> {
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
        let (found, inbox) = channel();
        let clients = Clients::new(ClientView::of(&testbed, &world), found);
        let names: Vec<String> = testbed.cluster().nodes.iter().map(|node| node.name.clone()).collect();
        let (mut api, mut kubeconfig) = (None, None);
        if random.bool() {
            let server =
                StaticApi::start(testbed.namespace(&names[API_NODE])?, 0, world.objects(testbed.cluster()))?;
            kubeconfig = Some(server.write_kubeconfig(testbed.manifests().beside("kubeconfig"))?);
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
                fixture::lines(&world, &fixture::STEADY, DATA),
                fixture::lines(&world, &fixture::LEASED, METRICS),
            ),
            nodes,
            busy: None,
            api,
            model: Model::begin(world, now),
            random,
            due: Vec::new(),
            broken: None,
            worked: now,
            rolled: 0,
            totals: Totals::default(),
            found: inbox,
            suspects: Vec::new(),
            denials: Vec::new(),
            started: now,
            looked: now,
            log: Vec::new(),
            testbed,
            plan,
        };
        let source = if run.api.is_some() { "an API server" } else { "the folder" };
        run.say(&format!("{links:?}, flags {}, source of {}: {source}", flags.join(" "), names[API_NODE]));
        run.write_file(CLUSTER_FILE)?;
        run.write_file(POLICY_FILE)?;
        for at in 0..run.nodes.len() {
            let name = run.nodes[at].name.clone();
            run.model.pause(&name, now);
            run.nodes[at].start(&run.testbed, &mut run.random)?;
        }
        run.converge()?;
        let pods: Vec<String> = run.model.newest().pods.keys().cloned().collect();
        for pod in pods {
            run.clients.start(&run.testbed, &pod, &mut run.random)?;
        }
        run.started = Instant::now();
        Ok(run)
    }

    /// Says what happens, on the terminal and for a later failure.
    pub(super) fn say(&mut self, text: &str) {
        let line = format!(
            "{} [{:7.2} s] {text}",
            Timestamp::now().strftime("%H:%M:%S%.3f"),
            self.started.elapsed().as_secs_f64()
        );
        anstream::println!("{line}");
        self.log.push(line);
    }

    pub(super) fn say_on(&mut self, at: usize, text: &str) {
        self.say(&format!("{}: {text}", self.nodes[at].name));
    }

    /// Something ends at a random time within this one.
    pub(super) fn later(&mut self, range: std::ops::Range<u64>, undo: Undo) {
        let pause = Duration::from_millis(self.random.u64(range));
        self.due.push((Instant::now() + pause, undo));
    }

    /// Writes one of the files as the newest world has it.
    pub(super) fn write_file(&mut self, file: &'static str) -> Result<()> {
        let text = self.text(file);
        if let Some(api) = &self.api {
            api.replace(self.model.newest().objects(self.testbed.cluster()));
        }
        self.testbed.manifests().write(file, &text).map(drop)
    }

    /// What a file is to hold.
    pub(super) fn text(&self, file: &'static str) -> String {
        match file {
            POLICY_FILE => self.model.newest().policy_text(),
            _ => self.model.newest().cluster_text(self.testbed.cluster()),
        }
    }

    /// Shows clients the newest world.
    pub(super) fn show(&self) {
        self.clients.show(ClientView::of(&self.testbed, self.model.newest()));
    }

    /// Looks at what came, and at what agents say.
    pub(super) fn tick(&mut self) -> Result<()> {
        self.follow_agents()?;
        let attempts: Vec<Attempt> = self.found.try_iter().collect();
        for attempt in attempts {
            self.assess(attempt)?;
        }
        if self.looked.elapsed() > Duration::from_millis(500) {
            self.looked = Instant::now();
            self.read_logs()?;
        }
        let damaged: Vec<String> = self
            .nodes
            .iter()
            .filter(|node| node.wrong.damaged.is_some())
            .map(|node| node.name.clone())
            .collect();
        self.streams.tend(&self.testbed, &self.model, &damaged)
    }

    fn follow_agents(&mut self) -> Result<()> {
        let now = Instant::now();
        for node in &mut self.nodes {
            node.check_alive()?;
            let is_able = node.enforces() && !node.wrong.is_down && !node.wrong.conntrack_full;
            if is_able && self.model.is_paused(&node.name) {
                self.model.go_on(&node.name, now);
                self.streams.recover(&node.name, now);
                self.worked = now;
            }
        }
        if self.model.settled().is_none() {
            let markers = self.model.newest().markers();
            let in_force = |node: &Node| {
                markers
                    .iter()
                    .map(|marker| node.watch.in_force(marker))
                    .collect::<Option<Vec<_>>>()?
                    .into_iter()
                    .max()
            };
            let times: Option<Vec<Instant>> = self.nodes.iter().map(in_force).collect();
            if let Some(at) = times.and_then(|times| times.into_iter().max()) {
                self.model.settle(at);
                self.worked = now;
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
                let (from, to) = (attempt.begun.0, attempt.ended.0 + WRITTEN_WITHIN);
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

    /// Reads the audit logs: bypasses excuse suspects, and must be recorded.
    pub(super) fn read_logs(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.ledger.read()?;
            let bypasses = node.ledger.bypasses.clone();
            if let Some((at, stamp)) = node.wrong.damaged {
                if bypasses.iter().any(|(_, to)| *to >= stamp) {
                    node.wrong.damaged = None;
                    self.streams.recover(&node.name, Instant::now());
                } else if node.process() == Process::Running && at.elapsed() > RECORDED_WITHIN {
                    bail!(
                        "{}: rules were changed at {stamp}, and no bypass is recorded: {bypasses:?}",
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
                self.nodes.iter().any(|node| nodes.contains(&node.name) && node.wrong.damaged.is_some());
            ensure!(
                is_pending || attempt.ended.0.elapsed() < RECORDED_WITHIN,
                "an attempt denied on {nodes:?} passed without a recorded bypass: {}",
                attempt.describe(self.started)
            );
            self.suspects.push((attempt, nodes));
        }
        Ok(())
    }

    /// Waits until every agent enforces and the newest world is in force.
    pub(super) fn converge(&mut self) -> Result<()> {
        let end = Instant::now() + CONVERGED_WITHIN;
        loop {
            self.tick()?;
            let are_able = self.nodes.iter().all(|node| !self.model.is_paused(&node.name) && node.enforces());
            if are_able && self.model.settled().is_some() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("after {CONVERGED_WITHIN:?} {} is not in force everywhere", self.model.newest());
            }
            sleep(TICK);
        }
    }

    /// Whether connections of a node may stall if its agent dies or stops now.
    pub(super) fn is_working(&self) -> bool {
        self.model.settled().is_none() || self.worked.elapsed() < SWEPT_WITHIN
    }

    pub(super) fn print_state(&self, error: &anyhow::Error) {
        let from = self.log.len().saturating_sub(40);
        anstream::eprintln!(
            "--- {error:#}\n--- at {}, seed {}; the last faults:",
            Timestamp::now(),
            self.plan.seed
        );
        for line in &self.log[from..] {
            anstream::eprintln!("{line}");
        }
        anstream::eprintln!("--- what the model knows\n{}", self.model.describe(self.started));
        for node in &self.nodes {
            anstream::eprintln!(
                "--- {}: {:?}, {:?}, bypasses {:?}",
                node.name,
                node.process(),
                node.wrong,
                node.ledger.bypasses
            );
            node.print_state();
        }
        self.testbed.print_state();
    }

    /// The faults that the plan asks for.
    pub(super) fn kinds(&self) -> &[Fault] {
        if self.plan.only.is_empty() { &Fault::ALL } else { &self.plan.only }
    }
}
