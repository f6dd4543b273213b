//! One node of the run: its agent, the disks of its audit log and its state, and what is wrong with it now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use jiff::Timestamp;
use nix::sys::signal::Signal;

use super::ledger::Ledger;
use super::watch::Watch;
use crate::agent::{Agent, HTTP_PORT, Launch};
use crate::disk::Disk;
use crate::namespace::Namespace;
use crate::specs::PodSpec;
use crate::testbed::Testbed;

/// Room for the audit log of a long run, and for the state.
const AUDIT_DISK: u64 = 1 << 30;
const STATE_DISK: u64 = 16 << 20;

/// What an agent's process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Process {
    /// It runs.
    Running,
    /// It is stopped (SIGSTOP).
    Stopped,
    /// There is none.
    Gone,
}

/// What is wrong with a node, beside its agent's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wrong {
    /// The audit log's disk is full.
    pub audit_full: bool,
    /// The state's disk is full.
    pub state_full: bool,
    /// The table of connections is full.
    pub conntrack_full: bool,
    /// Its API server is cut off.
    pub api_cut: bool,
    /// Its pods are unplugged.
    pub is_down: bool,
    /// Another program changed the rules then, and no record of that was seen yet.
    pub damaged: Option<(Instant, Timestamp)>,
}

/// See the module.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub namespace: Arc<Namespace>,
    /// What its audit log says.
    pub ledger: Ledger,
    /// What its agent says.
    pub watch: Watch,
    /// What is wrong with it.
    pub wrong: Wrong,
    /// When an agent last ended without a chance to write what it had recorded, or could not write.
    pub unrecorded: Vec<Instant>,
    /// Since when it was switched off, the last time.
    pub off: Option<Timestamp>,
    /// Its pods, while it is switched off.
    pub unplugged: Vec<PodSpec>,
    agent: Option<Agent>,
    is_stopped: bool,
    flags: Vec<String>,
    /// How its agents find the API server that is their source; `None` where that is the folder of manifests.
    kubeconfig: Option<PathBuf>,
    starts: u16,
    audit_disk: Disk,
    state_disk: Disk,
}

impl Node {
    /// A node without an agent. `flags` are for all of its agents, and `kubeconfig` if their source is an API server.
    pub fn new(testbed: &Testbed, name: &str, flags: &[String], kubeconfig: Option<&Path>) -> Result<Self> {
        let namespace = Arc::clone(testbed.namespace(name)?);
        let audit_disk = Disk::mount(AUDIT_DISK)?;
        let log = audit_disk.file("audit.log");
        Ok(Self {
            name: name.to_owned(),
            watch: Watch::begin(&namespace)?,
            namespace,
            ledger: Ledger::new(&log),
            wrong: Wrong::default(),
            unrecorded: Vec::new(),
            off: None,
            unplugged: Vec::new(),
            agent: None,
            is_stopped: false,
            flags: flags.to_vec(),
            kubeconfig: kubeconfig.map(Path::to_owned),
            starts: 0,
            audit_disk,
            state_disk: Disk::mount(STATE_DISK)?,
        })
    }

    /// What its agent's process does.
    pub fn process(&self) -> Process {
        match (&self.agent, self.is_stopped) {
            (None, _) => Process::Gone,
            (Some(_), true) => Process::Stopped,
            (Some(_), false) => Process::Running,
        }
    }

    /// Whether its agent runs and says that its rules are in force.
    pub fn enforces(&self) -> bool {
        self.process() == Process::Running && self.watch.enforces()
    }

    /// Starts an agent where none is; it is followed from now on.
    pub fn start(&mut self, testbed: &Testbed, random: &mut Rng) -> Result<()> {
        let agent = self.launch(testbed, random)?;
        self.watch.follow(Some(&agent));
        (self.agent, self.is_stopped) = (Some(agent), false);
        Ok(())
    }

    /// Starts an agent beside the one that is there, which it takes over from. Returns it; [`Node::replace`] makes it the node's.
    pub fn launch(&mut self, testbed: &Testbed, random: &mut Rng) -> Result<Agent> {
        self.starts += 1;
        let (audit_log, state) = (self.audit_disk.file("audit.log"), self.state_disk.file("state"));
        let mut flags: Vec<String> =
            vec![format!("--state-dir={}", state.display()), "--audit-max-size=2G".to_owned()];
        flags.extend(self.flags.iter().cloned());
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        // Its monotonic clocks are hours ahead of the last agent's; the time of day can't differ between processes.
        let offset = random.u32(0..500_000).to_string();
        let through: &[&str] = match random.bool() {
            true => &["unshare", "--time", "--monotonic", &offset, "--boottime", &offset],
            false => &[],
        };
        let launch = Launch {
            flags: &flags,
            through,
            http_port: HTTP_PORT + self.starts % 2_000,
            audit_log: Some(&audit_log),
            kubeconfig: self.kubeconfig.as_deref(),
            ..Launch::default()
        };
        Agent::start(testbed, &self.name, &launch)
    }

    /// The agent.
    pub fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().with_context(|| format!("no agent runs on {}", self.name))
    }

    /// Makes another agent the node's, and returns the one that was.
    pub fn replace(&mut self, agent: Agent) -> Option<Agent> {
        self.watch.follow(Some(&agent));
        self.is_stopped = false;
        self.agent.replace(agent)
    }

    /// Kills the agent.
    pub fn kill(&mut self) -> Result<()> {
        self.watch.follow(None);
        self.is_stopped = false;
        self.agent.take().map_or(Ok(()), |mut agent| agent.kill())
    }

    /// Has the agent end in order. It must.
    pub fn terminate(&mut self) -> Result<()> {
        self.watch.follow(None);
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        let status = agent.terminate()?;
        if status.code() != Some(0) {
            bail!("{}: the agent ended with {status}:\n{}", self.name, agent.log());
        }
        Ok(())
    }

    /// Stops the agent as it is.
    pub fn stop(&mut self) -> Result<()> {
        self.watch.follow(None);
        self.agent()?.stop()?;
        self.is_stopped = true;
        Ok(())
    }

    /// Has a stopped agent go on.
    pub fn go_on(&mut self) -> Result<()> {
        self.agent()?.go_on()?;
        self.watch.follow(self.agent.as_ref());
        self.is_stopped = false;
        Ok(())
    }

    /// Has the agent open its audit log again.
    pub fn hang_up(&mut self) -> Result<()> {
        self.agent()?.signal(Signal::SIGHUP)
    }

    /// Fills the disk of the audit log, or makes room on it again.
    pub fn set_audit_full(&mut self, full: bool) -> Result<()> {
        self.wrong.audit_full = full;
        if full { self.audit_disk.fill() } else { self.audit_disk.free() }
    }

    /// Fills the disk of the state, or makes room on it again.
    pub fn set_state_full(&mut self, full: bool) -> Result<()> {
        self.wrong.state_full = full;
        if full { self.state_disk.fill() } else { self.state_disk.free() }
    }

    /// Fails if the agent ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        if let Some(status) = agent.try_wait()? {
            bail!("{}: the agent ended by itself ({status}):\n{}", self.name, agent.log());
        }
        Ok(())
    }

    /// Prints what its agent says.
    pub fn print_state(&self) {
        if let Some(agent) = self.agent.as_ref().filter(|_| !self.is_stopped) {
            agent.print_state();
        }
    }
}
