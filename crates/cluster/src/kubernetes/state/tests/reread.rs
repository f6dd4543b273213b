//! Objects that are read again: policies beyond the budget, whose rules are not kept, and objects that are
//! too large for a watch.

use super::*;
use crate::kubernetes::object::Outline;
use crate::kubernetes::reread::{Answer, Reread};

/// A policy with this many entries, at least 19.
fn large(name: &str, version: &str, entries: usize) -> Value {
    let except: Vec<String> = (0..entries - 18).map(|n| format!("10.0.{n}.0/24")).collect();
    let rule = json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": except}}]});
    policy(name, version, json!({"podSelector": {}, "ingress": [rule]}))
}

impl Scenario {
    /// The known policies, each with the cost of its omitted rules.
    fn policies(&self) -> Vec<(&str, Option<u64>)> {
        let with_cost = |policy: &Arc<policy::PolicySpec>| {
            assert_eq!(policy.omitted.is_some(), policy.ingress.is_empty(), "{policy:?}");
            policy.omitted
        };
        self.known.policies.values().map(|policy| (&*policy.name.name, with_cost(policy))).collect()
    }

    /// Answers the next request.
    fn answer(&mut self, name: &str, object: Option<&Value>) {
        let (key, expected) = self.state.next_reread().expect("a queued object");
        assert_eq!(key.namespace_and_name().1, name);
        self.late_answer(key, expected, object);
    }

    fn late_answer(&mut self, key: Key, expected: ResourceVersion, object: Option<&Value>) {
        let there = |fields| Answer::There(Box::new(self.object(key.kind(), fields)));
        let answer = Some(object.map_or(Answer::Gone, there));
        self.state.reread(Reread { key, expected, answer });
    }

    fn large(&mut self, fields: &Value) {
        self.large_of(Kind::NetworkPolicy, fields);
    }

    fn large_of(&mut self, kind: Kind, fields: &Value) {
        let outline = Outline::of(kind, &fields.to_string(), &self.state.interner);
        let (identity, isolation) = match outline.expect("an object") {
            Outline::Large { identity, isolation } => (identity, isolation),
            Outline::Small(object) => return self.state.apply(kind, WatcherEvent::Apply(object)),
        };
        self.state.apply(kind, WatcherEvent::ApplyLarge { identity, isolation });
    }

    fn policy(&self, name: &str) -> &policy::PolicySpec {
        &self.known.policies[&PolicyName::network_policy("web", name)]
    }

    /// Advances the clock by this many seconds.
    fn pass(&mut self, seconds: usize) {
        (0..seconds).for_each(|_| _ = self.state.tick());
    }

    fn queued(&self) -> Vec<&str> {
        self.state.reread_queue.keys().map(|key| key.namespace_and_name().1).collect()
    }
}

#[test]
fn rules_beyond_the_budget_are_omitted_and_read_again_once_they_fit() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::NetworkPolicy, &large("large", "5", 90));
    scenario.next_update();
    assert_eq!(scenario.policies(), [("large", None)]);
    scenario.applied(Kind::NetworkPolicy, &large("small", "6", 20));
    scenario.next_update();
    assert_eq!(scenario.policies(), [("large", Some(90)), ("small", None)]);
    // A new version that is as large changes nothing.
    scenario.applied(Kind::NetworkPolicy, &large("large", "7", 90));
    assert_eq!(scenario.next_update(), Some(Vec::new()), "the version alone");
    assert_eq!((scenario.policies()[0], scenario.queued()), (("large", Some(90)), vec![]));
    scenario.deleted(Kind::NetworkPolicy, &large("small", "6", 20));
    scenario.next_update();
    assert_eq!(scenario.policies(), [("large", Some(90))]);
    scenario.answer("large", Some(&large("large", "7", 90)));
    scenario.next_update();
    assert_eq!((scenario.policies(), scenario.queued()), (vec![("large", None)], vec![]));
}

