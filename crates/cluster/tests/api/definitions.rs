//! Kinds that CustomResourceDefinitions define: absent, installed, removed and forbidden.

use std::time::Duration;

use cluster::{FailureClass, Kind, WatchState};
use policy::{PolicyKind, PolicyName, Tier};
use serde_json::{Value, json};

use crate::consumer::Consumer;
use crate::server::Server;

const KIND: Kind = Kind::ClusterNetworkPolicy;

fn guard() -> Value {
    json!({
        "metadata": {"name": "guard"},
        "spec": {
            "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "egress": [{"action": "Deny", "to": [{"networks": ["169.254.169.254/32"]}]}],
        },
    })
}

fn name() -> PolicyName {
    PolicyName::cluster_wide(PolicyKind::ClusterNetworkPolicy, "guard")
}

fn server() -> Server {
    let server = Server::start();
    let web = json!({"metadata": {"name": "web", "labels": {"kubernetes.io/metadata.name": "web"}}});
    server.put(Kind::Namespace, web);
    server
}

fn state(consumer: &Consumer) -> WatchState {
    consumer.watch_status(KIND).state
}

#[test]
fn a_kind_that_is_defined_later_is_watched_without_a_restart() {
    let server = server();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    assert_eq!((state(&consumer), consumer.watch_status(KIND).last_error), (WatchState::Absent, None));
    server.define(KIND);
    consumer.until("it is watched", |consumer| state(consumer) == WatchState::Watching);
    server.put(KIND, guard());
    consumer.until_like(&server);
    assert_eq!(consumer.known.policies[&name()].tier, Tier::Admin);
    assert!(consumer.problems.is_empty(), "{:?}", consumer.problems);
}

#[test]
fn a_definition_that_is_deleted_takes_its_policies_with_it_and_may_come_again() {
    let server = server();
    server.define(KIND);
    server.put(KIND, guard());
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    assert_eq!(consumer.known.policies.len(), 1);
    server.undefine(KIND);
    consumer.until("it is gone", |consumer| state(consumer) == WatchState::Absent);
    consumer.until_like(&server);
    assert!(consumer.known.policies.is_empty());
    server.define(KIND);
    server.put(KIND, guard());
    consumer.until("it is there again", |consumer| state(consumer) == WatchState::Watching);
    consumer.until_like(&server);
}

/// A cluster that is upgraded may serve a newer version only: its policies still exist.
#[test]
fn a_kind_that_is_served_in_another_version_only_keeps_its_last_known_policies() {
    let server = server();
    server.define(KIND);
    server.put(KIND, guard());
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    server.serve_in_other_version(KIND, true);
    consumer.until("it is reported", |consumer| !consumer.problems.is_empty());
    let reported = "ClusterNetworkPolicy: the API server has clusternetworkpolicies only in \
                    policy.networking.k8s.io/v9, and this agent reads policy.networking.k8s.io/v1alpha2: serve \
                    that version too, or install an agent that reads the other one; the last known policies (1) \
                    stay in force, and changes to them are not seen";
    assert_eq!(consumer.problems, [reported]);
    assert_eq!(state(&consumer), WatchState::Lost);
    // Many looks later, it is still there.
    assert_eq!(consumer.during(Duration::from_millis(500)), 0);
    assert_eq!(consumer.known.policies.len(), 1);
    consumer.until("an Event", |_| !server.events().is_empty());
    let [event] = &server.events()[..] else { panic!("one Event: {:?}", server.events()) };
    assert_eq!(
        (&event["reason"], &event["involvedObject"]["name"]),
        (&json!("PolicyVersionNotServed"), &json!("guard"))
    );
    server.serve_in_other_version(KIND, false);
    consumer.until("it is there again", |consumer| consumer.problems.is_empty());
    consumer.until_like(&server);
    assert_eq!(state(&consumer), WatchState::Watching);
    // If the definition is deleted in the meantime, the policies go.
    server.serve_in_other_version(KIND, true);
    consumer.until("it is reported again", |consumer| !consumer.problems.is_empty());
    server.undefine(KIND);
    consumer.until_like(&server);
    assert!(consumer.known.policies.is_empty() && consumer.problems.is_empty(), "{:?}", consumer.problems);
}

