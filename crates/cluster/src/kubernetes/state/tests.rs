//! Lists and watches as stories: what the API server says, and what the consumer is told.

use policy::{Budget, Inventory};
use serde_json::{Value, json};

use super::*;

mod reread;
mod standby;

/// A state of node `n`, and what its consumer knows.
struct Story {
    state: State,
    known: Inventory,
    problems: Vec<String>,
    versions: BTreeMap<String, Option<String>>,
}

impl Story {
    fn new() -> Self {
        Self {
            state: State::new("n".into(), Budget { namespace: 100, total: 10_000 }),
            known: Inventory::default(),
            problems: Vec::new(),
            versions: BTreeMap::new(),
        }
    }

    /// With every list complete and empty, and told.
    fn begun() -> Self {
        let mut story = Self::new();
        Kind::ALL.into_iter().for_each(|kind| story.list(kind, &[]));
        assert_eq!(story.told(), Some(Vec::new()), "the first update comes also if there is nothing");
        story
    }

    fn list(&mut self, kind: Kind, objects: &[Value]) {
        self.state.take_in(kind, Event::Began);
        self.listed(kind, objects);
        self.state.take_in(kind, Event::Complete);
    }

    fn listed(&mut self, kind: Kind, objects: &[Value]) {
        for fields in objects {
            let object = self.object(kind, fields);
            self.state.take_in(kind, Event::Listed(object));
        }
    }

    fn applied(&mut self, kind: Kind, fields: &Value) {
        let object = self.object(kind, fields);
        self.state.take_in(kind, Event::Applied(object));
    }

    fn object(&self, kind: Kind, fields: &Value) -> Object {
        Object::of(kind, fields, &[], self.state.interner())
    }

    fn deleted(&mut self, kind: Kind, fields: &Value) {
        self.state.take_in(kind, Event::Deleted(Identity::of(fields)));
    }

    fn files(&mut self, claims: &[(&str, &str, &str)]) {
        let claim = |(name, uid, address): &(&str, &str, &str)| Claim {
            pod: PodName::new("web", *name),
            uid: PodUid::of(uid),
            addresses: vec![address.parse().expect("address")],
            host_interface: None,
        };
        self.state.claims(claims.iter().map(claim).collect());
    }

    /// The objects that the next update mentions, those that are gone behind a `-`; `None` if there is no update.
    fn told(&mut self) -> Option<Vec<String>> {
        let update = self.state.update()?;
        let mut mentioned = Vec::new();
        for change in update.changes {
            let key = Key::of(&change);
            let is_gone = key.clone().gone() == change;
            mentioned.push(if is_gone { format!("-{key}") } else { key.to_string() });
            let before = self.known.clone();
            self.known.apply(change.clone());
            assert_ne!(before, self.known, "a change that changes nothing: {change:?}");
        }
        self.problems = update.problems.iter().map(ToString::to_string).collect();
        let version = |(name, version): (PolicyName, Option<ResourceVersion>)| {
            (name.to_string(), version.map(|version| version.to_string()))
        };
        self.versions.extend(update.versions.into_iter().map(version));
        Some(mentioned)
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
fn nothing_is_told_before_every_list_is_complete() {
    let mut story = Story::new();
    story.list(Kind::Namespace, &[namespace(json!({}))]);
    story.list(Kind::Node, &[json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}})]);
    story.list(Kind::NetworkPolicy, &[policy("p", "3", json!({}))]);
    story.state.take_in(Kind::Pod, Event::Began);
    story.listed(Kind::Pod, &[pod("a", "4", "Running", &["10.0.0.2"])]);
    assert_eq!(story.told(), None);
    story.listed(Kind::Pod, &[pod("b", "5", "Running", &["10.0.0.3"])]);
    story.state.take_in(Kind::Pod, Event::Complete);
    let all = ["Namespace web", "Node n", "Pod web/a", "Pod web/b", "NetworkPolicy web/p"];
    assert_eq!(story.told().expect("all at once"), all);
    assert_eq!(story.told(), None, "nothing new");
}

#[test]
fn nodes_are_done_without_where_they_may_not_be_read_and_pods_are_not() {
    let mut story = Story::new();
    [Kind::Namespace, Kind::NetworkPolicy].into_iter().for_each(|kind| story.list(kind, &[]));
    story.state.take_in(Kind::Node, Event::Refused);
    story.state.take_in(Kind::Pod, Event::Refused);
    assert_eq!(story.told(), None);
    story.list(Kind::Pod, &[]);
    assert_eq!(story.told(), Some(vec![]));
    story.list(Kind::Node, &[json!({"metadata": {"name": "n"}})]);
    assert_eq!(story.told().expect("allowed at last"), ["Node n"]);
}

