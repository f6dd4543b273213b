//! Times in which the machine stood still, as a virtual machine does while its host pauses it. The clocks go on, and no process runs.
//!
//! From: a thread that sleeps a short time and looks at the clock. To: tests that bound how long something takes. Invariant: time in
//! which no process ran counts for no such bound.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How long the thread sleeps.
const BEAT: Duration = Duration::from_millis(50);
/// A sleep that takes longer than this was interrupted: with both processors busy it takes some milliseconds more than [`BEAT`].
const INTERRUPTED: Duration = Duration::from_millis(500);

/// Watches from its creation until it is dropped.
#[derive(Debug)]
pub struct Standstills {
    beats: Arc<Mutex<Beats>>,
}

#[derive(Debug)]
struct Beats {
    last: Instant,
    /// Disjoint, oldest first.
    interrupted: Vec<(Instant, Instant)>,
}

impl Standstills {
    /// Starts the thread.
    pub fn watch() -> Self {
        let beats = Arc::new(Mutex::new(Beats { last: Instant::now(), interrupted: Vec::new() }));
        let watched = Arc::downgrade(&beats);
        thread::spawn(move || {
            while let Some(beats) = Weak::upgrade(&watched) {
                beats.lock().unwrap_or_else(PoisonError::into_inner).beat(Instant::now());
                drop(beats);
                thread::sleep(BEAT);
            }
        });
        Self { beats }
    }

    /// How long the machine stood still between two times.
    pub fn within(&self, from: Instant, to: Instant) -> Duration {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).within(from, to)
    }
}

impl Beats {
    fn beat(&mut self, now: Instant) {
        if now.duration_since(self.last) > INTERRUPTED {
            self.interrupted.push((self.last, now));
        }
        self.last = now;
    }

    fn within(&self, from: Instant, to: Instant) -> Duration {
        // The thread may not have run yet after a standstill.
        let current = (to.saturating_duration_since(self.last) > INTERRUPTED).then_some((self.last, to));
        let overlap =
            |(begin, end): (Instant, Instant)| end.min(to).saturating_duration_since(begin.max(from));
        self.interrupted.iter().copied().chain(current).map(overlap).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_of_a_standstill_between_the_two_times_counts() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut beats = Beats { last: start, interrupted: Vec::new() };
        beats.beat(at(60));
        beats.beat(at(7_060));
        beats.beat(at(7_110));
        assert_eq!(beats.within(at(0), at(7_200)), Duration::from_secs(7));
        assert_eq!(beats.within(at(1_060), at(3_060)), Duration::from_secs(2));
        assert_eq!(beats.within(at(7_100), at(7_500)), Duration::ZERO);
        assert_eq!(beats.within(at(7_100), at(9_110)), Duration::from_secs(2), "no beat since 7,110 ms");
    }
}
