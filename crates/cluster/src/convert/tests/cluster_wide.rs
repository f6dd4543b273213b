//! Cluster-wide policies: every field of the CRDs with wrong, missing and too many values.

use policy::{Action, PolicyKind, PolicyName, Subject, Tier};

use super::*;

/// The converted policy of this kind and spec, and its flaws as `field: what is wrong; effect`.
fn flawed(kind: Kind, spec: Value) -> (PolicySpec, Vec<String>) {
    flawed_object(kind, &json!({"metadata": {"name": "default"}, "spec": spec}))
}

fn flawed_object(kind: Kind, object: &Value) -> (PolicySpec, Vec<String>) {
    let converted = convert(kind, object, &[], &Interner::new()).expect("a policy");
    let Change::Policy(policy) = converted.change else { panic!("no policy") };
    let flaws = converted.flaws.iter().map(|flaw| format!("{}: {}; {}", flaw.at, flaw.what, flaw.effect));
    ((*policy).clone(), flaws.collect())
}

/// A ClusterNetworkPolicy without rules.
fn spec() -> Value {
    json!({"tier": "Baseline", "priority": 7, "subject": {"namespaces": {"matchLabels": {"team": "red"}}}})
}

/// The spec with these fields in place of, or besides, its own; `null` removes one.
fn spec_with(fields: Value) -> Value {
    merged(spec(), &fields)
}

fn merged(mut into: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().expect("fields") {
        into[name] = value.clone();
    }
    into
}

fn every_pod() -> Subject {
    Subject { namespaces: NamespaceMatch::Labels(selects(&[])), pods: selects(&[]) }
}

fn red() -> Subject {
    Subject { namespaces: NamespaceMatch::Labels(selects(&[is("team", "red")])), pods: selects(&[]) }
}

fn denies_all(name: Option<&str>) -> RuleSpec {
    RuleSpec { name: name.map(Into::into), action: Action::Deny, peers: None, ports: None }
}

fn matches_nothing(name: Option<&str>) -> RuleSpec {
    RuleSpec { name: name.map(Into::into), action: Action::Accept, peers: Some(Vec::new()), ports: None }
}

/// Rules whose kinds of actions differ, with the same peers; and what remains of them in a policy that is not
/// understood as a whole.
fn rules() -> (Value, Vec<RuleSpec>) {
    let rule = |action: &str| json!({"name": action, "action": action, "from": [{"namespaces": {}}]});
    let denies = |name: &str| {
        let peers = vec![Peer::Pods { namespaces: NamespaceMatch::Labels(selects(&[])), pods: selects(&[]) }];
        RuleSpec { name: Some(name.into()), action: Action::Deny, peers: Some(peers), ports: None }
    };
    let kept = vec![matches_nothing(Some("Accept")), denies("Deny"), denies("Pass")];
    (json!(["Accept", "Deny", "Pass"].map(rule)), kept)
}

/// Checks a rule that has a flaw, with each action: one that accepts matches nothing, and one that denies or
/// passes denies everything.
fn fails_closed(kind: Kind, direction: &str, rule: &Value, said: &[&str]) {
    let actions: &[&str] = match kind {
        Kind::ClusterNetworkPolicy => &["Accept", "Deny", "Pass"],
        Kind::AdminNetworkPolicy => &["Allow", "Deny", "Pass"],
        _ => &["Allow", "Deny"],
    };
    for action in actions {
        let rule = merged(json!({"action": action, "name": "r"}), rule);
        let fields = match kind {
            Kind::ClusterNetworkPolicy => spec(),
            Kind::AdminNetworkPolicy => json!({"priority": 7, "subject": {"namespaces": {}}}),
            _ => json!({"subject": {"namespaces": {}}}),
        };
        let (policy, flaws) = flawed(kind, merged(fields, &json!({direction: [rule]})));
        let rules = if direction == "ingress" { policy.ingress } else { policy.egress };
        let is_accept = ["Accept", "Allow"].contains(action);
        let (remains, effect) = match is_accept {
            true => (matches_nothing(Some("r")), "the rule matches nothing"),
            false => (denies_all(Some("r")), "the rule denies everything"),
        };
        assert_eq!(rules, [remains], "{action} {rule}");
        let expected: Vec<String> =
            said.iter().map(|said| format!("spec.{direction}[0]{said}; {effect}")).collect();
        assert_eq!(flaws, expected, "{action} {rule}");
    }
}

const CNP: Kind = Kind::ClusterNetworkPolicy;

