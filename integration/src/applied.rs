//! When an edit was applied, according to the agent's log.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};

use crate::agent::Agent;

/// How long a change may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until a policy that was written at a time is applied, and returns when it was.
pub fn wait_applied(agent: &Agent, policy: &str, written: Instant) -> Result<Instant> {
    let begun = Instant::now();
    while begun.elapsed() < TIMEOUT {
        match when_applied(&agent.log(), policy) {
            Some(at) if at >= written => return Ok(at),
            _ => sleep(Duration::from_millis(2)),
        }
    }
    bail!("{policy} was not applied within {TIMEOUT:?}:\n{}", agent.log());
}

/// When a policy was last applied. Log lines start with the time: `2026-11-28T23:23:59.986365Z`.
fn when_applied(log: &str, policy: &str) -> Option<Instant> {
    const DAY: f64 = 86_400.0;
    let name = format!("\"{policy}\"");
    let line = log.lines().rev().find(|line| line.contains("policy applied") && line.contains(&name))?;
    let (_, time) = line.split_once('T')?;
    let mut applied = 0.0;
    for number in time.split(['Z', ':']).take(3) {
        applied = applied * 60.0 + number.parse::<f64>().ok()?;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let ago = (now.as_secs_f64() - applied).rem_euclid(DAY);
    Instant::now().checked_sub(Duration::from_secs_f64(ago))
}
