//! Tests as cluster scenarios: pods, policy, probe, expected verdict and rule.
//!
//! Everything here panics, at the caller's line, if an outcome is not as expected. Then the agents print
//! their status and records, and the testbed prints its rules and the commands that enter its namespaces.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::agent::{Agent, Launch};
use crate::cluster::ClusterSpec;
use crate::probe::{Answer, Family, Observed, ProbeTarget};
use crate::record::Record;
use crate::testbed::Testbed;

/// The timeout of a probe that must reach its target. It is long, since the machine may be busy.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of a probe that must be dropped. A timeout alone does not prove a denial, so the audit record
/// is checked too.
const DROP_TIMEOUT: Duration = Duration::from_millis(300);

/// A direction of traffic, as audit records name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Into the destination pod; evaluated on its node.
    Ingress,
    /// Out of the source pod; evaluated on its node.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// The expected outcome of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    reached: bool,
    /// What the record must contain for one direction; `None` if no packet is evaluated.
    evaluated: Option<(Direction, &'static str, Option<String>, Option<usize>)>,
}

impl Expected {
    /// Whether the probe reaches its target.
    pub fn is_reached(&self) -> bool {
        self.reached
    }
}

/// Rule `rule` of `policy` (`namespace/name`) allows it in this direction.
pub fn allowed(direction: Direction, policy: &str, rule: usize) -> Expected {
    Expected { reached: true, evaluated: Some((direction, "rule", Some(policy.to_owned()), Some(rule))) }
}

/// It is allowed in this direction for a reason other than a rule, such as `not-isolated` or `own-node`.
pub fn allowed_because(direction: Direction, reason: &'static str) -> Expected {
    Expected { reached: true, evaluated: Some((direction, reason, None, None)) }
}

/// `policy` isolates the pod in this direction, no rule matches, and the packet is dropped.
pub fn denied(direction: Direction, policy: &str) -> Expected {
    Expected { reached: false, evaluated: Some((direction, "default-deny", Some(policy.to_owned()), None)) }
}

/// Rule `rule` of a cluster-wide `policy` denies it in this direction, and the packet is dropped.
pub fn denied_by(direction: Direction, policy: &str, rule: usize) -> Expected {
    Expected { reached: false, ..allowed(direction, policy, rule) }
}

/// It is denied in this direction for a reason other than a policy, such as `unknown-pod`.
pub fn denied_because(direction: Direction, reason: &'static str) -> Expected {
    Expected { reached: false, evaluated: Some((direction, reason, None, None)) }
}

