//! Tiers, scopes, and the methods of a snapshot, in scenarios like those of `semantics.rs`.

mod common;

use common::build::*;
use common::probes::*;
use policy::{Action, Change, Direction, Directions, Labels, Node, Scope, Tier, Verdict};

#[test]
fn s51_s53_the_order_of_tiers_is_admin_network_policy_baseline() {
    let admin = cluster_policy("admin", Tier::Admin, 10)
        .ingress(rule().action(Action::Deny).pods("", "app=b").tcp(1))
        .ingress(rule().action(Action::Pass).pods("", "app=b").tcp(2))
        .ingress(rule().action(Action::Accept).pods("", "app=b").tcp(3))
        .ingress(rule().action(Action::Deny).pods("", "app=b").tcp(2));
    let first = cluster_policy("zfirst", Tier::Admin, 9)
        .ingress(rule().action(Action::Accept).pods("", "app=d").tcp(1));
    let baseline = cluster_policy("base", Tier::Baseline, 0)
        .ingress(rule().action(Action::Pass).pods("", "app=d"))
        .ingress(rule().action(Action::Deny).pods("", ""));
    let policy = network_policy("web/p", "app=a").ingress(rule().tcp(2));
    scenario(
        [admin.into(), first.into(), baseline.into(), policy.into()],
        &[
            (tcp(B, A, 1), "allow not-isolated | deny rule admin[0]"),
            (tcp(B, A, 2), "allow not-isolated | allow rule web/p[0]"),
            (tcp(B, A, 3), "allow not-isolated | allow rule admin[2]"),
            (tcp(B, A, 4), "allow not-isolated | deny default-deny of web/p near web/p[0] by its port"),
            (tcp(D, A, 1), "allow not-isolated | allow rule zfirst[0]"),
            // The pod is not isolated, so Baseline decides; its Pass skips the rest of Baseline.
            (tcp(A, C, 9), "allow not-isolated | deny rule base[1]"),
            (tcp(D, C, 9), OPEN),
        ],
    );
}

/// The usual cluster, another node with a pod, and a policy.
fn two_nodes() -> Vec<Change> {
    let far = pod("web/far").labels("app=far").at("10.244.2.2").on("n2");
    let deny = network_policy("web/p", "").ingress(rule().pods_in("web", "app=far")).isolate_egress();
    cluster()
        .into_iter()
        .chain([node("n2", "192.168.0.2", "10.244.2.0/24"), far.into(), deny.into()])
        .collect()
}

#[test]
fn s39_a_node_evaluates_only_its_own_pods() {
    let probes: &[Probe<'_>] = &[
        (tcp("10.244.2.2", A, 1), "allow other-node | allow rule web/p[0]"),
        (tcp(D, "10.244.2.2", 1), "allow not-isolated | allow other-node"),
        (tcp(A, "10.244.2.2", 1), "deny default-deny of web/p | allow other-node"),
    ];
    check_probes(Scope::Node("n1".into()), Verdict::Deny, &two_nodes(), Directions::Both, probes);
}

#[test]
fn s40_an_unknown_pod_of_this_node_gets_the_configured_verdict() {
    let unknown = "10.244.1.77";
    let probes = |verdict: &str| {
        [
            (tcp(unknown, D, 1), format!("{verdict} unknown-pod | allow not-isolated")),
            (tcp(D, unknown, 1), format!("allow not-isolated | {verdict} unknown-pod")),
            // Its own node still reaches it, and the node's own addresses are no pods.
            (tcp("192.168.0.1", unknown, 1), "allow not-a-pod | allow own-node".to_owned()),
            (tcp(D, "10.244.1.1", 1), "allow not-isolated | allow not-a-pod".to_owned()),
            (tcp(D, "10.244.1.0", 1), "allow not-isolated | allow not-a-pod".to_owned()),
            // An unknown pod of another node is evaluated there.
            (tcp(D, "10.244.2.77", 1), "allow not-isolated | allow not-a-pod".to_owned()),
        ]
    };
    for (on_unknown_pod, text) in [(Verdict::Deny, "deny"), (Verdict::Allow, "allow")] {
        let probes = probes(text);
        let probes: Vec<Probe<'_>> = probes.iter().map(|(packet, text)| (*packet, text.as_str())).collect();
        check_probes(Scope::Node("n1".into()), on_unknown_pod, &two_nodes(), Directions::Both, &probes);
    }
}

