//! A test told as a cluster scenario: pods, policy, probe, expected verdict and rule.
//!
//! Everything here panics where a scenario goes another way than told, at the line that told it; then the agents print
//! their status and records, and the testbed its rules and the ways in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::agent::{Agent, Launch};
use crate::cluster::Cluster;
use crate::probe::{Answer, Family, Observed, Way};
use crate::record::Record;
use crate::testbed::Testbed;

/// How long a probe waits that is expected to reach: long, since machines are busy.
const LONG: Duration = Duration::from_secs(5);

/// How long a probe waits that is expected to be dropped. That nothing came by then is not proof enough: the audit
/// record of the denial is.
const SHORT: Duration = Duration::from_millis(300);

/// A direction, as audit records name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Of the destination; evaluated on its node.
    Ingress,
    /// Of the source; evaluated on its node.
    Egress,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What a probe must come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    reached: bool,
    /// What the record must say of one direction; `None` where no packet is evaluated.
    evaluated: Option<(Side, &'static str, Option<String>, Option<usize>)>,
}

/// Rule `rule` of `policy` (`namespace/name`) allows it in direction `side`.
pub fn allowed(side: Side, policy: &str, rule: usize) -> Expected {
    Expected { reached: true, evaluated: Some((side, "rule", Some(policy.to_owned()), Some(rule))) }
}

/// It is allowed in direction `side` for a reason that is no rule, such as `not-isolated` or `own-node`.
pub fn allowed_because(side: Side, reason: &'static str) -> Expected {
    Expected { reached: true, evaluated: Some((side, reason, None, None)) }
}

/// `policy` isolates the pod in direction `side`, no rule matches, and the packet is dropped.
pub fn denied(side: Side, policy: &str) -> Expected {
    Expected { reached: false, evaluated: Some((side, "default-deny", Some(policy.to_owned()), None)) }
}

/// It is denied in direction `side` for a reason that is no policy, such as `unknown-pod`.
pub fn denied_because(side: Side, reason: &'static str) -> Expected {
    Expected { reached: false, evaluated: Some((side, reason, None, None)) }
}

/// It passes without being evaluated: no policy applies, or the rules let it pass.
pub fn unevaluated() -> Expected {
    Expected { reached: true, evaluated: None }
}

/// See the module.
#[derive(Debug)]
pub struct Scenario {
    // Dropped first, so that it prints first.
    agents: BTreeMap<String, Agent>,
    /// Where it plays.
    pub testbed: Testbed,
}

impl Scenario {
    /// Builds the cluster; no agent runs yet.
    #[track_caller]
    pub fn begin(cluster: Cluster) -> Self {
        Self { agents: BTreeMap::new(), testbed: told(cluster.build()) }
    }

    /// Starts an agent on each node and waits until all are ready.
    #[track_caller]
    pub fn start_agents(&mut self, flags: &[&str]) {
        let nodes: Vec<String> = self.testbed.cluster().nodes.iter().map(|node| node.name.clone()).collect();
        let launch = Launch { flags, ..Launch::default() };
        for node in nodes {
            let agent = told(Agent::start(&self.testbed, &node, &launch));
            self.agents.insert(node, agent);
        }
        for agent in self.agents.values_mut() {
            told(agent.wait_ready());
        }
    }

    /// The agent of a node.
    #[track_caller]
    pub fn agent(&mut self, node: &str) -> &mut Agent {
        told(self.agents.get_mut(node).with_context(|| format!("no agent runs on {node:?}")))
    }

    /// Takes the agent of a node out of the scenario.
    #[track_caller]
    pub fn take_agent(&mut self, node: &str) -> Agent {
        told(self.agents.remove(node).with_context(|| format!("no agent runs on {node:?}")))
    }

    /// Puts an agent into the scenario, as that of its node.
    pub fn put_agent(&mut self, agent: Agent) {
        self.agents.insert(agent.node().to_owned(), agent);
    }

    /// Writes a NetworkPolicy and waits until it is in force on every node that has an agent.
    #[track_caller]
    pub fn policy(&mut self, name: &str, spec: &str) {
        self.change(|testbed| testbed.manifests().policy(name, spec).map(drop));
    }

