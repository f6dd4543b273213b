//! Policies as a whole: types, lists of rules, and causes of closed policies.

use super::*;

// Semantics 1: policyTypes.

#[test]
fn s01_policy_types_default_by_the_existing_rules() {
    let isolates = |spec: Value| {
        let policy = policy(spec);
        (policy.isolates_ingress, policy.isolates_egress)
    };
    assert_eq!(isolates(json!({})), (true, false));
    assert_eq!(isolates(json!({"ingress": [{}]})), (true, false));
    assert_eq!(isolates(json!({"egress": [{}]})), (true, true));
    assert_eq!(isolates(json!({"egress": []})), (true, false), "no rule for egress");
    assert_eq!(isolates(json!({"policyTypes": [], "egress": [{}]})), (true, true), "an empty list is absent");
    assert_eq!(isolates(json!({"policyTypes": null})), (true, false));
    assert_eq!(isolates(json!({"policyTypes": ["Egress"]})), (false, true));
    assert_eq!(isolates(json!({"policyTypes": ["Ingress"], "egress": [{}]})), (true, false));
    assert_eq!(isolates(json!({"policyTypes": ["Egress", "Ingress"]})), (true, true));
}

#[test]
fn s38_a_policy_type_that_is_not_known_isolates_in_both_directions() {
    for (types, said) in [
        (json!(["ingress"]), "spec.policyTypes[0]: \"ingress\" is not a policy type: use Ingress or Egress"),
        (
            json!(["Egress", "Both"]),
            "spec.policyTypes[1]: \"Both\" is not a policy type: use Ingress or Egress",
        ),
        (json!("Ingress"), "spec.policyTypes: \"Ingress\" is not a list"),
    ] {
        let (policy, flaws) = flawed_policy(json!({"policyTypes": types, "ingress": [{}]}));
        assert!(policy.isolates_ingress && policy.isolates_egress);
        assert_eq!(policy.ingress.len(), 1, "what is understood counts");
        assert_eq!(flaws, [format!("{said}; the policy isolates its pods in both directions")]);
    }
}

#[test]
fn rules_in_a_direction_that_is_not_isolated_have_no_meaning() {
    assert_eq!(policy(json!({"policyTypes": ["Egress"], "ingress": [{}]})).ingress, []);
}

// Semantics 2 and 3: absent, null and empty.

#[test]
fn s02_no_rules_in_any_spelling() {
    for spec in [json!({}), json!({"ingress": null}), json!({"ingress": []})] {
        assert_eq!(policy(spec).ingress, []);
    }
    let all = RuleSpec { name: None, action: policy::Action::Accept, peers: None, ports: None };
    assert_eq!(policy(json!({"ingress": [{}]})).ingress, [all], "one empty rule allows all");
}

#[test]
fn s03_absent_null_and_empty_lists_match_everything() {
    for rule in [json!({}), json!({"from": null, "ports": null}), json!({"from": [], "ports": []})] {
        let rules = policy(json!({"ingress": [rule]})).ingress;
        assert_eq!((&rules[0].peers, &rules[0].ports), (&None, &None));
    }
}

// Semantics 28: rules and policies that are not understood.

#[test]
fn s28_a_rule_that_is_not_understood_matches_nothing_and_keeps_its_index() {
    for (rule, said) in [
        (json!(null), ": null is not a rule"),
        (json!({"from": {}}), ".from: a mapping is not a list"),
        (json!({"ports": 80}), ".ports: 80 is not a list"),
        (json!({"to": []}), ".to: this field is not known"),
        (json!({"from": [{"podSelector": {}}], "schedule": "night"}), ".schedule: this field is not known"),
    ] {
        let (policy, flaws) = flawed_policy(json!({"ingress": [rule, {}]}));
        assert_eq!(policy.ingress[0].peers, Some(Vec::new()), "an empty list of peers matches nothing");
        assert_eq!(policy.ingress[1].peers, None);
        assert_eq!(flaws, [format!("spec.ingress[0]{said}; the rule matches nothing")]);
    }
}

#[test]
fn rules_that_are_not_a_list_are_none() {
    let (policy, flaws) = flawed_policy(json!({"egress": {"to": []}}));
    assert!(policy.isolates_egress, "the field is not empty");
    assert_eq!(policy.egress, []);
    assert_eq!(flaws, ["spec.egress: a mapping is not a list; the policy has no rules in this direction"]);
}

#[test]
fn s38_a_field_that_may_narrow_the_whole_policy_closes_it() {
    let closed = "the policy isolates its pods in both directions and its rules allow nothing";
    let close = |object: Value, said: &str| {
        let converted = convert(Kind::NetworkPolicy, &object, &[], &Interner::new()).expect("a policy");
        let Change::Policy(policy) = converted.change else { panic!("no policy") };
        assert!(policy.isolates_ingress && policy.isolates_egress);
        assert_eq!((&policy.ingress, &policy.egress), (&vec![], &vec![]));
        let flaws: Vec<_> =
            converted.flaws.iter().map(|f| format!("{}: {}; {}", f.at, f.what, f.effect)).collect();
        assert_eq!(flaws, [format!("{said}; {closed}")]);
    };
    let metadata = json!({"name": "p"});
    close(
        json!({"metadata": metadata, "spec": {"ingress": [{}], "policyType": ["Egress"]}}),
        "spec.policyType: this field is not known",
    );
    close(
        json!({"metadata": metadata, "specs": null, "spec": {"ingress": [{}]}}),
        "specs: this field is not known",
    );
    close(json!({"metadata": metadata, "spec": []}), "spec: a list is not a spec of a policy");
}

