//! What a run is made of, and what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::Fault;
use super::streams::StreamTotals;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All that is random comes from this.
    pub seed: u64,
    /// How long faults are made.
    pub duration: Duration,
    /// These faults alone; empty for all.
    pub only: Vec<Fault>,
}

/// What came of a run in which all was right.
#[derive(Clone, Default, Debug)]
pub struct Totals {
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Attempts that passed and were allowed.
    pub passed: u64,
    /// Attempts that did not pass and were denied.
    pub denied: u64,
    /// Attempts during which policy changed.
    pub changing: u64,
    /// Allowed attempts that did not come about in time while an agent was away.
    pub stalled: u64,
    /// Denied attempts that passed in a recorded bypass.
    pub bypassed: u64,
    /// Bypasses that the audit logs record, and how long they lasted.
    pub bypasses: (usize, Duration),
    /// Streams.
    pub streams: StreamTotals,
    /// Records in the audit logs, and those that the logs say are lost.
    pub records: (u64, u64),
    /// Denied attempts without a record of their own; no more than are lost or counted.
    pub unrecorded: u64,
    /// Worlds.
    pub worlds: u64,
}
