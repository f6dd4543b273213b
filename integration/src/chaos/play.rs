//! The course of a run: which fault is made when, its end, and the checks when all is over.
//!
//! From: random numbers. To: faults of all kinds, and totals. Invariant: a fault is made only where the model can tell what may pass
//! meanwhile; each has an [`Undo`] that comes later by itself, or is over at once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::attempt;
use super::fault::{Fault, Undo};
use super::ledger::Denial;
use super::model::Assessment;
use super::node::{Node, Process};
use super::run::{API_NODE, RECORDED_WITHIN, Run, TICK, WRITTEN_WITHIN};
use super::totals::Totals;
use super::world::{CLUSTER_FILE, POLICY_FILE};
use crate::busy::Busy;
use crate::conntrack;

/// The pause between two faults, in milliseconds.
const BETWEEN: std::ops::Range<u64> = 150..2_000;

impl Run {
    /// Makes faults until the time is over, undoes all, and checks everything once more.
    pub fn play(mut self) -> Result<Totals> {
        let result = self.faults().and_then(|()| self.finish());
        if let Err(error) = result {
            self.print_state(&error);
            return Err(error.context(format!("seed {}", self.plan.seed)));
        }
        Ok(self.totals)
    }

    fn faults(&mut self) -> Result<()> {
        let mut next = Instant::now();
        while self.started.elapsed() < self.plan.duration {
            self.tick()?;
            self.undo(Instant::now())?;
            if Instant::now() >= next {
                self.make_fault()?;
                next = Instant::now() + Duration::from_millis(self.random.u64(BETWEEN));
            }
            sleep(TICK);
        }
        Ok(())
    }

    /// Undoes what is to be undone by then.
    fn undo(&mut self, now: Instant) -> Result<()> {
        while let Some(at) = self.due.iter().position(|(due, _)| *due <= now) {
            let (_, undo) = self.due.swap_remove(at);
            self.end_fault(undo).with_context(|| format!("{undo:?}"))?;
        }
        Ok(())
    }

    /// Makes a random fault that can be made now.
    fn make_fault(&mut self) -> Result<()> {
        for _ in 0..20 {
            let (kind, at) =
                (self.random.usize(0..self.kinds().len()), self.random.usize(0..self.nodes.len()));
            let fault = self.kinds()[kind];
            if self.can(fault, at) {
                *self.totals.faults.entry(fault.name()).or_default() += 1;
                return self
                    .begin_fault(fault, at)
                    .with_context(|| format!("{fault:?} on {}", self.nodes[at].name));
            }
        }
        Ok(())
    }

    /// Whether the model can tell what may pass after it.
    fn can(&self, fault: Fault, at: usize) -> bool {
        let node = &self.nodes[at];
        let wrong = &node.wrong;
        let is_well =
            node.enforces() && !wrong.is_down && wrong.damaged.is_none() && !self.model.is_paused(&node.name);
        let all_well = self.nodes.iter().all(|node| node.enforces() && !self.model.is_paused(&node.name));
        let is_saved = |node: &Node| {
            let status = node.watch.status().unwrap_or_default();
            status["state"]["saved"].is_u64() && status["state"]["error"].is_null()
        };
        match fault {
            Fault::Edit => self.broken != Some(POLICY_FILE),
            // The file of the cluster is written from what is plugged in.
            Fault::Relabel | Fault::Roll => {
                self.broken != Some(CLUSTER_FILE) && self.nodes.iter().all(|node| !node.wrong.is_down)
            }
            Fault::Kill | Fault::Restart => is_well && !(self.broken.is_some() && wrong.state_full),
            // An agent that knows the state alone takes over from none.
            Fault::Takeover | Fault::TakeoverAndKill if wrong.api_cut => false,
            Fault::Stop | Fault::Takeover | Fault::TakeoverAndKill => {
                is_well && !wrong.conntrack_full && !(self.broken.is_some() && wrong.state_full)
            }
            // A record that finds no room, or an agent that dies before it writes it, would leave the model without it.
            Fault::Damage => {
                node.process() != Process::Gone
                    && !wrong.is_down
                    && wrong.damaged.is_none()
                    && !wrong.audit_full
                    && (node.enforces() || node.process() == Process::Stopped)
            }
            // What agents that start meanwhile enforce is on disk.
            Fault::BrokenFile => {
                let settled = self.model.settled().is_some_and(|at| at.elapsed() > Duration::from_secs(5));
                self.broken.is_none() && all_well && settled && self.nodes.iter().all(is_saved)
            }
            Fault::EmptyFile => self.broken.is_none() && all_well && self.model.settled().is_some(),
            Fault::ApiCut => {
                let settled = self.model.settled().is_some_and(|at| at.elapsed() > Duration::from_secs(5));
                let is_source = self.api.is_some() && at == API_NODE;
                is_source && !wrong.api_cut && !wrong.state_full && is_well && settled && is_saved(node)
            }
            Fault::AuditFull => !wrong.audit_full && wrong.damaged.is_none(),
            Fault::StateFull => !wrong.state_full && self.broken.is_none(),
            Fault::ConntrackFull => is_well && !wrong.conntrack_full,
            Fault::Rotate => !wrong.audit_full,
            Fault::Reboot => {
                all_well
                    && wrong.damaged.is_none()
                    && !wrong.conntrack_full
                    && self.broken.is_none()
                    && !wrong.audit_full
            }
            Fault::Busy => self.busy.is_none(),
        }
    }

