//! Agents that die, stop, end and take over, and nodes that are switched off.
//!
//! From: a node. To: its agent's process, its pods, and the model, which knows when the node gives verdicts.

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

/// How long agents may take to start, on a busy machine.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

impl Run {
    pub(super) fn end_agent(&mut self, fault: Fault, at: usize) -> Result<()> {
        self.pause(at);
        self.later(0..7_000, Undo::Start(at));
        if fault == Fault::Kill {
            self.say_on(at, "the agent is killed: accepted connections go on");
            self.nodes[at].unrecorded.push(Instant::now());
            return self.nodes[at].kill();
        }
        self.say_on(at, "the agent ends: accepted connections go on");
        self.nodes[at].terminate()
    }

    pub(super) fn stop_agent(&mut self, at: usize) -> Result<()> {
        self.say_on(at, "the agent is stopped: accepted connections go on");
        self.pause(at);
        let undo = if self.random.bool() { Undo::GoOn(at) } else { Undo::TakeOver(at) };
        self.later(100..7_000, undo);
        self.nodes[at].stop()
    }

    pub(super) fn take_over(&mut self, at: usize, is_killed: bool) -> Result<()> {
        let mut next = self.nodes[at].launch(&self.testbed, &mut self.random)?;
        if is_killed {
            self.say_on(at, "another agent takes over, and the first is killed");
            sleep(Duration::from_millis(self.random.u64(0..300)));
            self.pause(at);
            self.nodes[at].unrecorded.push(Instant::now());
            self.nodes[at].kill()?;
            self.nodes[at].replace(next);
            return Ok(());
        }
        self.say_on(at, "another agent takes over: all goes on");
        wait_enforcing(&mut next)?;
        self.worked = Instant::now();
        let Some(mut old) = self.nodes[at].replace(next) else { bail!("no agent was there") };
        old.wait_not_ready("taken over")?;
        sleep(Duration::from_millis(self.random.u64(0..800)));
        end_in_order(old)
    }

    pub(super) fn take_over_from_stopped(&mut self, at: usize) -> Result<()> {
        self.say_on(at, "another agent takes over from the stopped one, which then goes on");
        let mut next = self.nodes[at].launch(&self.testbed, &mut self.random)?;
        wait_enforcing(&mut next)?;
        self.restart_damage(at);
        let Some(mut old) = self.nodes[at].replace(next) else { bail!("no agent was there") };
        old.go_on()?;
        old.wait_not_ready("taken over")?;
        end_in_order(old)
    }

    /// A power cut: the agent, rules, connections and pods are gone.
    pub(super) fn switch_off(&mut self, at: usize) -> Result<()> {
        let node = self.nodes[at].name.clone();
        self.say_on(at, "the node is switched off");
        self.model.pause(&node, Instant::now());
        self.nodes[at].wrong.is_down = true;
        self.streams.close(Some(&node))?;
        let pods: Vec<Pod> =
            self.model.newest().pods.values().filter(|pod| pod.node == node).cloned().collect();
        self.stop_clients(&pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>())?;
        self.nodes[at].unrecorded.push(Instant::now());
        self.nodes[at].off = Some(Timestamp::now());
        self.nodes[at].kill()?;
        for pod in &pods {
            let spec = self.testbed.unplug_pod(&pod.name)?;
            self.nodes[at].unplugged.push(spec);
        }
        let namespace = Arc::clone(&self.nodes[at].namespace);
        nft(&namespace, "flush ruleset")?;
        namespace.run(conntrack::flush)??;
        self.later(200..4_000, Undo::Boot(at));
        Ok(())
    }

    /// The agent starts, with its state on disk, and then the pods that were there.
    pub(super) fn boot(&mut self, at: usize) -> Result<()> {
        let node = self.nodes[at].name.clone();
        self.say_on(at, "the node boots");
        self.nodes[at].start(&self.testbed, &mut self.random)?;
        let end = Instant::now() + STARTED_WITHIN;
        while !self.nodes[at].enforces() {
            self.nodes[at].check_alive()?;
            if Instant::now() > end {
                bail!("{node}: the agent does not enforce {STARTED_WITHIN:?} after the boot");
            }
            sleep(Duration::from_millis(10));
        }
        if let Some(off) = self.nodes[at].off.take() {
            self.model.boot(&node, off, Timestamp::now());
        }
        let pods = std::mem::take(&mut self.nodes[at].unplugged);
        for pod in &pods {
            self.testbed.replug_pod(pod.clone())?;
        }
        self.show();
        for pod in &pods {
            self.clients.start(&self.testbed, &pod.full_name(), &mut self.random)?;
        }
        self.nodes[at].wrong.is_down = false;
        Ok(())
    }

    /// The agent gives no verdicts from now on.
    fn pause(&mut self, at: usize) {
        let (name, now) = (self.nodes[at].name.clone(), Instant::now());
        if self.is_working() {
            self.streams.stall(&name, now);
        }
        self.model.pause(&name, now);
    }

    /// Gives a damage that was made while the agent was stopped its time from now on.
    pub(super) fn restart_damage(&mut self, at: usize) {
        if let Some((since, _)) = &mut self.nodes[at].wrong.damaged {
            *since = Instant::now();
        }
    }
}

/// Waits until an agent's rules are in force; it need not be ready, for example while the table of connections is full.
fn wait_enforcing(agent: &mut Agent) -> Result<()> {
    let end = Instant::now() + STARTED_WITHIN;
    loop {
        if let Some(status) = agent.try_wait()? {
            bail!("the agent ended by itself ({status}):\n{}", agent.log());
        }
        let status = agent.status().unwrap_or_default();
        if status["phase"] == "enforcing" && status["applied_generation"] != 0 {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("the agent does not enforce after {STARTED_WITHIN:?}: {status:#}\n{}", agent.log());
        }
        sleep(Duration::from_millis(5));
    }
}

fn end_in_order(mut agent: Agent) -> Result<()> {
    let status = agent.terminate()?;
    if status.code() != Some(0) {
        bail!("the agent that was superseded ended with {status}:\n{}", agent.log());
    }
    Ok(())
}
