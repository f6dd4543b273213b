//! Unknown labels (semantics 37, 42): they never allow anything, they can deny, and denials are provisional.

mod common;

use common::build::*;
use common::probes::*;
use policy::{
    Action, Change, Direction, Directions, Labels, Match, Namespace, Peer, Requirement, Scope, Selector,
    Tier, Verdict,
};

/// Namespace `db` with labels that can't be read.
fn unreadable_namespace() -> Change {
    Change::Namespace(Namespace { name: "db".into(), labels: Labels::unknown() })
}

/// Pod `web/b` with labels that can't be read.
fn unreadable_pod() -> Change {
    pod("web/b").unknown_labels().at(B).into()
}

#[test]
fn s37_on_unknown_labels_every_requirement_is_unknown_and_the_empty_selector_matches() {
    let value = || [std::sync::Arc::from("x")].into();
    let requirements = [
        Requirement::In("k".into(), value()),
        Requirement::NotIn("k".into(), value()),
        Requirement::Exists("k".into()),
        Requirement::DoesNotExist("k".into()),
    ];
    for requirement in &requirements {
        assert_eq!(requirement.matches(&Labels::unknown()), Match::Unknown, "{requirement:?}");
    }
    assert_eq!(Selector::everything().matches(&Labels::unknown()), Match::Yes);
    assert_eq!(Selector::Nothing.matches(&Labels::unknown()), Match::No);
    let all = Selector::All(requirements.into());
    assert_eq!(all.matches(&Labels::unknown()), Match::Unknown);
    assert_eq!(all.matches(&labels("k=x")), Match::No, "NotIn and DoesNotExist do not hold");
}

#[test]
fn s37_the_name_label_of_a_namespace_is_always_known() {
    let by_name = |operator: &str| selector(&format!("kubernetes.io/metadata.name{operator}"));
    let cases = [
        ("=db", Match::Yes),
        (" in web|db", Match::Yes),
        (" notin web", Match::Yes),
        ("", Match::Yes),
        ("=web", Match::No),
        (" notin db", Match::No),
    ];
    for (operator, expected) in cases {
        assert_eq!(by_name(operator).matches_namespace("db", &Labels::unknown()), expected, "{operator}");
    }
    let with_another = selector("kubernetes.io/metadata.name=db,team=back");
    assert_eq!(with_another.matches_namespace("db", &Labels::unknown()), Match::Unknown);
    let excluded = selector("kubernetes.io/metadata.name=web,team=back");
    assert_eq!(excluded.matches_namespace("db", &Labels::unknown()), Match::No, "regardless of its team");
}

#[test]
fn s37_a_peer_whose_namespace_is_unknown_matches_no_rule_that_allows_by_its_labels() {
    let by_namespace = |text: &str| network_policy("web/p", "app=a").ingress(rule().pods(text, ""));
    let held = "allow not-isolated | deny unknown-labels of web/p near web/p[0] by its peer";
    for text in ["team notin front", "!env", "team=back", "team"] {
        for change in [unreadable_namespace(), Change::NamespaceGone("db".into())] {
            scenario([by_namespace(text).into(), change], &[(tcp(D, A, 1), held)]);
        }
    }
    // Rules that do not depend on the unknown labels apply.
    for text in ["", "kubernetes.io/metadata.name=db"] {
        let allowed = "allow not-isolated | allow rule web/p[0]";
        scenario([by_namespace(text).into(), unreadable_namespace()], &[(tcp(D, A, 1), allowed)]);
    }
    let other = "allow not-isolated | deny default-deny of web/p near web/p[0] by its peer";
    let elsewhere = by_namespace("kubernetes.io/metadata.name=web,!env");
    scenario([elsewhere.into(), unreadable_namespace()], &[(tcp(D, A, 1), other)]);
}

