//! Timeouts of requests, and pauses between retries.

use std::time::Duration;

use backon::{BackoffBuilder, ConstantBuilder, ExponentialBackoff, ExponentialBuilder};

/// Timeouts of requests and pauses between retries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For the response to a request, and for each page of a list.
    pub response: Duration,
    /// For the next line of a watch. The API server sends a bookmark at least every 75 s.
    pub idle: Duration,
    /// The first pause after a failure. Each further pause is twice as long...
    pub min_backoff: Duration,
    /// ... up to this. A random part of up to as much again is added, so that the agents of a cluster do not
    /// retry at the same time.
    pub max_backoff: Duration,
    /// How often to look for a kind that the API server does not have, or that the agent may not read: a
    /// CustomResourceDefinition may be installed at any time. A random part of up to as much again is added.
    pub absent: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            response: Duration::from_secs(30),
            idle: Duration::from_secs(100),
            min_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
            absent: Duration::from_secs(20),
        }
    }
}

impl Timeouts {
    /// The pauses after consecutive failures.
    pub(super) fn backoff(&self) -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(self.min_backoff)
            .with_max_delay(self.max_backoff)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter()
            .build()
    }

    /// The pause until the next look for a kind that is absent.
    pub(super) fn until_next_look(&self) -> Duration {
        let mut pauses = ConstantBuilder::default().with_delay(self.absent).with_jitter().build();
        pauses.next().unwrap_or(self.absent)
    }
}
