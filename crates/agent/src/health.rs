//! The agent's state, which its thread writes and the HTTP server reads.
//!
//! Invariant: nothing here is on the packet path. A lock is held only to copy values, or for one request to
//! the kernel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use audit::{AuditMonitor, PolicyVerdicts};
use cluster::{ResourceVersion, StateStatus, WatchStatuses};
use dataplane::queue_statistics::QueueStatistics;
use dataplane::queues::QueueRange;
use dataplane::table::CacheCounters;
use dataplane::workers::{Counters, HoldCounters, Workers};
use policy::{Inventory, PolicyName, Tier, Verdict};

use crate::durations::Durations;
use crate::status::{self, DefaultDenies, PacketCount, PhaseName, Status};
use crate::sync::lock;
use cluster::error_chain::chain;

/// A condition for being ready. If it is not met, one sentence says why.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Condition {
    /// The agent has started to enforce policy.
    Started,
    /// The preflight checks of kernel and node have succeeded.
    Preflight,
    /// The source has been read completely. It stays met if the API server is lost later: the last known
    /// policy stays in force.
    Source,
    /// A version of each manifest could be parsed.
    Manifests,
    /// This node's pod CIDR is known.
    Node,
    /// Queues and rules have been set up.
    Install,
    /// The last change is in force.
    Change,
    /// The rules are intact, or were restored after another program had changed them.
    Rules,
    /// The NFLOG group is bound, so that cached verdicts are recorded.
    Nflog,
    /// All threads are running.
    Workers,
    /// No other agent has taken over.
    NotSuperseded,
    /// The agent is not ending.
    Running,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<State>,
    workers: Mutex<Option<Workers>>,
    /// `None` before the first status.
    cache_counters: Mutex<Option<CacheCounters>>,
    audit: AuditMonitor,
    durations: Durations,
}

/// The state of a policy in the newest snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PolicyState {
    /// It exists, in this version if the source has versions.
    Present(Option<ResourceVersion>),
    /// It was removed.
    Removed,
}

impl PolicyState {
    /// Replaces the policy's state in `known`. If the new state has no version, the policy keeps its version:
    /// it was only compiled again.
    pub(crate) fn replace_in(self, known: &mut BTreeMap<PolicyName, Self>, name: PolicyName) {
        let has_version = matches!(known.get(&name), Some(Self::Present(Some(_))));
        if !(has_version && self == Self::Present(None)) {
            known.insert(name, self);
        }
    }
}

/// A policy that is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PolicyInForce {
    /// Its version, if the source has versions.
    version: Option<ResourceVersion>,
    tier: Tier,
    priority: Option<u16>,
}

/// The parts of the status that the agent's thread sets.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The fields that the agent's thread sets; [`Health::status`] sets the others.
    pub status: Status,
    /// The queues of this agent.
    pub queues: Option<QueueRange>,
    /// The connections to the API server; `None` for a folder.
    pub connections: Option<WatchStatuses>,
    /// The status of the state on disk; `None` without one.
    pub saved: Option<StateStatus>,
    /// When the state on disk was written, while it replaces a part of the source.
    pub restored: Option<SystemTime>,
    /// The policies that are in force on this node, even for established connections.
    policies: BTreeMap<PolicyName, PolicyInForce>,
    reasons: BTreeMap<Condition, String>,
}

impl State {
    /// Marks a condition as not met, for this reason.
    pub(crate) fn not_ready(&mut self, condition: Condition, why: impl Into<String>) {
        let why = why.into();
        if self.reasons.get(&condition) != Some(&why) {
            if condition == Condition::NotSuperseded {
                // This is usually an upgrade, during which policy is enforced.
                tracing::info!(reason = %why, "standing by");
            } else {
                tracing::warn!(reason = %why, "not ready");
            }
            self.reasons.insert(condition, why);
        }
    }

    /// Whether this condition is not met.
    pub(crate) fn is_not_ready(&self, condition: Condition) -> bool {
        self.reasons.contains_key(&condition)
    }

    /// Marks the agent as stopping. It is no longer ready, which is expected and not logged.
    pub(crate) fn stopping(&mut self) {
        self.status.phase = PhaseName::Stopping;
        self.reasons.insert(Condition::Running, "stopping".to_owned());
    }