#[test]
fn an_object_without_a_readable_name_is_unusable() {
    let unusable = |kind, object: Value| {
        convert(kind, &object, &[], &Interner::new()).expect_err("unusable").to_string()
    };
    assert_eq!(unusable(Kind::NetworkPolicy, json!({})), "the object: there is no metadata");
    assert_eq!(unusable(Kind::NetworkPolicy, json!({"metadata": 5})), "metadata: 5 is not a mapping");
    assert_eq!(unusable(Kind::Pod, json!({"metadata": {"generateName": "x"}})), "metadata: there is no name");
    assert_eq!(
        unusable(Kind::Node, json!({"metadata": {"name": 1}})),
        "metadata.name: the value 1 is not a string: put it in quotes"
    );
    assert_eq!(
        unusable(Kind::Pod, json!({"metadata": {"name": "a", "namespace": 5}})),
        "metadata.namespace: the value 5 is not a string: put it in quotes"
    );
    assert_eq!(
        unusable(Kind::Pod, json!({"metadata": {"name": "a"}, "spec": {"hostNetwork": "yes"}})),
        "spec.hostNetwork: hostNetwork is neither true nor false"
    );
}

// A policy that can't be understood does not leave its pods open.

#[test]
fn a_policy_without_a_readable_name_isolates_its_pods_and_allows_nothing() {
    let mut names = Vec::new();
    for (metadata, said) in [
        (json!({"namespace": "web", "generateName": "x-"}), "metadata: there is no name"),
        (
            json!({"namespace": "web", "name": 5}),
            "metadata.name: the value 5 is not a string: put it in quotes",
        ),
    ] {
        let object = json!({
            "metadata": metadata,
            "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress"], "ingress": [{}]},
        });
        let converted = convert(Kind::NetworkPolicy, &object, &[], &Interner::new()).expect("a policy");
        let Change::Policy(policy) = converted.change else { panic!("no policy") };
        assert_eq!(policy.subject.pods, selects(&[is("app", "a")]));
        assert_eq!(&*policy.name.namespace, "web");
        assert!(policy.isolates_ingress && policy.isolates_egress && policy.ingress.is_empty());
        assert_eq!(format!("{}: {}", converted.flaws[0].at, converted.flaws[0].what), said);
        names.push(policy.name.clone());
    }
    assert_ne!(names[0], names[1], "neither replaces the other");
}

#[test]
fn a_json_policy_that_breaks_off_after_another_object_isolates_too_and_a_template_does_not() {
    let read = |text: &str| manifest::read(Path::new("test.json"), text.as_bytes(), &Interner::new());
    let json = concat!(
        "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}\n",
        "{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", \"metadata\": {\"name\": \"p\"},\n",
        "\"spec\": {\"podSelector\": {}, \"ingress\": [{]}}\n",
    );
    let reading = read(json);
    let [Change::Pod(_), Change::Policy(policy)] = reading.changes().collect::<Vec<_>>()[..] else {
        panic!("{reading:?}")
    };
    assert!(policy.isolates_ingress && policy.isolates_egress && policy.ingress.is_empty());
    assert!(
        reading.failures[0].to_string().starts_with("test.json:3 (document 2): NetworkPolicy default/p: ")
    );

    let template = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {}\n  \
                    {{- if .Values.deny }}\n  ingress: []\n  {{- end }}\n";
    let reading = read(template);
    assert_eq!((reading.changes().count(), reading.failures.len(), reading.no_manifest.len()), (0, 0, 1));
}

#[test]
fn s38_a_policy_in_which_the_text_breaks_off_isolates_the_pods_that_it_selects() {
    let head =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: web}\nspec:\n";
    for (rest, isolates) in [
        ("  podSelector: {matchLabels: {app: a}}\n  ingress:\n  - from: [\n", Some((true, true))),
        (
            "  podSelector: {matchLabels: {app: a}}\n  policyTypes: [Ingress]\n  ingress:\n  - x: ]\n",
            Some((true, false)),
        ),
        (
            "  policyTypes: [Egress]\n  podSelector: {matchLabels: {app: a}}\n  ingress: {]\n",
            Some((false, true)),
        ),
        ("  podSelector: {matchLabels: {app: a\n", None),
        ("  policyTypes: [Ingress]\n  ingress: [\n", None),
    ] {
        let text = format!("{head}{rest}");
        let reading = manifest::read(Path::new("test.yaml"), text.as_bytes(), &Interner::new());
        let [failure] = reading.failures.as_slice() else { panic!("{:?}", reading.failures) };
        assert_eq!(failure.object.as_deref(), Some("NetworkPolicy web/p"));
        let policy = reading.changes().next().map(|change| match change {
            Change::Policy(policy) => policy,
            other => panic!("{other:?}"),
        });
        assert_eq!(
            policy.map(|policy| (policy.isolates_ingress, policy.isolates_egress)),
            isolates,
            "{rest}"
        );
        let effect = match policy {
            Some(policy) => {
                assert_eq!(policy.subject.pods, selects(&[is("app", "a")]));
                assert_eq!((&policy.ingress, &policy.egress), (&vec![], &vec![]));
                "the pods that its podSelector selects are isolated, and its rules allow nothing; what \
                 follows in the document is not in force, and pods that policies there should isolate may \
                 be open"
            }
            None => "it is not in force: pods that it should isolate may be open",
        };
        assert_eq!(failure.effect, effect, "{rest}");
    }
}
