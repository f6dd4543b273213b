//! Times in which the machine kept a thread from running: because its processors were busy, or because the
//! host of the virtual machine paused it.
//!
//! From: a thread that sleeps for a short time and then reads the clock. To: tests that bound how long
//! something takes. Invariant: a test adds the delays within the measured time to its bound.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How often the thread runs, and which delays count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sampling {
    /// How long the thread sleeps.
    interval: Duration,
    /// A sleep that takes longer than this was delayed.
    threshold: Duration,
}

impl Sampling {
    /// For bounds of milliseconds.
    pub const FINE: Self = Self { interval: Duration::from_millis(1), threshold: Duration::from_millis(5) };
    /// For bounds of seconds: only times in which the whole machine was paused. With both processors busy, a
    /// sleep takes some milliseconds more than its interval.
    pub const COARSE: Self =
        Self { interval: Duration::from_millis(50), threshold: Duration::from_millis(500) };
}

/// Watches from its creation until it is dropped.
#[derive(Debug)]
pub struct SchedulingDelays {
    samples: Arc<Mutex<Samples>>,
}

#[derive(Debug)]
struct Samples {
    threshold: Duration,
    last: Instant,
    /// Disjoint, oldest first.
    delays: Vec<(Instant, Instant)>,
}

impl SchedulingDelays {
    /// Starts the thread.
    pub fn watch(sampling: Sampling) -> Self {
        let samples = Arc::new(Mutex::new(Samples::new(sampling.threshold, Instant::now())));
        let watched = Arc::downgrade(&samples);
        thread::spawn(move || {
            while let Some(samples) = Weak::upgrade(&watched) {
                samples.lock().unwrap_or_else(PoisonError::into_inner).add(Instant::now());
                drop(samples);
                thread::sleep(sampling.interval);
            }
        });
        Self { samples }
    }

    /// The sum of the delays between two times.
    pub fn within(&self, from: Instant, to: Instant) -> Duration {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).within(from, to)
    }

    /// The sum of the delays from a time until now.
    pub fn since(&self, from: Instant) -> Duration {
        self.within(from, Instant::now())
    }
}

impl Samples {
    fn new(threshold: Duration, now: Instant) -> Self {
        Self { threshold, last: now, delays: Vec::new() }
    }

    fn add(&mut self, now: Instant) {
        if now.duration_since(self.last) > self.threshold {
            self.delays.push((self.last, now));
        }
        self.last = now;
    }

    fn within(&self, from: Instant, to: Instant) -> Duration {
        // The thread may not have run yet after a delay.
        let current = (to.saturating_duration_since(self.last) > self.threshold).then_some((self.last, to));
        let recent = self.delays.iter().rev().take_while(|(_, end)| *end > from);
        let overlap =
            |(begin, end): (Instant, Instant)| end.min(to).saturating_duration_since(begin.max(from));
        recent.copied().chain(current).map(overlap).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_of_a_delay_between_the_two_times_counts() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut samples = Samples::new(Sampling::COARSE.threshold, start);
        samples.add(at(60));
        samples.add(at(7_060));
        samples.add(at(7_110));
        assert_eq!(samples.within(at(0), at(7_200)), Duration::from_secs(7));
        assert_eq!(samples.within(at(1_060), at(3_060)), Duration::from_secs(2));
        assert_eq!(samples.within(at(7_100), at(7_500)), Duration::ZERO);
        assert_eq!(samples.within(at(7_100), at(9_110)), Duration::from_secs(2), "no sample since 7,110 ms");
    }
}