    /// Call this when these policies of the inventory are in force.
    pub(crate) fn in_force(&mut self, policies: BTreeMap<PolicyName, PolicyState>, inventory: &Inventory) {
        for (policy, state) in policies {
            let PolicyState::Present(version) = state else {
                self.policies.remove(&policy);
                continue;
            };
            let spec = inventory.policies.get(&policy);
            let tier = spec.map(|spec| spec.tier).unwrap_or_default();
            let priority = spec.and_then(|spec| spec.priority_in_tier());
            let known = self.policies.remove(&policy).and_then(|known| known.version);
            self.policies.insert(policy, PolicyInForce { version: version.or(known), tier, priority });
        }
    }

    /// Marks a condition as met.
    pub(crate) fn met(&mut self, condition: Condition) {
        if self.reasons.remove(&condition).is_some() && self.reasons.is_empty() {
            tracing::info!("ready");
        }
    }
}

impl Health {
    /// The state of an agent that has just started on `node`.
    pub(crate) fn new(node: &str, audit: AuditMonitor, durations: Durations) -> Arc<Self> {
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: node.to_owned(),
            ..Status::default()
        };
        let reasons =
            BTreeMap::from([(Condition::Started, "starting: no policy is in force yet".to_owned())]);
        let state = Mutex::new(State { status, reasons, ..State::default() });
        let (workers, cache_counters) = (Mutex::new(None), Mutex::new(None));
        Arc::new(Self { state, workers, cache_counters, audit, durations })
    }

    /// The histograms.
    pub(crate) fn durations(&self) -> &Durations {
        &self.durations
    }

    /// Locks the fields that the agent's thread sets. Don't hold the lock while waiting for anything.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Replaces the agent's workers.
    pub(crate) fn set_workers(&self, workers: Option<Workers>) {
        // Stop the old workers without the lock: they first give verdicts on all queued packets.
        let old = std::mem::replace(&mut *lock(&self.workers), workers);
        if let Some(old) = old {
            let counters = counters(&old);
            let packets = packets(&old, counters);
            let mut state = self.state();
            state.status.packets = packets;
            state.status.hold = counters.hold.into();
            drop(state);
            old.stop();
        }
    }

    /// Why a queue is no longer served; `None` if all are.
    pub(crate) fn dead_worker(&self) -> Option<String> {
        lock(&self.workers).as_ref()?.health().err().map(|error| chain(error))
    }

    /// Why the agent must be restarted; `None` if it need not.
    pub(crate) fn dead(&self) -> Option<String> {
        self.state().status.dead.clone()
    }

    /// Why policy is not in force; empty if it is.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        self.state().reasons.values().cloned().collect()
    }

    /// The current status.
    pub(crate) fn status(&self) -> Status {
        let (mut status, queues, connections, policies, saved) = {
            let state = self.state();
            let mut status = state.status.clone();
            status.not_ready = state.reasons.values().cloned().collect();
            let saved = state.saved.as_ref().map(|saved| (saved.now(), state.restored));
            (status, state.queues, state.connections.clone(), state.policies.clone(), saved)
        };
        status.state = saved.map(|(now, restored)| status::SavedState::new(now, restored));
        status.source = connections.as_ref().map(status::SourceStatus::from);
        status.ready = status.not_ready.is_empty();
        if let Some(workers) = lock(&self.workers).as_ref() {
            let counters = counters(workers);
            status.packets = packets(workers, counters);
            status.hold = counters.hold.into();
        }
        let [connections, denied, untracked] = self.cached_packets().unwrap_or_default();
        status.packets.cached = connections;
        (status.packets.cached_denied, status.packets.cached_untracked) = (denied, untracked);
        status.queues = queues.map(queue_rows).unwrap_or_default();
        status.audit = self.audit.counters().into();
        status.conntrack = status::ConntrackStatus::read();
        let verdicts = self.audit.policy_verdicts();
        status.policies = policy_rows(policies, verdicts);
        status.default_denies = default_denies(verdicts);
        status
    }

    /// Hits in the kernel's verdict cache: allowed connections, denied packets, and allowed packets that
    /// conntrack does not track. `None` if there is no table.
    fn cached_packets(&self) -> Option<[u64; 3]> {
        let mut counters = lock(&self.cache_counters);
        if counters.is_none() {
            *counters = CacheCounters::open().ok();
        }
        let counters = counters.as_mut()?;
        Some([counters.count().ok()?, counters.denied().ok()?, counters.untracked().ok()?])
    }
}

