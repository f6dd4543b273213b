//! Ports that no container has, and ports of Services.

use cluster::service::{Service, TargetPort};
use cluster::{Manifests, Workload};
use policy::{Direction, PortMatch, PortNumbers, Protocol};

use super::finding::{Finding, names, of_policy};
use super::rule::{Rule, Severity};
use super::walk::{PlacedRule, policies, rules};
use crate::end::WorkloadName;
use crate::selection::Selection;

pub(super) fn find(manifests: &Manifests) -> Vec<Finding> {
    let selection = Selection::new(manifests);
    let mut findings = Vec::new();
    for rule in policies(manifests).flat_map(|policy| rules(policy)) {
        let Some(destinations) = destinations(&selection, &rule) else { continue };
        for (index, port) in rule.rule.ports.iter().flatten().enumerate() {
            let found = match &port.numbers {
                PortNumbers::Range(first, last) => {
                    range(manifests, &destinations, port.protocol, (*first, *last))
                }
                PortNumbers::Named(name) => named(&destinations, port, name),
                PortNumbers::Any | PortNumbers::Nothing => None,
            };
            if let Some((id, severity, what, remedy)) = found {
                let field = rule.path_of_port(index);
                findings.push(of_policy(manifests, &rule.policy.name, field, (id, severity), what, remedy));
            }
        }
    }
    findings
}

type Found = (Rule, Severity, String, String);

/// The workloads that a rule's ports are about; `None` if they are not known: addresses, or any peer.
fn destinations<'a>(selection: &Selection<'a>, rule: &PlacedRule<'_>) -> Option<Vec<&'a Workload>> {
    let mut found = match rule.direction {
        Direction::Ingress => selection.subjects(rule.policy),
        Direction::Egress => {
            let peers = rule.rule.peers.iter().flatten().map(|peer| selection.peers(peer));
            let peers: Option<Vec<Vec<&Workload>>> = peers.collect();
            // A peer that selects no workload here may have any ports.
            let peers = peers.filter(|peers| peers.iter().all(|peer| !peer.is_empty()))?;
            peers.into_iter().flatten().collect()
        }
    };
    found.dedup_by_key(|workload| WorkloadName::from(*workload));
    (!found.is_empty()).then_some(found)
}

fn range(
    manifests: &Manifests,
    destinations: &[&Workload],
    protocol: Option<Protocol>,
    (first, last): (u16, u16),
) -> Option<Found> {
    let is_in = |own: Protocol, number: u16| {
        protocol.is_none_or(|protocol| protocol == own) && (first..=last).contains(&number)
    };
    let declares = |workload: &&Workload| workload.ports.iter().any(|port| is_in(port.protocol, port.number));
    if destinations.iter().any(declares) {
        return None;
    }
    let shown = if first == last { first.to_string() } else { format!("{first}-{last}") };
    let protocol_name = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
    let service = destinations.iter().find_map(|workload| {
        let services = manifests.services.iter().filter(|service| selects(service, workload));
        let mut ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        ports.find(|(_, port)| is_in(port.protocol, port.port))
    });
    if let Some((service, port)) = service {
        let target = match &port.target {
            TargetPort::Number(number) => number.to_string(),
            TargetPort::Name(name) => name.clone(),
        };
        // A Service without a mapping says nothing about this.
        if target != port.port.to_string() {
            let what = format!(
                "{shown}{protocol_name} is the port of Service {service}, and its pods listen on {target}: policies \
                 see connections after the Service's port was translated"
            );
            return Some((Rule::ServicePort, Severity::Error, what, format!("write port: {target}")));
        }
    }
    // Declaring ports is optional: a workload that declares none may listen on any.
    if destinations.iter().any(|workload| workload.ports.is_empty()) {
        return None;
    }
    let what = format!(
        "no container of {} declares port {shown}{protocol_name}: {}",
        workloads(destinations),
        declared(destinations)
    );
    let remedy = "correct the port, or declare it in the container's ports".to_owned();
    Some((Rule::PortNotDeclared, Severity::Warning, what, remedy))
}

fn named(destinations: &[&Workload], port: &PortMatch, name: &str) -> Option<Found> {
    let has = |workload: &&Workload| {
        let mut ports = workload.pod.ports.iter();
        ports.any(|own| *own.name == *name && port.protocol.is_none_or(|protocol| protocol == own.protocol))
    };
    if destinations.iter().any(has) {
        return None;
    }
    let what = format!(
        "no container of {} has a port named {name:?}, so the entry matches nothing: {}",
        workloads(destinations),
        declared(destinations)
    );
    let remedy = "correct the name or its protocol, or name the container's port so".to_owned();
    Some((Rule::PortNotDeclared, Severity::Warning, what, remedy))
}

fn selects(service: &Service, workload: &Workload) -> bool {
    let pod = &workload.pod;
    *service.namespace == *pod.name.namespace && service.backend.selects(&pod.labels)
}

fn workloads(destinations: &[&Workload]) -> String {
    names(&destinations.iter().map(|workload| WorkloadName::from(*workload)).collect::<Vec<_>>())
}

/// The ports that the workloads declare.
fn declared(destinations: &[&Workload]) -> String {
    let mut ports: Vec<String> = Vec::new();
    for port in destinations.iter().flat_map(|workload| &workload.ports) {
        let name = port.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        let text = format!("{}/{}{name}", port.number, port.protocol);
        if !ports.contains(&text) {
            ports.push(text);
        }
    }
    if ports.is_empty() { "they declare none".to_owned() } else { format!("they declare {}", names(&ports)) }
}
