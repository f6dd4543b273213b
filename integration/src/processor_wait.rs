//! How long a process waited for a processor, because other processes kept all of them busy.
//!
//! From: the kernel's run delay of each thread (`/proc/PID/task/TID/schedstat`, Documentation/scheduler/
//! sched-stats.rst). To: tests that bound how long an agent takes, which add it to their bound. A thread that
//! sleeps, waits for a lock or for the kernel does not wait for a processor.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The wait of a process from a moment on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessorWait {
    process: u32,
    before: Duration,
}

impl ProcessorWait {
    /// The wait of this process from now on.
    pub fn of(process: u32) -> Result<Self> {
        Ok(Self { process, before: total(process)? })
    }

    /// How long the threads of the process have waited since, all added up.
    pub fn so_far(&self) -> Result<Duration> {
        // Threads that have ended are missing from the total.
        Ok(total(self.process)?.saturating_sub(self.before))
    }
}

fn total(process: u32) -> Result<Duration> {
    let folder = format!("/proc/{process}/task");
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
        // A thread may end at any time.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanos = text.split_whitespace().nth(1).and_then(|delay| delay.parse().ok());
        total += Duration::from_nanos(nanos.with_context(|| format!("{folder}: unknown format {text:?}"))?);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_sleeps_does_not_wait_for_a_processor() {
        let mut sleeper = std::process::Command::new("sleep").arg("10").spawn().expect("sleep runs");
        std::thread::sleep(Duration::from_millis(200));
        let wait = ProcessorWait::of(sleeper.id()).expect("its run delay");
        std::thread::sleep(Duration::from_millis(300));
        let waited = wait.so_far().expect("its run delay");
        sleeper.kill().and_then(|()| sleeper.wait()).expect("it ends");
        assert!(waited < Duration::from_millis(10), "{waited:?}");
    }
}