impl Status {
    /// Whether policy is in force, and verdicts are recorded as configured.
    pub(crate) fn is_fine(&self) -> bool {
        self.ready && self.audit.failing.is_none()
    }
}

/// The sum of all workers' counters.
fn counters(workers: &Workers) -> Counters {
    workers.counters().into_iter().sum()
}

/// The packets of all workers. The sums and the single counts are read at once, so that they agree.
fn packets(workers: &Workers, counters: Counters) -> status::Packets {
    let counts = workers.packet_counts();
    status::Packets {
        allowed: counts.with_verdict(Verdict::Allow),
        denied: counts.with_verdict(Verdict::Deny),
        unparsable: counts.unparsable(),
        gone: counters.gone,
        overflows: counters.enobufs,
        by_outcome: counts.iter().map(|(class, packets)| PacketCount::new(class, packets)).collect(),
        ..status::Packets::default()
    }
}

impl From<audit::AuditCounters> for status::AuditStatus {
    fn from(counters: audit::AuditCounters) -> Self {
        let audit::AuditCounters {
            written,
            lost,
            write_errors,
            failing,
            remedy,
            removed_files,
            upkeep_problem,
        } = counters;
        Self { written, lost, write_errors, failing, remedy, removed_files, upkeep_problem }
    }
}

impl From<HoldCounters> for status::HoldStatus {
    fn from(counters: HoldCounters) -> Self {
        let HoldCounters { now, held, allowed, denied, expired, over_limit, repeated } = counters;
        Self { now, held, allowed, denied, expired, over_limit, repeated }
    }
}

/// The kernel's statistics of this agent's queues; empty if they can't be read.
fn queue_rows(ours: QueueRange) -> Vec<status::QueueStatus> {
    let rows = QueueStatistics::read().unwrap_or_default();
    rows.into_iter()
        .filter(|row| ours.contains(row.number))
        .map(|row| status::QueueStatus {
            number: row.number.0,
            waiting: row.waiting,
            dropped_full: row.dropped_full,
            dropped_by_socket: row.dropped_by_socket,
        })
        .collect()
}

/// The policies that are in force, and those that have decided.
fn policy_rows(
    in_force: BTreeMap<PolicyName, PolicyInForce>,
    verdicts: &PolicyVerdicts,
) -> Vec<status::PolicyStatus> {
    let mut rows: BTreeMap<PolicyName, status::PolicyStatus> = BTreeMap::new();
    let new = |name: &PolicyName, tier| status::PolicyStatus {
        policy: name.to_string(),
        kind: format!("{:?}", name.kind),
        tier,
        ..status::PolicyStatus::default()
    };
    for (name, PolicyInForce { version, tier, priority }) in in_force {
        let resource_version = version.map(|version| version.to_string());
        let row = status::PolicyStatus { priority, resource_version, ..new(&name, tier) };
        rows.insert(name, row);
    }
    for (name, tier, verdict, count) in verdicts.all() {
        let row = rows.entry((*name).clone()).or_insert_with(|| new(&name, tier));
        match verdict {
            Verdict::Allow => row.allowed = count,
            Verdict::Deny => row.denied = count,
        }
    }
    rows.into_values().collect()
}