    fn begin_fault(&mut self, fault: Fault, at: usize) -> Result<()> {
        match fault {
            Fault::Edit => self.edit(),
            Fault::Relabel => self.relabel(),
            Fault::Roll => self.roll(at),
            Fault::Kill | Fault::Restart => self.end_agent(fault, at),
            Fault::Stop => self.stop_agent(at),
            Fault::Takeover | Fault::TakeoverAndKill => self.take_over(at, fault == Fault::TakeoverAndKill),
            Fault::Damage => self.damage(at),
            Fault::BrokenFile => self.break_file(),
            Fault::EmptyFile => self.empty_file(),
            Fault::AuditFull => {
                self.say_on(at, "the audit log's disk is full: verdicts go on");
                self.later(500..6_000, Undo::FreeAudit(at));
                self.nodes[at].set_audit_full(true)
            }
            Fault::StateFull => {
                self.say_on(at, "the state's disk is full: verdicts go on");
                self.later(500..6_000, Undo::FreeState(at));
                self.nodes[at].set_state_full(true)
            }
            Fault::ConntrackFull => self.fill_conntrack(at),
            Fault::ApiCut => {
                self.say_on(at, "the API server is cut off: what was known stays in force");
                self.later(200..10_000, Undo::ApiBack);
                self.cut_api(true);
                Ok(())
            }
            Fault::Rotate => self.rotate(at),
            Fault::Reboot => self.switch_off(at),
            Fault::Busy => {
                self.say("every processor is busy: all goes on");
                self.later(500..4_000, Undo::Rest);
                self.busy = Some(Busy::start()?);
                Ok(())
            }
        }
    }

    /// Ends a fault.
    pub(super) fn end_fault(&mut self, undo: Undo) -> Result<()> {
        match undo {
            Undo::Start(at) => {
                self.say_on(at, "an agent starts");
                self.nodes[at].start(&self.testbed, &mut self.random)
            }
            Undo::GoOn(at) => {
                self.say_on(at, "the agent goes on");
                self.restart_damage(at);
                self.nodes[at].go_on()
            }
            // An agent without its API server takes over from none.
            Undo::TakeOver(at) if self.nodes[at].wrong.api_cut => self.end_fault(Undo::GoOn(at)),
            Undo::TakeOver(at) => self.take_over_from_stopped(at),
            Undo::FreeAudit(at) => {
                self.say_on(at, "the audit log's disk has room");
                self.nodes[at].set_audit_full(false)
            }
            Undo::FreeState(at) => {
                self.say_on(at, "the state's disk has room");
                self.nodes[at].set_state_full(false)
            }
            Undo::Drain(at) => {
                self.say_on(at, "the table of connections has room");
                self.nodes[at].wrong.conntrack_full = false;
                self.nodes[at].namespace.run(conntrack::drain)?
            }
            Undo::ApiBack => {
                self.say("the API server answers again");
                self.cut_api(false);
                Ok(())
            }
            Undo::Boot(at) => self.boot(at),
            Undo::Mend => {
                let Some(file) = self.broken.take() else { return Ok(()) };
                self.say(&format!("{file} is mended"));
                self.write_file(file)
            }
            Undo::Rest => {
                self.say("processors rest");
                self.busy = None;
                Ok(())
            }
        }
    }