#[test]
fn a_node_without_a_range_of_pods_is_named_until_it_has_one_and_gets_no_event() {
    let mut story = Story::new();
    Kind::ALL.into_iter().for_each(|kind| story.list(kind, &[]));
    story.told();
    let mut say = |spec: serde_json::Value| {
        story.list(Kind::Node, &[json!({"metadata": {"name": "n"}, "spec": spec})]);
        story.told();
        (story.state.problems.reported().len(), story.state.misunderstood().len())
    };
    assert_eq!(say(json!({})), (1, 0));
    assert_eq!(say(json!({"podCIDRs": ["10.0.0.0/24"]})), (0, 0));
    assert_eq!(say(json!({"podCIDRs": ["10.0.0.0"]})), (1, 1));
}

#[test]
fn a_list_after_a_gap_tells_only_what_differs() {
    let mut story = Story::begun();
    let (a, b, c) = (
        pod("a", "1", "Running", &["10.0.0.2"]),
        pod("b", "2", "Running", &["10.0.0.3"]),
        pod("c", "3", "", &[]),
    );
    [&a, &b, &c].into_iter().for_each(|pod| story.applied(Kind::Pod, pod));
    assert_eq!(story.told().expect("pods").len(), 4, "and their namespace");
    story.state.take_in(Kind::Pod, Event::Began);
    story.listed(Kind::Pod, std::slice::from_ref(&b));
    // The connection broke: the list begins again.
    story.state.take_in(Kind::Pod, Event::Began);
    story.listed(Kind::Pod, &[a, pod("c", "9", "Running", &["10.0.0.4"])]);
    assert_eq!(
        story.told().expect("what is listed is there"),
        ["Pod web/c"],
        "what was not listed yet is not gone yet"
    );
    story.state.take_in(Kind::Pod, Event::Complete);
    assert_eq!(story.told().expect("b vanished"), ["-Pod web/b"]);
}

#[test]
fn what_changes_nothing_that_matters_is_not_told() {
    let mut story = Story::begun();
    story.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    story.told().expect("a pod");
    story.applied(Kind::Pod, &pod("a", "2", "Running", &["10.0.0.2"]));
    assert_eq!(story.told(), None, "another version of the same");
    let mut labelled = pod("a", "3", "Running", &["10.0.0.2"]);
    labelled["metadata"]["labels"] = json!({"app": "a"});
    story.applied(Kind::Pod, &labelled);
    story.applied(Kind::Pod, &pod("a", "4", "Running", &["10.0.0.2"]));
    assert_eq!(story.told(), None, "there and back");
    story.applied(Kind::Pod, &pod("a", "5", "Succeeded", &["10.0.0.2"]));
    assert_eq!(story.told().expect("released"), ["Pod web/a"]);
    assert_eq!(story.addresses("a"), Vec::<String>::new());
}

#[test]
fn the_version_of_a_policy_is_told_also_where_it_means_the_same() {
    let mut story = Story::begun();
    story.applied(Kind::NetworkPolicy, &policy("p", "10", json!({})));
    assert_eq!(story.told().expect("new"), ["NetworkPolicy web/p"]);
    story.applied(Kind::NetworkPolicy, &policy("p", "11", json!({})));
    assert_eq!(story.told(), Some(vec![]));
    assert_eq!(story.versions["web/p"].as_deref(), Some("11"));
    story.list(Kind::NetworkPolicy, &[policy("p", "11", json!({}))]);
    assert_eq!(story.told(), None);
    story.deleted(Kind::NetworkPolicy, &policy("p", "12", json!({})));
    assert_eq!(story.told().expect("gone"), ["-NetworkPolicy web/p"]);
    assert_eq!(story.versions["web/p"], None);
    story.applied(Kind::NetworkPolicy, &policy("q", "13", json!({})));
    story.deleted(Kind::NetworkPolicy, &policy("q", "14", json!({})));
    assert_eq!(story.told(), None, "it came and went between two updates");
}

#[test]
fn a_version_of_a_policy_that_exceeds_its_budget_again_and_again_has_one_event() {
    let mut story = Story::begun();
    let refused = || RefusedPolicy {
        name: PolicyName::network_policy("web", "p"),
        message: "it has more entries than its namespace may have".into(),
    };
    assert_eq!(story.state.over_budget(refused()), None, "it is not there");
    story.applied(Kind::NetworkPolicy, &policy("p", "10", json!({})));
    assert!(story.state.over_budget(refused()).is_some());
    assert_eq!(story.state.over_budget(refused()), None, "it fitted in between, and the Event is there");
    story.applied(Kind::NetworkPolicy, &policy("p", "11", json!({})));
    let event = story.state.over_budget(refused()).expect("another version");
    assert_eq!(&*event.resource_version, "11");
}

