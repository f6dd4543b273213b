//! The text of an answer.

use policy::{Direction, Tier, TierResult, Verdict};

use super::answer::{Answer, DirectionAnswer, Endpoint, FirstRule, OtherFamily, TierAnswer};
use super::service::ServiceAnswer;
use crate::commands::table::{self, Rows};
use crate::paint;
use crate::terminal::{Text, text};

/// What the agent that evaluates a direction does with a packet whose verdict is provisional.
fn held(answer: &DirectionAnswer) -> String {
    let agent = match &answer.node {
        Some(node) => format!("the agent of {node}"),
        None => "an agent".to_owned(),
    };
    format!(
        "until that is known, {agent} holds the packet, at most for --hold-timeout; then it does as \
         --on-unknown-pod says, by default deny"
    )
}

/// Indentation of the reasons, in columns.
const INDENT: u16 = 2;

/// The answer as text, wrapped to a width.
pub(super) fn render(answer: &Answer, width: u16) -> Text {
    let Answer { from, to, egress, ingress, .. } = answer;
    let mut lines = vec![headline(answer), Text::default()];
    lines.extend(direction(egress, Direction::Egress, &name(from), width));
    lines.extend(direction(ingress, Direction::Ingress, &name(to), width));
    if !answer.unknown_labels.is_empty() {
        let unknown = answer.unknown_labels.join(", ");
        let unknown = format!("labels that are invalid, or of a Namespace that is missing: {unknown}");
        lines.extend([Text::default(), table::paragraph(&unknown, 0, width)]);
    }
    for note in &answer.notes {
        lines.extend([Text::default(), table::paragraph(note, 0, width)]);
    }
    if let Some(other) = &answer.other_family {
        let text = other_family(other, answer.verdict);
        lines.extend([Text::default(), table::paragraph(&text, 0, width)]);
    }
    Text::lines(lines)
}

/// `over IPv6, fd00::2 -> fd00::3, it is also denied`.
fn other_family(other: &OtherFamily, verdict: Verdict) -> String {
    let family = if other.from.is_ipv4() { "IPv4" } else { "IPv6" };
    let other_verdict = participle(other.verdict);
    let other_verdict = match other.verdict == verdict {
        true => format!("also {other_verdict}"),
        false => format!("{other_verdict} instead"),
    };
    format!("over {family}, {} -> {}, it is {other_verdict}", other.from, other.to)
}

/// The answer for each pod of a Service in one line, wrapped to a width.
pub(super) fn render_service(answer: &ServiceAnswer, width: u16) -> Text {
    let ServiceAnswer { from, service, protocol, port, pods, .. } = answer;
    let node = by_node(answer.node.as_deref());
    let addresses: Vec<_> = answer.cluster_ips.iter().map(ToString::to_string).collect();
    let addresses = match &addresses[..] {
        [] => Text::default(),
        _ => text!(" ") + paint::dim(format_args!("({})", addresses.join(", "))),
    };
    let denied = pods.iter().filter(|pod| pod.verdict() == Verdict::Deny).count();
    let share = match (denied, pods.len()) {
        (0, 1) => "to its pod".to_owned(),
        (0, all) => format!("to each of its {all} pods"),
        (_, 1) => "to its only pod".to_owned(),
        (denied, all) => format!("to {denied} of its {all} pods"),
    };
    let mut lines = vec![
        headline_verdict(answer.verdict)
            + text!("{node}  {from} -> Service {service}")
            + addresses
            + text!("  {port}/{protocol}, {share}"),
        Text::default(),
    ];
    let mut rows = Rows::default();
    for pod in pods {
        let port = pod.port.map(|port| format!(" port {port}")).unwrap_or_default();
        let name = pod.to.pod.clone().unwrap_or_else(|| pod.to.address.to_string());
        let mut line = format!("{name} ({}){port}: {}", pod.to.address, pod.summary);
        if let Some(other) = &pod.other_family {
            line += &format!("; {}", other_family(other, pod.verdict));
        }
        rows.add(upper_verdict(pod.verdict), line);
    }
    for pod in &answer.left_out {
        rows.add("left out", pod);
    }
    lines.push(rows.render_indented(INDENT, width));
    let mut notes: Vec<&String> = pods.iter().flat_map(|pod| &pod.notes).collect();
    notes.sort();
    notes.dedup();
    for note in notes {
        lines.extend([Text::default(), table::paragraph(note, 0, width)]);
    }
    Text::lines(lines)
}

