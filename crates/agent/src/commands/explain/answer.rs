//! The answer about one connection. Its serialized form is what `--output json` prints.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use policy::{
    Decision, Direction, Directions, Inventory, Packet, Pod, Reason, Snapshot, Tier, TierStep, Verdict,
    explanation,
};
use serde::Serialize;

use super::addresses;
use super::endpoint::ResolvedEndpoint;
use super::overlay::Overlay;
use crate::status::ProblemStatus;

/// The decisions for both directions, explained.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// The node whose agent answers, from `--node`; null if the agents of both ends answer.
    pub(super) node: Option<String>,
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) protocol: String,
    /// Null where the protocol has no ports.
    pub(super) port: Option<u16>,
    pub(super) egress: DirectionAnswer,
    pub(super) ingress: DirectionAnswer,
    /// Objects with unknown labels on which the verdict depends: `Pod web/a`, `Namespace web`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unknown_labels: Vec<String>,
    /// What the answer takes for granted: one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
    /// The same over the other IP family, if both ends have addresses of both families.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) other_family: Option<OtherFamily>,
    /// The outcome in one sentence, for a line of a list.
    #[serde(skip)]
    pub(super) summary: String,
    /// What --policies laid over the source; absent without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) overlay: Option<Overlay>,
    /// Invalid objects of the source, and policies over their namespace's budget. The answer may depend on
    /// them.
    pub(super) problems: Vec<ProblemStatus>,
}

#[derive(Debug, Serialize)]
pub(super) struct Endpoint {
    /// `namespace/name`; null for an address that no pod has.
    pub(super) pod: Option<String>,
    pub(super) address: IpAddr,
}

#[derive(Debug, Serialize)]
pub(super) struct OtherFamily {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) verdict: Verdict,
}

#[derive(Debug, Serialize)]
pub(super) struct DirectionAnswer {
    pub(super) verdict: Verdict,
    /// The node whose agent evaluates this direction: that of the pod, or that whose pod CIDR has the
    /// address. Null if the address is outside of the pods' networks.
    pub(super) node: Option<String>,
    pub(super) reason: &'static str,
    pub(super) sentence: &'static str,
    /// Whether the verdict might change once a pod or its labels are known.
    pub(super) provisional: bool,
    pub(super) policy: Option<String>,
    /// The policy's tier; null without a policy.
    pub(super) tier: Option<Tier>,
    /// The policy's priority within its tier; null for a NetworkPolicy.
    pub(super) priority: Option<u16>,
    pub(super) rule: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule_name: Option<Arc<str>>,
    /// The tiers in which the connection was evaluated, in order, up to the one that decides. Empty if none
    /// was.
    pub(super) tiers: Vec<TierAnswer>,
    pub(super) isolated_by: Vec<String>,
    pub(super) nearest_miss: Option<NearestMiss>,
}

/// A tier, and why it decided or did not.
#[derive(Debug, Serialize)]
pub(super) struct TierAnswer {
    pub(super) tier: Tier,
    /// See [`policy::TierResult::code`].
    pub(super) result: &'static str,
    pub(super) sentence: &'static str,
    /// The rule that is the first that matches; absent if none matches.
    #[serde(flatten)]
    pub(super) rule: Option<FirstRule>,
}

#[derive(Debug, Serialize)]
pub(super) struct FirstRule {
    pub(super) policy: String,
    /// Null for a NetworkPolicy.
    pub(super) priority: Option<u16>,
    pub(super) rule: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule_name: Option<Arc<str>>,
}

#[derive(Debug, Serialize)]
pub(super) struct NearestMiss {
    pub(super) policy: String,
    pub(super) rule: usize,
    pub(super) miss: explanation::Miss,
}