#[test]
fn a_policy_that_an_api_server_accepts_has_no_flaw() {
    let spec = json!({
        "tier": "Admin", "priority": 0,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a"}}}},
        "ingress": [{"action": "Pass", "from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "http"}]}],
        "egress": [{"name": "out", "action": "Accept", "to": [{"networks": ["10.1.2.3/8", "fd00::/8"]},
            {"nodes": {"matchLabels": {"pool": "edge"}}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 443}}},
                {"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}]}],
    });
    let (policy, flaws) = flawed(CNP, spec);
    assert_eq!(flaws, Vec::<String>::new());
    let pods = selects(&[is("app", "a")]);
    let port = |protocol, numbers| PortMatch { protocol, numbers };
    assert_eq!(
        policy,
        PolicySpec {
            name: PolicyName::cluster_wide(PolicyKind::ClusterNetworkPolicy, "default"),
            tier: Tier::Admin,
            priority: 0,
            subject: Subject { namespaces: NamespaceMatch::Labels(selects(&[])), pods },
            isolates_ingress: false,
            isolates_egress: false,
            ingress: vec![RuleSpec {
                name: None,
                action: Action::Pass,
                peers: Some(vec![Peer::Pods {
                    namespaces: NamespaceMatch::Labels(selects(&[])),
                    pods: selects(&[])
                }]),
                ports: Some(vec![port(None, PortNumbers::Named("http".into()))]),
            }],
            egress: vec![RuleSpec {
                name: Some("out".into()),
                action: Action::Accept,
                peers: Some(vec![
                    block("10.0.0.0/8", &[]),
                    block("fd00::/8", &[]),
                    Peer::Nodes(selects(&[is("pool", "edge")])),
                ]),
                ports: Some(vec![
                    port(Some(Protocol::TCP), PortNumbers::Range(443, 443)),
                    port(Some(Protocol::UDP), PortNumbers::Range(1, 65535)),
                ]),
            }],
            omitted: None,
        }
    );
}

#[test]
fn s59_an_unknown_tier_counts_as_admin_and_an_unknown_priority_as_the_first() {
    let (rules, kept) = rules();
    let first = "its rules that accept match nothing, and those that pass deny";
    let admin = format!("the policy comes first in tier Admin; {first}");
    let zero = format!("the policy comes first in its tier; {first}");
    let [no_tier, no_priority] = ["Admin or Baseline", "a number from 0 to 1000"];
    for (fields, tier, priority, said, effect) in [
        (
            json!({"tier": "admin"}),
            Tier::Admin,
            0,
            format!("tier: \"admin\" is not a tier: use {no_tier}"),
            &admin,
        ),
        (json!({"tier": 1}), Tier::Admin, 0, format!("tier: 1 is not a tier: use {no_tier}"), &admin),
        (json!({"tier": ""}), Tier::Admin, 0, format!("tier: \"\" is not a tier: use {no_tier}"), &admin),
        (json!({"tier": null}), Tier::Admin, 0, format!("tier: there is no tier: use {no_tier}"), &admin),
        (
            json!({"tier": "NetworkPolicy"}),
            Tier::Admin,
            0,
            format!("tier: \"NetworkPolicy\" is not a tier: use {no_tier}"),
            &admin,
        ),
        (
            json!({"priority": -1}),
            Tier::Baseline,
            0,
            format!("priority: -1 is not a priority: use {no_priority}"),
            &zero,
        ),
        (
            json!({"priority": 1001}),
            Tier::Baseline,
            0,
            format!("priority: 1001 is not a priority: use {no_priority}"),
            &zero,
        ),
        (
            json!({"priority": "7"}),
            Tier::Baseline,
            0,
            format!("priority: \"7\" is not a priority: use {no_priority}"),
            &zero,
        ),
        (
            json!({"priority": null}),
            Tier::Baseline,
            0,
            format!("priority: there is no priority: use {no_priority}"),
            &zero,
        ),
    ] {
        let (policy, flaws) = flawed(CNP, spec_with(merged(fields.clone(), &json!({"ingress": rules}))));
        assert_eq!(flaws, [format!("spec.{said}; {effect}")]);
        assert_eq!((policy.tier, policy.priority), (tier, priority), "{fields}");
        assert_eq!((policy.ingress, policy.subject), (kept.clone(), red()), "{fields}");
    }
}

#[test]
fn s59_what_is_not_understood_of_a_subject_selects_every_pod() {
    let (rules, kept) = rules();
    let effect = "the policy applies to every pod that the rest of its subject selects; its rules that accept match \
                  nothing, and those that pass deny";
    let team = json!({"matchLabels": {"team": "red"}});
    let namespaces = |selector| Subject { namespaces: NamespaceMatch::Labels(selector), pods: selects(&[]) };
    for (subject, selected, said) in [
        (json!(null), every_pod(), ".subject: there is no subject"),
        (json!("red"), every_pod(), ".subject: \"red\" is not a subject"),
        (json!([]), every_pod(), ".subject: a list is not a subject"),
        (json!({}), every_pod(), ".subject: there is none of the fields namespaces, pods"),
        (json!({"services": {}}), every_pod(), ".subject.services: this field is not known"),
        (
            json!({"namespaces": team, "pods": {"podSelector": {}}}),
            every_pod(),
            ".subject: namespaces is combined with pods, which is not allowed: use one entry for each",
        ),
        (json!({"namespaces": 5}), every_pod(), ".subject.namespaces: 5 is not a selector"),
        (
            json!({"namespaces": {"matchLabels": {"team": "red"}, "matchFields": {}}}),
            red(),
            ".subject.namespaces.matchFields: this field is not known",
        ),
        (
            json!({"namespaces": {"matchLabels": {"team": "red"}, "matchExpressions": [{"key": "a", "operator": "Like"}]}}),
            red(),
            ".subject.namespaces.matchExpressions[0]: the operator \"Like\" is not known: use In, NotIn, Exists or DoesNotExist",
        ),
        (json!({"pods": []}), every_pod(), ".subject.pods: a list is not a pair of selectors"),
        (
            json!({"pods": {"namespaceSelector": team}}),
            red(),
            ".subject.pods.podSelector: there is no selector",
        ),
        (
            json!({"pods": {"namespaceSelector": team, "podSelector": {}, "nodeSelector": {}}}),
            red(),
            ".subject.pods.nodeSelector: this field is not known",
        ),
        (
            json!({"pods": {"namespaceSelector": 1, "podSelector": {}}}),
            namespaces(selects(&[])),
            ".subject.pods.namespaceSelector: 1 is not a selector",
        ),
    ] {
        let (policy, flaws) = flawed(CNP, spec_with(json!({"subject": subject, "ingress": rules})));
        assert_eq!(flaws, [format!("spec{said}; {effect}")]);
        assert_eq!(policy.subject, selected, "{subject}");
        assert_eq!(policy.ingress, kept, "{subject}");
    }
    let (policy, flaws) = flawed(
        Kind::AdminNetworkPolicy,
        json!({"priority": 7, "subject": {"pods": {"podSelector": {}}}, "ingress": []}),
    );
    assert_eq!(policy.subject, every_pod());
    assert_eq!(flaws, [format!("spec.subject.pods.namespaceSelector: there is no selector; {effect}")]);
}

#[test]
fn s59_an_unknown_action_denies_what_the_rule_matches() {
    let effect = "the rule denies what its peers and ports match";
    for (action, said) in [
        (json!("Allow"), "\"Allow\" is not an action: use Accept, Deny, Pass"),
        (json!("accept"), "\"accept\" is not an action: use Accept, Deny, Pass"),
        (json!("Log"), "\"Log\" is not an action: use Accept, Deny, Pass"),
        (json!(""), "\"\" is not an action: use Accept, Deny, Pass"),
        (json!(true), "true is not an action: use Accept, Deny, Pass"),
        (json!(null), "there is no action: use Accept, Deny, Pass"),
    ] {
        let rule = json!({"action": action, "to": [{"networks": ["192.0.2.0/24"]}]});
        let (policy, flaws) = flawed(CNP, spec_with(json!({"egress": [rule]})));
        assert_eq!(flaws, [format!("spec.egress[0].action: {said}; {effect}")]);
        let peers = Some(vec![block("192.0.2.0/24", &[])]);
        assert_eq!(policy.egress, [RuleSpec { name: None, action: Action::Deny, peers, ports: None }]);
    }
    for (kind, action, names) in [
        (Kind::AdminNetworkPolicy, "Accept", "Allow, Deny, Pass"),
        (Kind::BaselineAdminNetworkPolicy, "Pass", "Allow, Deny"),
    ] {
        let rule = json!({"action": action, "from": [{"namespaces": {}}]});
        let fields = json!({"subject": {"namespaces": {}}, "ingress": [rule]});
        let fields =
            if kind == Kind::AdminNetworkPolicy { merged(fields, &json!({"priority": 1})) } else { fields };
        let (policy, flaws) = flawed(kind, fields);
        assert_eq!(
            flaws,
            [format!("spec.ingress[0].action: \"{action}\" is not an action: use {names}; {effect}")]
        );
        assert_eq!(policy.ingress[0].action, Action::Deny);
    }
}

#[test]
fn s59_a_rule_with_a_peer_that_is_not_understood_fails_closed() {
    let selector = |peer: Value| json!({"from": [{"namespaces": {}}, peer]});
    for (rule, said) in [
        (json!({}), ".from: there are no peers"),
        (json!({"from": null}), ".from: there are no peers"),
        (json!({"from": []}), ".from: the list is empty"),
        (json!({"from": {}}), ".from: a mapping is not a list"),
        (
            json!({"from": vec![json!({"namespaces": {}}); 26]}),
            ".from: the list has 26 entries, at most 25 are allowed",
        ),
        (selector(json!(null)), ".from[1]: null is not a peer"),
        (selector(json!("all")), ".from[1]: \"all\" is not a peer"),
        (selector(json!({})), ".from[1]: there is none of the fields namespaces, pods"),
        (selector(json!({"namespaces": null})), ".from[1]: there is none of the fields namespaces, pods"),
        (selector(json!({"services": {}})), ".from[1].services: this field is not known"),
        (selector(json!({"networks": ["10.0.0.0/8"]})), ".from[1].networks: this field is not known"),
        (
            selector(json!({"namespaces": {}, "pods": {"podSelector": {}}})),
            ".from[1]: namespaces is combined with pods, which is not allowed: use one entry for each",
        ),
        (selector(json!({"namespaces": []})), ".from[1].namespaces: a list is not a selector"),
        (
            selector(json!({"namespaces": {"matchLabels": {"a": 1}}})),
            ".from[1].namespaces.matchLabels.a: the value is not a string: put it in quotes",
        ),
        (selector(json!({"pods": "a"})), ".from[1].pods: \"a\" is not a pair of selectors"),
        (selector(json!({"pods": {}})), ".from[1].pods.podSelector: there is no selector"),
        (
            selector(json!({"pods": {"podSelector": {}, "ports": []}})),
            ".from[1].pods.ports: this field is not known",
        ),
        (
            selector(json!({"pods": {"podSelector": {}, "namespaces": {}}})),
            ".from[1].pods.namespaces: this field is not known",
        ),
        (json!({"from": [{"namespaces": {}}], "schedule": 1}), ".schedule: this field is not known"),
        (json!({"from": [{"namespaces": {}}], "ports": []}), ".ports: this field is not known"),
    ] {
        fails_closed(CNP, "ingress", &rule, &[said]);
    }
    for (peer, said) in [
        (json!({"networks": "10.0.0.0/8"}), ".networks: \"10.0.0.0/8\" is not a list"),
        (json!({"networks": []}), ".networks: the list is empty"),
        (
            json!({"networks": vec!["10.0.0.0/8"; 26]}),
            ".networks: the list has 26 entries, at most 25 are allowed",
        ),
        (
            json!({"networks": ["10.0.0.0/8", "10.0.0.1"]}),
            ".networks[1]: \"10.0.0.1\" is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\": the length of its prefix is missing",
        ),
        (json!({"networks": [8]}), ".networks[0]: 8 is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\""),
        (
            json!({"networks": ["10.0.0.0/33"]}),
            ".networks[0]: \"10.0.0.0/33\" is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\"",
        ),
        (
            json!({"networks": ["::ffff:10.0.0.0/104"]}),
            ".networks[0]: \"::ffff:10.0.0.0/104\" is an IPv4-mapped block: write 10.0.0.0/8",
        ),
        (json!({"nodes": []}), ".nodes: a list is not a selector"),
        (
            json!({"nodes": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            ".nodes.matchExpressions[0]: In needs values",
        ),
        (
            json!({"nodes": {}, "networks": ["10.0.0.0/8"]}),
            ": networks is combined with nodes, which is not allowed: use one entry for each",
        ),
        (json!({}), ": there is none of the fields namespaces, pods, networks, nodes, domainNames"),
    ] {
        fails_closed(CNP, "egress", &json!({"to": [peer]}), &[&format!(".to[0]{said}")]);
    }
    fails_closed(
        CNP,
        "egress",
        &json!({"from": [{"namespaces": {}}]}),
        &[".from: this field is not known", ".to: there are no peers"],
    );
}

#[test]
fn s59_a_rule_with_a_protocol_that_is_not_understood_fails_closed() {
    let entry = |entry: Value| json!({"from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "http"}, entry]});
    let tcp = |port: Value| entry(json!({"tcp": {"destinationPort": port}}));
    let all = "tcp, udp, sctp, destinationNamedPort";
    for (rule, said) in [
        (json!({"from": [{"namespaces": {}}], "protocols": []}), ": the list is empty".to_owned()),
        (json!({"from": [{"namespaces": {}}], "protocols": {}}), ": a mapping is not a list".to_owned()),
        (
            json!({"from": [{"namespaces": {}}], "protocols": vec![json!({"destinationNamedPort": "a"}); 26]}),
            ": the list has 26 entries, at most 25 are allowed".to_owned(),
        ),
        (entry(json!(80)), "[1]: 80 is not a protocol".to_owned()),
        (entry(json!({})), format!("[1]: there is none of the fields {all}")),
        (entry(json!({"icmp": {}})), "[1].icmp: this field is not known".to_owned()),
        (
            entry(json!({"tcp": {"destinationPort": {"number": 1}}, "destinationNamedPort": "a"})),
            "[1]: tcp is combined with destinationNamedPort, which is not allowed: use one entry for each".to_owned(),
        ),
        (entry(json!({"tcp": {}})), "[1].tcp: there is none of the fields destinationPort".to_owned()),
        (entry(json!({"udp": 80})), "[1].udp: 80 is not a protocol".to_owned()),
        (entry(json!({"sctp": {"sourcePort": {}}})), "[1].sctp.sourcePort: this field is not known".to_owned()),
        (tcp(json!({})), "[1].tcp.destinationPort: there is none of the fields number, range".to_owned()),
        (
            tcp(json!({"number": 1, "range": {"start": 1, "end": 2}})),
            "[1].tcp.destinationPort: number is combined with range, which is not allowed: use one entry for each"
                .to_owned(),
        ),
        (
            tcp(json!({"number": 0})),
            "[1].tcp.destinationPort.number: 0 is not a port: use a number from 1 to 65535".to_owned(),
        ),
        (
            tcp(json!({"number": 65536})),
            "[1].tcp.destinationPort.number: 65536 is not a port: use a number from 1 to 65535".to_owned(),
        ),
        (
            tcp(json!({"number": "80"})),
            "[1].tcp.destinationPort.number: \"80\" is not a port: use a number from 1 to 65535".to_owned(),
        ),
        (tcp(json!({"range": 80})), "[1].tcp.destinationPort.range: 80 is not a range".to_owned()),
        (tcp(json!({"range": {"start": 1}})), "[1].tcp.destinationPort.range.end: there is no port".to_owned()),
        (
            tcp(json!({"range": {"start": 80, "end": 80}})),
            "[1].tcp.destinationPort.range: start 80 is not below end 80".to_owned(),
        ),
        (
            tcp(json!({"range": {"start": 1, "end": 2, "step": 1}})),
            "[1].tcp.destinationPort.range.step: this field is not known".to_owned(),
        ),
        (entry(json!({"destinationNamedPort": 80})), "[1].destinationNamedPort: 80 is not a valid port name".to_owned()),
        (
            entry(json!({"destinationNamedPort": ""})),
            "[1].destinationNamedPort: \"\" is not a valid port name".to_owned(),
        ),
    ] {
        fails_closed(CNP, "ingress", &rule, &[&format!(".protocols{said}")]);
    }
    for peer in [json!({"networks": ["10.0.0.0/8"]}), json!({"nodes": {}})] {
        let rule = json!({"to": [peer], "protocols": [{"destinationNamedPort": "http"}]});
        let said = ": networks, nodes and domainNames have no named ports: use two rules";
        fails_closed(CNP, "egress", &rule, &[said]);
    }
}

#[test]
fn s56_domain_names_match_nothing_yet_and_are_allowed_only_in_rules_that_accept() {
    let rule = |action: &str, names: Value| json!({"action": action, "to": [{"domainNames": names}, {"networks": ["192.0.2.0/24"]}]});
    let names = json!(["example.com", "*.example.com.", "a-b.c_d.example"]);
    let (policy, flaws) = flawed(CNP, spec_with(json!({"egress": [rule("Accept", names.clone())]})));
    assert_eq!(policy.egress[0].peers, Some(vec![Peer::Nothing, block("192.0.2.0/24", &[])]));
    let field = "spec.egress[0].to[0].domainNames";
    assert_eq!(flaws, [format!("{field}: domainNames is not implemented yet; the peer matches nothing")]);
    for action in ["Deny", "Pass"] {
        let (policy, flaws) = flawed(CNP, spec_with(json!({"egress": [rule(action, names.clone())]})));
        assert_eq!(policy.egress, [denies_all(None)]);
        let what = "domainNames is allowed only in rules that accept; the rule denies everything";
        assert_eq!(flaws, [format!("{field}: {what}")]);
    }
    for (names, said) in [
        (json!([]), ": the list is empty"),
        (json!(vec!["a.b"; 26]), ": the list has 26 entries, at most 25 are allowed"),
        (json!("a.b"), ": \"a.b\" is not a list"),
        (json!(["localhost"]), "[0]: \"localhost\" is not a domain name such as \"*.example.com\""),
        (json!(["*"]), "[0]: \"*\" is not a domain name such as \"*.example.com\""),
        (json!(["a.*.b"]), "[0]: \"a.*.b\" is not a domain name such as \"*.example.com\""),
        (json!(["a..b"]), "[0]: \"a..b\" is not a domain name such as \"*.example.com\""),
        (json!(["-a.b"]), "[0]: \"-a.b\" is not a domain name such as \"*.example.com\""),
        (json!(["a.b-"]), "[0]: \"a.b-\" is not a domain name such as \"*.example.com\""),
        (json!([1]), "[0]: 1 is not a domain name such as \"*.example.com\""),
    ] {
        let (policy, flaws) = flawed(CNP, spec_with(json!({"egress": [rule("Accept", names)]})));
        assert_eq!(policy.egress, [matches_nothing(None)]);
        assert_eq!(flaws[0], format!("{field}{said}; the rule matches nothing"));
    }
    // BaselineAdminNetworkPolicy has none.
    let rule = json!({"to": [{"domainNames": ["a.b"]}]});
    let said = ".to[0].domainNames: this field is not known";
    fails_closed(Kind::BaselineAdminNetworkPolicy, "egress", &rule, &[said]);
}

#[test]
fn s59_rules_that_are_not_understood_deny_everything() {
    let all = "the policy denies its pods everything in this direction";
    for (fields, said) in [
        (json!({"egress": {"to": []}}), "egress: a mapping is not a list"),
        (json!({"egress": "Deny"}), "egress: \"Deny\" is not a list"),
        (json!({"Egress": []}), "Egress: the field Egress is not known: egress is probably meant"),
        (json!({"egres": []}), "egres: the field egres is not known: egress is probably meant"),
    ] {
        let (policy, flaws) = flawed(CNP, spec_with(fields));
        assert_eq!(flaws, [format!("spec.{said}; {all}")]);
        assert_eq!((policy.ingress, policy.egress), (vec![], vec![denies_all(None)]));
        assert_eq!((policy.tier, policy.priority, policy.subject), (Tier::Baseline, 7, red()));
    }
    for rule in [json!(null), json!("Deny"), json!([])] {
        let (policy, flaws) = flawed(CNP, spec_with(json!({"ingress": [rule]})));
        assert_eq!(policy.ingress, [denies_all(None)]);
        assert!(flaws[0].ends_with(" is not a rule; the rule denies everything"), "{flaws:?}");
    }
}

#[test]
fn s57_s59_rules_beyond_the_limit_fail_closed() {
    let rule = |action: &str| json!({"action": action, "from": [{"namespaces": {}}]});
    let mut rules = vec![rule("Accept"); 26];
    let (policy, flaws) = flawed(CNP, spec_with(json!({"ingress": rules})));
    assert_eq!(policy.ingress.len(), 25);
    assert_eq!(
        flaws,
        [
            "spec.ingress: the list has 26 rules, at most 25 are allowed; of the further rules, those that accept match \
          nothing, and others deny everything"
        ]
    );
    for action in ["Deny", "Pass", "Reject"] {
        rules.push(rule(action));
        let (policy, _) = flawed(CNP, spec_with(json!({"ingress": rules})));
        assert_eq!((policy.ingress.len(), &policy.ingress[25]), (26, &denies_all(None)));
        rules.pop();
    }
    let fields = json!({"priority": 1, "subject": {"namespaces": {}}, "ingress": vec![
        json!({"action": "Deny", "from": vec![json!({"namespaces": {}}); 100],
            "ports": vec![json!({"portNumber": {"port": 80}}); 100]});
        100
    ]});
    let (policy, flaws) = flawed(Kind::AdminNetworkPolicy, fields);
    assert_eq!((policy.ingress.len(), flaws), (100, vec![]));
}

#[test]
fn s59_a_field_that_may_narrow_the_whole_policy_restricts_it() {
    let (rules, kept) = rules();
    let restricted = "the policy's rules that accept match nothing, and those that pass deny";
    let whole = spec_with(json!({"ingress": rules}));
    for (object, said) in [
        (
            json!({"metadata": {"name": "default"}, "spec": merged(whole.clone(), &json!({"schedule": 1}))}),
            "spec.schedule: this field is not known",
        ),
        (json!({"metadata": {"name": "default"}, "spec": whole, "when": 1}), "when: this field is not known"),
        (json!({"metadata": {}, "spec": whole}), "metadata: there is no name"),
        (json!({"spec": whole}), "the object: there is no metadata"),
        (
            json!({"metadata": {"name": 5}, "spec": whole}),
            "metadata.name: the value 5 is not a string: put it in quotes",
        ),
    ] {
        let (policy, flaws) = flawed_object(CNP, &object);
        assert_eq!(flaws, [format!("{said}; {restricted}")]);
        assert_eq!((policy.ingress, policy.subject), (kept.clone(), red()));
    }
    let banp = json!({"metadata": {"name": "other"}, "spec": {"subject": {"namespaces": {}}, "ingress": [
        {"action": "Allow", "from": [{"namespaces": {}}]}]}});
    let (policy, flaws) = flawed_object(Kind::BaselineAdminNetworkPolicy, &banp);
    let said = "metadata.name: a BaselineAdminNetworkPolicy must have the name default";
    assert_eq!(flaws, [format!("{said}; {restricted}")]);
    assert_eq!(policy.ingress, [matches_nothing(None)]);
}

/// Found by an attack: a Deny under a wrong indentation, or in a list of rules of a newer API, had vanished.
#[test]
fn s59_an_unknown_field_that_may_hold_rules_denies_everything() {
    let (rules, _) = rules();
    let whole = spec_with(json!({"ingress": rules}));
    let object = |fields: Value| merged(json!({"metadata": {"name": "default"}, "spec": whole}), &fields);
    let in_spec = |fields: Value| object(json!({"spec": merged(whole.clone(), &fields)}));
    let mut in_subject = whole.clone();
    in_subject["subject"]["ingress"] = rules.clone();
    for object in [
        object(json!({"ingress": rules})),
        object(json!({"egressRules": []})),
        in_spec(json!({"ingressRules": rules})),
        in_spec(json!({"rules": {"ingress": rules}})),
        in_spec(json!({"deny": [1]})),
        object(json!({"spec": in_subject})),
    ] {
        let (policy, flaws) = flawed_object(CNP, &object);
        assert!(!flaws.is_empty(), "{object}");
        assert_eq!([policy.ingress, policy.egress], [(); 2].map(|()| vec![denies_all(None)]), "{object}");
    }
    let (_, flaws) = flawed_object(CNP, &in_spec(json!({"rules": {}})));
    let effect = "rules may be in it: the policy denies its pods everything, in both directions";
    assert_eq!(flaws, [format!("spec.rules: this field is not known; {effect}")]);
}

#[test]
fn s59_a_spec_that_is_not_understood_denies_everything() {
    let effect = "the policy denies everything, in both directions, to every pod that it might select";
    for (object, said) in [
        (json!({}), "spec: there is no spec"),
        (json!({"spec": null}), "spec: there is no spec"),
        (json!({"spec": "Deny"}), "spec: \"Deny\" is not a spec of a policy, or has none of its fields"),
        (json!({"spec": {}}), "spec: a mapping is not a spec of a policy, or has none of its fields"),
        (
            json!({"spec": {"rules": []}}),
            "spec: a mapping is not a spec of a policy, or has none of its fields",
        ),
        (json!({"Spec": spec()}), "Spec: the field Spec is not known: spec is probably meant"),
    ] {
        let object = merged(object, &json!({"metadata": {"name": "default"}}));
        let (policy, flaws) = flawed_object(CNP, &object);
        assert_eq!(flaws, [format!("{said}; {effect}")]);
        assert_eq!((policy.ingress, policy.egress), (vec![denies_all(None)], vec![denies_all(None)]));
        assert_eq!((policy.tier, policy.priority, policy.subject), (Tier::Admin, 0, every_pod()));
    }
}

#[test]
fn s59_a_duplicate_field_is_not_understood() {
    let read = |spec: &str| {
        let (change, flaws) = one(&format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
        ));
        let Change::Policy(policy) = change else { panic!("no policy") };
        (policy, flaws)
    };
    let subject = "subject: {namespaces: {matchLabels: {team: red}}}";
    let deny = "{action: Deny, from: [{namespaces: {}}]}";
    let everything = (vec![denies_all(None)], vec![denies_all(None)]);
    for (spec, selected) in [
        (format!("{{tier: Admin, priority: 1, {subject}, ingress: [{deny}], ingress: []}}"), red()),
        (format!("{{tier: Baseline, tier: Admin, priority: 1, {subject}}}"), red()),
        (format!("{{tier: Admin, priority: 1, priority: 2, {subject}}}"), red()),
        (format!("{{tier: Admin, priority: 1, {subject}, subject: {{namespaces: {{}}}}}}"), every_pod()),
        (format!("{{tier: Admin, priority: 1, {subject}}}\nspec: {{tier: Admin, priority: 1}}"), every_pod()),
    ] {
        let (policy, flaws) = read(&spec);
        let [flaw] = flaws.as_slice() else { panic!("{flaws:?}") };
        assert!(
            flaw.contains("this field is written 2 times") && flaw.contains("denies everything, in both"),
            "{flaw}"
        );
        assert_eq!((policy.ingress.clone(), policy.egress.clone()), everything, "{spec}");
        assert_eq!((policy.tier, policy.priority, &policy.subject), (Tier::Admin, 0, &selected), "{spec}");
    }
    for rule in [
        "{action: Accept, action: Deny, from: [{namespaces: {}}]}",
        "{action: Deny, from: [], from: [{namespaces: {}}]}",
        "{action: Pass, from: [{namespaces: {matchLabels: {a: b, a: c}}}]}",
    ] {
        let (policy, flaws) = read(&format!("{{tier: Admin, priority: 1, {subject}, ingress: [{rule}]}}"));
        assert_eq!(policy.ingress, [denies_all(None)], "{rule}");
        assert!(flaws.len() == 1 && flaws[0].ends_with("; the rule denies everything"), "{flaws:?}");
    }
}

#[test]
fn s63_ports_of_v1alpha1() {
    let ports = |entry: Value| json!({"from": [{"namespaces": {}}], "ports": [entry]});
    for (kind, most) in [(Kind::AdminNetworkPolicy, 100), (Kind::BaselineAdminNetworkPolicy, 100)] {
        for (rule, said) in [
            (json!({"from": [{"namespaces": {}}], "ports": []}), ": the list is empty".to_owned()),
            (
                json!({"from": [{"namespaces": {}}], "ports": vec![json!({"namedPort": "a"}); most + 1]}),
                ": the list has 101 entries, at most 100 are allowed".to_owned(),
            ),
            (
                ports(json!({})),
                "[0]: there is none of the fields portNumber, namedPort, portRange".to_owned(),
            ),
            (ports(json!({"port": 80})), "[0].port: this field is not known".to_owned()),
            (
                ports(json!({"namedPort": "a", "portNumber": {"port": 80}})),
                "[0]: portNumber is combined with namedPort, which is not allowed: use one entry for each"
                    .to_owned(),
            ),
            (ports(json!({"portNumber": 80})), "[0].portNumber: 80 is not a port".to_owned()),
            (
                ports(json!({"portNumber": {"protocol": "TCP"}})),
                "[0].portNumber.port: there is no port".to_owned(),
            ),
            (
                ports(json!({"portNumber": {"protocol": "tcp", "port": 80}})),
                "[0].portNumber.protocol: \"tcp\" is not a protocol: use TCP, UDP or SCTP".to_owned(),
            ),
            (
                ports(json!({"portRange": {"start": 81, "end": 80}})),
                "[0].portRange: start 81 is not below end 80".to_owned(),
            ),
            (
                ports(json!({"portRange": {"start": 80, "end": 70000}})),
                "[0].portRange.end: 70000 is not a port: use a number from 1 to 65535".to_owned(),
            ),
        ] {
            fails_closed(kind, "ingress", &rule, &[&format!(".ports{said}")]);
        }
    }
    let rule = merged(
        json!({"action": "Deny"}),
        &json!({"from": [{"namespaces": {}}], "ports": [{"portNumber": {"port": 80}}, {"portRange": {"start": 5, "end": 5}}]}),
    );
    let (policy, flaws) = flawed(
        Kind::AdminNetworkPolicy,
        json!({"priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]}),
    );
    assert_eq!(flaws, Vec::<String>::new());
    let tcp =
        |number| PortMatch { protocol: Some(Protocol::TCP), numbers: PortNumbers::Range(number, number) };
    assert_eq!(policy.ingress[0].ports, Some(vec![tcp(80), tcp(5)]), "an absent protocol means TCP");
}

#[test]
fn s63_selectors_of_other_namespaces_by_their_labels_are_not_supported() {
    for (peer, said) in [
        (json!({"namespaces": {"sameLabels": ["tenant"]}}), ".namespaces.sameLabels"),
        (json!({"namespaces": {"notSameLabels": ["tenant"]}}), ".namespaces.notSameLabels"),
        (
            json!({"pods": {"namespaces": {"sameLabels": ["tenant"]}, "podSelector": {}}}),
            ".pods.namespaces.sameLabels",
        ),
    ] {
        let said = format!(".from[0]{said}: this field is not supported: later versions lack it");
        fails_closed(Kind::AdminNetworkPolicy, "ingress", &json!({"from": [peer]}), &[&said]);
    }
    fails_closed(
        Kind::AdminNetworkPolicy,
        "ingress",
        &json!({"from": [{"pods": {"podSelector": {}}}]}),
        &[".from[0].pods.namespaceSelector: there is no selector"],
    );
}

#[test]
fn s58_a_rule_that_denies_by_port_name_is_in_force_and_reported() {
    let said = "a Deny by port name can be avoided by the pod's owner, who chooses the names; a pod that names \
                the port otherwise is not denied: use numbers";
    let rule = |action: &str| {
        json!({"action": action, "from": [{"namespaces": {}}], "protocols": [
            {"destinationNamedPort": "http"}, {"tcp": {"destinationPort": {"number": 80}}},
        ]})
    };
    let rules = json!([rule("Accept"), rule("Deny"), rule("Pass")]);
    let (policy, flaws) = flawed(CNP, spec_with(json!({"ingress": rules})));
    assert_eq!(flaws, [format!("spec.ingress[1].protocols: {said}")]);
    let actions: Vec<Action> = policy.ingress.iter().map(|rule| rule.action).collect();
    assert_eq!(actions, [Action::Accept, Action::Deny, Action::Pass]);
    assert!(policy.ingress.iter().all(|rule| rule.ports.as_ref().is_some_and(|ports| ports.len() == 2)));
    let rule = json!({"action": "Deny", "from": [{"namespaces": {}}], "ports": [{"namedPort": "http"}]});
    let spec = json!({"priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]});
    let (_, flaws) = flawed(Kind::AdminNetworkPolicy, spec);
    assert_eq!(flaws, [format!("spec.ingress[0].ports: {said}")]);
}

/// `pods.namespaces` exists only in the first versions, in which one of its fields must be set.
#[test]
fn s63_namespaces_of_pods_in_the_first_form_need_a_field_that_is_known() {
    let none = ".namespaceSelector: there is no selector";
    let unknown = |field: &str| format!(".{field}: this field is not known");
    for (namespaces, said) in [
        (json!({}), vec![none.to_owned()]),
        (json!({"related": "Self"}), vec![unknown("related"), none.to_owned()]),
        (json!({"matchLabels": {"a": "b"}}), vec![unknown("matchLabels"), none.to_owned()]),
        (json!({"namespaceSelector": {}, "related": "Self"}), vec![unknown("related")]),
        (json!([]), vec![": a list is not a selector of namespaces".to_owned()]),
    ] {
        let rule = json!({"from": [{"pods": {"namespaces": namespaces, "podSelector": {}}}]});
        let said: Vec<String> = said.iter().map(|said| format!(".from[0].pods.namespaces{said}")).collect();
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        for kind in [Kind::AdminNetworkPolicy, Kind::BaselineAdminNetworkPolicy] {
            fails_closed(kind, "ingress", &rule, &said);
        }
    }
    let rule = json!({"action": "Allow", "from": [
        {"pods": {"namespaces": {"namespaceSelector": {}}, "podSelector": {}}},
        {"namespaces": {}},
    ]});
    let spec = json!({"priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]});
    let (policy, flaws) = flawed(Kind::AdminNetworkPolicy, spec);
    assert_eq!(flaws, Vec::<String>::new());
    let everywhere = || Peer::Pods { namespaces: NamespaceMatch::Labels(selects(&[])), pods: selects(&[]) };
    assert_eq!(policy.ingress[0].peers, Some(vec![everywhere(), everywhere()]));
}

#[test]
fn names_and_namespaces_that_have_no_effect_are_reported() {
    let long = "n".repeat(101);
    for (name, said) in [
        (json!(long), "the name has 101 characters, at most 100 are allowed"),
        (json!(5), "the value 5 is not a string: put it in quotes"),
    ] {
        let rule = json!({"name": name, "action": "Accept", "from": [{"namespaces": {}}]});
        let (policy, flaws) = flawed(CNP, spec_with(json!({"ingress": [rule]})));
        assert_eq!(flaws, [format!("spec.ingress[0].name: {said}; records show the rule by its number")]);
        assert_eq!((policy.ingress[0].action, &policy.ingress[0].name), (Action::Accept, &None));
        assert_eq!(policy.ingress[0].peers.as_ref().map(Vec::len), Some(1), "the rule is in force");
    }
    let rule = json!({"action": "Deny", "to": [{"networks": ["10.0.0.0/8", "10.0.0.0/8"]}]});
    let (policy, flaws) = flawed(CNP, spec_with(json!({"egress": [rule]})));
    assert_eq!(
        flaws,
        ["spec.egress[0].to[0].networks[1]: 10.0.0.0/8 is written more than once; it counts once"]
    );
    assert_eq!(policy.egress[0].peers, Some(vec![block("10.0.0.0/8", &[])]));
}

#[test]
fn s59_a_policy_whose_text_breaks_off_denies_its_pods_everything() {
    let text = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\n\
                spec:\n  tier: Baseline\n  priority: 3\n  subject: {namespaces: {matchLabels: {team: red}}}\n  \
                ingress: [{action: Accept, from: [";
    let reading = manifest::read(Path::new("test.yaml"), text.as_bytes(), &Interner::new());
    let changes: Vec<&Change> = reading.changes().collect();
    let [Change::Policy(policy)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((policy.tier, policy.priority, &policy.subject), (Tier::Baseline, 3, &red()));
    assert_eq!((&policy.ingress, &policy.egress), (&vec![denies_all(None)], &vec![denies_all(None)]));
    assert!(reading.failures[0].effect.contains("are denied everything"), "{:?}", reading.failures);
}
