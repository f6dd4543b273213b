//! The course of a run: which fault is injected when, and when it is undone.
//!
//! From: random numbers. To: faults of all kinds. Invariant: a fault is injected only where the model knows
//! what may pass meanwhile. It is over at once, or has an [`Undo`] that is scheduled with it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::fault::{Fault, Undo};
use super::node::{Node, Process};
use super::run::{API_NODE, Run, TICK};
use super::totals::Totals;
use super::world::{CLUSTER_FILE, POLICY_FILE};
use crate::busy::Busy;
use crate::conntrack;

/// The pause between two faults, in milliseconds: drawn from this range.
const FAULT_PAUSE_MS: std::ops::Range<u64> = 150..2_000;

impl Run {
    /// Injects faults until the time is over, undoes all of them, and checks everything once more.
    pub fn execute(mut self) -> Result<Totals> {
        let result = self.inject_until_end().and_then(|()| self.finish());
        if let Err(error) = result {
            self.print_state(&error);
            return Err(error.context(format!("seed {}", self.plan.seed)));
        }
        Ok(self.totals)
    }

    fn inject_until_end(&mut self) -> Result<()> {
        let mut next = Instant::now();
        while self.started.elapsed() < self.plan.duration {
            self.tick()?;
            self.undo_due(Instant::now())?;
            if Instant::now() >= next {
                self.inject_random()?;
                next = Instant::now() + Duration::from_millis(self.random.u64(FAULT_PAUSE_MS));
            }
            sleep(TICK);
        }
        Ok(())
    }

    /// Undoes the faults that are due at a time.
    pub(super) fn undo_due(&mut self, now: Instant) -> Result<()> {
        while let Some(at) = self.due.iter().position(|(due, _)| *due <= now) {
            let (_, undo) = self.due.swap_remove(at);
            self.undo(undo).with_context(|| format!("{undo:?}"))?;
        }
        Ok(())
    }

    /// Injects a random fault that can be injected now.
    fn inject_random(&mut self) -> Result<()> {
        for _ in 0..20 {
            let (kind, at) =
                (self.random.usize(0..self.enabled_faults().len()), self.random.usize(0..self.nodes.len()));
            let fault = self.enabled_faults()[kind];
            if self.can_inject(fault, at) {
                *self.totals.faults.entry(fault.name()).or_default() += 1;
                return self
                    .inject(fault, at)
                    .with_context(|| format!("{fault:?} on {}", self.nodes[at].name));
            }
        }
        Ok(())
    }

    /// Whether the model knows what may pass after a fault.
    fn can_inject(&self, fault: Fault, at: usize) -> bool {
        let node = &self.nodes[at];
        let faults = &node.faults;
        let is_healthy = node.enforces()
            && !faults.is_down
            && faults.damaged.is_none()
            && !self.model.is_paused(&node.name);
        let all_healthy = self.nodes.iter().all(|node| node.enforces() && !self.model.is_paused(&node.name));
        let is_saved = |node: &Node| {
            let status = node.agent_watcher.status().unwrap_or_default();
            status["state"]["saved"].is_u64() && status["state"]["error"].is_null()
        };
        match fault {
            Fault::Edit => self.broken != Some(POLICY_FILE),
            // The cluster's manifest is written from the pods that are attached.
            Fault::Relabel | Fault::Roll => {
                self.broken != Some(CLUSTER_FILE) && self.nodes.iter().all(|node| !node.faults.is_down)
            }
            Fault::Kill | Fault::Restart => is_healthy && !(self.broken.is_some() && faults.state_full),
            // An agent that has only the state on disk takes over from no running agent.
            Fault::Takeover | Fault::TakeoverAndKill if faults.api_cut => false,
            Fault::Stop | Fault::Takeover | Fault::TakeoverAndKill => {
                is_healthy && !faults.conntrack_full && !(self.broken.is_some() && faults.state_full)
            }
            // If the disk were full, or the agent were killed before it writes the record, the model would
            // not learn of the bypass.
            Fault::Damage => {
                node.process() != Process::Gone
                    && !faults.is_down
                    && faults.damaged.is_none()
                    && !faults.audit_full
                    && (node.enforces() || node.process() == Process::Suspended)
            }
            // Agents that start meanwhile enforce the state on disk.
            Fault::BrokenFile => {
                let settled = self.model.settled().is_some_and(|at| at.elapsed() > Duration::from_secs(5));
                self.broken.is_none() && all_healthy && settled && self.nodes.iter().all(is_saved)
            }
            Fault::EmptyFile => self.broken.is_none() && all_healthy && self.model.settled().is_some(),
            Fault::ApiCut => {
                let settled = self.model.settled().is_some_and(|at| at.elapsed() > Duration::from_secs(5));
                let is_source = self.api.is_some() && at == API_NODE;
                is_source && !faults.api_cut && !faults.state_full && is_healthy && settled && is_saved(node)
            }
            Fault::AuditFull => !faults.audit_full && faults.damaged.is_none(),
            Fault::StateFull => !faults.state_full && self.broken.is_none(),
            Fault::ConntrackFull => is_healthy && !faults.conntrack_full,
            Fault::Rotate => !faults.audit_full,
            Fault::Reboot => {
                all_healthy
                    && faults.damaged.is_none()
                    && !faults.conntrack_full
                    && self.broken.is_none()
                    && !faults.audit_full
            }
            Fault::Busy => self.busy.is_none(),
        }
    }

