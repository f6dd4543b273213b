//! The worker's end: hands an evaluation over without ever waiting.

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
    /// What the recorder handed over, oldest first.
    pub(crate) evaluations: Consumer<Evaluation>,
    /// How many found the ring full, ever.
    pub(crate) lost: Arc<AtomicU64>,
}

/// A recorder that has room for `capacity` evaluations between two looks of the writer.
pub(crate) fn ring(capacity: usize) -> (Recorder, Ring) {
    let (ring, evaluations) = RingBuffer::new(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    (Recorder { ring, lost: Arc::clone(&lost) }, Ring { evaluations, lost })
}

impl Recorder {
    /// Hands an evaluation to the writer; if there is no room it is lost, and counted.
    pub fn record(&mut self, evaluation: Evaluation) {
        if let Err(PushError::Full(_)) = self.ring.push(evaluation) {
            self.lose(1);
        }
    }

    /// Counts so many evaluations as lost: they did not even get as far as here.
    pub fn lose(&mut self, number: u64) {
        self.lost.store(self.lost.load(Ordering::Relaxed) + number, Ordering::Relaxed);
    }
}