#[test]
fn a_kind_that_was_never_served_in_a_version_that_is_read_is_reported_at_once() {
    let server = server();
    server.define(KIND);
    server.serve_in_other_version(KIND, true);
    let mut consumer = Consumer::of(&server);
    consumer.until("the first update", |consumer| consumer.count == 1);
    assert_eq!(consumer.problems.len(), 1, "{:?}", consumer.problems);
    assert!(consumer.problems[0].ends_with("may be open"), "{:?}", consumer.problems);
    assert!(consumer.waits_for().is_none());
}

/// Flannel's own chart has a ClusterRole without this group.
#[test]
fn a_kind_that_may_not_be_read_is_reported_and_not_waited_for() {
    let server = server();
    server.define(KIND);
    server.put(KIND, guard());
    server.faults(|faults| {
        faults.forbidden.insert("clusternetworkpolicies");
    });
    let mut consumer = Consumer::of(&server);
    consumer.until("the first update", |consumer| consumer.count == 1);
    assert!(consumer.known.policies.is_empty() && consumer.waits_for().is_none());
    let status = consumer.watch_status(KIND);
    assert_eq!(
        (status.state, status.failures.contains_key(&FailureClass::Forbidden)),
        (WatchState::Absent, true)
    );
    let why = status.last_error.expect("why");
    assert!(why.contains("resources [\"clusternetworkpolicies\"]"), "{why}");
    server.faults(|faults| {
        faults.forbidden.remove("clusternetworkpolicies");
    });
    consumer.until_like(&server);
    assert_eq!(consumer.known.policies.len(), 1);
}

/// With permissions for it or without, a kind that is not defined is no failure.
#[test]
fn a_kind_that_is_neither_defined_nor_permitted_is_not_reported() {
    let server = server();
    server.faults(|faults| {
        faults.forbidden.insert("clusternetworkpolicies");
    });
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    let status = consumer.watch_status(KIND);
    assert!(status.state == WatchState::Absent && status.failures.is_empty(), "{status:?}");
}

/// An agent may have its own role without `system:discovery`.
#[test]
fn without_permission_to_discover_kinds_one_that_is_not_defined_is_not_waited_for() {
    let server = server();
    server.faults(|faults| faults.is_discovery_forbidden = true);
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    assert_eq!(state(&consumer), WatchState::Absent);
    server.define(KIND);
    server.put(KIND, guard());
    consumer.until_like(&server);
    assert_eq!(consumer.known.policies.len(), 1);
    server.undefine(KIND);
    consumer.until_like(&server);
    assert!(consumer.known.policies.is_empty());
}

/// An API server that starts refuses requests until it has read the cluster's roles.
#[test]
fn a_list_that_is_refused_at_first_is_waited_for() {
    let server = server();
    server.define(KIND);
    server.put(KIND, guard());
    server.faults(|faults| faults.refused_lists = vec![KIND, KIND]);
    let mut consumer = Consumer::of(&server);
    consumer.until("the first update", |consumer| consumer.count == 1);
    assert_eq!(consumer.known.policies.len(), 1, "the policy is in the first update");
}

#[test]
fn a_large_policy_is_in_force_at_once() {
    let server = server();
    server.define(KIND);
    let mut consumer = Consumer::of(&server);
    consumer.until("it is watched", |consumer| state(consumer) == WatchState::Watching);
    let networks = |number: usize| -> Vec<String> {
        (0..25).map(|at| format!("10.{}.{}.0/24", number / 10, number % 10 * 25 + at)).collect()
    };
    let peers: Vec<Value> = (0..25).map(|number| json!({"networks": networks(number)})).collect();
    let rules: Vec<Value> = (0..25).map(|_| json!({"action": "Deny", "to": peers})).collect();
    let mut large = guard();
    large["spec"]["egress"] = json!(rules);
    assert!(large.to_string().len() > 128 << 10);
    server.put(KIND, large);
    consumer.until_like(&server);
    assert_eq!((consumer.known.policies[&name()].egress.len(), server.rereads()), (25, 0));
}
