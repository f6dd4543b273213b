//! Reads the status of a node's agent many times a second.
//!
//! From: `/status` and the log of the node's agent. To: since when each world is in force, and whether the
//! agent enforces policy. An agent that is suspended or gone is not polled. The log names the policies of
//! each change when they are in force (`policy applied`). The status has versions of policies only if an API
//! server is the source.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use crate::agent::Agent;
use crate::http;
use crate::namespace::NetworkNamespace;

/// How often an agent is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(30);

/// The last known state of the agent.
#[derive(Clone, Debug, Default)]
struct AgentState {
    /// The agent to poll.
    agent: Option<WatchedAgent>,
    /// When each policy was first seen in force, by name.
    in_force: HashMap<String, Instant>,
    /// The agent's last status.
    status: Option<Value>,
}

/// An agent that is polled.
#[derive(Clone, PartialEq, Eq, Debug)]
struct WatchedAgent {
    port: u16,
    log: PathBuf,
    since: Instant,
}

/// See the module's documentation. Dropping it ends the thread.
#[derive(Debug)]
pub struct AgentWatcher {
    seen: Arc<Mutex<AgentState>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AgentWatcher {
    /// Starts the thread, without an agent to poll.
    pub fn new(namespace: &Arc<NetworkNamespace>) -> Result<Self> {
        let (seen, stop) = (Arc::<Mutex<AgentState>>::default(), Arc::new(AtomicBool::new(false)));
        let (shared, is_over, namespace) = (Arc::clone(&seen), Arc::clone(&stop), Arc::clone(namespace));
        let thread = std::thread::spawn(move || {
            let mut logs = HashMap::new();
            while !is_over.load(Ordering::Acquire) {
                poll(&shared, &namespace, &mut logs);
                sleep(POLL_INTERVAL);
            }
        });
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Polls this agent from now on, or none.
    pub fn follow(&self, agent: Option<&Agent>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = |agent: &Agent| WatchedAgent {
            port: agent.http_port(),
            log: agent.log_file().to_owned(),
            since: Instant::now(),
        };
        (seen.agent, seen.status) = (agent.map(followed), None);
    }

    /// When a policy was first seen in force.
    pub fn in_force(&self, policy: &str) -> Option<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).in_force.get(policy).copied()
    }

    /// The last status of the agent that is polled.
    pub fn status(&self) -> Option<Value> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).status.clone()
    }

    /// Whether the last status of the agent says that its rules are in force.
    pub fn enforces(&self) -> bool {
        self.status()
            .is_some_and(|status| status["phase"] == "enforcing" && status["applied_generation"] != 0)
    }
}

impl Drop for AgentWatcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn poll(seen: &Mutex<AgentState>, namespace: &NetworkNamespace, logs: &mut HashMap<PathBuf, u64>) {
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(agent) = lock().agent.clone() else { return };
    let offset = logs.entry(agent.log.clone()).or_default();
    let applied = read_applied(&agent.log, offset).unwrap_or_default();
    let now = Instant::now();
    for policy in applied {
        lock().in_force.entry(policy).or_insert(now);
    }
    // An agent that does not listen yet, or that is exiting, does not answer.
    let Ok(answer) = http::get(namespace, agent.port, "/status") else { return };
    let Ok(status) = serde_json::from_str::<Value>(&answer.body) else { return };
    let mut seen = lock();
    if seen.agent == Some(agent) {
        seen.status = Some(status);
    }
}

/// The marker policies in the `policy applied` lines of a log from byte `offset` on. Moves `offset` behind
/// the last whole line.
fn read_applied(log: &Path, offset: &mut u64) -> std::io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(*offset))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    *offset += whole as u64;
    let lines = text[..whole].lines().filter(|line| line.contains("policy applied"));
    Ok(lines.flat_map(markers).collect())
}

/// The policies in a line whose namespace is `marker`.
fn markers(line: &str) -> Vec<String> {
    let words = line.split('"').map(|word| word.trim_end_matches('\\'));
    words.filter(|word| word.starts_with("marker/")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_worlds_that_are_in_force() {
        let line = r#"INFO policy applied generation=2 policies=["db/metrics", "marker/policies-1", "marker/policies-2"]"#;
        assert_eq!(markers(line), ["marker/policies-1", "marker/policies-2"]);
    }
}