#[test]
fn a_policy_that_changed_while_it_was_read_again_is_stored_once_the_watch_delivers_it() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::NetworkPolicy, &large("small", "5", 20));
    scenario.applied(Kind::NetworkPolicy, &large("large", "6", 90));
    scenario.next_update();
    scenario.deleted(Kind::NetworkPolicy, &large("small", "5", 20));
    scenario.next_update();
    scenario.answer("large", Some(&large("large", "8", 50)));
    scenario.next_update();
    assert_eq!((scenario.policies(), scenario.queued()), (vec![("large", Some(90))], vec!["large"]));
    scenario.applied(Kind::NetworkPolicy, &large("large", "8", 50));
    scenario.next_update();
    assert_eq!((scenario.policies(), scenario.queued()), (vec![("large", None)], vec![]));
}

#[test]
fn an_object_that_is_too_large_for_the_watch_is_read_by_itself() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::NetworkPolicy, &large("p", "5", 20));
    scenario.large(&large("p", "6", 30));
    scenario.next_update();
    assert_eq!(
        (scenario.policies(), scenario.queued()),
        (vec![("p", None)], vec!["p"]),
        "until then it is as before"
    );
    // A response with the previous version.
    scenario.answer("p", Some(&large("p", "5", 20)));
    assert_eq!(scenario.queued(), ["p"]);
    scenario.large(&large("p", "7", 40));
    scenario.answer("p", Some(&large("p", "6", 30)));
    assert_eq!(scenario.queued(), ["p"]);
    scenario.pass(1);
    scenario.answer("p", Some(&large("p", "7", 40)));
    scenario.next_update();
    let policy = scenario.known.policies.values().next().expect("a policy");
    assert_eq!((policy.cost(), scenario.queued()), (40, vec![]));
}

#[test]
fn a_late_response_does_not_restore_an_object_that_is_gone() {
    let mut scenario = Scenario::begun();
    scenario.large(&large("p", "6", 30));
    let (key, expected) = scenario.state.next_reread().expect("a queued object");
    scenario.deleted(Kind::NetworkPolicy, &large("p", "7", 30));
    let late = large("p", "6", 30);
    scenario.late_answer(key.clone(), expected.clone(), Some(&late));
    assert_eq!((scenario.next_update(), scenario.queued()), (None, vec![]));
    // Another object of the same name was created after it.
    scenario.large(&large("p", "9", 30));
    scenario.late_answer(key, expected, Some(&late));
    scenario.next_update().expect("it isolates");
    assert_eq!((scenario.policy("p").ingress.len(), scenario.queued()), (0, vec!["p"]));
    scenario.answer("p", None);
    assert_eq!(
        (scenario.next_update(), scenario.queued()),
        (None, vec![]),
        "the watch reports that it is gone"
    );
}

#[test]
fn an_object_that_was_created_again_while_its_absence_was_answered_is_read_again() {
    let mut scenario = Scenario::begun();
    scenario.large(&large("p", "6", 30));
    let (key, expected) = scenario.state.next_reread().expect("a queued object");
    scenario.deleted(Kind::NetworkPolicy, &large("p", "7", 30));
    scenario.large(&large("p", "9", 30));
    scenario.late_answer(key, expected, None);
    scenario.answer("p", Some(&large("p", "9", 30)));
    scenario.next_update();
    assert_eq!((scenario.policies(), scenario.queued()), (vec![("p", None)], vec![]));
}

#[test]
fn objects_that_change_all_the_time_are_read_in_turns() {
    let mut scenario = Scenario::begun();
    for name in ["a", "b", "c"] {
        scenario.large(&large(name, "5", 30));
    }
    for (name, version) in [("a", "6"), ("b", "6"), ("c", "6"), ("a", "8"), ("b", "8")] {
        scenario.answer(name, Some(&large(name, version, 30)));
        scenario.large(&large(name, &format!("{version}1"), 30));
    }
    // It can't be read.
    let (key, expected) = scenario.state.next_reread().expect("a queued object");
    scenario.state.reread(Reread { key, expected, answer: None });
    scenario.answer("a", Some(&large("a", "6", 30)));
}

