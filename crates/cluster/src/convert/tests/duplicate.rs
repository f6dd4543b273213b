//! Duplicate fields.

use super::*;

/// The converted policy `web/p` with this text of a spec, and its flaws.
fn policy_with_duplicates(spec: &str) -> (Arc<PolicySpec>, Vec<String>) {
    let (change, flaws) = one(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: web}}\nspec: {spec}\n"
    ));
    let Change::Policy(policy) = change else { panic!("no policy") };
    (policy, flaws)
}

#[test]
fn if_no_verdict_depends_on_a_field_the_last_value_counts() {
    let (change, flaws) = one(concat!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nkind: NetworkPolicy\n",
        "metadata:\n  name: a\n  name: p\n  namespace: web\n  annotations: {x: 1, x: 2}\n  labels: {app: a, app: b, app: a}\n",
        "spec: {podSelector: {}, ingress: [{}]}\n",
    ));
    let Change::Policy(policy) = change else { panic!("no policy") };
    assert_eq!(policy.name.to_string(), "web/p");
    assert_eq!(policy.ingress.len(), 1, "its rules are in force");
    let last = "the last value counts, as for kubectl and Helm";
    assert_eq!(
        flaws,
        [
            "kind: this field is written 2 times: \"NetworkPolicy\", then \"NetworkPolicy\": if another object begins there, a line \
             \"---\" is missing in front of it, and the first object is not in force; it counts once"
                .to_owned(),
            format!("metadata.name: this field is written 2 times: \"a\", then \"p\"; {last}"),
            format!("metadata.annotations.x: this field is written more than once; {last}"),
            format!(
                "metadata.labels.app: this field is written 3 times: \"a\", then \"b\", then \"a\"; {last}"
            ),
        ]
    );
}

#[test]
fn a_rule_peer_or_port_with_a_duplicate_field_matches_nothing() {
    for (rule, at, effect) in [
        ("{ports: [{port: 80}], ports: []}", ".ports", "the rule matches nothing"),
        ("{from: [], from: [{podSelector: {}}]}", ".from", "the rule matches nothing"),
        (
            "{from: [{podSelector: {matchLabels: {a: b, a: c}}}]}",
            ".from[0].podSelector.matchLabels.a",
            "the peer matches nothing",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, cidr: 0.0.0.0/0}}]}",
            ".from[0].ipBlock.cidr",
            "the peer matches nothing",
        ),
        ("{ports: [{port: 80, port: 443}]}", ".ports[0].port", "the port matches nothing"),
    ] {
        let (policy, flaws) = policy_with_duplicates(&format!("{{podSelector: {{}}, ingress: [{rule}]}}"));
        let [flaw] = flaws.as_slice() else { panic!("{flaws:?}") };
        assert!(flaw.starts_with(&format!("spec.ingress[0]{at}: this field is written 2 times: ")), "{flaw}");
        assert!(flaw.ends_with(&format!("; {effect}")), "{flaw}");
        let rule = &policy.ingress[0];
        let dead = |rule: &RuleSpec| {
            rule.peers.as_ref().is_some_and(|peers| {
                peers.iter().all(|peer| match peer {
                    Peer::Pods { pods, .. } => *pods == Selector::Nothing,
                    peer => *peer == Peer::Nothing,
                })
            }) || rule
                .ports
                .as_ref()
                .is_some_and(|ports| ports.iter().all(|port| port.numbers == PortNumbers::Nothing))
        };
        assert!(dead(rule), "{rule:?}");
    }
}

#[test]
fn a_duplicate_with_the_same_value_has_no_effect() {
    let (policy, flaws) = policy_with_duplicates(
        "{podSelector: {}, ingress: [{ports: [{port: 80, port: 80}], from: [{podSelector: {}}]}]}",
    );
    assert_eq!(
        flaws,
        ["spec.ingress[0].ports[0].port: this field is written 2 times: 80, then 80; it counts once"]
    );
    assert_eq!(policy.ingress[0].ports.as_ref().expect("ports")[0].numbers, PortNumbers::Range(80, 80));
}

#[test]
fn a_duplicate_field_of_the_policy_as_a_whole_closes_it() {
    let closed = "the policy isolates its pods in both directions and its rules allow nothing";
    let all = "the policy isolates every pod of its namespace in both directions and its rules allow nothing";
    for (spec, requirements, effect) in [
        ("{podSelector: {matchLabels: {a: b}}, ingress: [], ingress: [{}]}", vec![is("a", "b")], closed),
        (
            "{podSelector: {matchLabels: {a: b}}, policyTypes: [Ingress], policyTypes: [Egress]}",
            vec![is("a", "b")],
            closed,
        ),
        (
            "{podSelector: {matchLabels: {a: b}}, podSelector: {matchLabels: {c: d}}, ingress: [{}]}",
            vec![],
            all,
        ),
        (
            "{podSelector: {matchLabels: {a: b}}}\nspec: {podSelector: {matchLabels: {c: d}}, ingress: [{}]}",
            vec![],
            all,
        ),
    ] {
        let (policy, flaws) = policy_with_duplicates(spec);
        assert!(policy.isolates_ingress && policy.isolates_egress, "{spec}");
        assert_eq!((&policy.ingress, &policy.egress), (&vec![], &vec![]), "{spec}");
        assert_eq!(policy.subject.pods, selects(&requirements), "{spec}");
        let [flaw] = flaws.as_slice() else { panic!("{flaws:?}") };
        assert!(flaw.ends_with(&format!("; {effect}")), "{flaw}");
    }
}

