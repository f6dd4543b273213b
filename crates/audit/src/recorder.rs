//! The worker's end of a ring: hands evaluations to the writer without blocking.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use policy::Evaluation;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

/// Records the verdicts of one worker.
#[derive(Debug)]
pub struct Recorder {
    ring: Producer<Recorded>,
    /// Only this recorder adds to it.
    lost: Arc<RingLosses>,
}

/// An evaluation, and what it is of.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) evaluation: Evaluation,
    pub(crate) subject: Subject,
}

/// What was evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    /// A packet: it has the verdict.
    Packet,
    /// An established connection: it was cut.
    Revoked(RevokedBy),
    /// A connection that was cut: it passes again.
    Restored,
}

/// Why an established connection was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RevokedBy {
    /// Policy denies it: see the evaluation.
    Policy,
    /// It sends packets of the nodes' overlay, which pods may not, whatever the policies say (semantics 32).
    Overlay,
}

/// How many evaluations a recorder has lost so far.
#[derive(Debug, Default)]
pub(crate) struct RingLosses {
    /// Their ring was full.
    pub(crate) queue_full: AtomicU64,
    /// They never reached the recorder.
    pub(crate) not_received: AtomicU64,
}

/// The writer's end of one recorder.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Evaluations from the recorder, oldest first.
    pub(crate) evaluations: Consumer<Recorded>,
    pub(crate) lost: Arc<RingLosses>,
}

/// A recorder with room for `capacity` evaluations between two polls of the writer.
pub(crate) fn ring(capacity: usize) -> (Recorder, Ring) {
    let (ring, evaluations) = RingBuffer::new(capacity);
    let lost = Arc::<RingLosses>::default();
    (Recorder { ring, lost: Arc::clone(&lost) }, Ring { evaluations, lost })
}

impl Recorder {
    /// Hands the evaluation of a packet to the writer. If the ring is full, it is counted as lost.
    pub fn record(&mut self, evaluation: Evaluation) {
        self.push(Recorded { evaluation, subject: Subject::Packet });
    }

    /// Hands the evaluation of an established connection that was cut to the writer.
    pub fn record_revoked(&mut self, evaluation: Evaluation, by: RevokedBy) {
        self.push(Recorded { evaluation, subject: Subject::Revoked(by) });
    }

    /// Hands the evaluation of a connection that was cut and passes again to the writer.
    pub fn record_restored(&mut self, evaluation: Evaluation) {
        self.push(Recorded { evaluation, subject: Subject::Restored });
    }

    /// Counts `number` evaluations as lost that never reached this recorder.
    pub fn lose(&mut self, number: u64) {
        add(&self.lost.not_received, number);
    }

    fn push(&mut self, recorded: Recorded) {
        if let Err(PushError::Full(_)) = self.ring.push(recorded) {
            add(&self.lost.queue_full, 1);
        }
    }
}

/// Adds to a counter that no other thread changes.
fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Ordering::Relaxed) + number, Ordering::Relaxed);
}
