//! All attempts against one cluster, and the evaluation at the end.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::case::{Case, Evidence};
use super::ears::Ears;
use super::evidence::Logs;
use super::field::Field;
use super::mark::Mark;
use super::report::{Audit, Outcome, Report, Row};
use super::wire;
use crate::scenario::Scenario;
use crate::testbed::Testbed;

/// How long lines of the audit log may take: packets are folded for a second.
const AUDIT_PATIENCE: Duration = Duration::from_millis(2500);

/// How long records may take, of an agent that has never written a line about dropped packets.
const RECORD_PATIENCE: Duration = Duration::from_millis(300);

/// How long a packet that passes may take, on a machine that is busy, until it has arrived.
const SETTLE: Duration = Duration::from_millis(700);

/// What an attempt can use.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// Where it plays.
    pub testbed: &'a Testbed,
    /// What can be aimed at.
    pub field: &'a Field,
    /// What has arrived so far.
    pub ears: &'a Ears,
}

/// See the module.
#[derive(Debug)]
pub struct Suite {
    /// The cluster and its agents.
    pub scenario: Scenario,
    /// What can be aimed at.
    pub field: Field,
    ears: Ears,
    kind: &'static str,
    /// Where the agents' audit logs ended when this kind of attack began.
    logs: BTreeMap<String, u64>,
    /// The attempts of this kind, and those of earlier kinds.
    trying: Vec<Tried>,
    tried: Vec<(Tried, Audit)>,
    /// Whether an agent has ever written a line about dropped packets: one that does not know them is not waited for.
    has_drops: Option<bool>,
    /// Whether no agent runs, so that none writes an audit log.
    is_unwatched: bool,
}

/// An attempt that was made.
#[derive(Debug)]
struct Tried {
    kind: &'static str,
    case: Case,
    mark: Mark,
    /// What became of it, if that is known already.
    outcome: Option<Outcome>,
}

impl Suite {
    /// Opens ears in the cluster of a scenario whose agents run.
    pub fn begin(scenario: Scenario) -> Result<Self> {
        let field = Field::of(&scenario.testbed)?;
        let ears = Ears::open(&scenario.testbed)?;
        Ok(Self {
            scenario,
            field,
            ears,
            kind: "",
            logs: BTreeMap::new(),
            trying: Vec::new(),
            tried: Vec::new(),
            has_drops: None,
            is_unwatched: false,
        })
    }

    /// Ends the agents as crashes would. From then on no audit log is written.
    pub fn kill_agents(&mut self) -> Result<()> {
        self.is_unwatched = true;
        let nodes: Vec<String> = self.field.nodes.iter().map(|node| node.name.clone()).collect();
        nodes.iter().try_for_each(|node| self.scenario.agent(node).kill())
    }

    /// Makes all attempts of one kind, and waits for what the audit logs say of them.
    pub fn kind(&mut self, kind: &'static str, attempts: impl FnOnce(&mut Self)) -> Result<()> {
        self.kind = kind;
        let nodes: Vec<String> = self.field.nodes.iter().map(|node| node.name.clone()).collect();
        self.logs.clear();
        for node in nodes {
            let end = self.scenario.agent(&node).mark();
            self.logs.insert(node, end);
        }
        attempts(self);
        self.wait_for_evidence()
    }

    /// Lets the sender of a case send frames out of its interface.
    pub fn frames(&mut self, case: Case, make: impl FnOnce(&Field, Mark) -> Vec<Vec<u8>>) {
        let from = case.from.clone();
        self.attempt(case, |means, mark| {
            let frames = make(means.field, mark);
            wire::send_frames(means.testbed.namespace(&from)?, &means.field[&from].interface, &frames)
        });
    }

    /// [`Suite::frames`] with one frame.
    pub fn frame(&mut self, case: Case, make: impl FnOnce(&Field, Mark) -> Vec<u8>) {
        self.frames(case, |field, mark| vec![make(field, mark)]);
    }

