//! One node of the run: its agent, the disks of its audit log and its state, and its active faults.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use jiff::Timestamp;
use nix::sys::signal::Signal;

use super::agent_watcher::AgentWatcher;
use super::audit_reader::AuditReader;
use crate::agent::{Agent, HTTP_PORT, Launch};
use crate::disk::Disk;
use crate::namespace::NetworkNamespace;
use crate::specs::PodSpec;
use crate::testbed::Testbed;

/// The size of the disk for the audit log of a long run, in bytes.
const AUDIT_DISK: u64 = 1 << 30;
/// The size of the disk for the state, in bytes.
const STATE_DISK: u64 = 16 << 20;

/// The state of an agent's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Process {
    /// It runs.
    Running,
    /// It is suspended (SIGSTOP).
    Suspended,
    /// No agent runs.
    Gone,
}

/// The active faults of a node, other than the state of its agent's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ActiveFaults {
    /// The audit log's disk is full.
    pub audit_full: bool,
    /// The state's disk is full.
    pub state_full: bool,
    /// The conntrack table is full.
    pub conntrack_full: bool,
    /// Its API server is unreachable.
    pub api_cut: bool,
    /// It has no power: its pods are detached.
    pub is_down: bool,
    /// When another program changed the rules, until the audit log records that.
    pub damaged: Option<(Instant, Timestamp)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub namespace: Arc<NetworkNamespace>,
    /// Totals of its audit log.
    pub audit_reader: AuditReader,
    /// The status of its agent.
    pub agent_watcher: AgentWatcher,
    /// Its active faults.
    pub faults: ActiveFaults,
    /// When agents were killed, so that records that were not written yet are lost.
    pub lost_records_at: Vec<Instant>,
    /// When it lost power, until it boots.
    pub powered_off: Option<Timestamp>,
    /// Its pods, while it has no power.
    pub detached: Vec<PodSpec>,
    agent: Option<Agent>,
    is_suspended: bool,
    flags: Vec<String>,
    /// The kubeconfig of the API server that is its agents' source; `None` if that is the folder of
    /// manifests.
    kubeconfig: Option<PathBuf>,
    starts: u16,
    audit_disk: Disk,
    state_disk: Disk,
}

impl Node {
    /// A node without an agent. All of its agents will have these `flags`, and this `kubeconfig` if their
    /// source is an API server.
    pub fn new(testbed: &Testbed, name: &str, flags: &[String], kubeconfig: Option<&Path>) -> Result<Self> {
        let namespace = Arc::clone(testbed.namespace(name)?);
        let audit_disk = Disk::mount(AUDIT_DISK)?;
        let log = audit_disk.file("audit.log");
        Ok(Self {
            name: name.to_owned(),
            agent_watcher: AgentWatcher::new(&namespace)?,
            namespace,
            audit_reader: AuditReader::new(&log),
            faults: ActiveFaults::default(),
            lost_records_at: Vec::new(),
            powered_off: None,
            detached: Vec::new(),
            agent: None,
            is_suspended: false,
            flags: flags.to_vec(),
            kubeconfig: kubeconfig.map(Path::to_owned),
            starts: 0,
            audit_disk,
            state_disk: Disk::mount(STATE_DISK)?,
        })
    }

    /// The state of its agent's process.
    pub fn process(&self) -> Process {
        match (&self.agent, self.is_suspended) {
            (None, _) => Process::Gone,
            (Some(_), true) => Process::Suspended,
            (Some(_), false) => Process::Running,
        }
    }

    /// Whether its agent runs and reports that its rules are in force.
    pub fn enforces(&self) -> bool {
        self.process() == Process::Running && self.agent_watcher.enforces()
    }

    /// Starts an agent on a node that has none, and watches it.
    pub fn start(&mut self, testbed: &Testbed, random: &mut Rng) -> Result<()> {
        let agent = self.launch(testbed, random)?;
        self.agent_watcher.follow(Some(&agent));
        (self.agent, self.is_suspended) = (Some(agent), false);
        Ok(())
    }