/// Verdict, node, endpoints and port.
fn headline(answer: &Answer) -> Text {
    let port = match answer.port {
        Some(port) => format!("{port}/{}", answer.protocol),
        None => answer.protocol.clone(),
    };
    let node = by_node(answer.node.as_deref());
    headline_verdict(answer.verdict)
        + text!("{node}  ")
        + endpoint(&answer.from)
        + text!(" -> ")
        + endpoint(&answer.to)
        + text!("  {port}")
}

fn headline_verdict(verdict: Verdict) -> Text {
    paint::verdict(verdict, upper_verdict(verdict))
}

fn upper_verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "ALLOWED",
        Verdict::Deny => "DENIED",
    }
}

/// ` by node-a`: the node whose agent answers.
fn by_node(node: Option<&str>) -> String {
    node.map(|node| format!(" by {node}")).unwrap_or_default()
}

/// The pod with its address, or the address alone.
fn endpoint(endpoint: &Endpoint) -> Text {
    match &endpoint.pod {
        Some(pod) => text!("{pod} ") + paint::dim(format_args!("({})", endpoint.address)),
        None => Text::new(endpoint.address),
    }
}

fn name(endpoint: &Endpoint) -> String {
    endpoint.pod.clone().unwrap_or_else(|| endpoint.address.to_string())
}

/// The verdict in one direction, and below it the reasons.
fn direction(answer: &DirectionAnswer, direction: Direction, endpoint: &str, width: u16) -> Vec<Text> {
    let list = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let verdict = paint::verdict(answer.verdict, participle(answer.verdict));
    let mut lines = vec![text!("{list} of {endpoint}: ") + verdict];
    let mut add = |sentence: &str| lines.push(table::paragraph(sentence, INDENT, width));
    if answer.provisional {
        add(answer.sentence);
        add(&held(answer));
    }
    let has_cluster_policies = answer.tiers.iter().any(is_of_cluster_policies);
    match (&answer.policy, answer.rule) {
        (Some(policy), Some(rule)) => {
            let rule = rule_text(policy, list, rule, answer.rule_name.as_deref());
            add(&match answer.tier.filter(|_| has_cluster_policies) {
                // Rules that pass may have matched before.
                Some(tier) => format!("{rule} of tier {} decides", tier.name()),
                None => format!("{rule} is the first rule that matches"),
            });
        }
        _ if answer.provisional => {}
        _ => add(answer.sentence),
    }
    let mut rows = Rows::default();
    if !answer.isolated_by.is_empty() {
        rows.add("isolated by", answer.isolated_by.join(", "));
        rows.add(
            "nearest miss",
            match &answer.nearest_miss {
                Some(near) => format!("{} {list}[{}]: {}", near.policy, near.rule, near.miss.sentence()),
                None => "none: no rule matches either the peer or the port".to_owned(),
            },
        );
    }
    if has_cluster_policies {
        for step in &answer.tiers {
            rows.add(&format!("tier {}", step.tier.name()), step_text(step, list));
        }
    }
    if has_cluster_policies || !answer.isolated_by.is_empty() {
        lines.push(rows.render_indented(INDENT, width));
    }
    lines
}

/// Whether a tier has rules of cluster-wide policies that apply to the pod.
fn is_of_cluster_policies(step: &TierAnswer) -> bool {
    step.tier != Tier::NetworkPolicy && step.result != TierResult::NoRules.code()
}

/// `guard ingress[0] (metadata), priority 10: the first match denies`.
fn step_text(step: &TierAnswer, list: &str) -> String {
    let Some(FirstRule { policy, priority, rule, rule_name }) = &step.rule else {
        return step.sentence.to_owned();
    };
    let rule = rule_text(policy, list, *rule, rule_name.as_deref());
    let priority = priority.map(|priority| format!(", priority {priority}")).unwrap_or_default();
    format!("{rule}{priority}: {}", step.sentence)
}

/// `guard ingress[0] (metadata)`.
fn rule_text(policy: &str, list: &str, rule: usize, name: Option<&str>) -> String {
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    format!("{policy} {list}[{rule}]{name}")
}

fn participle(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    }
}

#[cfg(test)]
mod tests;
