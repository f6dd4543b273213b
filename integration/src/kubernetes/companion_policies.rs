//! Ten cluster-wide policies that are evaluated on the pods of upstream's NetworkPolicy suite and change none
//! of the verdicts that it expects.
//!
//! From: the suite's cases. Their namespaces have the label `e2e-run`, and their servers listen on ports 80
//! and 81. To: `cargo xtask e2e --with-cluster-policies`.
//!
//! Invariant: no rule that denies matches traffic of the suite. In tier Admin, a rule that matches it passes.
//! In tier Baseline, one accepts what is allowed without it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Cluster;
use super::install::{self, InstallMethod};

/// How long agents may take to enforce them.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The label by which the policies are found.
const LABEL: &str = "companion-of-the-suite";

/// The policy in tier Baseline that accepts. It decides for every pod of the suite that no NetworkPolicy
/// isolates.
const DECIDES: &str = "companion-baseline-accept";

/// Installs the definition and the policies, and waits until the policies are in force on every node.
pub fn install(cluster: &Cluster, method: InstallMethod) -> Result<()> {
    let kubectl = &cluster.kubectl;
    install::define_cluster_policies(kubectl)?;
    method.grant_cluster_policies(kubectl)?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": policies()});
    kubectl.apply(&list.to_string())?;
    method.wait_for_cluster_policies(kubectl, &cluster.nodes)?;
    // Agents that already watched the kind apply the policies a moment later.
    let end = Instant::now() + TIMEOUT;
    loop {
        match in_force(cluster, method) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => sleep(Duration::from_millis(500)),
        }
    }
}

/// Deletes the policies.
pub fn remove(cluster: &Cluster) -> Result<()> {
    cluster.kubectl.run(&["delete", "clusternetworkpolicies", "-l", LABEL]).map(drop)
}

/// How often a policy has decided a verdict so far, on all nodes together. Fails if not all policies are in
/// force, or none has decided: then the suite has not tested what it should.
pub fn decided(cluster: &Cluster, method: InstallMethod) -> Result<u64> {
    let decided = in_force(cluster, method)?;
    ensure!(
        decided > 0,
        "{DECIDES} has decided nothing: the policies were not evaluated on the suite's pods"
    );
    Ok(decided)
}

/// Fails unless every agent enforces all policies. Returns how often [`DECIDES`] has decided.
fn in_force(cluster: &Cluster, method: InstallMethod) -> Result<u64> {
    let agents = method.agents().context("no agent enforces policy")?;
    let mut decided = 0;
    for node in &cluster.nodes {
        let status = agents.status(&cluster.kubectl, &node.name)?;
        decided += read(&status).with_context(|| format!("the agent of {}", node.name))?;
    }
    Ok(decided)
}

