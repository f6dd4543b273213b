//! Selectors, of peers and of a policy itself.

use super::*;

// Semantics 4 to 6: selectors.

#[test]
fn s04_an_empty_pod_selector_selects_the_policys_own_namespace() {
    for spec in [json!({}), json!({"podSelector": {}}), json!({"podSelector": null})] {
        let subject = policy(spec).subject;
        assert_eq!(subject.namespaces, NamespaceMatch::Named("web".into()));
        assert_eq!(subject.pods, Selector::everything());
    }
}

#[test]
fn s05_s06_peers_by_selectors() {
    let (peers, flaws) = flawed_peers(json!([
        {"podSelector": {"matchLabels": {"app": "a"}}},
        {"namespaceSelector": {}},
        {"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {"matchLabels": {"app": "a"}}},
        {"namespaceSelector": null, "podSelector": {}},
    ]));
    assert_eq!(flaws, Vec::<String>::new());
    let by_labels = |requirements: &[Requirement]| NamespaceMatch::Labels(selects(requirements));
    assert_eq!(
        peers,
        [
            Peer::Pods { namespaces: NamespaceMatch::Named("web".into()), pods: selects(&[is("app", "a")]) },
            Peer::Pods { namespaces: by_labels(&[]), pods: Selector::everything() },
            Peer::Pods { namespaces: by_labels(&[is("team", "x")]), pods: selects(&[is("app", "a")]) },
            Peer::Pods { namespaces: NamespaceMatch::Named("web".into()), pods: Selector::everything() },
        ]
    );
}

#[test]
fn every_operator_is_understood() {
    let subject = policy(json!({"podSelector": {
        "matchLabels": {"app": "a", "empty": null},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["b", "a", "b"]},
            {"key": "tier", "operator": "NotIn", "values": ["c"]},
            {"key": "x", "operator": "Exists"},
            {"key": "y", "operator": "DoesNotExist", "values": []},
        ],
    }}))
    .subject;
    let values = |values: &[&str]| values.iter().map(|value| Arc::from(*value)).collect();
    assert_eq!(
        subject.pods,
        selects(&[
            is("app", "a"),
            is("empty", ""),
            Requirement::In("tier".into(), values(&["a", "b"])),
            Requirement::NotIn("tier".into(), values(&["c"])),
            Requirement::Exists("x".into()),
            Requirement::DoesNotExist("y".into()),
        ])
    );
}

/// Requirements that are not understood, and the problem of each.
fn bad_selectors() -> Vec<(Value, &'static str)> {
    let expression = |expression: Value| json!({"matchExpressions": [expression]});
    vec![
        (
            expression(json!({"key": "a", "operator": "Like", "values": ["b"]})),
            ".matchExpressions[0]: the operator \"Like\" is not known: use In, NotIn, Exists or DoesNotExist",
        ),
        (expression(json!({"key": "a", "operator": "In"})), ".matchExpressions[0]: In needs values"),
        (
            expression(json!({"key": "a", "operator": "NotIn", "values": []})),
            ".matchExpressions[0]: NotIn needs values",
        ),
        (
            expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            ".matchExpressions[0]: Exists takes no values",
        ),
        (expression(json!({"key": "a"})), ".matchExpressions[0]: there is no operator"),
        (expression(json!({"operator": "Exists"})), ".matchExpressions[0].key: there is no key"),
        (
            expression(json!({"key": "a", "operator": "In", "values": [1]})),
            ".matchExpressions[0].values: the values are not a list of strings",
        ),
        (
            expression(json!({"key": "a", "operator": "Exists", "ignoreCase": true})),
            ".matchExpressions[0].ignoreCase: this field is not known",
        ),
        (expression(json!(null)), ".matchExpressions[0]: null is not a requirement"),
        (json!({"matchLabels": {"a": 1}}), ".matchLabels.a: the value is not a string: put it in quotes"),
        (json!({"matchLabels": ["a"]}), ".matchLabels: a list is not a mapping"),
        (json!({"matchFields": {}}), ".matchFields: this field is not known"),
        (json!([]), ": a list is not a selector"),
    ]
}

#[test]
fn a_peers_selector_that_is_not_understood_selects_nothing() {
    for (selector, said) in bad_selectors() {
        for field in ["podSelector", "namespaceSelector"] {
            let (peers, flaws) = flawed_peers(json!([{field: selector}]));
            let Peer::Pods { namespaces, pods } = &peers[0] else { panic!("{peers:?}") };
            let dead = if field == "podSelector" {
                *pods == Selector::Nothing
            } else {
                *namespaces == NamespaceMatch::Labels(Selector::Nothing)
            };
            assert!(dead, "{selector}: {peers:?}");
            assert_eq!(flaws, [format!("spec.ingress[0].from[0].{field}{said}; the peer matches nothing")]);
        }
    }
}

#[test]
fn s38_a_policys_own_selector_that_is_not_understood_isolates_more_pods_and_allows_nothing() {
    for (selector, said) in bad_selectors() {
        let mut selector = selector;
        if let Some(fields) = selector.as_object_mut().filter(|fields| !fields.contains_key("matchLabels")) {
            fields.insert("matchLabels".into(), json!({"app": "a"}));
        }
        let understood =
            if selector["matchLabels"].get("app").is_some() { vec![is("app", "a")] } else { vec![] };
        let (policy, flaws) =
            flawed_policy(json!({"podSelector": selector, "ingress": [{}], "egress": [{}]}));
        assert_eq!(policy.subject.pods, selects(&understood));
        assert!(policy.isolates_ingress && policy.isolates_egress);
        assert_eq!((policy.ingress, policy.egress), (vec![], vec![]));
        assert_eq!(
            flaws,
            [format!(
                "spec.podSelector{said}; the policy isolates every pod that the rest of its podSelector \
                 selects, and its rules allow nothing"
            )]
        );
    }
}

#[test]
fn a_label_that_the_api_server_refuses_is_not_understood() {
    let hidden = "prod\u{200b}";
    for selector in [
        json!({"matchLabels": {"env": hidden}}),
        json!({"matchLabels": {hidden: "a"}}),
        json!({"matchExpressions": [{"key": "env", "operator": "NotIn", "values": [hidden]}]}),
        json!({"matchExpressions": [{"key": hidden, "operator": "DoesNotExist"}]}),
    ] {
        let (peers, flaws) = flawed_peers(json!([{"podSelector": selector}]));
        let Peer::Pods { pods, .. } = &peers[0] else { panic!("{peers:?}") };
        assert_eq!(*pods, Selector::Nothing, "{selector}");
        assert!(flaws[0].contains("prod<U+200B zero-width space>"), "{flaws:?}");
        let (policy, flaws) = flawed_policy(json!({"podSelector": selector, "ingress": [{}]}));
        assert_eq!(policy.subject.pods, Selector::everything(), "it excludes no pod");
        assert_eq!((policy.ingress.len(), flaws.len()), (0, 1), "{flaws:?}");
    }
}
