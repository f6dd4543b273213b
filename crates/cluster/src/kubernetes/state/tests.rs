//! Scenarios of lists and watches: the API server's events, and the updates for the consumer.

use policy::{Budget, Inventory, Labels};
use serde_json::{Value, json};

use super::*;

mod reread;
mod standby;

/// The state of node `n`, and what its consumer has.
struct Scenario {
    state: State,
    known: Inventory,
    problems: Vec<String>,
    versions: BTreeMap<String, Option<String>>,
}

impl Scenario {
    fn new() -> Self {
        let mut state = State::new("n".into(), Budget { namespace: 100, total: 10_000 });
        state.set_unenforced(Vec::new());
        Self { state, known: Inventory::default(), problems: Vec::new(), versions: BTreeMap::new() }
    }

    /// A scenario in which every list is complete and empty, and the first update was published.
    fn begun() -> Self {
        let mut scenario = Self::new();
        Kind::ALL.into_iter().for_each(|kind| scenario.list(kind, &[]));
        assert_eq!(scenario.next_update(), Some(Vec::new()), "the first update is sent even if it is empty");
        scenario
    }

    /// No kind has a CustomResourceDefinition.
    fn without_custom_kinds(&mut self) {
        Kind::ALL.into_iter().filter(|kind| kind.is_custom()).for_each(|kind| self.list(kind, &[]));
    }

    fn list(&mut self, kind: Kind, objects: &[Value]) {
        self.state.apply(kind, WatcherEvent::Init);
        self.listed(kind, objects);
        self.state.apply(kind, WatcherEvent::InitDone);
    }

    fn listed(&mut self, kind: Kind, objects: &[Value]) {
        for fields in objects {
            let object = self.object(kind, fields);
            self.state.apply(kind, WatcherEvent::InitApply(object));
        }
    }

    fn applied(&mut self, kind: Kind, fields: &Value) {
        let object = self.object(kind, fields);
        self.state.apply(kind, WatcherEvent::Apply(object));
    }

    fn object(&self, kind: Kind, fields: &Value) -> Object {
        Object::of(kind, fields, &[], self.state.interner())
    }

    fn deleted(&mut self, kind: Kind, fields: &Value) {
        self.state.apply(kind, WatcherEvent::Delete(ObjectIdentity::of(fields)));
    }

    fn files(&mut self, results: &[(&str, &str, &str)]) {
        let cached_result = |(name, uid, address): &(&str, &str, &str)| CachedResult {
            pod: PodName::new("web", *name),
            uid: PodUid::of(uid),
            addresses: vec![address.parse().expect("address")],
            host_interface: None,
        };
        self.state.set_cni_results(results.iter().map(cached_result).collect());
    }

    /// The objects in the next update, with a `-` in front of those that are gone; `None` if there is no
    /// update.
    fn next_update(&mut self) -> Option<Vec<String>> {
        let update = self.state.update()?;
        let mut in_update = Vec::new();
        for change in update.changes {
            let key = Key::of(&change);
            let is_gone = key.clone().gone() == change;
            in_update.push(if is_gone { format!("-{key}") } else { key.to_string() });
            let before = self.known.clone();
            self.known.apply(change.clone());
            assert_ne!(before, self.known, "a change that changes nothing: {change:?}");
        }
        self.problems = update.problems.iter().map(ToString::to_string).collect();
        let version = |(name, version): (PolicyName, Option<ResourceVersion>)| {
            (name.to_string(), version.map(|version| version.to_string()))
        };
        self.versions.extend(update.versions.into_iter().map(version));
        Some(in_update)
    }

    fn addresses(&self, pod: &str) -> Vec<String> {
        self.known.pods[&PodName::new("web", pod)].addresses.iter().map(ToString::to_string).collect()
    }
}

fn metadata(name: &str, version: &str) -> Value {
    json!({"name": name, "namespace": "web", "uid": format!("uid-{name}"), "resourceVersion": version})
}

fn pod(name: &str, version: &str, phase: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    json!({
        "metadata": metadata(name, version),
        "spec": {"nodeName": "n"},
        "status": {"phase": phase, "podIPs": addresses},
    })
}

fn policy(name: &str, version: &str, spec: Value) -> Value {
    json!({"metadata": metadata(name, version), "spec": spec})
}