#[test]
fn an_object_with_an_unexpected_version_is_read_again_after_its_next_event_or_a_growing_pause() {
    let mut scenario = Scenario::begun();
    scenario.large(&large("p", "5", 30));
    scenario.answer("p", Some(&large("p", "6", 30)));
    assert_eq!(scenario.state.next_reread(), None, "the watch will deliver it");
    scenario.large(&large("p", "6", 30));
    // The watch never catches up.
    for pause in [1, 2, 4, 8, 16, 32, 32] {
        scenario.answer("p", Some(&large("p", "7", 30)));
        scenario.pass(pause - 1);
        assert_eq!(scenario.state.next_reread(), None, "{pause}");
        scenario.pass(1);
    }
    scenario.answer("p", Some(&large("p", "6", 30)));
    assert_eq!((scenario.next_update().is_some(), scenario.queued()), (true, vec![]));
}

#[test]
fn a_new_large_policy_isolates_its_pods_until_its_rules_are_read() {
    let mut scenario = Scenario::begun();
    let mut egress = large("egress", "5", 30);
    egress["spec"]["podSelector"] = json!({"matchLabels": {"app": "a"}});
    egress["spec"]["policyTypes"] = json!(["Egress"]);
    scenario.large(&egress);
    let wide: Vec<String> = (0..9_000).map(|n| format!("value-{n}")).collect();
    let wide = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": wide}]});
    scenario.large(&policy("wide", "6", json!({"podSelector": wide, "policyTypes": ["Ingress"]})));
    let mut without = large("without-types", "7", 30);
    scenario.large(&without);
    without["metadata"]["name"] = json!("with-egress");
    without["spec"]["egress"] = json!([{"to": []}]);
    scenario.large(&without);
    scenario.next_update().expect("isolation");
    let isolates = |name: &str| {
        let policy = scenario.policy(name);
        assert!(policy.ingress.is_empty() && policy.egress.is_empty() && policy.omitted.is_none());
        (policy.subject.pods.clone(), policy.isolates_ingress, policy.isolates_egress)
    };
    let all = policy::Selector::All([].into());
    let a = policy::Requirement::In("app".into(), ["a".into()].into());
    assert_eq!(isolates("egress"), (policy::Selector::All([a].into()), false, true));
    assert_eq!(isolates("wide"), (all.clone(), true, true), "a podSelector that is too large to be read");
    assert_eq!(isolates("without-types"), (all.clone(), true, false));
    assert_eq!(isolates("with-egress"), (all, true, true));
    assert_eq!(scenario.versions.len(), 0, "no complete version is in force");
    scenario.answer("egress", Some(&egress));
    scenario.next_update().expect("the rules");
    assert_eq!((scenario.policy("egress").isolates_egress, scenario.versions.len()), (true, 1));
}

#[test]
fn a_large_policy_that_selects_other_pods_now_isolates_only_those_until_its_rules_are_read() {
    let mut scenario = Scenario::begun();
    let mut p = large("p", "5", 30);
    p["spec"]["podSelector"] = json!({"matchLabels": {"app": "a"}});
    p["spec"]["policyTypes"] = json!(["Ingress"]);
    scenario.applied(Kind::NetworkPolicy, &p);
    scenario.next_update().expect("a policy");
    let before = scenario.policy("p").clone();
    p["metadata"]["resourceVersion"] = json!("6");
    p["spec"]["ingress"] = json!([]);
    scenario.large(&p);
    assert_eq!(scenario.next_update(), None, "the same pods: its last version stays in force");
    p["spec"]["podSelector"] = json!({"matchLabels": {"app": "b"}});
    scenario.large(&p);
    scenario.next_update().expect("other pods");
    let now = scenario.policy("p");
    assert!(now.ingress.is_empty() && now.subject != before.subject, "{now:?}");
    p["spec"]["policyTypes"] = json!(["Ingress", "Egress"]);
    scenario.large(&p);
    scenario.next_update().expect("egress too");
    assert!(scenario.policy("p").isolates_egress);
    // Less than before.
    p["spec"]["policyTypes"] = json!(["Ingress"]);
    scenario.large(&p);
    assert_eq!(scenario.next_update(), None);
}