    /// Makes an attempt that needs more than frames, and returns its mark. An error means that it could not be made.
    pub fn attempt(&mut self, case: Case, act: impl FnOnce(Means<'_>, Mark) -> Result<()>) -> Mark {
        let mark = Mark(u32::try_from(self.tried.len() + self.trying.len()).unwrap_or(u32::MAX));
        let means = self.means();
        let outcome = act(means, mark).err().map(|error| Outcome::Broken(format!("{error:#}")));
        self.trying.push(Tried { kind: self.kind, case, mark, outcome });
        mark
    }

    /// What an attempt can use.
    pub fn means(&self) -> Means<'_> {
        Means { testbed: &self.scenario.testbed, field: &self.field, ears: &self.ears }
    }

    /// A row for something whose outcome is not told by a mark.
    pub fn note(&mut self, case: Case, outcome: Outcome) {
        self.attempt(case, |_, _| Ok(()));
        if let Some(tried) = self.trying.last_mut() {
            tried.outcome = Some(outcome);
        }
    }

    /// [`Suite::note`] of something that policy allows, which works or does not.
    pub fn note_allowed(&mut self, case: Case, result: Result<()>) {
        let outcome = result.err().map_or(Outcome::Held, |error| Outcome::Broken(format!("{error:#}")));
        self.note(case, outcome);
    }

    /// Waits until everything has arrived that will, and evaluates all attempts.
    pub fn finish(self) -> (Scenario, Report) {
        sleep(SETTLE);
        let Self { scenario, ears, mut tried, is_unwatched, .. } = self;
        if is_unwatched {
            // What policy allows, but no agent can say so, may wait for one.
            tried.iter_mut().for_each(|(tried, _)| tried.case.must_reach.clear());
        }
        let rows = tried
            .into_iter()
            .map(|(tried, audit)| {
                let outcome = outcome(&ears, &tried);
                Row { kind: tried.kind, case: tried.case, outcome, audit }
            })
            .collect();
        (scenario, Report { rows })
    }

    fn wait_for_evidence(&mut self) -> Result<()> {
        let patience = if self.has_drops == Some(false) { RECORD_PATIENCE } else { AUDIT_PATIENCE };
        let end = Instant::now() + patience;
        let attempts = std::mem::take(&mut self.trying);
        let audits = loop {
            let logs = Logs::read(&mut self.scenario, &self.logs)?;
            let audits: Vec<Audit> = attempts.iter().map(|tried| self.audit(&logs, &tried.case)).collect();
            if !audits.contains(&Audit::Missing) || Instant::now() > end {
                break audits;
            }
            sleep(Duration::from_millis(50));
        };
        let is_of_drop = |tried: &Tried| {
            matches!(self.evidence(&tried.case), Evidence::Drop(_) | Evidence::DropOnBridge(_))
        };
        let of_drops = attempts.iter().zip(&audits).filter(|(tried, _)| is_of_drop(tried));
        let found: Vec<bool> = of_drops.map(|(_, audit)| *audit == Audit::Recorded).collect();
        if !found.is_empty() && self.has_drops != Some(true) {
            self.has_drops = Some(found.contains(&true));
        }
        self.tried.extend(attempts.into_iter().zip(audits));
        Ok(())
    }

    /// What the audit logs must say of a case in this cluster.
    fn evidence<'a>(&self, case: &'a Case) -> &'a Evidence {
        let is_elsewhere = matches!(case.evidence, Evidence::DropOnBridge(_)) && !self.field.is_bridged();
        if self.is_unwatched || is_elsewhere { &Evidence::None } else { &case.evidence }
    }

    fn audit(&self, logs: &Logs, case: &Case) -> Audit {
        let node = case.seen_by.as_ref().or_else(|| self.field.get(&case.from)?.node.as_ref());
        logs.audit(case, self.evidence(case), node.map(String::as_str).unwrap_or_default())
    }
}

fn outcome(ears: &Ears, tried: &Tried) -> Outcome {
    let case = &tried.case;
    if let Some(outcome) = &tried.outcome {
        return outcome.clone();
    }
    let reached: Vec<&str> =
        case.must_miss.iter().filter(|to| ears.heard(tried.mark, to)).map(String::as_str).collect();
    if !reached.is_empty() {
        return Outcome::GotThrough(reached.join(", "));
    }
    match case.must_reach.iter().find(|to| !ears.heard(tried.mark, to)) {
        Some(to) => Outcome::Broken(format!("did not reach {to}")),
        None => Outcome::Held,
    }
}
