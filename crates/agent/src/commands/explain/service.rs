//! A Service as the destination: the pods to which its traffic goes, and the answer for each.
//!
//! A connection to a Service goes to one of its pods that are ready, whichever kube-proxy selects. The source
//! of an agent has no readiness, so all pods are evaluated that have an address.

use std::net::IpAddr;

use cluster::service::{Backend, Service, ServicePort, TargetPort};
use policy::{Compiler, Inventory, Packet, Pod, Protocol, Snapshot, Verdict};
use serde::Serialize;

use super::answer::Answer;
use super::endpoint::{self, ResolvedEndpoint};
use super::overlay::Overlay;
use super::port::PortArgument;
use crate::exit::Usage;
use crate::status::ProblemStatus;

/// The decisions for all pods of a Service. Its serialized form is what `--output json` prints.
#[derive(Debug, Serialize)]
pub(super) struct ServiceAnswer {
    /// `deny` if the connection to ANY pod is denied, since each may get it.
    pub(super) verdict: Verdict,
    /// The node whose agent answers, from `--node`; null if the agents of both ends answer.
    pub(super) node: Option<String>,
    /// The pod or address that opens the connection.
    pub(super) from: String,
    /// `namespace/name`.
    pub(super) service: String,
    /// The Service's addresses; empty for a headless one, and if they are unknown.
    pub(super) cluster_ips: Vec<IpAddr>,
    pub(super) protocol: String,
    /// The Service's port.
    pub(super) port: u16,
    /// The answer for each pod, in the order of their names.
    pub(super) pods: Vec<Answer>,
    /// Selected pods that get no traffic, with the reason: `db/orders-1 has no address`.
    pub(super) left_out: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) overlay: Option<Overlay>,
    pub(super) problems: Vec<ProblemStatus>,
}

impl ServiceAnswer {
    /// Evaluates connections to all pods of the Service. Only IP families that the Service has are evaluated.
    pub(super) fn new(
        compiler: &Compiler,
        snapshot: &Snapshot,
        from: &ResolvedEndpoint,
        service: &Service,
        port: &PortArgument,
    ) -> anyhow::Result<Self> {
        let inventory = compiler.inventory();
        require_pods(service)?;
        let (protocol, number, target) = target_port(service, port)?;
        let (mut pods, mut left_out) = (Vec::new(), Vec::new());
        let mut selected: Vec<_> = selected(service, inventory).collect();
        selected.sort_by(|one, two| one.name.cmp(&two.name));
        for pod in selected {
            match evaluate(snapshot, inventory, from, service, pod, (protocol, &target)) {
                Ok(answer) => pods.push(answer),
                Err(why) => left_out.push(format!("{} {why}", pod.name)),
            }
        }
        if pods.is_empty() {
            let why = match &left_out[..] {
                [] => "its selector matches no pod of its namespace".to_owned(),
                reasons => reasons.join("; "),
            };
            return Err(Usage(format!("Service {service} has no pod to connect to: {why}")).into());
        }
        let is_denied = pods.iter().any(|pod| pod.verdict() == Verdict::Deny);
        Ok(Self {
            verdict: if is_denied { Verdict::Deny } else { Verdict::Allow },
            node: None,
            from: from.to_string(),
            service: service.to_string(),
            cluster_ips: service.cluster_ips.clone(),
            protocol: protocol.to_string(),
            port: number,
            pods,
            left_out,
            overlay: None,
            problems: Vec::new(),
        })
    }

    /// Sets the node whose agent answers, the overlay, and the source's problems.
    pub(super) fn with(
        self,
        node: Option<String>,
        overlay: Option<Overlay>,
        problems: Vec<ProblemStatus>,
    ) -> Self {
        Self { node, overlay, problems, ..self }
    }
}

/// Fails if the Service's traffic does not go to pods that its selector names.
fn require_pods(service: &Service) -> Result<(), Usage> {
    let why = match &service.backend {
        Backend::Pods(_) => return Ok(()),
        Backend::Endpoints => {
            "has no selector, and its endpoints are not read: give the address of one".to_owned()
        }
        Backend::ExternalName(name) => {
            format!("is the DNS name {name:?}, which is not resolved: give its address")
        }
    };
    Err(Usage(format!("Service {service} {why}")))
}

/// The protocol, the Service's port, and the port on its pods.
fn target_port(service: &Service, port: &PortArgument) -> Result<(Protocol, u16, TargetPort), Usage> {
    // Clients of a headless Service connect to a pod's address, so a number is a port of the pod.
    if let (true, PortArgument::Number(number, protocol)) = (service.is_headless, port) {
        return Ok((*protocol, *number, TargetPort::Number(*number)));
    }
    let ServicePort { protocol, port, target, .. } = port.of_service(service)?;
    Ok((*protocol, *port, target.clone()))
}

/// The pods that the Service selects: ALL labels of the selector must be equal. Pods with unknown labels are
/// among them.
fn selected<'a>(service: &'a Service, inventory: &'a Inventory) -> impl Iterator<Item = &'a Pod> {
    inventory.pods.values().map(AsRef::as_ref).filter(|pod| {
        *pod.name.namespace == *service.namespace
            && (service.backend.selects(&pod.labels) || !pod.labels.are_known())
    })
}

/// The answer for one pod, or why it gets no traffic of the Service.
fn evaluate(
    snapshot: &Snapshot,
    inventory: &Inventory,
    from: &ResolvedEndpoint,
    service: &Service,
    pod: &Pod,
    (protocol, target): (Protocol, &TargetPort),
) -> Result<Answer, String> {
    if !pod.labels.are_known() {
        return Err("may be selected: its labels can't be read".to_owned());
    }
    let number = match target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => {
            let named = |port: &&policy::NamedPort| *port.name == **name && port.protocol == protocol;
            let found = pod.ports.iter().find(named);
            found.ok_or_else(|| format!("has no port named {name:?} for {protocol}"))?.number
        }
    };
    let mut to = ResolvedEndpoint { pod: Some(pod.name.clone()), addresses: pod.addresses.clone() };
    if pod.host_network {
        // Such a pod has its node's addresses.
        let node = pod.node.as_ref().and_then(|node| inventory.nodes.get(node));
        to.addresses = node.map(|node| node.addresses.clone()).unwrap_or_default();
    }
    if to.addresses.is_empty() {
        return Err("has no address: it has not started yet, or is finished".to_owned());
    }
    let families = &service.cluster_ips;
    if !families.is_empty() {
        to.addresses.retain(|address| families.iter().any(|own| own.is_ipv4() == address.is_ipv4()));
    }
    let pairs = endpoint::pairs(from, &to)
        .map_err(|_| format!("has no address in an IP family that {from} and the Service have"))?;
    let packets: Vec<Packet> = pairs
        .into_iter()
        .map(|(source, destination)| Packet::new(source, destination, protocol).to_port(number))
        .collect();
    Answer::new(snapshot, inventory, from, &to, &packets)
        .map_err(|error| format!("can't be evaluated: {error}"))
}
