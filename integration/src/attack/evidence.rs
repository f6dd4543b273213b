//! The audit logs of all agents since a kind of attack started.

use std::collections::BTreeMap;

use anyhow::Result;

use super::case::{Case, Evidence};
use super::report::Audit;
use crate::cluster::OUTSIDE;
use crate::dropped::Dropped;
use crate::record::Record;
use crate::scenario::Scenario;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Logs {
    drops: Vec<Dropped>,
    records: Vec<Record>,
}

impl Logs {
    /// Reads each node's log from an offset on.
    pub fn read(scenario: &mut Scenario, from: &BTreeMap<String, u64>) -> Result<Self> {
        let mut logs = Self::default();
        for (node, from) in from {
            let agent = scenario.agent(node);
            logs.drops.extend(agent.drops_after(*from)?);
            logs.records.extend(agent.records_after(*from)?);
        }
        Ok(logs)
    }

    /// Whether a log has the evidence of a case. `node` is the node where the attacker's packets enter.
    pub fn audit(&self, case: &Case, evidence: &Evidence, node: &str) -> Audit {
        let found = match evidence {
            Evidence::None => return Audit::NotNeeded,
            Evidence::Drop(reasons) | Evidence::DropOnBridge(reasons) => self.drops.iter().any(|line| {
                let is_from =
                    if case.from == OUTSIDE { line.pod.is_none() } else { line.is_from(&case.from) };
                is_from && line.node == node && reasons.split('|').any(|reason| line.reason == reason)
            }),
            Evidence::Record(source, destination) => self.records.iter().any(|record| {
                let ends = record.source.as_ref().zip(record.destination.as_ref());
                record.verdict == "deny"
                    && ends.is_some_and(|(from, to)| (from.address, to.address) == (*source, *destination))
            }),
        };
        if found { Audit::Recorded } else { Audit::Missing }
    }
}
