//! The answer about one connection, as text and JSON.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use policy::{
    Decision, Direction, Directions, Inventory, Packet, Pod, Reason, Snapshot, Verdict, explanation,
};
use serde::Serialize;

use super::endpoint::ResolvedEndpoint;
use crate::paint;
use crate::terminal::{Text, text};

/// The decisions for both directions, explained.
#[derive(Debug, Serialize)]
pub struct Answer {
    verdict: Verdict,
    /// The node whose agent answers, from `--node`; null if the agents of both ends answer.
    node: Option<String>,
    from: Endpoint,
    to: Endpoint,
    protocol: String,
    /// Null where the protocol has no ports.
    port: Option<u16>,
    egress: DirectionAnswer,
    ingress: DirectionAnswer,
    /// Objects with unknown labels on which the verdict depends: `Pod web/a`, `Namespace web`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown_labels: Vec<String>,
    /// The same over the other IP family, if both ends have addresses of both families.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_family: Option<OtherFamily>,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    /// `namespace/name`; null for an address that no pod has.
    pod: Option<String>,
    address: IpAddr,
}

#[derive(Debug, Serialize)]
struct OtherFamily {
    from: IpAddr,
    to: IpAddr,
    verdict: Verdict,
}

#[derive(Debug, Serialize)]
struct DirectionAnswer {
    verdict: Verdict,
    reason: &'static str,
    sentence: &'static str,
    /// Whether the verdict might change once a pod or its labels are known.
    provisional: bool,
    policy: Option<String>,
    rule: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_name: Option<Arc<str>>,
    isolated_by: Vec<String>,
    nearest_miss: Option<NearestMiss>,
}

#[derive(Debug, Serialize)]
struct NearestMiss {
    policy: String,
    rule: usize,
    miss: explanation::Miss,
}

impl Answer {
    /// Evaluates the first packet, and the second, if there is one, as the one of the other IP family.
    pub fn new(
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
            egress: DirectionAnswer::new(snapshot, packet, &decision, Direction::Egress),
            ingress: DirectionAnswer::new(snapshot, packet, &decision, Direction::Ingress),
            unknown_labels,
            other_family: packets.get(1).map(|packet| OtherFamily {
                from: packet.source(),
                to: packet.destination(),
                verdict: snapshot.evaluate(packet, Directions::Both).verdict(),
            }),
        })
    }

    /// Sets the node whose agent answers.
    pub fn by(self, node: Option<String>) -> Self {
        Self { node, ..self }
    }

    /// Whether the connection is allowed.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The answer as text.
    pub fn text(&self) -> Text {
        let port = match self.port {
            Some(port) => format!("{port}/{}", self.protocol),
            None => self.protocol.clone(),
        };
        let verdict = match self.verdict {
            Verdict::Allow => paint::verdict(self.verdict, "ALLOWED"),
            Verdict::Deny => paint::verdict(self.verdict, "DENIED"),
        };
        let node = self.node.as_ref().map(|node| format!(" by {node}")).unwrap_or_default();
        let ends = self.from.text() + text!(" -> ") + self.to.text();
        let mut lines = vec![verdict + text!("{node}  ") + ends + text!("  {port}"), Text::default()];
        lines.extend(self.egress.lines(Direction::Egress, &format!("egress of {}", self.from.name())));
        lines.extend(self.ingress.lines(Direction::Ingress, &format!("ingress of {}", self.to.name())));
        if !self.unknown_labels.is_empty() {
            let unknown = self.unknown_labels.join(", ");
            lines.push(Text::default());
            lines.push(text!("labels that are invalid, or of a Namespace that is missing: {unknown}"));
        }
        if let Some(other) = &self.other_family {
            let family = if other.from.is_ipv4() { "IPv4" } else { "IPv6" };
            let verdict = participle(other.verdict);
            let verdict = match other.verdict == self.verdict {
                true => format!("also {verdict}"),
                false => format!("{verdict} instead"),
            };
            lines.push(Text::default());
            lines.push(text!("over {family}, {} -> {}, it is {verdict}", other.from, other.to));
        }
        Text::lines(lines)
    }
}

impl Endpoint {
    /// The pod with its address, or the address alone.
    fn text(&self) -> Text {
        match &self.pod {
            Some(pod) => text!("{pod} ") + paint::dim(format_args!("({})", self.address)),
            None => Text::new(self.address),
        }
    }

    fn name(&self) -> String {
        self.pod.clone().unwrap_or_else(|| self.address.to_string())
    }
}

impl DirectionAnswer {
    fn new(snapshot: &Snapshot, packet: &Packet, decision: &Decision, direction: Direction) -> Self {
        let explained = snapshot.explain(packet, decision, direction);
        let reason = decision.outcome(direction).reason;
        Self {
            verdict: explained.verdict,
            reason: explained.reason,
            sentence: reason.sentence(),
            provisional: reason.is_provisional(),
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

    fn lines(&self, direction: Direction, title: &str) -> Vec<Text> {
        let list = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let mut lines = vec![text!("{title}: ") + paint::verdict(self.verdict, participle(self.verdict))];
        if self.provisional {
            lines.push(text!("  {}", self.sentence));
            lines.push(text!("  {HELD}"));
        }
        match (&self.policy, self.rule) {
            (Some(policy), Some(rule)) => {
                let name = self.rule_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
                lines.push(text!("  {policy} {list}[{rule}]{name} is the first rule that matches"));
            }
            _ if self.provisional => {}
            _ => lines.push(text!("  {}", self.sentence)),
        }
        if !self.isolated_by.is_empty() {
            lines.push(text!("  isolated by   {}", self.isolated_by.join(", ")));
            lines.push(match &self.nearest_miss {
                Some(near) => {
                    text!("  nearest miss  {} {list}[{}]: {}", near.policy, near.rule, near.miss.sentence())
                }
                None => text!("  nearest miss  none: no rule matches either the peer or the port"),
            });
        }
        lines
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

/// What an agent does with a packet whose verdict is provisional.
const HELD: &str = "until that is known, an agent holds the packet, at most for --hold-timeout; then it does \
                    as --on-unknown-pod says, by default deny";

fn participle(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    }
}
