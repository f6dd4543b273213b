//! Generated clusters: the same shape always gives the same cluster, so that figures can be compared.
//!
//! Every NetworkPolicy selects one server pod. Its peers are pods of many apps in many namespaces, or blocks
//! of addresses. Cluster-wide policies, if there are any, select every pod: one half is of tier Admin, the
//! other of tier Baseline. They leave the packets of the workload to the NetworkPolicies.
//!
//! Pods have labels that no policy mentions, one of them unique to each, as pods of real clusters
//! do.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use clap::ValueEnum;
use policy::{
    Action, Change, IpBlock, Labels, Namespace, NamespaceMatch, Node, Packet, Peer, Pod, PodName, PolicyKind,
    PolicyName, PolicySpec, PortMatch, PortNumbers, Protocol, Requirement, RuleSpec, Selector, Subject, Tier,
};
use serde::{Deserialize, Serialize};

pub mod grid;

/// The namespace of the server and of all policies.
pub const NAMESPACE: &str = "namespace-0";

/// The server pod's node.
pub const NODE: &str = "node-0";

/// Pods on each node.
const PODS_PER_NODE: usize = 100;

/// The number of namespaces that pods are spread over.
const NAMESPACES: usize = 20;

/// The number of apps that pods are spread over.
const APPS: usize = 50;

/// Pods are distributed over apps and namespaces in turn: the pairs repeat after this number.
const GROUPS: usize = APPS * NAMESPACES;

/// Packets of each kind that are drawn.
const PACKETS: usize = 4_096;

/// The first TCP port of rules; the others follow it.
const FIRST_PORT: u16 = 2_000;

/// The number of ports that rules are spread over.
const PORTS: usize = 500;

/// A port in no rule.
const UNUSED_PORT: u16 = 1;

/// Rules of each cluster-wide policy: as many as the API allows in one direction.
pub const CLUSTER_RULES: usize = 25;

/// The first TCP port of rules of cluster-wide policies. No packet goes to these ports.
const FIRST_CLUSTER_PORT: u16 = 10_000;

/// The size of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Pods in all, including the server.
    pub pods: usize,
    /// Policies; all select the server.
    pub policies: usize,
    /// Ingress rules of each policy.
    pub rules: usize,
    /// The kind of peers in rules.
    pub peers: PeerKind,
    /// Cluster-wide policies of [`CLUSTER_RULES`] rules; all select every pod.
    pub cluster_policies: usize,
}

/// The kind of peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum PeerKind {
    /// Pods of a namespace and an app.
    Selector,
    /// A node's pod CIDR without one eighth of it.
    IpBlock,
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Selector => "selector",
            Self::IpBlock => "ipBlock",
        })
    }
}

/// The verdict on the packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketKind {
    /// A rule allows each.
    Hit,
    /// No rule allows any.
    Miss,
}

impl fmt::Display for PacketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
        })
    }
}

/// A generated cluster and packets to its server.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Everything in the cluster, in an order in which an agent may learn of it.
    pub changes: Vec<Change>,
    /// Packets that some rule allows, over all rules.
    pub hits: Vec<Packet>,
    /// Packets that no rule allows: in turn the port, the peer, or both don't match.
    pub misses: Vec<Packet>,
}