#[test]
fn of_a_duplicate_subject_only_the_last_value_of_a_label_excludes_pods() {
    let (policy, flaws) =
        policy_with_duplicates("{podSelector: {matchLabels: {run: early, run: late}}, ingress: [{}]}");
    assert_eq!(policy.subject.pods, selects(&[is("run", "late")]));
    assert_eq!(policy.ingress.len(), 1, "its rules are in force");
    assert_eq!(
        flaws,
        [
            "spec.podSelector.matchLabels.run: this field is written 2 times: \"early\", then \"late\"; the last value counts, as for \
          kubectl and Helm: pods that only another value selects are not isolated by this policy"
        ]
    );
    let (policy, flaws) = policy_with_duplicates(
        "{podSelector: {matchLabels: {a: b}, matchLabels: {c: d}, matchExpressions: [{key: x, operator: Exists}]}}",
    );
    assert_eq!(policy.subject.pods, selects(&[Requirement::Exists("x".into())]));
    assert_eq!(flaws.len(), 1, "{flaws:?}");
}

#[test]
fn a_pod_or_namespace_with_a_duplicate_label_has_unknown_labels() {
    for kind in ["Pod", "Namespace"] {
        let read = |labels: &str| {
            let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a, labels: {labels}}}\n");
            manifest::read(Path::new("test.yaml"), text.as_bytes(), &Interner::new())
        };
        let labels_are_known = |change: &Change| match change {
            Change::Pod(pod) => pod.labels.are_known(),
            Change::Namespace(namespace) => namespace.labels.are_known(),
            other => panic!("{other:?}"),
        };
        let reading = read("{app: a, app: b}");
        assert_eq!(reading.changes().map(labels_are_known).collect::<Vec<_>>(), [false]);
        let flaw = reading.flaws[0].to_string();
        assert!(
            flaw.contains("metadata.labels.app: this field is written 2 times: \"a\", then \"b\""),
            "{flaw}"
        );
        let reading = read("{app: a, app: a}");
        assert_eq!(reading.changes().map(labels_are_known).collect::<Vec<_>>(), [true]);
        assert_eq!((reading.failures.len(), reading.flaws.len()), (0, 1));
    }
}

/// Fields of a mapping, each twice.
fn copies(count: usize, value: &str) -> String {
    (0..count).map(|n| format!("f{n}: {value}, f{n}: {value}, ")).collect()
}

fn raw(yaml: &str) -> manifest::RawObject {
    serde_saphyr::with_deserializer_from_str_with_options(
        yaml,
        serde_saphyr::options! { duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough },
        |deserializer| serde::Deserialize::deserialize(deserializer),
    )
    .expect("an object")
}

#[test]
fn beyond_a_limit_duplicate_fields_are_not_recorded() {
    let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: web";
    let many = copies(20_000, "x");
    let same = "f: x, ".repeat(20_000);
    for text in [
        format!("{head}, annotations: {{{many}}}}}\n"),
        format!("{head}, labels: {{{many}}}}}\n"),
        format!("{head}, labels: {{{same}}}}}\n"),
        format!("{head}, {many}}}\n"),
        format!("{{{many}apiVersion: v1, kind: Pod, metadata: {{name: a}}}}"),
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, {many}}}"),
    ] {
        let noted = format!("{:?}", raw(&text).duplicates).len();
        assert!(noted < 100_000, "{noted} bytes of notes about {}...", &text[..100]);
    }
}

#[test]
fn duplicate_fields_that_are_not_recorded_still_allow_nothing() {
    let many = copies(5_000, "x");
    let pod = |metadata: &str| {
        let (change, _) = one(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, {metadata}}}\n"));
        let Change::Pod(pod) = change else { panic!("no pod") };
        pod.labels.are_known()
    };
    assert!(pod(&format!("annotations: {{{many}}}, labels: {{app: a}}")), "no verdict reads these");
    assert!(!pod(&format!("annotations: {{{many}}}, labels: {{app: a, app: b}}")));
    assert!(!pod(&format!("{many} labels: {{app: a, app: b}}")));
    assert!(!pod(&format!("{many} labels: {{app: a}}, labels: {{app: b}}")));

    let rules = |copies: &str| format!("ingress: [{}{{from: [], from: [{{podSelector: {{}}}}]}}]", copies);
    let ports = "{ports: [], ports: [{port: 80}]}, ".repeat(5_000);
    for spec in [
        format!("{{podSelector: {{}}, {}}}", rules(&ports)),
        format!("{{podSelector: {{matchLabels: {{{many}}}}}, {}}}", rules("")),
        format!("{{podSelector: {{matchLabels: {{{many}}}}}, podSelector: {{}}, ingress: [{{}}]}}"),
        format!("{{{many} podSelector: {{}}, ingress: [{{}}]}}"),
    ] {
        let (policy, flaws) = policy_with_duplicates(&spec);
        let allows = |rule: &RuleSpec| {
            rule.peers.as_ref().is_none_or(|peers| peers.iter().any(|p| *p != Peer::Nothing))
        };
        assert!(!policy.ingress.iter().any(allows), "{}: {:?}", &spec[..60], policy.ingress.first());
        assert!(policy.isolates_ingress && flaws.len() <= 22, "{flaws:?}");
    }
}