#[test]
fn a_policy_of_a_newer_api_is_named_until_it_is_understood_or_gone() {
    let mut story = Story::begun();
    let future = json!({"ingress": [{"from": [{"services": {}}]}]});
    story.applied(Kind::NetworkPolicy, &policy("p", "10", future.clone()));
    assert_eq!(story.told().expect("a policy"), ["NetworkPolicy web/p"]);
    let said =
        "NetworkPolicy web/p (version 10): spec.ingress[0].from[0].services: this field is not known; ";
    assert!(story.problems[0].starts_with(said), "{:?}", story.problems);
    let [misunderstood] = &story.state.misunderstood()[..] else { panic!("one Event") };
    assert_eq!(
        (&*misunderstood.name, &*misunderstood.uid, &*misunderstood.resource_version),
        ("p", "uid-p", "10")
    );
    assert!(misunderstood.message.contains("services"), "{misunderstood:?}");
    story.list(Kind::NetworkPolicy, &[policy("p", "10", future)]);
    assert_eq!((story.told(), story.state.misunderstood()), (None, vec![]), "told once for each version");
    story.applied(Kind::NetworkPolicy, &policy("p", "11", json!({"ingress": []})));
    story.told().expect("understood");
    assert_eq!(story.problems, Vec::<String>::new());
    story.applied(Kind::NetworkPolicy, &policy("p", "12", json!({"policyTypes": ["Sideways"]})));
    story.deleted(Kind::NetworkPolicy, &policy("p", "13", json!({})));
    story.told().expect("gone");
    assert_eq!(story.problems, Vec::<String>::new());
}

#[test]
fn an_object_of_the_api_is_converted_as_one_of_a_manifest_is() {
    let mut story = Story::begun();
    let hidden = json!({"key": "env", "operator": "NotIn", "values": ["prod\u{200b}"]});
    let rules = json!({"ingress": [
        {"from": [{"podSelector": {"matchExpressions": [hidden]}}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]},
    ]});
    story.applied(Kind::NetworkPolicy, &policy("p", "10", rules));
    let update = story.state.update().expect("a policy");
    assert_eq!((update.read.files, update.read.objects, update.read.policies), (None, 1, 1));
    let said: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("\"prod<U+200B zero-width space>\" is no label's value"), "{said:?}");
    assert!(said[1].contains("an except must be smaller than its cidr"), "{said:?}");
    let [event] = &story.state.misunderstood()[..] else { panic!("one Event") };
    assert!(event.message.contains("<U+200B zero-width space>"), "{event:?}");
}

#[test]
fn an_object_of_which_nothing_is_understood_gives_access_to_nobody() {
    let mut story = Story::begun();
    story.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    story.told().expect("a pod");
    let mut odd = pod("a", "2", "Running", &["10.0.0.2"]);
    odd["spec"]["hostNetwork"] = json!("perhaps");
    story.applied(Kind::Pod, &odd);
    assert_eq!(story.told().expect("it is not known any more"), ["-Namespace web", "-Pod web/a"]);
    assert!(story.problems[0].starts_with("Pod web/a (version 2): "), "{:?}", story.problems);
    story.list(Kind::Pod, &[]);
    assert_eq!((story.told(), story.problems.len()), (Some(vec![]), 0));
}

#[test]
fn labels_that_cannot_be_read_are_unknown_until_they_can() {
    let mut story = Story::begun();
    story.applied(Kind::Namespace, &namespace(json!({"team": "a"})));
    story.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    story.told().expect("a pod");
    let mut odd = pod("a", "2", "Running", &["10.0.0.2"]);
    odd["metadata"]["labels"] = json!({"app": 7});
    story.applied(Kind::Pod, &odd);
    story.applied(Kind::Namespace, &namespace(json!({"team": 7})));
    assert_eq!(story.told().expect("both differ"), ["Namespace web", "Pod web/a"]);
    let labels = |story: &Story| {
        let pod = &story.known.pods[&PodName::new("web", "a")];
        [story.known.namespaces["web"].labels.clone(), pod.labels.clone()]
    };
    assert_eq!(labels(&story), [Labels::unknown(), Labels::unknown()]);
    assert_eq!(story.addresses("a"), ["10.0.0.2"], "policies hold for it");
    assert!(
        story.problems[1].contains("metadata.labels.app: the value 7 is no text"),
        "{:?}",
        story.problems
    );
    story.applied(Kind::Namespace, &namespace(json!({"team": "b"})));
    story.applied(Kind::Pod, &pod("a", "3", "Running", &["10.0.0.2"]));
    story.told().expect("both are known again");
    assert!(labels(&story).iter().all(Labels::are_known));
    assert_eq!(story.problems.len(), 0);
}