/// Generates a cluster. There must be at least one pod.
pub fn cluster(shape: Shape) -> Workload {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let nodes = (0..shape.pods.div_ceil(PODS_PER_NODE)).map(node);
    let namespaces = (0..NAMESPACES).map(namespace);
    let policies = (0..shape.policies).map(|number| policy(shape, number));
    let policies: Vec<PolicySpec> =
        policies.chain((0..shape.cluster_policies).map(|number| cluster_policy(shape, number))).collect();
    let changes = nodes
        .map(Change::Node)
        .chain(namespaces.map(Change::Namespace))
        .chain(policies.iter().cloned().map(Arc::new).map(Change::Policy))
        .chain((0..shape.pods).map(|number| Change::Pod(pod(number))))
        .collect();
    let packet = |from: usize, port| Packet::new(address(from), address(0), Protocol::TCP).to_port(port);
    let outside =
        |port| Packet::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), address(0), Protocol::TCP).to_port(port);
    let (mut hits, mut misses) = (Vec::new(), Vec::new());
    let rules = shape.policies * shape.rules;
    for turn in 0..if rules == 0 || shape.pods == 1 { 0 } else { PACKETS } {
        let rule = random.below(rules);
        let from = match shape.peers {
            PeerKind::Selector => {
                selected_pod(shape, rule) + GROUPS * random.below(shape.pods.div_ceil(GROUPS))
            }
            PeerKind::IpBlock => {
                (rule % shape.pods.div_ceil(PODS_PER_NODE)) * PODS_PER_NODE + 40 + random.below(40)
            }
        };
        // A few draws are after the last pod, or the server itself, which can always reach itself.
        if from > 0 && from < shape.pods {
            hits.push(packet(from, port_of(rule)));
        }
        let anybody = 1 + random.below(shape.pods - 1);
        misses.push(match turn % 3 {
            0 => packet(anybody, UNUSED_PORT),
            1 => outside(port_of(rule)),
            _ => outside(UNUSED_PORT),
        });
    }
    Workload { changes, hits, misses }
}

/// Pod number `number`; the server is number 0.
pub fn pod(number: usize) -> Pod {
    let app = if number == 0 { "server".to_owned() } else { format!("app-{}", number % APPS) };
    let namespace = format!("namespace-{}", if number == 0 { 0 } else { number / APPS % NAMESPACES });
    let name = format!("{app}-{number}");
    let labels = Labels::from_iter([
        ("app.kubernetes.io/managed-by", "helm".to_owned()),
        ("app", app),
        ("pod-template-hash", format!("{:08x}", (number % 3_000).wrapping_mul(2_654_435_761) as u32)),
        ("statefulset.kubernetes.io/pod-name", name.clone()),
    ]);
    Pod {
        name: PodName::new(namespace, name),
        labels,
        addresses: vec![address(number)],
        ports: Vec::new(),
        node: Some(format!("node-{}", number / PODS_PER_NODE).into()),
        host_network: false,
        reported: 0,
        created: number as i64,
        uid: Default::default(),
        workload: None,
    }
}

fn namespace(number: usize) -> Namespace {
    let name = format!("namespace-{number}");
    let labels = Labels::from_iter([
        ("kubernetes.io/metadata.name", name.clone()),
        ("team", format!("team-{}", number % 5)),
    ]);
    Namespace { name: name.into(), labels }
}

fn node(number: usize) -> Node {
    Node {
        name: format!("node-{number}").into(),
        labels: Labels::none(),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0xac10_0000 + number as u32))],
        has_all_addresses: false,
        reported_addresses: Vec::new(),
        pod_cidrs: vec![ipnet::Ipv4Net::new_assert(Ipv4Addr::from(network_of(number)), 24).into()],
    }
}

/// 10.0.0.0 and up, a /24 for each node.
fn network_of(node: usize) -> u32 {
    0x0a00_0000 + ((node as u32) << 8)
}

fn address(pod: usize) -> IpAddr {
    let (node, place) = (pod / PODS_PER_NODE, (pod % PODS_PER_NODE) as u32);
    IpAddr::V4(Ipv4Addr::from(network_of(node) + 2 + place))
}

fn policy(shape: Shape, number: usize) -> PolicySpec {
    let rules = (0..shape.rules).map(|rule| self::rule(shape, number * shape.rules + rule));
    PolicySpec {
        name: PolicyName::network_policy(NAMESPACE, format!("policy-{number:05}")),
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject {
            namespaces: NamespaceMatch::Named(NAMESPACE.into()),
            pods: equals("app", "server".into()),
        },
        isolates_ingress: true,
        isolates_egress: false,
        ingress: rules.collect(),
        egress: Vec::new(),
        omitted: None,
    }
}