/// It passes without evaluation: no policy applies, or the rules let it pass.
pub fn unevaluated() -> Expected {
    Expected { reached: true, evaluated: None }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Scenario {
    // Dropped first, so that agents print their state first.
    agents: BTreeMap<String, Agent>,
    /// The cluster.
    pub testbed: Testbed,
}

impl Scenario {
    /// Builds the cluster, without agents.
    #[track_caller]
    pub fn new(cluster: ClusterSpec) -> Self {
        Self { agents: BTreeMap::new(), testbed: or_panic(cluster.build()) }
    }

    /// Starts an agent on each node and waits until all are ready.
    #[track_caller]
    pub fn start_agents(&mut self, flags: &[&str]) {
        let nodes: Vec<String> = self.testbed.cluster().nodes.iter().map(|node| node.name.clone()).collect();
        let launch = Launch { flags, ..Launch::default() };
        for node in nodes {
            let agent = or_panic(Agent::start(&self.testbed, &node, &launch));
            self.agents.insert(node, agent);
        }
        for agent in self.agents.values_mut() {
            or_panic(agent.wait_ready());
        }
    }

    /// The agent of a node.
    #[track_caller]
    pub fn agent(&mut self, node: &str) -> &mut Agent {
        or_panic(self.agents.get_mut(node).with_context(|| format!("no agent runs on {node:?}")))
    }

    /// Removes the agent of a node from the scenario, and returns it.
    #[track_caller]
    pub fn take_agent(&mut self, node: &str) -> Agent {
        or_panic(self.agents.remove(node).with_context(|| format!("no agent runs on {node:?}")))
    }

    /// Adds an agent to the scenario, as the agent of its node.
    pub fn put_agent(&mut self, agent: Agent) {
        self.agents.insert(agent.node().to_owned(), agent);
    }

    /// Writes a NetworkPolicy and waits until it is in force on every node that has an agent.
    #[track_caller]
    pub fn policy(&mut self, name: &str, spec: &str) {
        self.change(|testbed| testbed.manifests().policy(name, spec).map(drop));
    }

    /// Removes a NetworkPolicy and waits until the change is in force on every node that has an agent.
    #[track_caller]
    pub fn remove_policy(&mut self, name: &str) {
        self.change(|testbed| testbed.manifests().remove_policy(name).map(drop));
    }

    /// Writes a ClusterNetworkPolicy and waits until it is in force on every node that has an agent.
    #[track_caller]
    pub fn cluster_policy(&mut self, name: &str, spec: &str) {
        self.change(|testbed| testbed.manifests().cluster_policy(name, spec).map(drop));
    }

    /// Makes a change of the manifests that leads to a new generation, and waits until it is in force on
    /// every node that has an agent.
    #[track_caller]
    pub fn change(&mut self, change: impl FnOnce(&Testbed) -> Result<()>) {
        let before: Vec<u64> =
            self.agents.values().map(|agent| or_panic(agent.applied_generation())).collect();
        or_panic(change(&self.testbed));
        for (agent, before) in self.agents.values().zip(before) {
            or_panic(agent.wait_applied_after(before));
        }
    }

    /// Probes in both families, and checks the outcome and its audit record.
    #[track_caller]
    pub fn expect(&self, from: &str, to: &str, target: &str, expected: &Expected) {
        for family in Family::BOTH {
            self.expect_in(family, from, to, target, expected);
        }
    }

    /// [`Scenario::expect`] in one family.
    #[track_caller]
    pub fn expect_in(&self, family: Family, from: &str, to: &str, target: &str, expected: &Expected) {
        let destination =
            SocketAddr::new(family.of(or_panic(self.testbed.addresses(to))), port(or_panic(target.parse())));
        self.expect_translated(family, from, (to, destination), to, target, expected);
    }

    /// Probes a service address, which is translated to `port` of `pod`.
    #[track_caller]
    pub fn expect_via(
        &self,
        family: Family,
        from: &str,
        service: &str,
        target: &str,
        (pod, port): (&str, u16),
        expected: &Expected,
    ) {
        let destination = SocketAddr::new(family.of(or_panic(self.testbed.addresses(pod))), port);
        self.expect_translated(family, from, (pod, destination), service, target, expected);
    }

    #[track_caller]
    fn expect_translated(
        &self,
        family: Family,
        from: &str,
        (pod, destination): (&str, SocketAddr),
        to: &str,
        target: &str,
        expected: &Expected,
    ) {
        let audit_starts: BTreeMap<&String, u64> =
            self.agents.iter().map(|(node, agent)| (node, agent.audit_end())).collect();
        let timeout = if expected.reached { REACH_TIMEOUT } else { DROP_TIMEOUT };
        let observed = or_panic(self.testbed.probe(from, to, or_panic(target.parse()), family, timeout));
        let fits = match &observed.answer {
            Answer::Reached(greeting) => expected.reached && greeting.server == pod,
            Answer::Replied => expected.reached,
            Answer::TimedOut => !expected.reached,
            Answer::Refused | Answer::Failed(_) => false,
        };
        let answer = &observed.answer;
        assert!(fits, "{from} to {to} {target} {family:?}: {answer}, expected: {expected:?}");
        let Some((direction, ..)) = &expected.evaluated else { return };
        let node = or_panic(self.node_of(if *direction == Direction::Egress { from } else { pod }));
        let agent = or_panic(self.agents.get(&node).with_context(|| format!("no agent on {node}")));
        let audit_start = audit_starts.get(&node).copied().unwrap_or_default();
        let record = or_panic(agent.wait_record(audit_start, |record| record.is_of(&observed, destination)));
        check(&observed, &record, expected);
    }

    /// The node of a pod, or the node itself.
    fn node_of(&self, name: &str) -> Result<String> {
        let cluster = self.testbed.cluster();
        Ok(match cluster.node_named(name) {
            Ok(node) => node.name.clone(),
            Err(_) => cluster.pod_named(name)?.node.clone(),
        })
    }
}

/// The port of a target; 0 for a ping.
fn port(target: ProbeTarget) -> u16 {
    match target {
        ProbeTarget::Port(port, _) => port,
        ProbeTarget::Ping => 0,
    }
}

#[track_caller]
fn check(observed: &Observed, record: &Record, expected: &Expected) {
    let Some((direction, reason, policy, rule)) = &expected.evaluated else { return };
    let verdict = if expected.reached { "allow" } else { "deny" };
    let found = match direction {
        Direction::Ingress => &record.ingress,
        Direction::Egress => &record.egress,
    };
    let matches = record.verdict == verdict
        && found.verdict == verdict
        && found.reason == *reason
        && found.policy == *policy
        && found.rule == *rule
        && (expected.reached || record.direction == direction.to_string());
    assert!(matches, "{observed:?}: expected {expected:?}, but the record says {record:#?}");
}

/// Panics at the caller's line if the result is an error.
#[track_caller]
fn or_panic<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}