fn namespace(labels: Value) -> Value {
    json!({"metadata": {"name": "web", "labels": labels, "resourceVersion": "1"}})
}

#[test]
fn nothing_is_published_before_every_list_is_complete() {
    let mut scenario = Scenario::new();
    scenario.list(Kind::Namespace, &[namespace(json!({}))]);
    scenario.list(Kind::Node, &[json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}})]);
    scenario.list(Kind::NetworkPolicy, &[policy("p", "3", json!({}))]);
    scenario.without_custom_kinds();
    scenario.state.apply(Kind::Pod, WatcherEvent::Init);
    scenario.listed(Kind::Pod, &[pod("a", "4", "Running", &["10.0.0.2"])]);
    assert_eq!(scenario.next_update(), None);
    scenario.listed(Kind::Pod, &[pod("b", "5", "Running", &["10.0.0.3"])]);
    scenario.state.apply(Kind::Pod, WatcherEvent::InitDone);
    let all = ["Namespace web", "Node n", "Pod web/a", "Pod web/b", "NetworkPolicy web/p"];
    assert_eq!(scenario.next_update().expect("all at once"), all);
    assert_eq!(scenario.next_update(), None, "nothing new");
}

#[test]
fn nodes_are_optional_and_pods_are_required() {
    let mut scenario = Scenario::new();
    [Kind::Namespace, Kind::NetworkPolicy].into_iter().for_each(|kind| scenario.list(kind, &[]));
    scenario.without_custom_kinds();
    scenario.state.apply(Kind::Node, WatcherEvent::Unavailable);
    scenario.state.apply(Kind::Pod, WatcherEvent::Unavailable);
    assert_eq!(scenario.next_update(), None);
    scenario.list(Kind::Pod, &[]);
    assert_eq!(scenario.next_update(), Some(vec![]));
    scenario.list(Kind::Node, &[json!({"metadata": {"name": "n"}})]);
    assert_eq!(scenario.next_update().expect("allowed at last"), ["Node n"]);
}

#[test]
fn a_node_without_a_pod_cidr_is_reported_until_it_has_one_and_gets_no_event() {
    let mut scenario = Scenario::new();
    Kind::ALL.into_iter().for_each(|kind| scenario.list(kind, &[]));
    scenario.next_update();
    let mut problems_and_warnings = |spec: serde_json::Value| {
        scenario.list(Kind::Node, &[json!({"metadata": {"name": "n"}, "spec": spec})]);
        scenario.next_update();
        (scenario.state.problems.reported().len(), scenario.state.take_warnings().len())
    };
    assert_eq!(problems_and_warnings(json!({})), (1, 0));
    assert_eq!(problems_and_warnings(json!({"podCIDRs": ["10.0.0.0/24"]})), (0, 0));
    assert_eq!(problems_and_warnings(json!({"podCIDRs": ["10.0.0.0"]})), (1, 1));
}

#[test]
fn a_list_after_a_gap_publishes_only_the_delta() {
    let mut scenario = Scenario::begun();
    let (a, b, c) = (
        pod("a", "1", "Running", &["10.0.0.2"]),
        pod("b", "2", "Running", &["10.0.0.3"]),
        pod("c", "3", "", &[]),
    );
    [&a, &b, &c].into_iter().for_each(|pod| scenario.applied(Kind::Pod, pod));
    assert_eq!(scenario.next_update().expect("pods").len(), 4, "and their namespace");
    scenario.state.apply(Kind::Pod, WatcherEvent::Init);
    scenario.listed(Kind::Pod, std::slice::from_ref(&b));
    // The connection broke: the list begins again.
    scenario.state.apply(Kind::Pod, WatcherEvent::Init);
    scenario.listed(Kind::Pod, &[a, pod("c", "9", "Running", &["10.0.0.4"])]);
    assert_eq!(
        scenario.next_update().expect("what is listed is there"),
        ["Pod web/c"],
        "what was not listed yet is not gone yet"
    );
    scenario.state.apply(Kind::Pod, WatcherEvent::InitDone);
    assert_eq!(scenario.next_update().expect("b vanished"), ["-Pod web/b"]);
}

