//! The worker's end of a ring: hands evaluations to the writer without blocking.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use policy::Evaluation;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

/// Records the verdicts of one worker.
#[derive(Debug)]
pub struct Recorder {
    ring: Producer<Evaluation>,
    /// Only this recorder adds to it.
    lost: Arc<AtomicU64>,
}

/// The writer's end of one recorder.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Evaluations from the recorder, oldest first.
    pub(crate) evaluations: Consumer<Evaluation>,
    /// How many were lost so far because the ring was full.
    pub(crate) lost: Arc<AtomicU64>,
}

/// A recorder with room for `capacity` evaluations between two polls of the writer.
pub(crate) fn ring(capacity: usize) -> (Recorder, Ring) {
    let (ring, evaluations) = RingBuffer::new(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    (Recorder { ring, lost: Arc::clone(&lost) }, Ring { evaluations, lost })
}

impl Recorder {
    /// Hands an evaluation to the writer. If the ring is full, the evaluation is counted as lost.
    pub fn record(&mut self, evaluation: Evaluation) {
        if let Err(PushError::Full(_)) = self.ring.push(evaluation) {
            self.lose(1);
        }
    }

    /// Counts `number` evaluations as lost that never reached this recorder.
    pub fn lose(&mut self, number: u64) {
        self.lost.store(self.lost.load(Ordering::Relaxed) + number, Ordering::Relaxed);
    }
}
