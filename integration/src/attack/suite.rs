//! All attempts against one cluster, and the check of their outcomes at the end.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::case::{Case, Evidence};
use super::evidence::Logs;
use super::mark::Mark;
use super::receivers::Receivers;
use super::report::{Audit, Outcome, Report, Row};
use super::topology::Topology;
use super::wire;
use crate::scenario::Scenario;
use crate::testbed::Testbed;

/// How long lines of the audit log may take. Drops are folded into one line a second.
const AUDIT_TIMEOUT: Duration = Duration::from_millis(2500);

/// How long records may take if agents have never written a line about dropped packets.
const RECORD_TIMEOUT: Duration = Duration::from_millis(300);

/// How long a packet that passes may take to arrive, on a busy machine.
const SETTLE: Duration = Duration::from_millis(700);

/// What an attempt can use.
#[derive(Clone, Copy, Debug)]
pub struct AttackContext<'a> {
    /// The cluster.
    pub testbed: &'a Testbed,
    /// The addresses of all senders and targets.
    pub topology: &'a Topology,
    /// The marks that have arrived so far.
    pub receivers: &'a Receivers,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Suite {
    /// The cluster and its agents.
    pub scenario: Scenario,
    /// The addresses of all senders and targets.
    pub topology: Topology,
    receivers: Receivers,
    kind: &'static str,
    /// The end offsets of the agents' audit logs when this kind of attack started.
    logs: BTreeMap<String, u64>,
    /// The attempts of this kind.
    current: Vec<CaseRun>,
    /// The attempts of earlier kinds.
    finished: Vec<(CaseRun, Audit)>,
    /// Whether an agent has ever written a line about dropped packets. If not, no attempt waits for one.
    has_drops: Option<bool>,
    /// Whether no agent runs, so that nothing writes audit logs.
    has_no_agents: bool,
}

/// An attempt that was made.
#[derive(Debug)]
struct CaseRun {
    kind: &'static str,
    case: Case,
    mark: Mark,
    /// The outcome, if it is already known.
    outcome: Option<Outcome>,
}

impl Suite {
    /// Opens receivers in the cluster of a scenario whose agents run.
    pub fn new(scenario: Scenario) -> Result<Self> {
        let topology = Topology::of(&scenario.testbed)?;
        let receivers = Receivers::open(&scenario.testbed)?;
        Ok(Self {
            scenario,
            topology,
            receivers,
            kind: "",
            logs: BTreeMap::new(),
            current: Vec::new(),
            finished: Vec::new(),
            has_drops: None,
            has_no_agents: false,
        })
    }

    /// Kills the agents, as crashes do. From then on, no audit log is written.
    pub fn kill_agents(&mut self) -> Result<()> {
        self.has_no_agents = true;
        let nodes: Vec<String> = self.topology.nodes.iter().map(|node| node.name.clone()).collect();
        nodes.iter().try_for_each(|node| self.scenario.agent(node).kill())
    }

    /// Makes all attempts of one kind, and waits for their evidence in the audit logs.
    pub fn kind(&mut self, kind: &'static str, attempts: impl FnOnce(&mut Self)) -> Result<()> {
        self.kind = kind;
        let nodes: Vec<String> = self.topology.nodes.iter().map(|node| node.name.clone()).collect();
        self.logs.clear();
        for node in nodes {
            let end = self.scenario.agent(&node).audit_end();
            self.logs.insert(node, end);
        }
        attempts(self);
        self.wait_for_evidence()
    }

    /// Sends frames from the interface of a case's sender.
    pub fn frames(&mut self, case: Case, make: impl FnOnce(&Topology, Mark) -> Vec<Vec<u8>>) {
        let from = case.from.clone();
        self.attempt(case, |context, mark| {
            let frames = make(context.topology, mark);
            wire::send_frames(context.testbed.namespace(&from)?, &context.topology[&from].interface, &frames)
        });
    }

    /// [`Suite::frames`] with one frame.
    pub fn frame(&mut self, case: Case, make: impl FnOnce(&Topology, Mark) -> Vec<u8>) {
        self.frames(case, |topology, mark| vec![make(topology, mark)]);
    }