/// Cluster-wide policy number `number`. The last rule of the last one in tier Admin passes all packets on.
fn cluster_policy(shape: Shape, number: usize) -> PolicySpec {
    let admin = shape.cluster_policies.div_ceil(2);
    let tier = if number < admin { Tier::Admin } else { Tier::Baseline };
    let mut ingress: Vec<RuleSpec> =
        (0..CLUSTER_RULES).map(|rule| cluster_rule(number * CLUSTER_RULES + rule)).collect();
    if let Some(last) = ingress.last_mut().filter(|_| number + 1 == admin) {
        (last.action, last.ports) = (Action::Pass, None);
        last.peers = Some(vec![Peer::Pods { namespaces: every_namespace(), pods: Selector::everything() }]);
    }
    PolicySpec {
        name: PolicyName {
            kind: PolicyKind::ClusterNetworkPolicy,
            namespace: "".into(),
            name: format!("cluster-policy-{number:03}").into(),
        },
        tier,
        priority: number as u16,
        subject: Subject { namespaces: every_namespace(), pods: Selector::everything() },
        isolates_ingress: false,
        isolates_egress: false,
        ingress,
        egress: Vec::new(),
        omitted: None,
    }
}

/// A rule about an app in the namespaces of a team.
fn cluster_rule(number: usize) -> RuleSpec {
    let action = [Action::Accept, Action::Deny, Action::Pass][number % 3];
    let peer = Peer::Pods {
        namespaces: NamespaceMatch::Labels(equals("team", format!("team-{}", number % 5))),
        pods: equals("app", format!("app-{}", number / 5 % APPS)),
    };
    let port = FIRST_CLUSTER_PORT + (number % PORTS) as u16;
    let port = PortMatch { protocol: Some(Protocol::TCP), numbers: PortNumbers::Range(port, port) };
    let name = Some(format!("rule-{number}").into());
    RuleSpec { name, action, peers: Some(vec![peer]), ports: Some(vec![port]) }
}

fn every_namespace() -> NamespaceMatch {
    NamespaceMatch::Labels(Selector::everything())
}

fn rule(shape: Shape, number: usize) -> RuleSpec {
    let peer = match shape.peers {
        PeerKind::Selector => {
            let pod = selected_pod(shape, number);
            let namespace = format!("namespace-{}", pod / APPS % NAMESPACES);
            Peer::Pods {
                namespaces: NamespaceMatch::Labels(equals("kubernetes.io/metadata.name", namespace)),
                pods: equals("app", format!("app-{}", pod % APPS)),
            }
        }
        PeerKind::IpBlock => {
            let network = network_of(number % shape.pods.div_ceil(PODS_PER_NODE));
            let net = |length| ipnet::Ipv4Net::new_assert(Ipv4Addr::from(network), length).into();
            Peer::Block(IpBlock { cidr: net(24), except: [net(27)].into_iter().collect() })
        }
    };
    let port = port_of(number);
    let port = PortMatch { protocol: Some(Protocol::TCP), numbers: PortNumbers::Range(port, port) };
    RuleSpec { name: None, action: Action::Accept, peers: Some(vec![peer]), ports: Some(vec![port]) }
}

/// The first of the pods that a rule selects, which are never the server.
fn selected_pod(shape: Shape, rule: usize) -> usize {
    1 + rule % GROUPS.min(shape.pods.saturating_sub(1).max(1))
}

fn port_of(rule: usize) -> u16 {
    // Rules that share a peer differ in their ports.
    FIRST_PORT + (rule.wrapping_mul(7) / 3 % PORTS) as u16
}

fn equals(key: &str, value: String) -> Selector {
    Selector::All(Arc::from([Requirement::In(key.into(), Arc::from([Arc::from(value)]))]))
}

/// A deterministic generator of pseudo-random numbers (Marsaglia's xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