#[test]
fn a_change_without_effect_is_not_published() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    scenario.next_update().expect("a pod");
    scenario.applied(Kind::Pod, &pod("a", "2", "Running", &["10.0.0.2"]));
    assert_eq!(scenario.next_update(), None, "another version of the same");
    let mut labelled = pod("a", "3", "Running", &["10.0.0.2"]);
    labelled["metadata"]["labels"] = json!({"app": "a"});
    scenario.applied(Kind::Pod, &labelled);
    scenario.applied(Kind::Pod, &pod("a", "4", "Running", &["10.0.0.2"]));
    assert_eq!(scenario.next_update(), None, "changed and changed back");
    scenario.applied(Kind::Pod, &pod("a", "5", "Succeeded", &["10.0.0.2"]));
    assert_eq!(scenario.next_update().expect("released"), ["Pod web/a"]);
    assert_eq!(scenario.addresses("a"), Vec::<String>::new());
}

#[test]
fn the_version_of_a_policy_is_published_even_if_the_policy_means_the_same() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::NetworkPolicy, &policy("p", "10", json!({})));
    assert_eq!(scenario.next_update().expect("new"), ["NetworkPolicy web/p"]);
    scenario.applied(Kind::NetworkPolicy, &policy("p", "11", json!({})));
    assert_eq!(scenario.next_update(), Some(vec![]));
    assert_eq!(scenario.versions["web/p"].as_deref(), Some("11"));
    scenario.list(Kind::NetworkPolicy, &[policy("p", "11", json!({}))]);
    assert_eq!(scenario.next_update(), None);
    scenario.deleted(Kind::NetworkPolicy, &policy("p", "12", json!({})));
    assert_eq!(scenario.next_update().expect("gone"), ["-NetworkPolicy web/p"]);
    assert_eq!(scenario.versions["web/p"], None);
    scenario.applied(Kind::NetworkPolicy, &policy("q", "13", json!({})));
    scenario.deleted(Kind::NetworkPolicy, &policy("q", "14", json!({})));
    assert_eq!(scenario.next_update(), None, "it came and went between two updates");
}

#[test]
fn a_version_of_a_policy_that_exceeds_its_budget_again_and_again_has_one_event() {
    let mut scenario = Scenario::begun();
    let refused = || RefusedPolicy {
        name: PolicyName::network_policy("web", "p"),
        message: "it has more entries than its namespace may have".into(),
    };
    assert_eq!(scenario.state.over_budget(refused()), None, "it is not there");
    scenario.applied(Kind::NetworkPolicy, &policy("p", "10", json!({})));
    assert!(scenario.state.over_budget(refused()).is_some());
    assert_eq!(scenario.state.over_budget(refused()), None, "it fitted in between, and the Event is there");
    scenario.applied(Kind::NetworkPolicy, &policy("p", "11", json!({})));
    let event = scenario.state.over_budget(refused()).expect("another version");
    assert_eq!(&*event.resource_version, "11");
}

#[test]
fn a_policy_of_a_newer_api_is_reported_until_it_is_understood_or_gone() {
    let mut scenario = Scenario::begun();
    let future = json!({"ingress": [{"from": [{"services": {}}]}]});
    scenario.applied(Kind::NetworkPolicy, &policy("p", "10", future.clone()));
    assert_eq!(scenario.next_update().expect("a policy"), ["NetworkPolicy web/p"]);
    let said =
        "NetworkPolicy web/p (version 10): spec.ingress[0].from[0].services: this field is not known; ";
    assert!(scenario.problems[0].starts_with(said), "{:?}", scenario.problems);
    let [warnings] = &scenario.state.take_warnings()[..] else { panic!("one Event") };
    assert_eq!((&*warnings.name, &*warnings.uid, &*warnings.resource_version), ("p", "uid-p", "10"));
    assert!(warnings.message.contains("services"), "{warnings:?}");
    scenario.list(Kind::NetworkPolicy, &[policy("p", "10", future)]);
    assert_eq!(
        (scenario.next_update(), scenario.state.take_warnings()),
        (None, vec![]),
        "reported once for each version"
    );
    scenario.applied(Kind::NetworkPolicy, &policy("p", "11", json!({"ingress": []})));
    scenario.next_update().expect("understood");
    assert_eq!(scenario.problems, Vec::<String>::new());
    scenario.applied(Kind::NetworkPolicy, &policy("p", "12", json!({"policyTypes": ["Sideways"]})));
    scenario.deleted(Kind::NetworkPolicy, &policy("p", "13", json!({})));
    scenario.next_update().expect("gone");
    assert_eq!(scenario.problems, Vec::<String>::new());
}