    /// Ends the clients of some pods. What they are trying may need what is undone meanwhile.
    pub(super) fn stop_clients(&mut self, pods: &[String]) -> Result<()> {
        let stopping = self.clients.stop(pods);
        while !stopping.is_over() {
            self.tick()?;
            self.undo(Instant::now())?;
            sleep(TICK);
        }
        stopping.join()
    }

    fn cut_api(&mut self, is_cut: bool) {
        self.nodes[API_NODE].wrong.api_cut = is_cut;
        if let Some(api) = &self.api {
            api.cut(is_cut);
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.say("all faults are undone");
        self.undo(Instant::now() + Duration::from_secs(3_600))?;
        self.converge()?;
        self.say(&format!("{} is in force", self.model.newest()));
        let pods = self.clients.pods();
        self.stop_clients(&pods)?;
        self.matrix()?;
        self.tick()?;
        let end = Instant::now() + RECORDED_WITHIN + Duration::from_secs(2);
        let is_open = |run: &Self| {
            !run.suspects.is_empty() || run.nodes.iter().any(|node| node.wrong.damaged.is_some())
        };
        while is_open(self) && Instant::now() < end {
            sleep(TICK);
            self.tick()?;
        }
        ensure!(
            !is_open(self),
            "denied attempts passed without a recorded bypass, or rules were changed without a record: {:#?}",
            self.suspects
        );
        self.streams.close(None)?;
        for node in &mut self.nodes {
            node.terminate()?;
        }
        self.read_logs()?;
        self.check_records()?;
        self.totals.streams = self.streams.totals.clone();
        self.totals.bypasses = self.model.bypasses();
        self.totals.worlds = self.model.newest().number;
        Ok(())
    }

    /// Every pair and port once more.
    fn matrix(&mut self) -> Result<()> {
        let world = self.model.newest().clone();
        let attempts = attempt::all(&self.testbed, &world)?;
        let (mut passed, mut denied) = (0, 0);
        for attempt in attempts {
            match self.model.assess(&attempt) {
                Assessment::Passed => passed += 1,
                Assessment::Denied => denied += 1,
                other => bail!("{other:?} when all was over: {}", attempt.describe(self.started)),
            }
            self.assess(attempt)?;
        }
        self.say(&format!("every pair once more: {passed} passed, {denied} were denied"));
        Ok(())
    }

    /// Each denied attempt has a record, or is counted.
    fn check_records(&mut self) -> Result<()> {
        let ledgers = || self.nodes.iter().map(|node| &node.ledger);
        let lost: u64 = ledgers().map(|ledger| ledger.lost).sum();
        let counted: u64 = ledgers().map(|ledger| ledger.dropped).sum();
        let missing: Vec<&Denial> = self
            .denials
            .iter()
            .filter(|(denial, time)| {
                !self.nodes.iter().any(|node| is_unrecorded(node, time))
                    && !ledgers().any(|ledger| ledger.denials.contains(denial))
            })
            .map(|(denial, _)| denial)
            .collect();
        self.totals.unrecorded = missing.len() as u64;
        self.totals.records = (ledgers().map(|ledger| ledger.records).sum(), lost);
        ensure!(
            self.totals.unrecorded <= lost + counted,
            "{} denied attempts have no record; logs report {lost} lost records and {counted} packets: {:?}",
            missing.len(),
            &missing[..missing.len().min(10)]
        );
        Ok(())
    }
}

/// Whether records of this time may have died with an agent.
fn is_unrecorded(node: &Node, time: &[Instant; 2]) -> bool {
    node.unrecorded.iter().any(|at| *at + WRITTEN_WITHIN > time[0] && *at < time[1] + WRITTEN_WITHIN)
}