#[test]
fn a_large_pod_or_namespace_has_its_labels_at_once_or_unknown_ones() {
    let mut scenario = Scenario::begun();
    let text = "x".repeat(100_000);
    let with = |labels: &Value| {
        let mut pod = pod("a", "5", "Running", &["10.0.0.2"]);
        pod["metadata"]["labels"] = labels.clone();
        pod["metadata"]["annotations"] = json!({"text": text});
        let namespace =
            json!({"metadata": {"name": "web", "labels": labels, "resourceVersion": "6"}, "text": text});
        [(Kind::Pod, pod), (Kind::Namespace, namespace)]
    };
    let known = |scenario: &mut Scenario| {
        scenario.next_update();
        let (pod, namespace) =
            (&scenario.known.pods[&PodName::new("web", "a")], &scenario.known.namespaces["web"]);
        [&pod.labels, &namespace.labels].map(|labels| labels.value("app").map(str::to_owned))
    };
    for app in ["a", "b"] {
        for (kind, object) in with(&json!({"app": app})) {
            scenario.large_of(kind, &object);
        }
        assert_eq!(known(&mut scenario), [Some(app.to_owned()), Some(app.to_owned())]);
        assert_eq!(scenario.queued(), [""; 0]);
    }
    let many: serde_json::Map<String, Value> =
        (0..9_000).map(|n| (format!("n{n}"), json!("value"))).collect();
    for (kind, object) in with(&json!(many)) {
        scenario.large_of(kind, &object);
    }
    assert_eq!((known(&mut scenario), scenario.queued()), ([None, None], vec!["web", "a"]));
    assert!(!scenario.known.pods[&PodName::new("web", "a")].labels.are_known());
    assert!(!scenario.known.namespaces["web"].labels.are_known());
}

#[test]
fn an_object_that_cannot_be_read_for_seconds_is_reported_until_it_is() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::NetworkPolicy, &large("old", "5", 20));
    scenario.next_update();
    scenario.large(&large("old", "6", 30));
    scenario.large(&large("new", "7", 30));
    let next_problems = |scenario: &mut Scenario| {
        scenario.next_update();
        scenario.problems.clone()
    };
    scenario.pass(4);
    assert_eq!(next_problems(&mut scenario), [""; 0]);
    // It changes all the time.
    scenario.large(&large("old", "8", 30));
    scenario.pass(1);
    let problems = next_problems(&mut scenario);
    let [new, old] = &problems[..] else { panic!("{problems:?}") };
    assert!(new.contains("NetworkPolicy web/new") && new.contains("allows nothing"), "{new}");
    assert!(old.contains("NetworkPolicy web/old") && old.contains("last version"), "{old}");
    scenario.pass(1);
    assert_eq!(next_problems(&mut scenario), problems);
    while let Some((key, expected)) = scenario.state.next_reread() {
        let object = large(key.namespace_and_name().1, &expected, 30);
        scenario.late_answer(key, expected, Some(&object));
    }
    assert_eq!(next_problems(&mut scenario), [""; 0]);
}

#[test]
fn a_namespace_with_new_large_objects_all_the_time_does_not_delay_others() {
    let mut scenario = Scenario::begun();
    (0..10).for_each(|n| scenario.large(&large(&format!("first-{n}"), "5", 30)));
    let mut other = large("other", "5", 30);
    other["metadata"]["namespace"] = json!("z");
    scenario.large(&other);
    for n in 0..2 {
        scenario.large(&large(&format!("more-{n}"), "5", 30));
        let name = if n == 0 { "first-0" } else { "other" };
        scenario.answer(name, None);
    }
    scenario.answer("first-1", None);
}