    /// Starts an agent beside the running one, from which it takes over. [`Node::replace`] makes it the
    /// node's agent.
    pub fn launch(&mut self, testbed: &Testbed, random: &mut Rng) -> Result<Agent> {
        self.starts += 1;
        let (audit_log, state) = (self.audit_disk.file("audit.log"), self.state_disk.file("state"));
        let mut flags: Vec<String> =
            vec![format!("--state-dir={}", state.display()), "--audit-max-size=2G".to_owned()];
        flags.extend(self.flags.iter().cloned());
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        // Its monotonic clocks may be days ahead of the last agent's. The time of day can't differ between
        // processes.
        let offset = random.u32(0..500_000).to_string();
        let wrapper: &[&str] = match random.bool() {
            true => &["unshare", "--time", "--monotonic", &offset, "--boottime", &offset],
            false => &[],
        };
        let launch = Launch {
            flags: &flags,
            wrapper,
            http_port: HTTP_PORT + self.starts % 2_000,
            audit_log: Some(&audit_log),
            kubeconfig: self.kubeconfig.as_deref(),
            ..Launch::default()
        };
        Agent::start(testbed, &self.name, &launch)
    }

    /// The agent; fails if none runs.
    pub fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().with_context(|| format!("no agent runs on {}", self.name))
    }

    /// Makes another agent the node's, and returns the previous one.
    pub fn replace(&mut self, agent: Agent) -> Option<Agent> {
        self.agent_watcher.follow(Some(&agent));
        self.is_suspended = false;
        self.agent.replace(agent)
    }

    /// Kills the agent.
    pub fn kill(&mut self) -> Result<()> {
        self.agent_watcher.follow(None);
        self.is_suspended = false;
        self.agent.take().map_or(Ok(()), |mut agent| agent.kill())
    }

    /// Terminates the agent, which must exit with code 0.
    pub fn terminate(&mut self) -> Result<()> {
        self.agent_watcher.follow(None);
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        let status = agent.terminate()?;
        if status.code() != Some(0) {
            bail!("{}: the agent exited with {status}:\n{}", self.name, agent.log());
        }
        Ok(())
    }

    /// Suspends the agent (SIGSTOP).
    pub fn suspend(&mut self) -> Result<()> {
        self.agent_watcher.follow(None);
        self.agent()?.suspend()?;
        self.is_suspended = true;
        Ok(())
    }

    /// Resumes a suspended agent (SIGCONT).
    pub fn resume(&mut self) -> Result<()> {
        self.agent()?.resume()?;
        self.agent_watcher.follow(self.agent.as_ref());
        self.is_suspended = false;
        Ok(())
    }

    /// Makes the agent reopen its audit log (SIGHUP).
    pub fn hang_up(&mut self) -> Result<()> {
        self.agent()?.signal(Signal::SIGHUP)
    }

    /// Fills the disk of the audit log, or frees it again.
    pub fn set_audit_full(&mut self, full: bool) -> Result<()> {
        self.faults.audit_full = full;
        if full { self.audit_disk.fill() } else { self.audit_disk.free() }
    }

    /// Fills the disk of the state, or frees it again.
    pub fn set_state_full(&mut self, full: bool) -> Result<()> {
        self.faults.state_full = full;
        if full { self.state_disk.fill() } else { self.state_disk.free() }
    }

    /// Fails if the agent exited unexpectedly.
    pub fn check_alive(&mut self) -> Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        if let Some(status) = agent.try_wait()? {
            bail!("{}: the agent exited unexpectedly ({status}):\n{}", self.name, agent.log());
        }
        Ok(())
    }

    /// Prints its agent's status, records and log.
    pub fn print_state(&self) {
        if let Some(agent) = self.agent.as_ref().filter(|_| !self.is_suspended) {
            agent.print_state();
        }
    }
}