#[test]
fn a_namespace_that_goes_before_its_pods_leaves_its_labels_unknown() {
    let mut story = Story::begun();
    story.applied(Kind::Namespace, &namespace(json!({"env": "prod"})));
    story.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    story.told().expect("a pod");
    story.deleted(Kind::Namespace, &namespace(json!({"env": "prod"})));
    assert_eq!(story.told().expect("its labels"), ["Namespace web"]);
    assert!(!story.known.namespaces["web"].labels.are_known(), "that it has no env can't be said");
    story.deleted(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    assert_eq!(story.told().expect("both are gone"), ["-Namespace web", "-Pod web/a"]);
}

#[test]
fn a_new_pod_has_the_address_in_the_cni_cache_until_the_api_server_says_one() {
    let mut story = Story::begun();
    story.files(&[("a", "uid-a", "10.0.0.2")]);
    assert_eq!(story.told(), None, "a pod that the API server doesn't know has no labels");
    story.applied(Kind::Pod, &pod("a", "1", "Pending", &[]));
    story.told().expect("a pod");
    assert_eq!(story.addresses("a"), ["10.0.0.2"]);
    story.applied(Kind::Pod, &pod("a", "2", "Running", &["10.0.0.2", "fd00::2"]));
    assert_eq!(story.told().expect("the other family, too"), ["Pod web/a"]);
    assert_eq!(story.addresses("a"), ["10.0.0.2", "fd00::2"]);
    story.files(&[]);
    assert_eq!(story.told(), None, "without a file the API server's word counts");
    story.deleted(Kind::Pod, &pod("a", "3", "Running", &[]));
    story.files(&[("a", "uid-a", "10.0.0.2")]);
    assert_eq!(story.told().expect("a and its namespace"), ["-Namespace web", "-Pod web/a"]);
}

#[test]
fn an_address_comes_with_the_file_and_goes_with_it() {
    let mut story = Story::begun();
    story.applied(Kind::Pod, &pod("a", "1", "Pending", &[]));
    story.told().expect("a pod");
    story.files(&[("a", "uid-a", "10.0.0.2")]);
    assert_eq!(story.told().expect("its sandbox is up"), ["Pod web/a"]);
    story.applied(Kind::Pod, &pod("a", "2", "Pending", &[]));
    assert_eq!(story.told(), None, "an update that knows of no address takes none away");
    story.files(&[]);
    assert_eq!(story.told().expect("its sandbox failed"), ["Pod web/a"]);
    assert_eq!(story.addresses("a"), Vec::<String>::new());
}

#[test]
fn a_pod_of_another_node_or_of_the_nodes_own_network_is_given_nothing() {
    let mut story = Story::begun();
    let mut elsewhere = pod("a", "1", "Pending", &[]);
    elsewhere["spec"]["nodeName"] = json!("other");
    let mut host = pod("b", "2", "Pending", &[]);
    host["spec"]["hostNetwork"] = json!(true);
    story.applied(Kind::Pod, &elsewhere);
    story.applied(Kind::Pod, &host);
    story.files(&[("a", "uid-a", "10.0.0.2"), ("b", "uid-b", "10.0.0.3")]);
    story.told().expect("pods");
    assert_eq!((story.addresses("a"), story.addresses("b")), (vec![], vec![]));
}

#[test]
fn a_jobs_address_is_the_next_pods_at_once() {
    let mut story = Story::begun();
    story.applied(Kind::Pod, &pod("job", "1", "Running", &["10.0.0.2"]));
    story.applied(Kind::Pod, &pod("next", "2", "Pending", &[]));
    story.told().expect("pods");
    story.files(&[("next", "uid-next", "10.0.0.2")]);
    assert_eq!(story.told().expect("both"), ["Pod web/job", "Pod web/next"]);
    assert_eq!((story.addresses("job"), story.addresses("next")), (vec![], vec!["10.0.0.2".to_owned()]));
    story.applied(Kind::Pod, &pod("job", "3", "Succeeded", &["10.0.0.2"]));
    assert_eq!(story.told(), None, "known before the API server said so");
}

#[test]
fn a_new_sandbox_has_its_address_before_the_api_server_knows() {
    let mut story = Story::begun();
    story.files(&[("a", "uid-a", "10.0.0.2"), ("b", "uid-b", "10.0.0.3")]);
    story.applied(Kind::Pod, &pod("a", "1", "Running", &["10.0.0.2"]));
    story.applied(Kind::Pod, &pod("b", "2", "Running", &["10.0.0.3"]));
    story.told().expect("pods");
    // The node reboots, and the two pods get each other's address.
    story.files(&[
        ("a", "uid-a", "10.0.0.2"),
        ("b", "uid-b", "10.0.0.3"),
        ("b", "uid-b", "10.0.0.2"),
        ("a", "uid-a", "10.0.0.3"),
    ]);
    assert_eq!(story.told().expect("both"), ["Pod web/a", "Pod web/b"]);
    let swapped = |story: &Story| {
        assert_eq!([story.addresses("a"), story.addresses("b")], [["10.0.0.3"], ["10.0.0.2"]])
    };
    swapped(&story);
    story.applied(Kind::Pod, &pod("a", "3", "Running", &["10.0.0.2"]));
    assert_eq!(story.told(), None, "another version with the address of before");
    story.applied(Kind::Pod, &pod("a", "4", "Running", &["10.0.0.3"]));
    story.applied(Kind::Pod, &pod("b", "5", "Running", &["10.0.0.2"]));
    story.told().expect("both are reported");
    swapped(&story);
}

#[test]
fn an_address_was_reported_when_it_was_new() {
    let mut story = Story::begun();
    let reported = |story: &Story| story.known.pods[&PodName::new("web", "a")].reported;
    let mut elsewhere = |version: &str, addresses: &[&str]| {
        let mut pod = pod("a", version, "Running", addresses);
        pod["spec"]["nodeName"] = json!("other");
        story.applied(Kind::Pod, &pod);
        story.told();
        reported(&story)
    };
    assert_eq!(elsewhere("1", &["10.0.1.2"]), 1);
    assert_eq!(elsewhere("8", &["10.0.1.2"]), 1, "repeated");
    assert_eq!(elsewhere("9", &["10.0.1.3"]), 9);
    assert_eq!(elsewhere("12", &["10.0.1.3", "fd00::3"]), 12);
    assert_eq!(elsewhere("14", &["fd00::3"]), 12, "one of them is taken back");
    assert_eq!(elsewhere("v15", &["10.0.1.2"]), 0, "a version that is no number says nothing");
}

#[test]
fn a_late_deletion_of_an_earlier_object_removes_no_later_one_of_the_same_name() {
    let mut story = Story::begun();
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
        story.applied(*kind, &with_uid(object.clone(), "2"));
    }
    assert_eq!(story.told().expect("all").len(), objects.len());
    for (kind, object) in &objects {
        story.deleted(*kind, &with_uid(object.clone(), "1"));
    }
    assert_eq!(story.told(), None, "those that are gone had another UID");
    for (kind, object) in &objects {
        story.deleted(*kind, &with_uid(object.clone(), "2"));
    }
    assert_eq!(story.told().expect("all").len(), objects.len());
    assert_eq!(story.known, Inventory::default());
}