/// The default denies of each namespace.
fn default_denies(verdicts: &PolicyVerdicts) -> Vec<DefaultDenies> {
    let rows = verdicts.default_denies().into_iter();
    rows.map(|(namespace, direction, denied)| DefaultDenies {
        namespace: namespace.to_string(),
        direction: direction.name().to_owned(),
        denied,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use policy::{
        Action, Change, Compiler, Directions, Evaluation, Namespace, NamespaceMatch, Packet, Pod, PodName,
        PolicyKind, PolicySpec, Protocol, RuleSpec, Scope, Selector, Subject,
    };

    use super::*;

    #[test]
    fn policies_are_in_force_with_the_last_known_version() {
        let name = || PolicyName::network_policy("web", "a");
        let version = || Some(ResourceVersion::from("7"));
        let mut state = State::default();
        let mut put = |states: Vec<PolicyState>| {
            let mut known = BTreeMap::new();
            for state in states {
                state.replace_in(&mut known, name());
            }
            state.in_force(known, &Inventory::default());
            state.policies.get(&name()).map(|policy| policy.version.clone())
        };
        let without = || PolicyState::Present(None);
        assert_eq!(put(vec![without()]), Some(None), "a folder has no versions");
        assert_eq!(put(vec![PolicyState::Present(version())]), Some(version()));
        assert_eq!(put(vec![without()]), Some(version()), "compiled again");
        assert_eq!(put(vec![PolicyState::Removed]), None);
        assert_eq!(put(vec![PolicyState::Present(version()), without()]), Some(version()));
        assert_eq!(put(vec![PolicyState::Present(version()), PolicyState::Removed]), None);
    }

    /// One verdict of a rule of this policy, which is of tier Admin and denies everything.
    fn denied_by(name: &PolicyName) -> PolicyVerdicts {
        let everything = || Subject {
            namespaces: NamespaceMatch::Labels(Selector::everything()),
            pods: Selector::everything(),
        };
        let deny = RuleSpec { name: None, action: Action::Deny, peers: None, ports: None };
        let guard = PolicySpec {
            name: name.clone(),
            tier: Tier::Admin,
            priority: 0,
            subject: everything(),
            isolates_ingress: false,
            isolates_egress: false,
            ingress: Vec::new(),
            egress: vec![deny],
            omitted: None,
        };
        let address: IpAddr = "10.244.1.2".parse().expect("address");
        let pod = Pod {
            name: PodName::new("web", "a"),
            labels: [("app", "a")].into_iter().collect(),
            addresses: vec![address],
            ports: Vec::new(),
            node: Some("node-a".into()),
            host_network: false,
            reported: 0,
            created: 0,
            uid: Default::default(),
            workload: None,
        };
        let namespace = Namespace { name: "web".into(), labels: [("app", "a")].into_iter().collect() };
        let changes = [Change::Namespace(namespace), Change::Pod(pod), Change::Policy(Arc::new(guard))];
        let snapshot = Compiler::new(Scope::Cluster).apply(changes).snapshot;
        let packet = Packet::new(address, "192.0.2.1".parse().expect("address"), Protocol::UDP);
        let evaluation = Evaluation {
            at: SystemTime::UNIX_EPOCH,
            packet: Some(packet),
            decision: snapshot.evaluate(&packet, Directions::Both),
            elapsed: Duration::ZERO,
            held: None,
            snapshot,
            cached: false,
        };
        let verdicts = PolicyVerdicts::default();
        verdicts.count(&evaluation);
        verdicts
    }

    #[test]
    fn each_policy_in_force_has_tier_priority_and_version() {
        let name =
            PolicyName { kind: PolicyKind::ClusterNetworkPolicy, namespace: "".into(), name: "guard".into() };
        let verdicts = denied_by(&name);
        let mut state = State::default();
        let mut row = |tier, priority, version: Option<&str>| {
            let policy = PolicySpec {
                name: name.clone(),
                tier,
                priority,
                subject: Subject {
                    namespaces: NamespaceMatch::Labels(Selector::everything()),
                    pods: Selector::everything(),
                },
                isolates_ingress: false,
                isolates_egress: false,
                ingress: Vec::new(),
                egress: Vec::new(),
                omitted: None,
            };
            let policies = [(name.clone(), Arc::new(policy))].into();
            let present = PolicyState::Present(version.map(ResourceVersion::from));
            let inventory = Inventory { policies, ..Inventory::default() };
            state.in_force([(name.clone(), present)].into(), &inventory);
            policy_rows(state.policies.clone(), &verdicts)
        };
        let expected = |tier, priority| status::PolicyStatus {
            policy: "guard".to_owned(),
            kind: "ClusterNetworkPolicy".to_owned(),
            tier,
            priority: Some(priority),
            resource_version: Some("7".to_owned()),
            allowed: 0,
            denied: 1,
        };
        assert_eq!(row(Tier::Admin, 10, Some("7")), [expected(Tier::Admin, 10)]);
        assert_eq!(row(Tier::Baseline, 20, None), [expected(Tier::Baseline, 20)], "changed");
        // Of a policy that is not in force, the tier is that of its last verdict.
        let [row] = &policy_rows(BTreeMap::new(), &verdicts)[..] else { panic!("one row") };
        assert_eq!((row.tier, row.priority), (Tier::Admin, None));
    }
}
