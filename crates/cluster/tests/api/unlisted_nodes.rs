//! Policies that select nodes while the agent may not list Nodes.

use cluster::Kind;
use policy::{Action, Peer, PolicyKind, PolicyName, RuleSpec};
use serde_json::{Value, json};

use crate::consumer::Consumer;
use crate::server::Server;

const KIND: Kind = Kind::ClusterNetworkPolicy;

fn server() -> Server {
    let server = Server::start();
    server.define(KIND);
    server.put(
        Kind::Namespace,
        json!({"metadata": {"name": "web", "labels": {"kubernetes.io/metadata.name": "web"}}}),
    );
    let node = json!({"metadata": {"name": "m"}, "spec": {"podCIDRs": ["10.244.2.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}});
    server.put(Kind::Node, node);
    server.put(KIND, policy("guard", &["Accept", "Deny", "Pass"]));
    server
}

/// A policy with a rule for the nodes by each action, each for port 10250, and one that denies a network.
fn policy(name: &str, actions: &[&str]) -> Value {
    let port = json!([{"tcp": {"destinationPort": {"number": 10250}}}]);
    let rule = |action: &&str| json!({"action": action, "to": [{"nodes": {}}], "protocols": port});
    let mut egress: Vec<Value> = actions.iter().map(rule).collect();
    egress.push(json!({"action": "Deny", "to": [{"networks": ["203.0.113.0/24"]}]}));
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": egress});
    json!({"metadata": {"name": name}, "spec": spec})
}

fn rules(consumer: &Consumer, name: &str) -> Vec<RuleSpec> {
    let name = PolicyName::cluster_wide(PolicyKind::ClusterNetworkPolicy, name);
    consumer.known.policies.get(&name).map(|policy| policy.egress.clone()).unwrap_or_default()
}

fn selects_nodes(rule: &RuleSpec) -> bool {
    rule.peers.iter().flatten().any(|peer| matches!(peer, Peer::Nodes(_)))
}

#[test]
fn s56_rules_that_deny_nodes_deny_every_destination_while_nodes_may_not_be_listed() {
    let server = server();
    server.faults(|faults| faults.forbidden.extend(["nodes"]));
    let mut consumer = Consumer::of(&server);
    consumer.until("the first update", |consumer| consumer.count == 1);
    let [accept, deny, pass, network] = &rules(&consumer, "guard")[..] else { panic!("four rules") };
    assert!(accept.action == Action::Accept && selects_nodes(accept), "{accept:?}");
    for closed in [deny, pass] {
        assert_eq!((closed.action, &closed.peers), (Action::Deny, &None));
        assert!(closed.ports.is_some(), "its port counts: {closed:?}");
    }
    assert!(network.peers.is_some(), "the other rules stay");
    let [problem] = &consumer.problems[..] else { panic!("{:?}", consumer.problems) };
    assert!(problem.contains("ClusterNetworkPolicy guard (version "), "{problem}");
    assert!(
        problem.contains("Nodes may not be listed") && problem.contains("deny every destination"),
        "{problem}"
    );
    consumer.until("an Event", |_| !server.events().is_empty());
    let [event] = &server.events()[..] else { panic!("one Event: {:?}", server.events()) };
    assert_eq!(
        (&event["reason"], &event["involvedObject"]["name"]),
        (&json!("PolicyNodesUnknown"), &json!("guard"))
    );
    // A policy that comes later, and one that only accepts.
    server.put(KIND, policy("later", &["Deny"]));
    server.put(KIND, policy("open", &["Accept"]));
    consumer.until("all policies", |consumer| consumer.problems.len() == 3);
    assert!(rules(&consumer, "later")[0].peers.is_none());
    assert!(consumer.problems[2].ends_with("its rules that accept nodes match this node only"));
    // A policy that is gone, or selects no nodes any more, has no problem.
    server.delete(KIND, "open");
    server.put(KIND, policy("later", &[]));
    consumer.until("one problem", |consumer| consumer.problems.len() == 1);
    // With the permission, the rules are as they are written.
    server.faults(|faults| faults.forbidden.clear());
    consumer.until_like(&server);
    assert!(consumer.problems.is_empty(), "{:?}", consumer.problems);
    assert!(rules(&consumer, "guard")[..3].iter().all(selects_nodes));
}

/// An API server that starts refuses requests until it has read the cluster's roles.
#[test]
fn a_list_of_nodes_that_is_refused_at_first_is_waited_for() {
    let server = server();
    server.faults(|faults| faults.refused_lists = vec![Kind::Node, Kind::Node]);
    let mut consumer = Consumer::of(&server);
    consumer.until("the first update", |consumer| consumer.count == 1);
    assert!(rules(&consumer, "guard")[..3].iter().all(selects_nodes), "no rule is closed");
    assert!(consumer.problems.is_empty(), "{:?}", consumer.problems);
}
