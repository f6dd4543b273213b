//! What is denied only because a pod is not known yet, and what no knowledge could change.

mod common;

use common::build::*;
use common::told::*;
use policy::{
    Action, Change, Decision, Direction, Directions, NamespaceMatch, Outcome, Peer, PortNumbers, Protocol,
    Reason, RuleId, Scope, Selector, Tier, Verdict,
};

/// In the pod CIDR of node `n2`, and no pod's.
const COMING: &str = "10.244.2.77";
/// In this node's own.
const COMING_HERE: &str = "10.244.1.77";

/// The usual cluster as node `n1` enforces it, with node `n2` and a pod there, and these policies.
fn changes(policies: impl IntoIterator<Item = Change>) -> Vec<Change> {
    let far = pod("web/far").labels("app=far").at("10.244.2.2").on("n2").into();
    cluster().into_iter().chain([node("n2", "192.168.0.2", "10.244.2.0/24"), far]).chain(policies).collect()
}

#[track_caller]
fn on_n1(policies: impl IntoIterator<Item = Change>, probes: &[Probe<'_>]) {
    told(Scope::Node("n1".into()), Verdict::Deny, &changes(policies), Directions::Both, probes);
}

/// Pod `web/a` lets in `app=b` of its namespace on port 80, and a block on port 81.
fn some_pods() -> Change {
    network_policy("web/p", "app=a")
        .ingress(rule().pods_in("web", "app=b").tcp(80))
        .ingress(rule().block("192.0.2.0/24", &[]).tcp(81))
        .into()
}

#[test]
fn s41_a_pod_that_is_coming_might_be_one_that_a_selector_chooses() {
    on_n1(
        [some_pods()],
        &[
            (tcp(COMING, A, 80), "allow not-a-pod | deny unknown-peer of web/p near web/p[0] by its peer"),
            // Neither rule opens this port to a pod.
            (tcp(COMING, A, 81), "allow not-a-pod | deny default-deny of web/p near web/p[1] by its peer"),
            (tcp(COMING, A, 82), "allow not-a-pod | deny default-deny of web/p"),
            // Pods that are known, here and there, and an address outside.
            (
                tcp("10.244.2.2", A, 80),
                "allow other-node | deny default-deny of web/p near web/p[0] by its peer",
            ),
            (tcp(C, A, 80), "allow not-isolated | deny default-deny of web/p near web/p[0] by its peer"),
            (tcp(OUTSIDE, A, 80), "allow not-a-pod | deny default-deny of web/p near web/p[1] by its port"),
            // Both ends unknown to someone: the pod here is not known either.
            (
                tcp(COMING_HERE, A, 80),
                "deny unknown-pod | deny unknown-peer of web/p near web/p[0] by its peer",
            ),
            (tcp(COMING_HERE, A, 82), "deny unknown-pod | deny default-deny of web/p"),
        ],
    );
}

#[test]
fn the_nodes_own_addresses_in_their_pod_cidrs_are_no_pods_and_never_will_be() {
    let denied = "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer";
    let probes = ["10.244.2.0", "10.244.2.1", "192.168.0.2"].map(|source| (tcp(source, A, 80), denied));
    on_n1([some_pods()], &probes);
}

#[test]
fn without_a_selector_no_pod_can_change_a_denial() {
    let nothing = Peer::Pods { namespaces: NamespaceMatch::Named("web".into()), pods: Selector::Nothing };
    let policy = network_policy("web/p", "app=a")
        .ingress(rule().block("192.0.2.0/24", &[]))
        .ingress(rule().peer(Peer::Nothing))
        .ingress(rule().peer(nothing))
        .isolate_egress();
    on_n1(
        [policy.into()],
        &[
            (tcp(COMING, A, 1), "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer"),
            (tcp(A, COMING, 1), "deny default-deny of web/p | allow not-a-pod"),
        ],
    );
}

#[test]
fn s41_a_destination_that_is_coming_might_give_its_port_a_name() {
    let policy = network_policy("web/p", "app=a")
        .egress(rule().named(Protocol::TCP, "http"))
        .egress(rule().block("10.244.2.0/25", &[]).named(Protocol::UDP, "dns"))
        .egress(rule().pods_in("db", "").port(Some(Protocol::SCTP), PortNumbers::Any));
    let udp = |to: &str| raw(A, to, Protocol::UDP).to_port(53);
    on_n1(
        [policy.into()],
        &[
            (tcp(A, COMING, 80), "deny unknown-peer of web/p near web/p[0] by its port | allow not-a-pod"),
            (udp(COMING), "deny unknown-peer of web/p near web/p[0] by its port | allow not-a-pod"),
            // Outside of the block that the named port asks for.
            (udp("10.244.2.200"), "deny default-deny of web/p near web/p[0] by its port | allow not-a-pod"),
            (
                raw(A, COMING, Protocol::SCTP),
                "deny unknown-peer of web/p near web/p[0] by its port | allow not-a-pod",
            ),
            // A packet without a port has no port's name; pods that are known have the names that they have.
            (
                raw(A, COMING, Protocol::TCP),
                "deny default-deny of web/p near web/p[0] by its port | allow not-a-pod",
            ),
            (
                tcp(A, "10.244.2.2", 80),
                "deny default-deny of web/p near web/p[0] by its port | allow other-node",
            ),
        ],
    );
}

#[test]
fn in_the_tiers_around_a_rule_that_might_match_first_gives_hope() {
    let admin = cluster_policy("admin", Tier::Admin, 1)
        .ingress(rule().action(Action::Accept).pods("", "app=b").tcp(1))
        .ingress(rule().action(Action::Pass).pods("", "app=b").tcp(2))
        .ingress(rule().action(Action::Deny).pods("", "app=c").tcp(3))
        .ingress(rule().action(Action::Deny).block("10.0.0.0/8", &[]));
    let baseline = cluster_policy("base", Tier::Baseline, 0).ingress(rule().action(Action::Deny));
    on_n1(
        [admin.into(), baseline.into(), network_policy("db/p", "").ingress(rule().tcp(2)).into()],
        &[
            (tcp(COMING, A, 1), "allow not-a-pod | deny unknown-peer admin[3]"),
            // It might pass by the tier, but then Baseline denies it to `web/a`, and not to `db/d`.
            (tcp(COMING, A, 2), "allow not-a-pod | deny rule admin[3]"),
            (tcp(COMING, D, 2), "allow not-a-pod | deny unknown-peer admin[3]"),
            (tcp(COMING, A, 3), "allow not-a-pod | deny rule admin[3]"),
        ],
    );
}

#[test]
fn s41_a_rule_that_might_deny_a_pod_that_is_coming_denies_it_until_it_is_known() {
    let admin = cluster_policy("admin", Tier::Admin, 1)
        .ingress(rule().action(Action::Accept).block("10.244.2.0/24", &[]).tcp(1))
        .ingress(rule().action(Action::Deny).pods("", "app=b").tcp(1))
        .ingress(rule().action(Action::Deny).pods("", "app=b").tcp(2))
        .ingress(rule().action(Action::Pass).pods("", "app=b").tcp(3))
        .ingress(rule().action(Action::Accept).tcp(3))
        .egress(rule().action(Action::Deny).named(Protocol::TCP, "http"));
    on_n1(
        [admin.into()],
        &[
            // What is sure to match comes first.
            (tcp(COMING, A, 1), "allow not-a-pod | allow rule admin[0]"),
            (tcp(COMING, A, 2), "allow not-a-pod | deny unknown-peer"),
            (tcp(COMING, A, 3), "allow not-a-pod | deny unknown-peer"),
            (tcp(COMING, A, 4), "allow not-a-pod | allow not-isolated"),
            (tcp(A, COMING, 5), "deny unknown-peer | allow not-a-pod"),
            (tcp(A, OUTSIDE, 5), "allow not-isolated | allow not-a-pod"),
            (tcp(OUTSIDE, A, 2), "allow not-a-pod | allow not-isolated"),
        ],
    );
}

#[test]
fn what_goes_to_the_node_itself_has_no_pod_at_its_other_end() {
    let policy = network_policy("web/p", "app=a").egress(rule().pods_in("web", ""));
    told(
        Scope::Node("n1".into()),
        Verdict::Deny,
        &changes([policy.into()]),
        Directions::Egress,
        &[(
            tcp(A, "10.244.1.254", 1),
            "deny default-deny of web/p near web/p[0] by its peer | allow not-a-pod",
        )],
    );
}

#[test]
fn s42_unsure_ends_as_the_operator_says_and_what_is_sure_does_not() {
    let scope = Scope::Node("n1".into());
    let probes: &[Probe<'_>] = &[
        (tcp(COMING, A, 80), "allow not-a-pod | allow unknown-peer of web/p near web/p[0] by its peer"),
        (tcp(COMING, A, 82), "allow not-a-pod | deny default-deny of web/p"),
        (tcp(COMING_HERE, A, 82), "allow unknown-pod | deny default-deny of web/p"),
    ];
    told(scope, Verdict::Allow, &changes([some_pods()]), Directions::Both, probes);
}

#[test]
fn a_pod_that_comes_and_a_node_that_goes_end_the_doubt() {
    let known = pod("web/b2").labels("app=b").at(COMING).on("n2");
    on_n1([some_pods(), known.into()], &[(tcp(COMING, A, 80), "allow other-node | allow rule web/p[0]")]);
    let gone = "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer";
    on_n1([some_pods(), Change::NodeGone("n2".into())], &[(tcp(COMING, A, 80), gone)]);
}

#[test]
fn s42_a_decision_is_provisional_unless_one_side_denies_for_sure() {
    let open = Outcome::allow(Reason::NotIsolated);
    let unknown = Outcome::deny(Reason::UnknownPod);
    let peer = Outcome::deny(Reason::UnknownPeer);
    let cases = [
        (open, open, false),
        (unknown, open, true),
        (open, peer, true),
        (unknown, peer, true),
        // Whatever stands in for knowledge.
        (Outcome::allow(Reason::UnknownPod), open, true),
        (unknown, Outcome::deny(Reason::DefaultDeny), false),
        (Outcome::deny(Reason::Rule(RuleId(1))), peer, false),
    ];
    for (egress, ingress, unsure) in cases {
        assert_eq!(Decision { egress, ingress }.is_provisional(), unsure, "{egress:?} {ingress:?}");
        assert_eq!(
            Decision { egress: ingress, ingress: egress }.is_provisional(),
            unsure,
            "{ingress:?} {egress:?}"
        );
    }
    assert!(!Decision::UNPARSABLE.is_provisional());
}

#[test]
fn an_explanation_says_what_is_missing_and_what_denies_until_then() {
    let (_, snapshot) = common::compile(Scope::Node("n1".into()), Verdict::Deny, &changes([some_pods()]));
    let packet = tcp(COMING, A, 80);
    let decision = snapshot.evaluate(&packet, Directions::Both);
    assert_eq!(
        snapshot.explain(&packet, &decision, Direction::Ingress).to_string(),
        "denied: it depends on which pod the other end is, and no pod is known to have its address; else denied: isolated by web/p; \
         nearest miss: web/p ingress[0] (port matches, peer does not)"
    );
}
