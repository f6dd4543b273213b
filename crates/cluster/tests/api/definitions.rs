//! Kinds that CustomResourceDefinitions define: absent, installed, removed and forbidden.

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