#[test]
fn s37_a_peer_with_unknown_labels_matches_no_rule_that_allows_by_its_labels() {
    let policy = network_policy("web/p", "app=a")
        .ingress(rule().pods_in("web", "app notin c").tcp(1))
        .ingress(rule().pods_in("web", "").tcp(2))
        .ingress(rule().block("10.244.1.3/32", &[]).tcp(3))
        .ingress(rule().pods_in("db", "!app").tcp(4));
    scenario(
        [policy.into(), unreadable_pod()],
        &[
            (tcp(B, A, 1), "allow not-isolated | deny unknown-labels of web/p near web/p[1] by its port"),
            (tcp(B, A, 2), "allow not-isolated | allow rule web/p[1]"),
            (tcp(B, A, 3), "allow not-isolated | allow rule web/p[2]"),
            // Its namespace is known, and is a different one.
            (tcp(B, A, 4), "allow not-isolated | deny default-deny of web/p near web/p[1] by its port"),
        ],
    );
}

#[test]
fn s37_a_pod_with_unknown_labels_is_isolated_by_every_policy_that_might_select_it() {
    let might = network_policy("web/might", "app=b").ingress(rule());
    let surely = network_policy("web/surely", "").ingress(rule().pods_in("web", "app=a"));
    let never = network_policy("db/never", "app=b").isolate_ingress().isolate_egress();
    let held = "allow not-isolated | deny unknown-labels of web/might";
    scenario([might.into(), unreadable_pod()], &[(tcp(A, B, 1), held), (tcp(B, A, 1), OPEN)]);
    let might = || network_policy("web/might", "app=b").ingress(rule());
    scenario(
        [might().into(), surely.into(), unreadable_pod()],
        &[
            // The policy that certainly applies allows it: policies are a union.
            (tcp(A, B, 1), "allow not-isolated | allow rule web/surely[0]"),
            (
                tcp(C, B, 1),
                "allow not-isolated | deny unknown-labels of web/might,web/surely near web/surely[0] by its peer",
            ),
        ],
    );
    scenario([never.into(), unreadable_pod()], &[(tcp(A, B, 1), OPEN)]);
}

#[test]
fn s42_a_denial_that_no_labels_could_change_is_not_provisional() {
    let deny = network_policy("web/deny", "").isolate_ingress();
    scenario(
        [deny.into(), unreadable_pod()],
        &[(tcp(A, B, 1), "allow not-isolated | deny default-deny of web/deny")],
    );
    let port = network_policy("web/p", "app=a").ingress(rule().pods_in("web", "app=b").tcp(80));
    scenario(
        [port.into(), unreadable_pod()],
        &[(tcp(B, A, 81), "allow not-isolated | deny default-deny of web/p")],
    );
}

#[test]
fn s37_in_the_other_tiers_a_deny_that_might_match_applies_and_an_accept_does_not() {
    let admin = || cluster_policy("admin", Tier::Admin, 1);
    let of_b = |action| rule().action(action).pods("", "app=b");
    scenario(
        [admin().ingress(of_b(Action::Deny)).into(), unreadable_pod()],
        &[(tcp(B, A, 1), "allow not-isolated | deny unknown-labels admin[0]"), (tcp(C, A, 1), OPEN)],
    );
    let deny_all = || rule().action(Action::Deny);
    scenario(
        [admin().ingress(of_b(Action::Accept)).ingress(deny_all()).into(), unreadable_pod()],
        &[(tcp(B, A, 1), "allow not-isolated | deny unknown-labels admin[1]")],
    );
    scenario(
        [admin().ingress(of_b(Action::Pass)).ingress(deny_all()).into(), unreadable_pod()],
        &[
            (tcp(B, A, 1), "allow not-isolated | deny unknown-labels admin[0]"),
            (tcp(C, A, 1), "allow not-isolated | deny rule admin[1]"),
        ],
    );
    // The first rule that certainly matches decides, by selector or by block.
    let by_block = rule().action(Action::Accept).block("10.244.1.3/32", &[]);
    scenario(
        [admin().ingress(by_block).ingress(of_b(Action::Deny)).into(), unreadable_pod()],
        &[(tcp(B, A, 1), "allow not-isolated | allow rule admin[0]")],
    );
}

