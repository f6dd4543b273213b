//! Faults of agents: kills, restarts, suspensions and takeovers; and nodes that lose power.
//!
//! From: a node. To: its agent's process, its pods, and the model, which records when the node gives no
//! verdicts.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;

use super::fault::{Fault, Undo};
use super::run::Run;
use super::world::Pod;
use crate::agent::Agent;
use crate::command::nft;
use crate::conntrack;

/// How long an agent may take to start on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

impl Run {
    pub(super) fn end_agent(&mut self, fault: Fault, at: usize) -> Result<()> {
        self.record_pause(at);
        self.schedule_undo(0..7_000, Undo::Start(at));
        if fault == Fault::Kill {
            self.log_node_event(at, "the agent is killed: accepted connections must continue");
            self.nodes[at].lost_records_at.push(Instant::now());
            return self.nodes[at].kill();
        }
        self.log_node_event(at, "the agent ends: accepted connections must continue");
        self.nodes[at].terminate()
    }

    pub(super) fn suspend_agent(&mut self, at: usize) -> Result<()> {
        self.log_node_event(at, "the agent is suspended: accepted connections must continue");
        self.record_pause(at);
        let undo = if self.random.bool() { Undo::Resume(at) } else { Undo::TakeOver(at) };
        self.schedule_undo(100..7_000, undo);
        self.nodes[at].suspend()
    }

    pub(super) fn take_over(&mut self, at: usize, is_killed: bool) -> Result<()> {
        let mut next = self.nodes[at].launch(&self.testbed, &mut self.random)?;
        if is_killed {
            self.log_node_event(at, "another agent takes over and the first is killed meanwhile");
            sleep(Duration::from_millis(self.random.u64(0..300)));
            self.record_pause(at);
            self.nodes[at].lost_records_at.push(Instant::now());
            self.nodes[at].kill()?;
            self.nodes[at].replace(next);
            return Ok(());
        }
        self.log_node_event(at, "another agent takes over: nothing may be disturbed");
        wait_enforcing(&mut next)?;
        self.sweep_started = Instant::now();
        let Some(mut old) = self.nodes[at].replace(next) else { bail!("no agent was running") };
        old.wait_not_ready("taken over")?;
        sleep(Duration::from_millis(self.random.u64(0..800)));
        terminate_cleanly(old)
    }

    pub(super) fn take_over_from_suspended(&mut self, at: usize) -> Result<()> {
        self.log_node_event(at, "another agent takes over from the suspended one, which is then resumed");
        let mut next = self.nodes[at].launch(&self.testbed, &mut self.random)?;
        wait_enforcing(&mut next)?;
        self.restart_damage_timer(at);
        let Some(mut old) = self.nodes[at].replace(next) else { bail!("no agent was running") };
        old.resume()?;
        old.wait_not_ready("taken over")?;
        terminate_cleanly(old)
    }

    /// Simulates a power cut: removes the agent, rules, connections and pods.
    pub(super) fn switch_off(&mut self, at: usize) -> Result<()> {
        let node = self.nodes[at].name.clone();
        self.log_node_event(at, "the node loses power");
        self.model.pause(&node, Instant::now());
        self.nodes[at].faults.is_down = true;
        self.streams.close(Some(&node))?;
        let pods: Vec<Pod> =
            self.model.newest().pods.values().filter(|pod| pod.node == node).cloned().collect();
        self.stop_clients(&pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>())?;
        self.nodes[at].lost_records_at.push(Instant::now());
        self.nodes[at].powered_off = Some(Timestamp::now());
        self.nodes[at].kill()?;
        for pod in &pods {
            let spec = self.testbed.detach_pod(&pod.name)?;
            self.nodes[at].detached.push(spec);
        }
        let namespace = Arc::clone(&self.nodes[at].namespace);
        nft(&namespace, "flush ruleset")?;
        namespace.run(conntrack::flush)??;
        self.schedule_undo(200..4_000, Undo::Boot(at));
        Ok(())
    }

    /// Starts the agent, which still has its state on disk, and then the pods that ran before.
    pub(super) fn boot(&mut self, at: usize) -> Result<()> {
        let node = self.nodes[at].name.clone();
        self.log_node_event(at, "the node boots");
        self.nodes[at].start(&self.testbed, &mut self.random)?;
        let end = Instant::now() + START_TIMEOUT;
        while !self.nodes[at].enforces() {
            self.nodes[at].check_alive()?;
            if Instant::now() > end {
                bail!("{node}: the agent does not enforce policy within {START_TIMEOUT:?} after the boot");
            }
            sleep(Duration::from_millis(10));
        }
        if let Some(powered_off) = self.nodes[at].powered_off.take() {
            self.model.boot(&node, powered_off, Timestamp::now());
        }
        let pods = std::mem::take(&mut self.nodes[at].detached);
        for pod in &pods {
            self.testbed.reattach_pod(pod.clone())?;
        }
        self.publish_world();
        for pod in &pods {
            self.clients.start(&self.testbed, &pod.full_name(), &mut self.random)?;
        }
        self.nodes[at].faults.is_down = false;
        Ok(())
    }

    /// Records that the node's agent gives no verdicts from now on.
    fn record_pause(&mut self, at: usize) {
        let (name, now) = (self.nodes[at].name.clone(), Instant::now());
        if self.may_be_sweeping() {
            self.streams.stall(&name, now);
        }
        self.model.pause(&name, now);
    }

    /// Restarts the time within which the agent must record damage, if the damage was done while the agent
    /// was suspended.
    pub(super) fn restart_damage_timer(&mut self, at: usize) {
        if let Some((since, _)) = &mut self.nodes[at].faults.damaged {
            *since = Instant::now();
        }
    }
}

/// Waits until an agent's rules are in force. The agent need not be ready: for example, it is not while the
/// conntrack table is full.
fn wait_enforcing(agent: &mut Agent) -> Result<()> {
    let end = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = agent.try_wait()? {
            bail!("the agent exited unexpectedly ({status}):\n{}", agent.log());
        }
        let status = agent.status().unwrap_or_default();
        if status["phase"] == "enforcing" && status["applied_generation"] != 0 {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("the agent does not enforce policy after {START_TIMEOUT:?}: {status:#}\n{}", agent.log());
        }
        sleep(Duration::from_millis(5));
    }
}

fn terminate_cleanly(mut agent: Agent) -> Result<()> {
    let status = agent.terminate()?;
    if status.code() != Some(0) {
        bail!("the superseded agent exited with {status}:\n{}", agent.log());
    }
    Ok(())
}
