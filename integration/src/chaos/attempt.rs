//! A connection or datagram that was attempted, and its outcome.

use std::net::SocketAddr;
use std::time::Instant;

use jiff::Timestamp;

use super::world::ServicePort;
use crate::probe::Answer;

/// A connection or datagram that was attempted, and its outcome.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The pod that made the attempt.
    pub from: String,
    /// The pod that had the destination address when the attempt was chosen.
    pub to: String,
    /// The port and protocol.
    pub target: ServicePort,
    /// The client's address and port.
    pub source: SocketAddr,
    /// The destination's address and port.
    pub destination: SocketAddr,
    /// The time before the first packet.
    pub begun: (Instant, Timestamp),
    /// The time after the answer, or after the timeout.
    pub ended: (Instant, Timestamp),
    /// The outcome.
    pub answer: Answer,
    /// Whether it arrived at the server although no answer came.
    pub arrived: bool,
}

impl Attempt {
    /// A line with all of its fields, and times in seconds since `start`.
    pub fn describe(&self, start: Instant) -> String {
        let Self { from, to, source, destination, target: (port, transport), answer, arrived, .. } = self;
        let seconds = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        format!(
            "{from} ({source}) to {to} ({destination}) {port}/{transport} from {:.3} s to {:.3} s ({} to \
             {}): {answer}{}",
            seconds(self.begun.0),
            seconds(self.ended.0),
            self.begun.1,
            self.ended.1,
            if *arrived { ", but arrived at the server" } else { "" }
        )
    }
}