#[test]
fn an_api_object_is_converted_like_one_of_a_manifest() {
    let mut scenario = Scenario::begun();
    let hidden = json!({"key": "env", "operator": "NotIn", "values": ["prod\u{200b}"]});
    let rules = json!({"ingress": [
        {"from": [{"podSelector": {"matchExpressions": [hidden]}}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]},
    ]});
    scenario.applied(Kind::NetworkPolicy, &policy("p", "10", rules));
    let update = scenario.state.update().expect("a policy");
    assert_eq!((update.read.files, update.read.objects, update.read.policies), (None, 1, 1));
    let said: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("\"prod<U+200B zero-width space>\" is not a valid label value"), "{said:?}");
    assert!(said[1].contains("an except must be smaller than its cidr"), "{said:?}");
    let [event] = &scenario.state.take_warnings()[..] else { panic!("one Event") };
    assert!(event.message.contains("<U+200B zero-width space>"), "{event:?}");
}

#[test]
fn an_object_that_is_not_understood_gives_no_access() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    scenario.next_update().expect("a pod");
    let mut odd = pod("a", "2", "Running", &["10.0.0.2"]);
    odd["spec"]["hostNetwork"] = json!("perhaps");
    scenario.applied(Kind::Pod, &odd);
    assert_eq!(scenario.next_update().expect("it is no longer known"), ["-Namespace web", "-Pod web/a"]);
    assert!(scenario.problems[0].starts_with("Pod web/a (version 2): "), "{:?}", scenario.problems);
    scenario.list(Kind::Pod, &[]);
    assert_eq!((scenario.next_update(), scenario.problems.len()), (Some(vec![]), 0));
}

#[test]
fn labels_that_cannot_be_read_are_unknown_until_they_are_readable() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::Namespace, &namespace(json!({"team": "a"})));
    scenario.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    scenario.next_update().expect("a pod");
    let mut odd = pod("a", "2", "Running", &["10.0.0.2"]);
    odd["metadata"]["labels"] = json!({"app": 7});
    scenario.applied(Kind::Pod, &odd);
    scenario.applied(Kind::Namespace, &namespace(json!({"team": 7})));
    assert_eq!(scenario.next_update().expect("both differ"), ["Namespace web", "Pod web/a"]);
    let labels = |scenario: &Scenario| {
        let pod = &scenario.known.pods[&PodName::new("web", "a")];
        [scenario.known.namespaces["web"].labels.clone(), pod.labels.clone()]
    };
    assert_eq!(labels(&scenario), [Labels::unknown(), Labels::unknown()]);
    assert_eq!(scenario.addresses("a"), ["10.0.0.2"], "policies are enforced for it");
    assert!(
        scenario.problems[1].contains("metadata.labels.app: the value 7 is not a string"),
        "{:?}",
        scenario.problems
    );
    scenario.applied(Kind::Namespace, &namespace(json!({"team": "b"})));
    scenario.applied(Kind::Pod, &pod("a", "3", "Running", &["10.0.0.2"]));
    scenario.next_update().expect("both are known again");
    assert!(labels(&scenario).iter().all(Labels::are_known));
    assert_eq!(scenario.problems.len(), 0);
}

#[test]
fn a_namespace_that_goes_before_its_pods_leaves_its_labels_unknown() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::Namespace, &namespace(json!({"env": "prod"})));
    scenario.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    scenario.next_update().expect("a pod");
    scenario.deleted(Kind::Namespace, &namespace(json!({"env": "prod"})));
    assert_eq!(scenario.next_update().expect("its labels"), ["Namespace web"]);
    assert!(!scenario.known.namespaces["web"].labels.are_known(), "it is not known to have no env");
    scenario.deleted(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    assert_eq!(scenario.next_update().expect("both are gone"), ["-Namespace web", "-Pod web/a"]);
}

