//! The end of a run: all faults are undone, and everything is checked once more.
//!
//! From: the run, after its last fault. To: its totals.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::assessment::Assessment;
use super::audit_reader::Denial;
use super::clients;
use super::node::Node;
use super::run::{FLUSH_TIMEOUT, RECORD_TIMEOUT, Run, TICK};

impl Run {
    pub(super) fn finish(&mut self) -> Result<()> {
        self.log_event("all faults are undone");
        self.undo_due(Instant::now() + Duration::from_secs(3_600))?;
        self.converge()?;
        self.log_event(&format!("{} is in force", self.model.newest()));
        let pods = self.clients.pods();
        self.stop_clients(&pods)?;
        self.check_all_pairs()?;
        self.tick()?;
        let end = Instant::now() + RECORD_TIMEOUT + Duration::from_secs(2);
        let is_open = |run: &Self| {
            !run.suspects.is_empty() || run.nodes.iter().any(|node| node.faults.damaged.is_some())
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

    /// Attempts every pair of pods and every port once more.
    fn check_all_pairs(&mut self) -> Result<()> {
        let world = self.model.newest().clone();
        let attempts = clients::probe_all_pairs(&self.testbed, &world)?;
        let (mut passed, mut denied) = (0, 0);
        for attempt in attempts {
            match self.model.assess(&attempt) {
                Assessment::Passed => passed += 1,
                Assessment::Denied => denied += 1,
                other => bail!("{other:?} after all faults were undone: {}", attempt.describe(self.started)),
            }
            self.assess(attempt)?;
        }
        self.log_event(&format!("every pair attempted once more: {passed} passed, {denied} were denied"));
        Ok(())
    }

    /// Checks that each denied attempt has a record or is counted.
    fn check_records(&mut self) -> Result<()> {
        let ledgers = || self.nodes.iter().map(|node| &node.audit_reader);
        let lost: u64 = ledgers().map(|audit_reader| audit_reader.lost).sum();
        let counted: u64 = ledgers().map(|audit_reader| audit_reader.dropped).sum();
        let missing: Vec<&Denial> = self
            .denials
            .iter()
            .filter(|(denial, time)| {
                !self.nodes.iter().any(|node| is_unrecorded(node, time))
                    && !ledgers().any(|audit_reader| audit_reader.denials.contains(denial))
            })
            .map(|(denial, _)| denial)
            .collect();
        self.totals.unrecorded = missing.len() as u64;
        self.totals.records = (ledgers().map(|audit_reader| audit_reader.records).sum(), lost);
        ensure!(
            self.totals.unrecorded <= lost + counted,
            "{} denied attempts have no record; logs report {lost} lost records and {counted} packets: {:?}",
            missing.len(),
            &missing[..missing.len().min(10)]
        );
        Ok(())
    }
}

/// Whether records of this time may be lost because an agent was killed.
fn is_unrecorded(node: &Node, time: &[Instant; 2]) -> bool {
    node.lost_records_at.iter().any(|at| *at + FLUSH_TIMEOUT > time[0] && *at < time[1] + FLUSH_TIMEOUT)
}
