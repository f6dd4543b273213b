//! The policy that changes, and the others beside it.

use std::fmt;

use serde_json::{Value, json};
use workload::CLUSTER_RULES;

/// The name of the policy that changes.
pub(super) const NAME: &str = "changing";

/// The UDP port of the server for the established flow; the one for new flows follows it.
pub(super) const PORT: u16 = 9000;

/// The first port of all rules that are not about the two flows.
const FIRST_OTHER_PORT: usize = 10_000;

/// A kind of change of the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Edit {
    /// Another action of a rule; everything else stays.
    Action,
    /// In addition, all 25 rules select peers by values of a label that no policy has mentioned before.
    Peers,
}

/// The policy's verdict on the two flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Allow,
    Deny,
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Action => "one action",
            Self::Peers => "an action and all peers",
        })
    }
}

impl Edit {
    /// Both kinds.
    pub(super) const ALL: [Self; 2] = [Self::Action, Self::Peers];

    /// The spec of the policy, in JSON, which is YAML. `number` is that of the change.
    pub(super) fn spec(self, number: u32, verdict: Verdict) -> String {
        let action = if verdict == Verdict::Allow { "Accept" } else { "Deny" };
        let flows = json!({"udp": {"destinationPort": {"range": {"start": PORT, "end": PORT + 1}}}});
        let decides = json!({"action": action, "from": [{"namespaces": {}}], "protocols": [flows]});
        let turn = match (self, verdict) {
            (Self::Action, _) => 0,
            (Self::Peers, Verdict::Allow) => 1 + 2 * number as usize,
            (Self::Peers, Verdict::Deny) => 2 + 2 * number as usize,
        };
        let others = (1..CLUSTER_RULES).map(|rule| match self {
            Self::Action => about_app(rule),
            // Pods all over the cluster have these.
            Self::Peers => about_label("pod-template-hash", &hash(turn * CLUSTER_RULES + rule), rule),
        });
        let rules: Vec<Value> = std::iter::once(decides).chain(others).collect();
        spec(0, &rules)
    }
}

/// The name and spec of another policy.
pub(super) fn other_policy(number: usize) -> (String, String) {
    let rules: Vec<Value> = (0..CLUSTER_RULES).map(|rule| about_app(number * CLUSTER_RULES + rule)).collect();
    (format!("other-{number}"), spec(1 + number % 1_000, &rules))
}

/// A policy of tier Admin for every pod.
fn spec(priority: usize, ingress: &[Value]) -> String {
    json!({"tier": "Admin", "priority": priority, "subject": {"namespaces": {}}, "ingress": ingress})
        .to_string()
}

fn about_app(number: usize) -> Value {
    about_label("app", &format!("app-{}", number % 50), number)
}

fn about_label(key: &str, value: &str, number: usize) -> Value {
    let action = ["Accept", "Deny", "Pass"][number % 3];
    let pods = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {key: value}}});
    let port = FIRST_OTHER_PORT + number % 500;
    json!({
        "action": action,
        "from": [{"pods": pods}],
        "protocols": [{"tcp": {"destinationPort": {"number": port}}}],
    })
}

/// The value of the label `pod-template-hash` of a pod of the generated cluster.
fn hash(number: usize) -> String {
    let labels = workload::pod(1 + number % 2_999).labels;
    labels.value("pod-template-hash").map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_peers_names_other_values() {
        let spec = |number, verdict| Edit::Peers.spec(number, verdict);
        let specs = [spec(0, Verdict::Allow), spec(0, Verdict::Deny), spec(1, Verdict::Allow)];
        for (index, spec) in specs.iter().enumerate() {
            let value: Value = serde_json::from_str(spec).expect("JSON");
            let rules = value["ingress"].as_array().expect("rules");
            assert_eq!(rules.len(), CLUSTER_RULES);
            let hash = rules[1].pointer("/from/0/pods/podSelector/matchLabels/pod-template-hash");
            let hash = hash.and_then(Value::as_str).expect("a label");
            assert!(specs.iter().enumerate().all(|(other, text)| other == index || !text.contains(hash)));
        }
    }

    #[test]
    fn a_change_of_an_action_leaves_the_rest() {
        let [allow, deny] = [Verdict::Allow, Verdict::Deny].map(|verdict| Edit::Action.spec(7, verdict));
        assert_ne!(allow, deny);
        assert_eq!(allow.replacen("Accept", "Deny", 1), deny);
    }
}