#[test]
fn of_very_many_faulty_objects_of_a_namespace_some_are_named_and_the_others_counted() {
    let mut story = Story::begun();
    let faulty = |n: usize, version: &str| {
        let policy = policy(
            &format!("p{n:03}"),
            version,
            json!({"podSelector": {}, "ingress": [{"from": [{"x": 1}]}]}),
        );
        (Kind::NetworkPolicy, policy)
    };
    for (kind, object) in (0..150).map(|n| faulty(n, "5")) {
        story.applied(kind, &object);
    }
    story.told();
    assert_eq!(story.problems.len(), 101);
    let more = |story: &Story| {
        story.problems.iter().find(|problem| problem.contains("50 objects of the namespace web")).cloned()
    };
    let text = more(&story).expect("a summary");
    assert!(
        text.starts_with("NetworkPolicy web/p100 (version 5): ") && text.contains("an Event on each"),
        "{text}"
    );
    assert_eq!(story.state.misunderstood().len(), 150, "each has an Event");
    // The same again is no news, for those that are counted neither.
    for n in [3, 120] {
        let (kind, object) = faulty(n, "5");
        story.applied(kind, &object);
    }
    assert_eq!((story.told(), story.state.misunderstood().len()), (None, 0));
    for n in 100..150 {
        let (kind, object) = faulty(n, "6");
        story.deleted(kind, &object);
    }
    story.told();
    assert_eq!((story.problems.len(), more(&story)), (100, None));
}
