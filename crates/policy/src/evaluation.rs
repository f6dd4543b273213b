//! A decision on one packet, with what a record of it needs: the packet, the snapshot, and the time.
//!
//! From: a worker. To: `audit`, which explains and records it off the packet's path.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::decision::Decision;
use crate::packet::Packet;
use crate::snapshot::Snapshot;

/// A decision with all that a record of it needs. The worker makes it, `audit` receives it.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// When the verdict was given.
    pub at: SystemTime,
    /// What was evaluated; `None` if the packet could not be parsed.
    pub packet: Option<Packet>,
    /// What came out.
    pub decision: Decision,
    /// How long parsing and evaluation took; of a packet that was held, the last evaluation alone; zero where
    /// it was cached.
    pub elapsed: Duration,
    /// How long it was held until a pod would be known; `None` if the verdict was given at once.
    pub held: Option<Duration>,
    /// The snapshot under which it was evaluated: names its rules and pods.
    pub snapshot: Arc<Snapshot>,
    /// Whether the kernel let the connection pass by itself, because it cached an earlier verdict on the same
    /// addresses, protocol and destination port that no change has touched since.
    pub cached: bool,
}