    fn inject(&mut self, fault: Fault, at: usize) -> Result<()> {
        match fault {
            Fault::Edit => self.edit(),
            Fault::Relabel => self.relabel(),
            Fault::Roll => self.roll(at),
            Fault::Kill | Fault::Restart => self.end_agent(fault, at),
            Fault::Stop => self.suspend_agent(at),
            Fault::Takeover | Fault::TakeoverAndKill => self.take_over(at, fault == Fault::TakeoverAndKill),
            Fault::Damage => self.damage(at),
            Fault::BrokenFile => self.break_file(),
            Fault::EmptyFile => self.empty_file(),
            Fault::AuditFull => {
                self.log_node_event(at, "the audit log's disk is full: verdicts must continue");
                self.schedule_undo(500..6_000, Undo::FreeAudit(at));
                self.nodes[at].set_audit_full(true)
            }
            Fault::StateFull => {
                self.log_node_event(at, "the state's disk is full: verdicts must continue");
                self.schedule_undo(500..6_000, Undo::FreeState(at));
                self.nodes[at].set_state_full(true)
            }
            Fault::ConntrackFull => self.fill_conntrack(at),
            Fault::ApiCut => {
                self.log_node_event(
                    at,
                    "the API server is unreachable: the last known policy stays in force",
                );
                self.schedule_undo(200..10_000, Undo::RestoreApi);
                self.cut_api(true);
                Ok(())
            }
            Fault::Rotate => self.rotate(at),
            Fault::Reboot => self.switch_off(at),
            Fault::Busy => {
                self.log_event("every processor is busy: nothing may be disturbed");
                self.schedule_undo(500..4_000, Undo::EndCpuLoad);
                self.busy = Some(Busy::start()?);
                Ok(())
            }
        }
    }

    /// Undoes a fault.
    pub(super) fn undo(&mut self, undo: Undo) -> Result<()> {
        match undo {
            Undo::Start(at) => {
                self.log_node_event(at, "an agent starts");
                self.nodes[at].start(&self.testbed, &mut self.random)
            }
            Undo::Resume(at) => {
                self.log_node_event(at, "the agent is resumed");
                self.restart_damage_timer(at);
                self.nodes[at].resume()
            }
            // An agent that can't reach its API server takes over from no running agent.
            Undo::TakeOver(at) if self.nodes[at].faults.api_cut => self.undo(Undo::Resume(at)),
            Undo::TakeOver(at) => self.take_over_from_suspended(at),
            Undo::FreeAudit(at) => {
                self.log_node_event(at, "the audit log's disk has space again");
                self.nodes[at].set_audit_full(false)
            }
            Undo::FreeState(at) => {
                self.log_node_event(at, "the state's disk has space again");
                self.nodes[at].set_state_full(false)
            }
            Undo::Drain(at) => {
                self.log_node_event(at, "the conntrack table has room again");
                self.nodes[at].faults.conntrack_full = false;
                self.nodes[at].namespace.run(conntrack::drain)?
            }
            Undo::RestoreApi => {
                self.log_event("the API server is reachable again");
                self.cut_api(false);
                Ok(())
            }
            Undo::Boot(at) => self.boot(at),
            Undo::RepairFile => {
                let Some(file) = self.broken.take() else { return Ok(()) };
                self.log_event(&format!("{file} is repaired"));
                self.write_file(file)
            }
            Undo::EndCpuLoad => {
                self.log_event("the load on the processors ends");
                self.busy = None;
                Ok(())
            }
        }
    }

    /// Ends the clients of some pods. Meanwhile it keeps undoing faults, since the clients' last attempts may
    /// depend on that.
    pub(super) fn stop_clients(&mut self, pods: &[String]) -> Result<()> {
        let stopping = self.clients.stop(pods);
        while !stopping.is_over() {
            self.tick()?;
            self.undo_due(Instant::now())?;
            sleep(TICK);
        }
        stopping.join()
    }

    fn cut_api(&mut self, is_cut: bool) {
        self.nodes[API_NODE].faults.api_cut = is_cut;
        if let Some(api) = &self.api {
            api.cut(is_cut);
        }
    }
}
