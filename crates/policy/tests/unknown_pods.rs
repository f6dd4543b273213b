//! Provisional denials because a pod is not known yet, and denials that no knowledge could change.

mod common;

use common::build::*;
use common::probes::*;
use policy::{
    Action, Change, Decision, Direction, Directions, NamespaceMatch, Outcome, Peer, PortNumbers, Protocol,
    Reason, RuleId, Scope, Selector, Tier, Verdict,
};

/// In the pod CIDR of node `n2`; no known pod has it.
const UNKNOWN: &str = "10.244.2.77";
/// In the pod CIDR of this node; no known pod has it.
const UNKNOWN_HERE: &str = "10.244.1.77";

/// The usual cluster, node `n2` with a pod, and these policies.
fn changes(policies: impl IntoIterator<Item = Change>) -> Vec<Change> {
    let far = pod("web/far").labels("app=far").at("10.244.2.2").on("n2").into();
    cluster().into_iter().chain([node("n2", "192.168.0.2", "10.244.2.0/24"), far]).chain(policies).collect()
}

#[track_caller]
fn on_n1(policies: impl IntoIterator<Item = Change>, probes: &[Probe<'_>]) {
    check_probes(Scope::Node("n1".into()), Verdict::Deny, &changes(policies), Directions::Both, probes);
}

/// Pod `web/a` allows `app=b` of its namespace on port 80, and a block on port 81.
fn some_pods() -> Change {
    network_policy("web/p", "app=a")
        .ingress(rule().pods_in("web", "app=b").tcp(80))
        .ingress(rule().block("192.0.2.0/24", &[]).tcp(81))
        .into()
}

#[test]
fn s41_an_unknown_pod_might_match_a_selector() {
    on_n1(
        [some_pods()],
        &[
            (tcp(UNKNOWN, A, 80), "allow not-a-pod | deny unknown-peer of web/p near web/p[0] by its peer"),
            // Neither rule allows a pod on this port.
            (tcp(UNKNOWN, A, 81), "allow not-a-pod | deny default-deny of web/p near web/p[1] by its peer"),
            (tcp(UNKNOWN, A, 82), "allow not-a-pod | deny default-deny of web/p"),
            // Known pods of this node and of the other, and an address outside the cluster.
            (
                tcp("10.244.2.2", A, 80),
                "allow other-node | deny default-deny of web/p near web/p[0] by its peer",
            ),
            (tcp(C, A, 80), "allow not-isolated | deny default-deny of web/p near web/p[0] by its peer"),
            (tcp(OUTSIDE, A, 80), "allow not-a-pod | deny default-deny of web/p near web/p[1] by its port"),
            // Both pods are unknown.
            (
                tcp(UNKNOWN_HERE, A, 80),
                "deny unknown-pod | deny unknown-peer of web/p near web/p[0] by its peer",
            ),
            (tcp(UNKNOWN_HERE, A, 82), "deny unknown-pod | deny default-deny of web/p"),
        ],
    );
}

#[test]
fn nodes_own_addresses_in_their_pod_cidrs_are_not_unknown_pods() {
    let denied = "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer";
    let probes = ["10.244.2.0", "10.244.2.1", "192.168.0.2"].map(|source| (tcp(source, A, 80), denied));
    on_n1([some_pods()], &probes);
}

#[test]
fn without_a_selector_no_pod_could_change_a_denial() {
    let nothing = Peer::Pods { namespaces: NamespaceMatch::Named("web".into()), pods: Selector::Nothing };
    let policy = network_policy("web/p", "app=a")
        .ingress(rule().block("192.0.2.0/24", &[]))
        .ingress(rule().peer(Peer::Nothing))
        .ingress(rule().peer(nothing))
        .isolate_egress();
    on_n1(
        [policy.into()],
        &[
            (tcp(UNKNOWN, A, 1), "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer"),
            (tcp(A, UNKNOWN, 1), "deny default-deny of web/p | allow not-a-pod"),
        ],
    );
}

#[test]
fn s41_an_unknown_destination_might_give_its_port_a_name() {
    let policy = network_policy("web/p", "app=a")
        .egress(rule().named(Protocol::TCP, "http"))
        .egress(rule().block("10.244.2.0/25", &[]).named(Protocol::UDP, "dns"))
        .egress(rule().pods_in("db", "").port(Some(Protocol::SCTP), PortNumbers::Any));
    let udp = |to: &str| raw(A, to, Protocol::UDP).to_port(53);
    on_n1(
        [policy.into()],
        &[
            (tcp(A, UNKNOWN, 80), "deny unknown-peer of web/p near web/p[0] by its port | allow not-a-pod"),
            (udp(UNKNOWN), "deny unknown-peer of web/p near web/p[0] by its port | allow not-a-pod"),
            // Outside of the block of the rule with the named port.
            (udp("10.244.2.200"), "deny default-deny of web/p near web/p[0] by its port | allow not-a-pod"),
            (
                raw(A, UNKNOWN, Protocol::SCTP),
                "deny unknown-peer of web/p near web/p[0] by its port | allow not-a-pod",
            ),
            // A packet without a port has no port name. Known pods have only their own names.
            (
                raw(A, UNKNOWN, Protocol::TCP),
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
fn in_the_other_tiers_the_first_rule_that_might_match_is_a_potential_match() {
    let admin = cluster_policy("admin", Tier::Admin, 1)
        .ingress(rule().action(Action::Accept).pods("", "app=b").tcp(1))
        .ingress(rule().action(Action::Pass).pods("", "app=b").tcp(2))
        .ingress(rule().action(Action::Deny).pods("", "app=c").tcp(3))
        .ingress(rule().action(Action::Deny).block("10.0.0.0/8", &[]));
    let baseline = cluster_policy("base", Tier::Baseline, 0).ingress(rule().action(Action::Deny));
    on_n1(
        [admin.into(), baseline.into(), network_policy("db/p", "").ingress(rule().tcp(2)).into()],
        &[
            (tcp(UNKNOWN, A, 1), "allow not-a-pod | deny unknown-peer admin[3]"),
            // It might pass the tier. Then Baseline denies it for `web/a`, but not for `db/d`.
            (tcp(UNKNOWN, A, 2), "allow not-a-pod | deny rule admin[3]"),
            (tcp(UNKNOWN, D, 2), "allow not-a-pod | deny unknown-peer admin[3]"),
            (tcp(UNKNOWN, A, 3), "allow not-a-pod | deny rule admin[3]"),
        ],
    );
}

#[test]
fn s41_a_rule_that_might_deny_an_unknown_pod_denies_it_until_it_is_known() {
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
            // The rule that certainly matches comes first.
            (tcp(UNKNOWN, A, 1), "allow not-a-pod | allow rule admin[0]"),
            (tcp(UNKNOWN, A, 2), "allow not-a-pod | deny unknown-peer"),
            (tcp(UNKNOWN, A, 3), "allow not-a-pod | deny unknown-peer"),
            (tcp(UNKNOWN, A, 4), "allow not-a-pod | allow not-isolated"),
            (tcp(A, UNKNOWN, 5), "deny unknown-peer | allow not-a-pod"),
            (tcp(A, OUTSIDE, 5), "allow not-isolated | allow not-a-pod"),
            (tcp(OUTSIDE, A, 2), "allow not-a-pod | allow not-isolated"),
        ],
    );
}

#[test]
fn the_peer_of_a_packet_to_the_node_itself_is_no_unknown_pod() {
    let policy = network_policy("web/p", "app=a").egress(rule().pods_in("web", ""));
    check_probes(
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
fn s42_a_provisional_denial_gets_the_configured_verdict_and_a_final_one_does_not() {
    let scope = Scope::Node("n1".into());
    let probes: &[Probe<'_>] = &[
        (tcp(UNKNOWN, A, 80), "allow not-a-pod | allow unknown-peer of web/p near web/p[0] by its peer"),
        (tcp(UNKNOWN, A, 82), "allow not-a-pod | deny default-deny of web/p"),
        (tcp(UNKNOWN_HERE, A, 82), "allow unknown-pod | deny default-deny of web/p"),
    ];
    check_probes(scope, Verdict::Allow, &changes([some_pods()]), Directions::Both, probes);
}

#[test]
fn a_pod_that_becomes_known_or_a_node_that_is_deleted_ends_a_provisional_denial() {
    let known = pod("web/b2").labels("app=b").at(UNKNOWN).on("n2");
    on_n1([some_pods(), known.into()], &[(tcp(UNKNOWN, A, 80), "allow other-node | allow rule web/p[0]")]);
    let gone = "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer";
    on_n1([some_pods(), Change::NodeGone("n2".into())], &[(tcp(UNKNOWN, A, 80), gone)]);
}

#[test]
fn s42_a_decision_is_provisional_unless_one_direction_denies_finally() {
    let open = Outcome::allow(Reason::NotIsolated);
    let unknown = Outcome::deny(Reason::UnknownPod);
    let peer = Outcome::deny(Reason::UnknownPeer);
    let cases = [
        (open, open, false),
        (unknown, open, true),
        (open, peer, true),
        (unknown, peer, true),
        // Whatever the configured verdict is.
        (Outcome::allow(Reason::UnknownPod), open, true),
        (unknown, Outcome::deny(Reason::DefaultDeny), false),
        (Outcome::deny(Reason::Rule(RuleId(1))), peer, false),
    ];
    for (egress, ingress, provisional) in cases {
        assert_eq!(Decision { egress, ingress }.is_provisional(), provisional, "{egress:?} {ingress:?}");
        assert_eq!(
            Decision { egress: ingress, ingress: egress }.is_provisional(),
            provisional,
            "{ingress:?} {egress:?}"
        );
    }
    assert!(!Decision::UNPARSABLE.is_provisional());
}

#[test]
fn an_explanation_says_what_is_unknown_and_what_denies_until_then() {
    let (_, snapshot) = common::compile(Scope::Node("n1".into()), Verdict::Deny, &changes([some_pods()]));
    let packet = tcp(UNKNOWN, A, 80);
    let decision = snapshot.evaluate(&packet, Directions::Both);
    assert_eq!(
        snapshot.explain(&packet, &decision, Direction::Ingress).to_string(),
        "denied: it depends on which pod the other end is, and no pod is known to have its address; \
         else denied: isolated by web/p; nearest miss: web/p ingress[0] (port matches, peer does not)"
    );
}