#[test]
fn a_new_pod_has_the_address_in_the_cni_cache_until_the_api_server_reports_one() {
    let mut scenario = Scenario::begun();
    scenario.files(&[("a", "uid-a", "10.0.0.2")]);
    assert_eq!(scenario.next_update(), None, "a pod that the API server doesn't know has no labels");
    scenario.applied(Kind::Pod, &pod("a", "1", "Pending", &[]));
    scenario.next_update().expect("a pod");
    assert_eq!(scenario.addresses("a"), ["10.0.0.2"]);
    scenario.applied(Kind::Pod, &pod("a", "2", "Running", &["10.0.0.2", "fd00::2"]));
    assert_eq!(scenario.next_update().expect("the other family, too"), ["Pod web/a"]);
    assert_eq!(scenario.addresses("a"), ["10.0.0.2", "fd00::2"]);
    scenario.files(&[]);
    assert_eq!(scenario.next_update(), None, "without a file the API server's addresses count");
    scenario.deleted(Kind::Pod, &pod("a", "3", "Running", &[]));
    scenario.files(&[("a", "uid-a", "10.0.0.2")]);
    assert_eq!(scenario.next_update().expect("a and its namespace"), ["-Namespace web", "-Pod web/a"]);
}

#[test]
fn a_cached_address_is_in_force_as_long_as_its_file() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::Pod, &pod("a", "1", "Pending", &[]));
    scenario.next_update().expect("a pod");
    scenario.files(&[("a", "uid-a", "10.0.0.2")]);
    assert_eq!(scenario.next_update().expect("its sandbox is up"), ["Pod web/a"]);
    scenario.applied(Kind::Pod, &pod("a", "2", "Pending", &[]));
    assert_eq!(scenario.next_update(), None, "an update without an address removes none");
    scenario.files(&[]);
    assert_eq!(scenario.next_update().expect("its sandbox failed"), ["Pod web/a"]);
    assert_eq!(scenario.addresses("a"), Vec::<String>::new());
}

#[test]
fn a_pod_of_another_node_or_of_the_host_network_gets_no_cached_address() {
    let mut scenario = Scenario::begun();
    let mut elsewhere = pod("a", "1", "Pending", &[]);
    elsewhere["spec"]["nodeName"] = json!("other");
    let mut host = pod("b", "2", "Pending", &[]);
    host["spec"]["hostNetwork"] = json!(true);
    scenario.applied(Kind::Pod, &elsewhere);
    scenario.applied(Kind::Pod, &host);
    scenario.files(&[("a", "uid-a", "10.0.0.2"), ("b", "uid-b", "10.0.0.3")]);
    scenario.next_update().expect("pods");
    assert_eq!((scenario.addresses("a"), scenario.addresses("b")), (vec![], vec![]));
}

#[test]
fn a_jobs_address_belongs_to_the_next_pod_immediately() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::Pod, &pod("job", "1", "Running", &["10.0.0.2"]));
    scenario.applied(Kind::Pod, &pod("next", "2", "Pending", &[]));
    scenario.next_update().expect("pods");
    scenario.files(&[("next", "uid-next", "10.0.0.2")]);
    assert_eq!(scenario.next_update().expect("both"), ["Pod web/job", "Pod web/next"]);
    assert_eq!(
        (scenario.addresses("job"), scenario.addresses("next")),
        (vec![], vec!["10.0.0.2".to_owned()])
    );
    scenario.applied(Kind::Pod, &pod("job", "3", "Succeeded", &["10.0.0.2"]));
    assert_eq!(scenario.next_update(), None, "known before the API server reports it");
}

#[test]
fn a_new_sandbox_has_its_address_before_the_api_server_knows() {
    let mut scenario = Scenario::begun();
    scenario.files(&[("a", "uid-a", "10.0.0.2"), ("b", "uid-b", "10.0.0.3")]);
    scenario.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    scenario.applied(Kind::Pod, &pod("b", "2", "Running", &["10.0.0.3"]));
    scenario.next_update().expect("pods");
    // The node reboots, and the two pods get each other's address.
    scenario.files(&[
        ("a", "uid-a", "10.0.0.2"),
        ("b", "uid-b", "10.0.0.3"),
        ("b", "uid-b", "10.0.0.2"),
        ("a", "uid-a", "10.0.0.3"),
    ]);
    assert_eq!(scenario.next_update().expect("both"), ["Pod web/a", "Pod web/b"]);
    let swapped = |scenario: &Scenario| {
        assert_eq!([scenario.addresses("a"), scenario.addresses("b")], [["10.0.0.3"], ["10.0.0.2"]])
    };
    swapped(&scenario);
    scenario.applied(Kind::Pod, &pod("a", "3", "Running", &["10.0.0.2"]));
    assert_eq!(scenario.next_update(), None, "another version with the previous address");
    scenario.applied(Kind::Pod, &pod("a", "4", "Running", &["10.0.0.3"]));
    scenario.applied(Kind::Pod, &pod("b", "5", "Running", &["10.0.0.2"]));
    scenario.next_update().expect("both are reported");
    swapped(&scenario);
}