    /// Makes any attempt, and returns its mark. An error means that the attempt could not be made.
    pub fn attempt(&mut self, case: Case, act: impl FnOnce(AttackContext<'_>, Mark) -> Result<()>) -> Mark {
        let mark = Mark(u32::try_from(self.finished.len() + self.current.len()).unwrap_or(u32::MAX));
        let context = self.context();
        let outcome = act(context, mark).err().map(|error| Outcome::Broken(format!("{error:#}")));
        self.current.push(CaseRun { kind: self.kind, case, mark, outcome });
        mark
    }

    /// What an attempt can use.
    pub fn context(&self) -> AttackContext<'_> {
        AttackContext {
            testbed: &self.scenario.testbed,
            topology: &self.topology,
            receivers: &self.receivers,
        }
    }

    /// Adds a row for an attempt whose outcome does not depend on its mark.
    pub fn record(&mut self, case: Case, outcome: Outcome) {
        self.attempt(case, |_, _| Ok(()));
        if let Some(run) = self.current.last_mut() {
            run.outcome = Some(outcome);
        }
    }

    /// [`Suite::record`] for something that policy allows and that must work.
    pub fn record_allowed(&mut self, case: Case, result: Result<()>) {
        let outcome = result.err().map_or(Outcome::AsExpected, |error| Outcome::Broken(format!("{error:#}")));
        self.record(case, outcome);
    }

    /// Waits until every packet has arrived or was dropped, and determines the outcomes of all attempts.
    pub fn finish(self) -> (Scenario, Report) {
        sleep(SETTLE);
        let Self { scenario, receivers, mut finished, has_no_agents, .. } = self;
        if has_no_agents {
            // Without an agent, packets that policy allows may be dropped.
            finished.iter_mut().for_each(|(run, _)| run.case.must_reach.clear());
        }
        let rows = finished
            .into_iter()
            .map(|(run, audit)| {
                let outcome = outcome(&receivers, &run);
                Row { kind: run.kind, case: run.case, outcome, audit }
            })
            .collect();
        (scenario, Report { rows })
    }

    fn wait_for_evidence(&mut self) -> Result<()> {
        let timeout = if self.has_drops == Some(false) { RECORD_TIMEOUT } else { AUDIT_TIMEOUT };
        let end = Instant::now() + timeout;
        let attempts = std::mem::take(&mut self.current);
        let audits = loop {
            let logs = Logs::read(&mut self.scenario, &self.logs)?;
            let audits: Vec<Audit> = attempts.iter().map(|run| self.audit(&logs, &run.case)).collect();
            if !audits.contains(&Audit::Missing) || Instant::now() > end {
                break audits;
            }
            sleep(Duration::from_millis(50));
        };
        let is_of_drop =
            |run: &CaseRun| matches!(self.evidence(&run.case), Evidence::Drop(_) | Evidence::DropOnBridge(_));
        let of_drops = attempts.iter().zip(&audits).filter(|(run, _)| is_of_drop(run));
        let found: Vec<bool> = of_drops.map(|(_, audit)| *audit == Audit::Recorded).collect();
        if !found.is_empty() && self.has_drops != Some(true) {
            self.has_drops = Some(found.contains(&true));
        }
        self.finished.extend(attempts.into_iter().zip(audits));
        Ok(())
    }

    /// The evidence that the audit logs must have of a case in this cluster.
    fn evidence<'a>(&self, case: &'a Case) -> &'a Evidence {
        let is_elsewhere = matches!(case.evidence, Evidence::DropOnBridge(_)) && !self.topology.is_bridged();
        if self.has_no_agents || is_elsewhere { &Evidence::None } else { &case.evidence }
    }

    fn audit(&self, logs: &Logs, case: &Case) -> Audit {
        let node = case.seen_by.as_ref().or_else(|| self.topology.get(&case.from)?.node.as_ref());
        logs.audit(case, self.evidence(case), node.map(String::as_str).unwrap_or_default())
    }
}

fn outcome(receivers: &Receivers, run: &CaseRun) -> Outcome {
    let case = &run.case;
    if let Some(outcome) = &run.outcome {
        return outcome.clone();
    }
    let reached: Vec<&str> =
        case.must_miss.iter().filter(|to| receivers.received(run.mark, to)).map(String::as_str).collect();
    if !reached.is_empty() {
        return Outcome::GotThrough(reached.join(", "));
    }
    match case.must_reach.iter().find(|to| !receivers.received(run.mark, to)) {
        Some(to) => Outcome::Broken(format!("did not reach {to}")),
        None => Outcome::AsExpected,
    }
}