#[test]
fn s39_a_pod_without_a_node_belongs_to_the_node_with_its_pod_cidr() {
    let deny = network_policy("web/p", "app=a").isolate_ingress();
    let lost = pod("web/a").labels("app=a").at(A).unscheduled();
    let changes: Vec<Change> = cluster().into_iter().chain([lost.into(), deny.into()]).collect();
    let probes: &[Probe<'_>] = &[(tcp(B, A, 1), "allow not-isolated | deny default-deny of web/p")];
    check_probes(Scope::Node("n1".into()), Verdict::Deny, &changes, Directions::Both, probes);
    let elsewhere: &[Probe<'_>] = &[(tcp(B, A, 1), "allow other-node | allow other-node")];
    check_probes(Scope::Node("n2".into()), Verdict::Deny, &changes, Directions::Both, elsewhere);
}

#[test]
fn s43_packets_to_the_node_itself_are_evaluated_as_egress_only() {
    let probes: &[Probe<'_>] = &[
        (tcp(A, "192.168.0.1", 1), "deny default-deny of web/p | allow not-a-pod"),
        (tcp(D, "192.168.0.1", 1), "allow not-isolated | allow not-a-pod"),
    ];
    check_probes(Scope::Node("n1".into()), Verdict::Deny, &two_nodes(), Directions::Egress, probes);
}

#[test]
fn open_addresses_are_those_without_policies() {
    let admin =
        cluster_policy("k", Tier::Admin, 0).egress(rule().action(Action::Deny).block("192.0.2.0/24", &[]));
    let mut policy = admin;
    policy.0.subject.pods = selector("app=d");
    let changes: Vec<Change> = two_nodes().into_iter().chain([policy.into()]).collect();
    let (_, snapshot) = common::compile(Scope::Node("n1".into()), Verdict::Deny, &changes);
    let open = |direction| snapshot.open_addresses(direction).map(|a| a.to_string()).collect::<Vec<_>>();
    assert_eq!(snapshot.evaluated_addresses().map(|a| a.to_string()).collect::<Vec<_>>(), [A, B, C, D]);
    assert_eq!(open(Direction::Ingress), [D]);
    assert_eq!(open(Direction::Egress), [""; 0]);
    assert_eq!(snapshot.pod_at(A.parse().unwrap()), Some(&pod_name("web/a")));
    assert_eq!(snapshot.pod_at(OUTSIDE.parse().unwrap()), None);
    assert_eq!(snapshot.pod_cidrs(), ["10.244.1.0/24".parse().unwrap()]);
}

#[test]
fn a_node_that_changes_or_is_deleted_loses_its_old_addresses() {
    let deny = || network_policy("web/p", "app=a").isolate_ingress().into();
    let denied = "allow not-a-pod | deny default-deny of web/p";
    scenario(
        [deny(), Change::NodeGone("n1".into())],
        &[(tcp("192.168.0.1", A, 1), denied), (tcp("10.244.1.1", A, 1), denied)],
    );
    let moved = Node {
        name: "n1".into(),
        labels: Labels::none(),
        addresses: vec!["192.168.0.9".parse().unwrap()],
        pod_cidrs: Vec::new(),
        has_all_addresses: false,
        reported_addresses: Vec::new(),
    };
    scenario(
        [deny(), Change::Node(moved)],
        &[(tcp("192.168.0.1", A, 1), denied), (tcp("192.168.0.9", A, 1), "allow not-a-pod | allow own-node")],
    );
}

#[test]
fn explanations_are_sentences() {
    let changes: Vec<Change> = cluster()
        .into_iter()
        .chain([network_policy("web/p", "app=a")
            .ingress(rule().tcp(79))
            .ingress(rule().pods_in("web", "app=b").tcp(80))
            .into()])
        .collect();
    let (_, snapshot) = common::compile(Scope::Cluster, Verdict::Deny, &changes);
    let says = |packet, direction| {
        let decision = snapshot.evaluate(&packet, Directions::Both);
        snapshot.explain(&packet, &decision, direction).to_string()
    };
    assert_eq!(says(tcp(B, A, 80), Direction::Ingress), "allowed by NetworkPolicy web/p, ingress[1]");
    assert_eq!(
        says(tcp(C, A, 80), Direction::Ingress),
        "denied: isolated by web/p; nearest miss: web/p ingress[0] (peer matches, port does not)"
    );
    assert_eq!(
        says(tcp(B, A, 80), Direction::Egress),
        "allowed: no policy isolates the pod in this direction"
    );
}