#[test]
fn an_address_counts_as_reported_in_its_first_version() {
    let mut scenario = Scenario::begun();
    let reported = |scenario: &Scenario| scenario.known.pods[&PodName::new("web", "a")].reported;
    let mut elsewhere = |version: &str, addresses: &[&str]| {
        let mut pod = pod("a", version, "Running", addresses);
        pod["spec"]["nodeName"] = json!("other");
        scenario.applied(Kind::Pod, &pod);
        scenario.next_update();
        reported(&scenario)
    };
    assert_eq!(elsewhere("1", &["10.0.1.2"]), 1);
    assert_eq!(elsewhere("8", &["10.0.1.2"]), 1, "repeated");
    assert_eq!(elsewhere("9", &["10.0.1.3"]), 9);
    assert_eq!(elsewhere("12", &["10.0.1.3", "fd00::3"]), 12);
    assert_eq!(elsewhere("14", &["fd00::3"]), 12, "one of them is dropped");
    assert_eq!(elsewhere("v15", &["10.0.1.2"]), 0, "a version that is not a number is ignored");
}

#[test]
fn a_late_deletion_of_an_earlier_object_removes_no_later_one_of_the_same_name() {
    let mut scenario = Scenario::begun();
    let with_uid = |mut object: Value, uid: &str| {
        object["metadata"]["uid"] = json!(uid);
        object
    };
    let objects = [
        (Kind::Namespace, namespace(json!({"team": "a"}))),
        (Kind::Node, json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}})),
        (Kind::Pod, pod("a", "1", "Running", &["10.0.0.2"])),
        (Kind::NetworkPolicy, policy("p", "1", json!({}))),
    ];
    for (kind, object) in &objects {
        scenario.applied(*kind, &with_uid(object.clone(), "2"));
    }
    assert_eq!(scenario.next_update().expect("all").len(), objects.len());
    for (kind, object) in &objects {
        scenario.deleted(*kind, &with_uid(object.clone(), "1"));
    }
    assert_eq!(scenario.next_update(), None, "those that are gone had another UID");
    for (kind, object) in &objects {
        scenario.deleted(*kind, &with_uid(object.clone(), "2"));
    }
    assert_eq!(scenario.next_update().expect("all").len(), objects.len());
    assert_eq!(scenario.known, Inventory::default());
}

#[test]
fn beyond_a_limit_faulty_objects_of_a_namespace_are_counted() {
    let mut scenario = Scenario::begun();
    let faulty = |n: usize, version: &str| {
        let policy = policy(
            &format!("p{n:03}"),
            version,
            json!({"podSelector": {}, "ingress": [{"from": [{"x": 1}]}]}),
        );
        (Kind::NetworkPolicy, policy)
    };
    for (kind, object) in (0..150).map(|n| faulty(n, "5")) {
        scenario.applied(kind, &object);
    }
    scenario.next_update();
    assert_eq!(scenario.problems.len(), 101);
    let more = |scenario: &Scenario| {
        scenario.problems.iter().find(|problem| problem.contains("50 objects of the namespace web")).cloned()
    };
    let text = more(&scenario).expect("a summary");
    assert!(
        text.starts_with("NetworkPolicy web/p100 (version 5): ") && text.contains("an Event on each"),
        "{text}"
    );
    assert_eq!(scenario.state.take_warnings().len(), 150, "each has an Event");
    // Repeating the same is not a change, not even for objects that are counted.
    for n in [3, 120] {
        let (kind, object) = faulty(n, "5");
        scenario.applied(kind, &object);
    }
    assert_eq!((scenario.next_update(), scenario.state.take_warnings().len()), (None, 0));
    for n in 100..150 {
        let (kind, object) = faulty(n, "6");
        scenario.deleted(kind, &object);
    }
    scenario.next_update();
    assert_eq!((scenario.problems.len(), more(&scenario)), (100, None));
}