impl Answer {
    /// Evaluates the first packet, and the second, if there is one, as the one of the other IP family.
    pub(super) fn new(
        snapshot: &Snapshot,
        inventory: &Inventory,
        from: &ResolvedEndpoint,
        to: &ResolvedEndpoint,
        packets: &[Packet],
    ) -> anyhow::Result<Self> {
        let packet = packets.first().context("no packet to evaluate")?;
        let decision = snapshot.evaluate(packet, Directions::Both);
        let depends_on_labels =
            [decision.egress, decision.ingress].iter().any(|side| side.reason == Reason::UnknownLabels);
        let unknown_labels = if depends_on_labels {
            let pods = [packet.source(), packet.destination()].map(|address| snapshot.pod(address));
            unknown_labels(pods.into_iter().flatten(), inventory)
        } else {
            Vec::new()
        };
        let endpoint = |end: &ResolvedEndpoint, address| Endpoint {
            pod: end.pod.as_ref().or_else(|| snapshot.pod_at(address)).map(ToString::to_string),
            address,
        };
        Ok(Self {
            verdict: decision.verdict(),
            node: None,
            from: endpoint(from, packet.source()),
            to: endpoint(to, packet.destination()),
            protocol: packet.protocol.to_string(),
            port: packet.destination_port,
            egress: DirectionAnswer::new(snapshot, inventory, packet, &decision, Direction::Egress),
            ingress: DirectionAnswer::new(snapshot, inventory, packet, &decision, Direction::Ingress),
            unknown_labels,
            notes: addresses::notes(inventory, &decision, packet),
            summary: summary(snapshot, packet, &decision),
            overlay: None,
            other_family: packets.get(1).map(|packet| OtherFamily {
                from: packet.source(),
                to: packet.destination(),
                verdict: snapshot.evaluate(packet, Directions::Both).verdict(),
            }),
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

    /// Whether the connection is allowed.
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// `ingress allowed by NetworkPolicy db/allow-shop, ingress[0]`: the direction that decided.
fn summary(snapshot: &Snapshot, packet: &Packet, decision: &Decision) -> String {
    let direction = decision.direction();
    format!("{} {}", direction.name(), snapshot.explain(packet, decision, direction))
}

impl DirectionAnswer {
    fn new(
        snapshot: &Snapshot,
        inventory: &Inventory,
        packet: &Packet,
        decision: &Decision,
        direction: Direction,
    ) -> Self {
        let explained = snapshot.explain(packet, decision, direction);
        let address = match direction {
            Direction::Egress => packet.source(),
            Direction::Ingress => packet.destination(),
        };
        let reason = decision.outcome(direction).reason;
        Self {
            verdict: explained.verdict,
            node: addresses::node_of(address, snapshot, inventory).map(str::to_owned),
            reason: explained.reason,
            sentence: reason.sentence(),
            provisional: reason.is_provisional(),
            tier: match &explained.rule {
                Some(rule) => Some(rule.tier),
                // Only NetworkPolicies isolate.
                None => explained.isolated_by.first().map(|_| Tier::NetworkPolicy),
            },
            priority: explained.rule.as_ref().and_then(|rule| rule.priority),
            tiers: snapshot.tiers(packet, decision, direction).iter().map(TierAnswer::new).collect(),
            policy: explained
                .rule
                .as_ref()
                .map(|rule| &rule.policy)
                .or_else(|| explained.isolated_by.first())
                .map(ToString::to_string),
            rule: explained.rule.as_ref().map(|rule| rule.index),
            rule_name: explained.rule.as_ref().and_then(|rule| rule.name.clone()),
            isolated_by: explained.isolated_by.iter().map(ToString::to_string).collect(),
            nearest_miss: explained.nearest_miss.map(|near| NearestMiss {
                policy: near.rule.policy.to_string(),
                rule: near.rule.index,
                miss: near.miss,
            }),
        }
    }
}

impl TierAnswer {
    fn new(step: &TierStep) -> Self {
        let TierStep { tier, result } = step;
        let rule = result.rule().map(|rule| FirstRule {
            policy: rule.policy.to_string(),
            priority: rule.priority,
            rule: rule.index,
            rule_name: rule.name.clone(),
        });
        Self { tier: *tier, result: result.code(), sentence: result.sentence(), rule }
    }
}

/// The pods and namespaces whose labels are unknown.
fn unknown_labels<'a>(pods: impl Iterator<Item = &'a Pod>, inventory: &Inventory) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut add = |name: String| {
        if !unknown.contains(&name) {
            unknown.push(name);
        }
    };
    for pod in pods {
        let namespace = &pod.name.namespace;
        if !inventory.namespaces.get(namespace).is_some_and(|namespace| namespace.labels.are_known()) {
            add(format!("Namespace {namespace}"));
        }
        if !pod.labels.are_known() {
            add(format!("Pod {}", pod.name));
        }
    }
    unknown
}
