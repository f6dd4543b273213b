//! Prints changes in words, so that a shrunk failure reads as a scenario.

use std::fmt;

use policy::{
    Change, IpBlock, Labels, NamespaceMatch, Packet, Peer, PolicySpec, PortMatch, PortNumbers, Requirement,
    RuleSpec, Selector,
};

/// Prints changes, one per line.
pub(crate) struct Scenario<'a>(pub &'a [Change]);

impl fmt::Display for Scenario<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|change| write!(f, "\n  {}", in_words(change)))
    }
}

pub(crate) fn in_words(change: &Change) -> String {
    match change {
        Change::Namespace(namespace) => {
            format!("namespace {} {{{}}}", namespace.name, pairs(&namespace.labels))
        }
        Change::NamespaceGone(name) => format!("namespace {name} deleted"),
        Change::Pod(pod) => {
            let ports: String = pod
                .ports
                .iter()
                .map(|port| format!(", port {}={}/{}", port.name, port.number, port.protocol))
                .collect();
            format!(
                "pod {} {{{}}} at {:?} on {}{ports}, reported {}, created {}{}",
                pod.name,
                pairs(&pod.labels),
                pod.addresses,
                pod.node.as_deref().unwrap_or("no node"),
                pod.reported,
                pod.created,
                if pod.host_network { ", hostNetwork" } else { "" }
            )
        }
        Change::PodGone(name) => format!("pod {name} deleted"),
        Change::Node(node) => {
            format!("node {} with {:?}, pods in {:?}", node.name, node.addresses, node.pod_cidrs)
        }
        Change::NodeGone(name) => format!("node {name} deleted"),
        Change::Policy(policy) => policy_in_words(policy),
        Change::PolicyGone(name) => format!("policy {name} deleted"),
    }
}

fn policy_in_words(policy: &PolicySpec) -> String {
    let rules = |name: &str, rules: &[RuleSpec]| -> String {
        rules
            .iter()
            .enumerate()
            .map(|(index, rule)| format!("\n    {name}[{index}] {}", rule_in_words(rule)))
            .collect()
    };
    format!(
        "policy {} {:?} priority {} for pods {{{}}} of {}{}{}{}{}",
        policy.name,
        policy.tier,
        policy.priority,
        selector_in_words(&policy.subject.pods),
        namespaces_in_words(&policy.subject.namespaces),
        if policy.isolates_ingress { ", isolates ingress" } else { "" },
        if policy.isolates_egress { ", isolates egress" } else { "" },
        rules("ingress", &policy.ingress),
        rules("egress", &policy.egress),
    )
}

fn rule_in_words(rule: &RuleSpec) -> String {
    let list = |parts: Option<Vec<String>>| match parts {
        None => "any".to_owned(),
        Some(parts) => format!("[{}]", parts.join(" | ")),
    };
    let peers = rule.peers.as_ref().map(|peers| peers.iter().map(peer_in_words).collect());
    let ports = rule.ports.as_ref().map(|ports| ports.iter().map(port_in_words).collect());
    format!("{:?} peers {} ports {}", rule.action, list(peers), list(ports))
}

fn peer_in_words(peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces, pods } => {
            format!("pods {{{}}} of {}", selector_in_words(pods), namespaces_in_words(namespaces))
        }
        Peer::Block(IpBlock { cidr, except }) if except.is_empty() => cidr.to_string(),
        Peer::Block(IpBlock { cidr, except }) => {
            format!("{cidr} except {:?}", except.iter().collect::<Vec<_>>())
        }
        Peer::Nodes(nodes) => format!("nodes {}", selector_in_words(nodes)),
        Peer::Nothing => "no peer".to_owned(),
    }
}

fn port_in_words(port: &PortMatch) -> String {
    let protocol = port.protocol.map_or("any protocol".to_owned(), |protocol| protocol.to_string());
    match &port.numbers {
        PortNumbers::Any => protocol,
        PortNumbers::Range(first, last) => format!("{protocol} {first}-{last}"),
        PortNumbers::Named(name) => format!("{protocol} {name:?}"),
        PortNumbers::Nothing => "no port".to_owned(),
    }
}

fn namespaces_in_words(namespaces: &NamespaceMatch) -> String {
    match namespaces {
        NamespaceMatch::Named(name) => format!("namespace {name}"),
        NamespaceMatch::Labels(selector) => format!("namespaces {{{}}}", selector_in_words(selector)),
    }
}

fn selector_in_words(selector: &Selector) -> String {
    let requirement = |requirement: &Requirement| match requirement {
        Requirement::In(key, values) => format!("{key} in {values:?}"),
        Requirement::NotIn(key, values) => format!("{key} notin {values:?}"),
        Requirement::Exists(key) => key.to_string(),
        Requirement::DoesNotExist(key) => format!("!{key}"),
    };
    match selector {
        Selector::All(requirements) => requirements.iter().map(requirement).collect::<Vec<_>>().join(", "),
        Selector::Nothing => "nothing".to_owned(),
    }
}

fn pairs(labels: &Labels) -> String {
    if !labels.are_known() {
        return "unknown labels".to_owned();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

pub(crate) fn packet_in_words(packet: &Packet) -> String {
    let port = packet.destination_port.map_or("without port".to_owned(), |port| format!("port {port}"));
    let kind = packet.icmp_type.map_or(String::new(), |kind| format!(" type {kind}"));
    format!("{} -> {} {} {port}{kind}", packet.source(), packet.destination(), packet.protocol)
}
