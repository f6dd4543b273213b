//! Histograms of how long verdicts, changes and sweeps take.
//!
//! From: the audit thread and the agent's thread. To: `/metrics`.

use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The histograms. Clones share their values.
#[derive(Clone, Debug)]
pub(crate) struct Durations {
    /// Parsing and evaluating one packet.
    pub verdict: Histogram,
    /// Applying a change, from its publication until it is in force.
    pub apply: Histogram,
    /// One sweep over connections.
    pub sweep: Histogram,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            // 50 ns to 1.6 ms.
            verdict: Histogram::new(exponential_buckets(50e-9, 2.0, 16)),
            // 100 us to 6.5 s.
            apply: Histogram::new(exponential_buckets(100e-6, 2.0, 17)),
            sweep: Histogram::new(exponential_buckets(100e-6, 2.0, 17)),
        }
    }
}

/// Adds one measurement.
pub(crate) fn observe(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}
