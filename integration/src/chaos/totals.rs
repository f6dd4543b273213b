//! The parameters of a run, and its totals.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::Fault;
use super::streams::StreamTotals;

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of all random choices.
    pub seed: u64,
    /// How long faults are injected.
    pub duration: Duration,
    /// Only these faults are injected; empty for all.
    pub only: Vec<Fault>,
}

/// The totals of a run in which every outcome was right.
#[derive(Clone, Default, Debug)]
pub struct Totals {
    /// Injected faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Attempts that passed and were allowed.
    pub passed: u64,
    /// Attempts that did not pass and were denied.
    pub denied: u64,
    /// Attempts during which policy changed.
    pub changing: u64,
    /// Allowed attempts that did not pass in time while a node gave no verdicts.
    pub stalled: u64,
    /// Denied attempts that passed within a recorded bypass.
    pub bypassed: u64,
    /// Bypasses that the audit logs record, and their total duration.
    pub bypasses: (usize, Duration),
    /// Totals of the streams.
    pub streams: StreamTotals,
    /// Records in the audit logs, and records that the logs report as lost.
    pub records: (u64, u64),
    /// Denied attempts without their own record; at most as many as are lost or only counted.
    pub unrecorded: u64,
    /// The number of worlds.
    pub worlds: u64,
}
