//! Starts with a state on disk: before the API server answers, while it does, and after.

use super::*;
use crate::checkpoint::Checkpoint;

/// What is known of these, as the state on disk has it.
fn saved(applied: &[(Kind, Value)]) -> (imbl::OrdMap<Key, Change>, Vec<PodName>) {
    let mut scenario = Scenario::begun();
    applied.iter().for_each(|(kind, object)| scenario.applied(*kind, object));
    match scenario.state.checkpoint().expect("it is news") {
        Checkpoint::Kubernetes { objects, finished } => (objects, finished),
        Checkpoint::Folder(_) => panic!("no folder"),
    }
}

#[test]
fn the_state_on_disk_stands_until_the_first_list_of_each_kind() {
    let mut scenario = Scenario::new();
    let at = SystemTime::UNIX_EPOCH;
    let (objects, finished) = saved(&[
        (Kind::Namespace, namespace(json!({"team": "a"}))),
        (Kind::Pod, pod("a", "1", "Running", &["10.0.0.2"])),
        (Kind::Pod, pod("b", "2", "Running", &["10.0.0.3"])),
        (Kind::NetworkPolicy, policy("p", "3", json!({}))),
    ]);
    scenario.state.restore(objects, finished, at);
    assert_eq!(scenario.told(), None, "the API server may answer first");
    scenario.state.release();
    assert!(scenario.state.checkpoint().is_none(), "it is what the file has already");
    let update = scenario.state.update().expect("the state");
    assert_eq!(update.restored, Some(at));
    update.changes.into_iter().for_each(|change| scenario.known.apply(change));
    assert_eq!((scenario.known.pods.len(), scenario.known.policies.len()), (2, 1));
    // Pods are listed, and nothing else yet.
    scenario
        .list(Kind::Pod, &[pod("b", "8", "Running", &["10.0.0.3"]), pod("c", "9", "Running", &["10.0.0.4"])]);
    assert_eq!(scenario.told().expect("the list"), ["Pod web/c", "-Pod web/a"]);
    assert!(scenario.state.restored.is_some() && scenario.state.checkpoint().is_some());
    scenario.list(Kind::Namespace, &[namespace(json!({"team": "a"}))]);
    scenario.list(Kind::NetworkPolicy, &[]);
    scenario.state.take_in(Kind::Node, Event::Refused);
    let update = scenario.state.update().expect("all is known");
    assert_eq!((update.restored, update.changes.len()), (None, 1), "{:?}", update.changes);
}

#[test]
fn an_api_server_that_answers_in_time_replaces_the_state_on_disk_at_once() {
    let mut scenario = Scenario::new();
    let (objects, finished) = saved(&[(Kind::NetworkPolicy, policy("p", "3", json!({})))]);
    scenario.state.restore(objects, finished, SystemTime::UNIX_EPOCH);
    Kind::ALL.into_iter().for_each(|kind| scenario.list(kind, &[]));
    assert_eq!(scenario.told(), Some(vec![]), "what went meanwhile was never told");
    assert!(!scenario.state.is_held_back());
}

#[test]
fn a_pod_of_the_state_on_disk_that_has_ended_is_given_no_address_by_a_file() {
    let mut scenario = Scenario::new();
    let (objects, finished) = saved(&[
        (Kind::Pod, pod("job", "1", "Succeeded", &["10.0.0.2"])),
        (Kind::Pod, pod("new", "2", "Pending", &[])),
    ]);
    scenario.state.restore(objects, finished, SystemTime::UNIX_EPOCH);
    scenario.state.release();
    scenario.files(&[("job", "uid-job", "10.0.0.2"), ("new", "uid-new", "10.0.0.3")]);
    scenario.told().expect("the state");
    assert_eq!((scenario.addresses("job"), scenario.addresses("new")), (vec![], vec!["10.0.0.3".to_owned()]));
}

#[test]
fn of_nodes_that_may_not_be_listed_any_more_the_agents_own_alone_stands_and_is_named() {
    let node = |name: &str, cidr: &str| {
        (Kind::Node, json!({"metadata": {"name": name}, "spec": {"podCIDRs": [cidr]}}))
    };
    let mut scenario = Scenario::new();
    let (objects, finished) = saved(&[node("n", "10.0.0.0/24"), node("other", "10.0.1.0/24")]);
    scenario.state.restore(objects, finished, SystemTime::UNIX_EPOCH);
    scenario.state.release();
    assert_eq!(scenario.told().expect("the state"), ["Node n", "Node other"]);
    for _ in 0..2 {
        scenario.state.take_in(Kind::Node, Event::Refused);
    }
    [Kind::Namespace, Kind::Pod, Kind::NetworkPolicy].into_iter().for_each(|kind| scenario.list(kind, &[]));
    assert_eq!(scenario.told().expect("what is known"), ["-Node other"]);
    let [problem] = &scenario.problems[..] else { panic!("{:?}", scenario.problems) };
    assert!(problem.contains("Node n") && problem.contains("may not be listed"), "{problem}");
    scenario.list(Kind::Node, &[node("n", "10.0.0.0/24").1, node("new", "10.0.2.0/24").1]);
    assert_eq!(scenario.told().expect("allowed again"), ["Node new"]);
    assert_eq!(scenario.problems, [""; 0]);
}