    /// Removes a NetworkPolicy and waits until that is in force.
    #[track_caller]
    pub fn remove_policy(&mut self, name: &str) {
        self.change(|testbed| testbed.manifests().remove_policy(name).map(drop));
    }

    /// Makes a change to the manifests that calls for a new generation, and waits until it is in force.
    #[track_caller]
    pub fn change(&mut self, change: impl FnOnce(&Testbed) -> Result<()>) {
        let before: Vec<u64> = self.agents.values().map(|agent| told(agent.applied_generation())).collect();
        told(change(&self.testbed));
        for (agent, before) in self.agents.values().zip(before) {
            told(agent.wait_applied_after(before));
        }
    }

    /// Probes in both families and holds what comes, and the audit record of it, against what is expected.
    #[track_caller]
    pub fn expect(&self, from: &str, to: &str, way: &str, expected: &Expected) {
        for family in Family::BOTH {
            self.expect_in(family, from, to, way, expected);
        }
    }

    /// [`Scenario::expect`] in one family.
    #[track_caller]
    pub fn expect_in(&self, family: Family, from: &str, to: &str, way: &str, expected: &Expected) {
        let destination =
            SocketAddr::new(family.of(told(self.testbed.addresses(to))), port(told(way.parse())));
        self.expect_translated(family, from, (to, destination), to, way, expected);
    }

    /// Probes a service address, which is translated to `port` of `pod`.
    #[track_caller]
    pub fn expect_via(
        &self,
        family: Family,
        from: &str,
        service: &str,
        way: &str,
        (pod, port): (&str, u16),
        expected: &Expected,
    ) {
        let destination = SocketAddr::new(family.of(told(self.testbed.addresses(pod))), port);
        self.expect_translated(family, from, (pod, destination), service, way, expected);
    }

    #[track_caller]
    fn expect_translated(
        &self,
        family: Family,
        from: &str,
        (pod, destination): (&str, SocketAddr),
        to: &str,
        way: &str,
        expected: &Expected,
    ) {
        let marks: BTreeMap<&String, u64> =
            self.agents.iter().map(|(node, agent)| (node, agent.mark())).collect();
        let patience = if expected.reached { LONG } else { SHORT };
        let observed = told(self.testbed.probe(from, to, told(way.parse()), family, patience));
        let fits = match &observed.answer {
            Answer::Reached(greeting) => expected.reached && greeting.server == pod,
            Answer::Replied => expected.reached,
            Answer::TimedOut => !expected.reached,
            Answer::Refused | Answer::Failed(_) => false,
        };
        let answer = &observed.answer;
        assert!(fits, "{from} to {to} {way} {family:?}: {answer}, expected: {expected:?}");
        let Some((side, ..)) = &expected.evaluated else { return };
        let node = told(self.node_of(if *side == Side::Egress { from } else { pod }));
        let agent = told(self.agents.get(&node).with_context(|| format!("no agent on {node}")));
        let mark = marks.get(&node).copied().unwrap_or_default();
        let record = told(agent.wait_record(mark, |record| record.is_of(&observed, destination)));
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

/// The port of a way; 0 for a ping.
fn port(way: Way) -> u16 {
    match way {
        Way::Port(port, _) => port,
        Way::Ping => 0,
    }
}

#[track_caller]
fn check(observed: &Observed, record: &Record, expected: &Expected) {
    let Some((side, reason, policy, rule)) = &expected.evaluated else { return };
    let verdict = if expected.reached { "allow" } else { "deny" };
    let found = match side {
        Side::Ingress => &record.ingress,
        Side::Egress => &record.egress,
    };
    let matches = record.verdict == verdict
        && found.verdict == verdict
        && found.reason == *reason
        && found.policy == *policy
        && found.rule == *rule
        && (expected.reached || record.direction == side.to_string());
    assert!(matches, "{observed:?}: expected {expected:?}, but the record says {record:#?}");
}

/// What a scenario tells must be so: an error ends it, at the line that told it.
#[track_caller]
fn told<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}