#[test]
fn a_tier_policy_that_might_apply_denies_and_does_not_accept() {
    let mut policy = cluster_policy("admin", Tier::Admin, 1)
        .ingress(rule().action(Action::Accept).tcp(1))
        .ingress(rule().action(Action::Pass).tcp(2))
        .ingress(rule().action(Action::Deny).tcp(3));
    policy.0.subject.pods = selector("app=b");
    let deny = network_policy("web/deny", "").isolate_ingress();
    scenario(
        [policy.into(), deny.into(), unreadable_pod()],
        &[
            (tcp(A, B, 1), "allow not-isolated | deny unknown-labels of web/deny"),
            (tcp(A, B, 2), "allow not-isolated | deny unknown-labels admin[1]"),
            (tcp(A, B, 3), "allow not-isolated | deny rule admin[2]"),
        ],
    );
}

#[test]
fn baseline_is_skipped_if_a_policy_might_isolate_and_decides_whether_that_is_provisional() {
    let might = || network_policy("web/might", "app=b").isolate_ingress().into();
    let baseline = |action| cluster_policy("base", Tier::Baseline, 0).ingress(rule().action(action)).into();
    let held = "allow not-isolated | deny unknown-labels of web/might";
    scenario([might(), baseline(Action::Accept), unreadable_pod()], &[(tcp(A, B, 1), held)]);
    let denied = "allow not-isolated | deny default-deny of web/might";
    scenario([might(), baseline(Action::Deny), unreadable_pod()], &[(tcp(A, B, 1), denied)]);
}

#[test]
fn labels_that_become_known_end_a_provisional_denial() {
    let policy = || network_policy("web/p", "app=a").ingress(rule().pods("team=back", "")).into();
    scenario(
        [policy(), unreadable_namespace(), namespace("db", "team=back")],
        &[(tcp(D, A, 1), "allow not-isolated | allow rule web/p[0]")],
    );
    scenario(
        [policy(), unreadable_namespace(), namespace("db", "team=other")],
        &[(tcp(D, A, 1), "allow not-isolated | deny default-deny of web/p near web/p[0] by its peer")],
    );
}

#[test]
fn unknown_labels_that_no_policy_refers_to_change_nothing() {
    let policy = network_policy("web/p", "app=a").ingress(rule().block("10.0.0.0/8", &[]).tcp(1));
    let changes: Vec<Change> = cluster().into_iter().chain([policy.into(), unreadable_namespace()]).collect();
    let (_, snapshot) = common::compile(Scope::Cluster, Verdict::Deny, &changes);
    let mut known = cluster();
    known.push(network_policy("web/p", "app=a").ingress(rule().block("10.0.0.0/8", &[]).tcp(1)).into());
    let (_, all_known) = common::compile(Scope::Cluster, Verdict::Deny, &known);
    assert_eq!(snapshot.size(), all_known.size());
}

#[test]
fn a_provisional_denial_gets_the_configured_verdict_and_explains_what_is_unknown() {
    let nothing = Peer::Nothing;
    let policy =
        network_policy("web/p", "app=a").ingress(rule().pods("!env", "")).ingress(rule().peer(nothing));
    let changes: Vec<Change> = cluster().into_iter().chain([policy.into(), unreadable_namespace()]).collect();
    let probes: &[Probe<'_>] =
        &[(tcp(D, A, 1), "allow not-isolated | allow unknown-labels of web/p near web/p[0] by its peer")];
    check_probes(Scope::Node("n1".into()), Verdict::Allow, &changes, Directions::Both, probes);
    let (_, snapshot) = common::compile(Scope::Node("n1".into()), Verdict::Deny, &changes);
    let packet = tcp(D, A, 1);
    let decision = snapshot.evaluate(&packet, Directions::Both);
    assert!(decision.is_provisional());
    assert_eq!(
        snapshot.explain(&packet, &decision, Direction::Ingress).to_string(),
        "denied: policy might allow it, but labels of a pod at either end, or of its namespace, are unknown; \
         else denied: isolated by web/p; nearest miss: web/p ingress[0] (port matches, peer does not)"
    );
}
