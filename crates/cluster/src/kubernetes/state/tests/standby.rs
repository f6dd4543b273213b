//! Starts with a state on disk: before, while and after the API server answers.

use super::*;
use crate::checkpoint::Checkpoint;

/// The state on disk after these objects were applied.
fn saved(applied: &[(Kind, Value)]) -> (imbl::OrdMap<Key, Change>, Vec<PodName>) {
    let mut scenario = Scenario::begun();
    applied.iter().for_each(|(kind, object)| scenario.applied(*kind, object));
    match scenario.state.checkpoint().expect("it is newer") {
        Checkpoint::Kubernetes { objects, finished } => (objects, finished),
        Checkpoint::Folder(_) => panic!("no folder"),
    }
}

#[test]
fn the_state_on_disk_is_in_force_until_the_first_list_of_each_kind() {
    let mut scenario = Scenario::new();
    let at = SystemTime::UNIX_EPOCH;
    let (objects, finished) = saved(&[
        (Kind::Namespace, namespace(json!({"team": "a"}))),
        (Kind::Pod, pod("a", "1", "Running", &["10.0.0.2"])),
        (Kind::Pod, pod("b", "2", "Running", &["10.0.0.3"])),
        (Kind::NetworkPolicy, policy("p", "3", json!({}))),
    ]);
    scenario.state.restore(objects, finished, at);
    assert_eq!(scenario.next_update(), None, "the API server may answer first");
    scenario.state.release();
    assert!(scenario.state.checkpoint().is_none(), "the file has it already");
    let update = scenario.state.update().expect("the state");
    assert_eq!(update.restored, Some(at));
    update.changes.into_iter().for_each(|change| scenario.known.apply(change));
    assert_eq!((scenario.known.pods.len(), scenario.known.policies.len()), (2, 1));
    // Pods are listed, and nothing else yet.
    scenario
        .list(Kind::Pod, &[pod("b", "8", "Running", &["10.0.0.3"]), pod("c", "9", "Running", &["10.0.0.4"])]);
    assert_eq!(scenario.next_update().expect("the list"), ["Pod web/c", "-Pod web/a"]);
    assert!(scenario.state.restored.is_some() && scenario.state.checkpoint().is_some());
    scenario.list(Kind::Namespace, &[namespace(json!({"team": "a"}))]);
    scenario.list(Kind::NetworkPolicy, &[]);
    scenario.without_custom_kinds();
    scenario.state.apply(Kind::Node, WatcherEvent::Unavailable);
    let update = scenario.state.update().expect("all is known");
    assert_eq!((update.restored, update.changes.len()), (None, 1), "{:?}", update.changes);
}

#[test]
fn an_api_server_that_answers_in_time_replaces_the_state_on_disk() {
    let mut scenario = Scenario::new();
    let (objects, finished) = saved(&[(Kind::NetworkPolicy, policy("p", "3", json!({})))]);
    scenario.state.restore(objects, finished, SystemTime::UNIX_EPOCH);
    Kind::ALL.into_iter().for_each(|kind| scenario.list(kind, &[]));
    assert_eq!(
        scenario.next_update(),
        Some(vec![]),
        "objects that were deleted meanwhile were never published"
    );
    assert!(!scenario.state.is_held_back());
}

#[test]
fn a_finished_pod_of_the_state_on_disk_gets_no_address_from_a_file() {
    let mut scenario = Scenario::new();
    let (objects, finished) = saved(&[
        (Kind::Pod, pod("job", "1", "Succeeded", &["10.0.0.2"])),
        (Kind::Pod, pod("new", "2", "Pending", &[])),
    ]);
    scenario.state.restore(objects, finished, SystemTime::UNIX_EPOCH);
    scenario.state.release();
    scenario.files(&[("job", "uid-job", "10.0.0.2"), ("new", "uid-new", "10.0.0.3")]);
    scenario.next_update().expect("the state");
    assert_eq!((scenario.addresses("job"), scenario.addresses("new")), (vec![], vec!["10.0.0.3".to_owned()]));
}

#[test]
fn if_nodes_may_no_longer_be_listed_only_the_agents_own_is_kept_and_reported() {
    let node = |name: &str, cidr: &str| {
        (Kind::Node, json!({"metadata": {"name": name}, "spec": {"podCIDRs": [cidr]}}))
    };
    let mut scenario = Scenario::new();
    let (objects, finished) = saved(&[node("n", "10.0.0.0/24"), node("other", "10.0.1.0/24")]);
    scenario.state.restore(objects, finished, SystemTime::UNIX_EPOCH);
    scenario.state.release();
    assert_eq!(scenario.next_update().expect("the state"), ["Node n", "Node other"]);
    for _ in 0..2 {
        scenario.state.apply(Kind::Node, WatcherEvent::Unavailable);
    }
    [Kind::Namespace, Kind::Pod, Kind::NetworkPolicy].into_iter().for_each(|kind| scenario.list(kind, &[]));
    assert_eq!(scenario.next_update().expect("what is known"), ["-Node other"]);
    let [problem] = &scenario.problems[..] else { panic!("{:?}", scenario.problems) };
    assert!(problem.contains("Node n") && problem.contains("may not be listed"), "{problem}");
    scenario.list(Kind::Node, &[node("n", "10.0.0.0/24").1, node("new", "10.0.2.0/24").1]);
    assert_eq!(scenario.next_update().expect("allowed again"), ["Node new"]);
    assert_eq!(scenario.problems, [""; 0]);
}

/// The definition may have changed while no agent ran.
#[test]
fn a_policy_of_the_state_on_disk_stays_in_force_if_its_kind_is_served_in_other_versions_only() {
    const KIND: Kind = Kind::ClusterNetworkPolicy;
    let guard = json!({"metadata": {"name": "guard", "resourceVersion": "3"}, "spec": {
        "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
        "egress": [{"action": "Deny", "to": [{"networks": ["169.254.169.254/32"]}]}],
    }});
    let mut scenario = Scenario::new();
    let (objects, finished) = saved(&[(KIND, guard.clone())]);
    scenario.state.restore(objects, finished, SystemTime::UNIX_EPOCH);
    scenario.state.release();
    assert_eq!(scenario.next_update().expect("the state").len(), 1);
    let others = Kind::ALL.into_iter().filter(|kind| *kind != KIND);
    others.for_each(|kind| scenario.list(kind, &[]));
    for _ in 0..2 {
        scenario.state.apply(KIND, WatcherEvent::OtherVersions("only in v9".into()));
    }
    assert_eq!(scenario.next_update(), Some(vec![]), "only the report is new");
    let [problem] = &scenario.problems[..] else { panic!("{:?}", scenario.problems) };
    assert!(
        problem.starts_with("ClusterNetworkPolicy: only in v9; the last known policies (1) stay"),
        "{problem}"
    );
    // Without a version, an Event would have the same name for every version of the policy.
    assert!(scenario.state.take_warnings().is_empty());
    scenario.list(KIND, &[guard]);
    assert_eq!((scenario.next_update(), scenario.problems.len()), (Some(vec![]), 0));
}
