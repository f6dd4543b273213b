//! What the agent knows of itself, shared between its thread, which writes it, and the HTTP server, which reads it.
//!
//! Invariant: nothing here is on a packet's path; a lock is held for copying alone, or for one question to the kernel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use audit::Monitor;
use cluster::{Connections, ResourceVersion, StateStatus};
use dataplane::queue_statistics::QueueStatistics;
use dataplane::queues::QueueRange;
use dataplane::table::CacheCounters;
use dataplane::workers::{Counters, HoldCounters, Workers};
use policy::{PolicyName, Verdict};

use crate::durations::Durations;
use crate::status::{self, Phase, Status};

/// What can keep an agent from being ready: at most one sentence each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Topic {
    /// It is not as far yet.
    Starting,
    /// The kernel or the node lacks something.
    Needs,
    /// The source can't be read, or not all of it is known yet. Losing the API server later is none: policy as last known holds.
    Source,
    /// A manifest was never understood.
    Manifests,
    /// This node's pod CIDR is unknown.
    Node,
    /// Queues or rules could not be set up.
    Install,
    /// A change could not be put in force.
    Change,
    /// Another program changed the rules, and they could not be written again.
    Rules,
    /// What the kernel answers by itself can't be recorded.
    Records,
    /// A worker ended.
    Workers,
    /// Another agent has taken over.
    Superseded,
    /// It was told to end.
    Stopping,
}

/// See the module.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    workers: Mutex<Option<Workers>>,
    /// `None` before it is asked for.
    cached: Mutex<Option<CacheCounters>>,
    audit: Monitor,
    durations: Durations,
}

/// What becomes of a policy with the newest snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyState {
    /// It holds, in this version, if the source has versions.
    There(Option<ResourceVersion>),
    /// It is gone.
    Gone,
}

impl PolicyState {
    /// Replaces what `known` holds for the policy. A policy without a version keeps the one it had: it was only compiled again.
    pub fn replace_in(self, known: &mut BTreeMap<PolicyName, Self>, name: PolicyName) {
        let has_version = matches!(known.get(&name), Some(Self::There(Some(_))));
        if !(has_version && self == Self::There(None)) {
            known.insert(name, self);
        }
    }
}

/// The parts of the status that the agent's thread sets.
#[derive(Debug, Default)]
pub struct State {
    /// See [`Status`]; its other fields are filled in when it is asked for.
    pub status: Status,
    /// The queues of this agent.
    pub queues: Option<QueueRange>,
    /// How the API server is reached; `None` for a folder.
    pub connections: Option<Connections>,
    /// How the state on disk is; `None` without one.
    pub saved: Option<StateStatus>,
    /// When it was written, while it stands in for a part of the source.
    pub restored: Option<SystemTime>,
    /// The policies that are in force on this node, connections that exist included, with their versions, where the source has any.
    versions: BTreeMap<PolicyName, Option<ResourceVersion>>,
    reasons: BTreeMap<Topic, String>,
}

impl State {
    /// Not ready, because of this.
    pub fn not_ready(&mut self, topic: Topic, why: impl Into<String>) {
        let why = why.into();
        if self.reasons.get(&topic) != Some(&why) {
            if topic == Topic::Superseded {
                // An upgrade, as a rule: policy is enforced.
                tracing::info!(reason = %why, "standing by");
            } else {
                tracing::warn!(reason = %why, "not ready");
            }
            self.reasons.insert(topic, why);
        }
    }

    /// Whether this keeps the agent from being ready.
    pub fn is_not_ready(&self, topic: Topic) -> bool {
        self.reasons.contains_key(&topic)
    }

    /// Told to end: from here on it is not ready, which is no news to anybody.
    pub fn stopping(&mut self) {
        self.status.phase = Phase::Stopping;
        self.reasons.insert(Topic::Stopping, "stopping".to_owned());
    }

    /// These policies are in force from now on.
    pub fn in_force(&mut self, policies: BTreeMap<PolicyName, PolicyState>) {
        for (policy, standing) in policies {
            match standing {
                PolicyState::There(None) => drop(self.versions.entry(policy).or_insert(None)),
                PolicyState::There(version) => drop(self.versions.insert(policy, version)),
                PolicyState::Gone => drop(self.versions.remove(&policy)),
            }
        }
    }

    /// This no longer keeps the agent from being ready.
    pub fn settled(&mut self, topic: Topic) {
        if self.reasons.remove(&topic).is_some() && self.reasons.is_empty() {
            tracing::info!("ready");
        }
    }
}

