//! Waiting for a state that follows an event with a delay: counters that workers update after a packet has
//! passed, audit records, and the agent's status.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a state is read.
const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until a condition is true.
///
/// # Panics
/// If it is not true within `timeout`.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + timeout;
    while !condition() {
        assert!(Instant::now() < end, "waited {timeout:?} until {what}");
        sleep(INTERVAL);
    }
}

/// Reads a state until it is complete, and returns it. After `timeout` it returns the last one that it read,
/// so that the caller's assertions say what is missing.
pub fn read_until<T>(timeout: Duration, mut read: impl FnMut() -> T, is_complete: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + timeout;
    loop {
        let state = read();
        if is_complete(&state) || Instant::now() > end {
            return state;
        }
        sleep(INTERVAL);
    }
}
