//! A decision on one packet, with what an audit record needs: the packet, the snapshot, and the time.
//!
//! From: a worker. To: `audit`, which explains and records it off the packet's path.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::decision::Decision;
use crate::packet::Packet;
use crate::snapshot::Snapshot;

/// A decision with everything that an audit record needs. Workers create it, `audit` consumes it.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// When the verdict was given.
    pub at: SystemTime,
    /// The packet; `None` if it could not be parsed.
    pub packet: Option<Packet>,
    /// The decision.
    pub decision: Decision,
    /// How long parsing and evaluation took. For a held packet, only the last evaluation counts. Zero for a
    /// cached verdict.
    pub elapsed: Duration,
    /// How long the packet was held because a pod was still unknown; `None` if the verdict was immediate.
    pub held: Option<Duration>,
    /// The snapshot that evaluated the packet. It names the rules and pods.
    pub snapshot: Arc<Snapshot>,
    /// Whether the kernel accepted the connection from the verdict cache, without queueing the packet. The
    /// cache holds an earlier verdict on the same addresses, protocol and destination port that no change has
    /// affected since.
    pub cached: bool,
}
