//! How long the machine has kept threads from running, for bounds in time that a busy or frozen machine must not break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SLEEP: Duration = Duration::from_millis(1);
/// A sleep that takes no longer than this has not been kept waiting.
const ON_TIME: Duration = Duration::from_millis(5);

/// A thread that sleeps for a millisecond again and again, and adds up how much longer that took. It stops when this is dropped.
#[derive(Debug)]
pub struct SchedulingDelays {
    stop: Arc<AtomicBool>,
    micros: Arc<AtomicU64>,
}

impl SchedulingDelays {
    /// Starts to watch.
    pub fn watch() -> Self {
        let watched = Self { stop: Arc::default(), micros: Arc::default() };
        let (stop, micros) = (Arc::clone(&watched.stop), Arc::clone(&watched.micros));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let begun = Instant::now();
                sleep(SLEEP);
                let took = begun.elapsed();
                if took > ON_TIME {
                    micros.fetch_add(took.as_micros() as u64, Ordering::AcqRel);
                }
            }
        });
        watched
    }

    /// How long threads were kept from running since this began.
    pub fn so_far(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Acquire))
    }
}

impl Drop for SchedulingDelays {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}