/// Reads an agent's status: see [`in_force`].
fn read(status: &Value) -> Result<u64> {
    let in_force = status["policies"].as_array().context("its status has no policies")?;
    let find = |name: &str| {
        in_force.iter().find(|policy| policy["kind"] == "ClusterNetworkPolicy" && policy["policy"] == name)
    };
    for policy in policies() {
        let name = policy["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        // Null if it is not in force.
        let priority = find(&name).map_or(&Value::Null, |policy| &policy["priority"]);
        ensure!(*priority == policy["spec"]["priority"], "{name} is not in force");
    }
    find(DECIDES).and_then(|policy| policy["allowed"].as_u64()).context("its status has no count of verdicts")
}

fn policies() -> Vec<Value> {
    [admin_policies(), baseline_policies()].concat()
}

/// Namespaces, ports, networks, nodes and named ports that have no part in the suite. Everything that is left
/// is up to the NetworkPolicies.
fn admin_policies() -> Vec<Value> {
    let namespaces = json!({"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}});
    let (elsewhere, everywhere) = (json!([{"namespaces": namespaces}]), json!([{"namespaces": {}}]));
    let nodes = json!([{"nodes": {"matchLabels": {LABEL: "absent"}}}]);
    let named_port = json!([{"destinationNamedPort": "metrics"}]);
    let deny = |direction: &str| json!([rule("Deny", direction, &everywhere)]);
    vec![
        policy("admin-elsewhere", "Admin", 0, &namespaces, [deny("from"), deny("to")]),
        admin(
            "namespaces",
            10,
            [
                json!([rule("Deny", "from", &elsewhere)]),
                json!([rule("Deny", "to", &elsewhere), rule("Accept", "to", &elsewhere)]),
            ],
        ),
        admin(
            "ports",
            20,
            [
                json!([at(rule("Deny", "from", &everywhere), unused_ports())]),
                json!([at(rule("Accept", "to", &everywhere), unused_ports())]),
            ],
        ),
        admin("networks", 30, [json!([]), json!([rule("Deny", "to", &outside())])]),
        admin("nodes", 40, [json!([]), json!([rule("Deny", "to", &nodes)])]),
        admin("named-ports", 50, [json!([at(rule("Deny", "from", &everywhere), named_port)]), json!([])]),
        admin(
            "pass",
            100,
            [
                json!([rule("Pass", "from", &everywhere)]),
                json!([
                    rule("Pass", "to", &everywhere),
                    rule("Pass", "to", &json!([{"networks": ["0.0.0.0/0"]}])),
                ]),
            ],
        ),
    ]
}

/// Rules that deny ports and networks that have no part in the suite. The suite's own ports are accepted.
fn baseline_policies() -> Vec<Value> {
    let everywhere = json!([{"namespaces": {}}]);
    let servers = json!({"destinationPort": {"range": {"start": 80, "end": 81}}});
    let accept = at(rule("Accept", "from", &everywhere), json!([{"tcp": servers}, {"udp": servers}]));
    vec![
        baseline(
            "ports",
            10,
            [
                json!([at(rule("Deny", "from", &everywhere), unused_ports())]),
                json!([at(rule("Deny", "to", &everywhere), unused_ports())]),
            ],
        ),
        baseline("accept", 20, [json!([accept]), json!([])]),
        baseline(
            "networks",
            30,
            [json!([]), json!([rule("Pass", "to", &everywhere), rule("Deny", "to", &outside())])],
        ),
    ]
}

/// A rule about all ports of these peers. `direction` is `from` or `to`.
fn rule(action: &str, direction: &str, peers: &Value) -> Value {
    json!({"action": action, direction: peers})
}

/// The rule, about these protocols and ports.
fn at(mut rule: Value, protocols: Value) -> Value {
    rule["protocols"] = protocols;
    rule
}

/// Ports that neither the suite's servers nor its clients use.
fn unused_ports() -> Value {
    json!([
        {"tcp": {"destinationPort": {"range": {"start": 1000, "end": 1999}}}},
        {"udp": {"destinationPort": {"number": 1000}}},
    ])
}

/// Networks that the suite does not use.
fn outside() -> Value {
    json!([{"networks": ["198.51.100.0/24", "203.0.113.0/24"]}])
}

/// A policy of tier Admin for the pods of the suite.
fn admin(name: &str, priority: u32, rules: [Value; 2]) -> Value {
    policy(&format!("admin-{name}"), "Admin", priority, &suite(), rules)
}

/// A policy of tier Baseline for the pods of the suite.
fn baseline(name: &str, priority: u32, rules: [Value; 2]) -> Value {
    policy(&format!("baseline-{name}"), "Baseline", priority, &suite(), rules)
}

/// The selector of the suite's namespaces.
fn suite() -> Value {
    json!({"matchExpressions": [{"key": "e2e-run", "operator": "Exists"}]})
}

fn policy(name: &str, tier: &str, priority: u32, namespaces: &Value, [ingress, egress]: [Value; 2]) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("companion-{name}"), "labels": {LABEL: ""}},
        "spec": {
            "tier": tier,
            "priority": priority,
            "subject": {"namespaces": namespaces},
            "ingress": ingress,
            "egress": egress,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_ten_policies_in_both_tiers_with_all_actions() {
        let policies = policies();
        let names: BTreeSet<&str> =
            policies.iter().filter_map(|policy| policy["metadata"]["name"].as_str()).collect();
        assert_eq!(names.len(), 10);
        assert!(names.contains(DECIDES));
        let of_tier = |tier: &str| policies.iter().filter(|policy| policy["spec"]["tier"] == tier).count();
        assert_eq!((of_tier("Admin"), of_tier("Baseline")), (7, 3));
        let text = json!(policies).to_string();
        for action in ["Accept", "Deny", "Pass"] {
            assert!(text.contains(&format!("\"action\":\"{action}\"")), "{action}");
        }
    }

    #[test]
    fn nothing_is_decided_unless_every_policy_is_in_force() {
        let state = |policy: &Value| {
            let priority = &policy["spec"]["priority"];
            let name = &policy["metadata"]["name"];
            json!({"policy": name, "kind": "ClusterNetworkPolicy", "priority": priority, "allowed": 7})
        };
        let states: Vec<Value> = policies().iter().map(state).collect();
        assert_eq!(read(&json!({"policies": states})).expect("all are in force"), 7);
        let mut pending = states.clone();
        pending[3]["priority"] = Value::Null;
        assert!(read(&json!({"policies": pending})).is_err());
        assert!(read(&json!({"policies": states[1..]})).is_err());
    }
}