#[test]
fn a_smaller_version_has_its_rules_immediately() {
    let mut scenario = Scenario::begun();
    scenario.applied(Kind::NetworkPolicy, &large("p", "5", 101));
    scenario.next_update();
    assert_eq!(scenario.policies(), [("p", Some(101))]);
    scenario.applied(Kind::NetworkPolicy, &large("p", "6", 100));
    scenario.next_update();
    assert_eq!((scenario.policies(), scenario.queued()), (vec![("p", None)], vec![]));
}

#[test]
fn very_many_large_policies_are_not_kept_while_they_are_listed() {
    let mut scenario = Scenario::new();
    let all: Vec<Value> = (0..500).map(|n| large(&format!("p{n}"), "5", 60)).collect();
    scenario.state.apply(Kind::NetworkPolicy, WatcherEvent::Init);
    scenario.listed(Kind::NetworkPolicy, &all);
    let kept = scenario
        .state
        .objects
        .values()
        .filter(|change| matches!(change, Change::Policy(policy) if policy.omitted.is_none()));
    // Those that were added since the budget was last settled.
    assert!(kept.count() < 300);
    scenario.state.apply(Kind::NetworkPolicy, WatcherEvent::InitDone);
    for kind in [Kind::Namespace, Kind::Node, Kind::Pod] {
        scenario.list(kind, &[]);
    }
    scenario.without_custom_kinds();
    scenario.next_update();
    let kept: Vec<_> = scenario.policies().into_iter().filter(|(_, omitted)| omitted.is_none()).collect();
    assert_eq!(kept, [("p0", None)], "the first of several equally large ones, by name");
}

#[test]
fn a_policy_that_replaces_another_one_in_a_list_keeps_its_rules() {
    for (before, after) in [("a", "b"), ("b", "a")] {
        let mut scenario = Scenario::begun();
        scenario.applied(Kind::NetworkPolicy, &large(before, "5", 60));
        scenario.next_update();
        scenario.state.apply(Kind::NetworkPolicy, WatcherEvent::Init);
        scenario.listed(Kind::NetworkPolicy, &[large(after, "6", 60)]);
        // The connection broke: the list begins again.
        scenario.next_update();
        scenario.list(Kind::NetworkPolicy, &[large(after, "6", 60)]);
        scenario.next_update();
        assert_eq!((scenario.policies(), scenario.queued()), (vec![(after, None)], vec![]));
        // Both exist.
        scenario.list(Kind::NetworkPolicy, &[large("a", "7", 60), large("b", "8", 60)]);
        scenario.next_update();
        assert_eq!(scenario.policies(), [("a", None), ("b", Some(60))]);
        scenario.list(Kind::NetworkPolicy, &[large("b", "8", 60)]);
        scenario.next_update();
        assert_eq!((scenario.policies(), scenario.queued()), (vec![("b", None)], vec![]));
    }
}

#[test]
fn lists_that_break_off_do_not_accumulate_rules_beyond_the_budget() {
    let mut scenario = Scenario::begun();
    for list in 0..20 {
        scenario.state.apply(Kind::NetworkPolicy, WatcherEvent::Init);
        scenario.listed(Kind::NetworkPolicy, &[large(&format!("p{list:02}"), "5", 60)]);
        scenario.next_update();
    }
    let kept = scenario.policies().into_iter().filter(|(_, omitted)| omitted.is_none());
    assert_eq!(kept.count(), 1);
}

#[test]
fn a_large_pod_selector_is_not_kept_either() {
    let values: Vec<String> = (0..90).map(|n| format!("v{n}")).collect();
    let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": values}]});
    let mut scenario = Scenario::begun();
    scenario
        .applied(Kind::NetworkPolicy, &policy("p", "5", json!({"podSelector": selector, "ingress": [{}]})));
    scenario.next_update();
    let policy = scenario.known.policies.values().next().expect("a policy");
    assert_eq!(policy.subject.pods, policy::Selector::All([].into()), "every pod of the namespace");
    assert!(policy.isolates_ingress && policy.ingress.is_empty());
}