impl Health {
    /// Of an agent that has just started on `node`.
    pub fn new(node: &str, audit: Monitor, durations: Durations) -> Arc<Self> {
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: node.to_owned(),
            ..Status::default()
        };
        let reasons = BTreeMap::from([(Topic::Starting, "starting: no policy is in force yet".to_owned())]);
        let state = Mutex::new(State { status, reasons, ..State::default() });
        Arc::new(Self { state, workers: Mutex::new(None), cached: Mutex::new(None), audit, durations })
    }

    /// The histograms.
    pub fn durations(&self) -> &Durations {
        &self.durations
    }

    /// What the agent's thread sets. Don't hold it while waiting for anything.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent's workers from here on.
    pub fn set_workers(&self, workers: Option<Workers>) {
        // The old ones, if any, end outside of the lock: they answer what is queued first.
        let old = std::mem::replace(&mut *self.workers(), workers);
        if let Some(old) = old {
            let counters = counters(&old);
            let mut state = self.state();
            state.status.packets = counters.into();
            state.status.hold = counters.hold.into();
            drop(state);
            old.stop();
        }
    }

    /// Why a queue is no longer served.
    pub fn dead_worker(&self) -> Option<String> {
        self.workers().as_ref()?.health().err().map(ToString::to_string)
    }

    /// Why the agent must be started anew.
    pub fn dead(&self) -> Option<String> {
        self.state().status.dead.clone()
    }

    /// Why policy is not in force; empty if it is.
    pub fn not_ready(&self) -> Vec<String> {
        self.state().reasons.values().cloned().collect()
    }

    /// All of it, as it is now.
    pub fn status(&self) -> Status {
        let (mut status, queues, connections, versions, saved) = {
            let state = self.state();
            let mut status = state.status.clone();
            status.not_ready = state.reasons.values().cloned().collect();
            let saved = state.saved.as_ref().map(|saved| (saved.now(), state.restored));
            (status, state.queues, state.connections.clone(), state.versions.clone(), saved)
        };
        status.state = saved.map(|(now, restored)| status::SavedState::new(now, restored));
        status.source = connections.as_ref().map(status::Source::from);
        status.ready = status.not_ready.is_empty();
        if let Some(workers) = self.workers().as_ref() {
            let counters = counters(workers);
            status.packets = counters.into();
            status.hold = counters.hold.into();
        }
        let [connections, denied, untracked] = self.cached_packets().unwrap_or_default();
        status.packets.cached = connections;
        (status.packets.cached_denied, status.packets.cached_untracked) = (denied, untracked);
        status.queues = queues.map(queue_rows).unwrap_or_default();
        let audit::Counters { written, lost, write_errors, failing } = self.audit.counters();
        status.audit = status::Audit { written, lost, write_errors, failing };
        status.conntrack = status::Conntrack::read();
        status.policies = policies(versions, &self.audit);
        status
    }

    /// Connections that passed without a question, packets that were dropped without one, and packets without a connection that passed;
    /// `None` if there is no table.
    fn cached_packets(&self) -> Option<[u64; 3]> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.is_none() {
            *cached = CacheCounters::open().ok();
        }
        let cached = cached.as_mut()?;
        Some([cached.count().ok()?, cached.denied().ok()?, cached.untracked().ok()?])
    }

    fn workers(&self) -> MutexGuard<'_, Option<Workers>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status {
    /// Whether policy is in force, and verdicts are recorded as asked for.
    pub fn is_fine(&self) -> bool {
        self.ready && self.audit.failing.is_none()
    }
}

/// What all workers have done.
fn counters(workers: &Workers) -> Counters {
    workers.counters().into_iter().sum()
}

impl From<Counters> for status::Packets {
    fn from(counters: Counters) -> Self {
        let Counters { packets: _, allowed, denied, unparsable, gone, enobufs, hold: _ } = counters;
        Self { allowed, denied, unparsable, gone, overflows: enobufs, ..Self::default() }
    }
}

impl From<HoldCounters> for status::Hold {
    fn from(counters: HoldCounters) -> Self {
        let HoldCounters { now, held, allowed, denied, expired, no_room, repeated } = counters;
        Self { now, held, allowed, denied, expired, no_room, repeated }
    }
}

/// The kernel's numbers of our queues; none if it doesn't say.
fn queue_rows(ours: QueueRange) -> Vec<status::Queue> {
    let rows = QueueStatistics::read().unwrap_or_default();
    rows.into_iter()
        .filter(|row| ours.numbers().any(|number| number == row.number))
        .map(|row| status::Queue {
            number: row.number,
            waiting: row.waiting,
            dropped_full: row.dropped_full,
            dropped_by_socket: row.dropped_by_socket,
        })
        .collect()
}

/// Policies that are in force, and those that decided.
fn policies(versions: BTreeMap<PolicyName, Option<ResourceVersion>>, audit: &Monitor) -> Vec<status::Policy> {
    let mut rows: BTreeMap<PolicyName, status::Policy> = BTreeMap::new();
    let new = |name: &PolicyName| status::Policy { policy: name.to_string(), ..status::Policy::default() };
    for (name, version) in versions {
        let row =
            status::Policy { resource_version: version.map(|version| version.to_string()), ..new(&name) };
        rows.insert(name, row);
    }
    for (name, verdict, count) in audit.tallies().all() {
        let row = rows.entry((*name).clone()).or_insert_with(|| new(&name));
        match verdict {
            Verdict::Allow => row.allowed = count,
            Verdict::Deny => row.denied = count,
        }
    }
    rows.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_in_force_with_the_version_that_was_last_known() {
        let name = || PolicyName::network_policy("web", "a");
        let version = || Some(ResourceVersion::from("7"));
        let mut state = State::default();
        let mut put = |standings: Vec<PolicyState>| {
            let mut known = BTreeMap::new();
            for standing in standings {
                standing.replace_in(&mut known, name());
            }
            state.in_force(known);
            state.versions.get(&name()).cloned()
        };
        let without = || PolicyState::There(None);
        assert_eq!(put(vec![without()]), Some(None), "of a folder");
        assert_eq!(put(vec![PolicyState::There(version())]), Some(version()));
        assert_eq!(put(vec![without()]), Some(version()), "compiled again");
        assert_eq!(put(vec![PolicyState::Gone]), None);
        assert_eq!(put(vec![PolicyState::There(version()), without()]), Some(version()));
        assert_eq!(put(vec![PolicyState::There(version()), PolicyState::Gone]), None);
    }
}
