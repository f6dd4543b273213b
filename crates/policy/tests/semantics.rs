//! One scenario for each clause of docs/semantics.md that the engine implements: pods, policies, a probe, and
//! the expected result. Engine and reference must both return it.

mod common;

use common::build::*;
use common::probes::*;
use policy::Reason;
use policy::{
    Action, Change, Directions, Labels, Packet, Peer, PodUid, PortNumbers, Protocol, Scope, Selector, Tier,
    Verdict,
};

const TCP: Option<Protocol> = Some(Protocol::TCP);

#[test]
fn without_policies_everything_is_allowed() {
    scenario([], &[(tcp(A, B, 80), OPEN), (tcp(OUTSIDE, B, 80), "allow not-a-pod | allow not-isolated")]);
}

#[test]
fn s01_policy_types_decide_in_which_directions_a_policy_applies() {
    // Egress rules of a policy without type Egress neither isolate nor allow anything.
    let mut policy = network_policy("web/p", "app=a").isolate_ingress();
    policy.0.egress.push(rule().pods_in("web", "app=b").0);
    let admin = cluster_policy("k", Tier::Baseline, 0).egress(rule().action(Action::Deny).pods("", ""));
    scenario([policy.into(), admin.into()], &[(tcp(A, B, 80), "deny rule k[0] | allow not-isolated")]);
}

#[test]
fn s02_no_rule_denies_and_the_empty_rule_allows_all() {
    scenario(
        [network_policy("web/none", "app=a").isolate_ingress().into()],
        &[(tcp(B, A, 80), "allow not-isolated | deny default-deny of web/none")],
    );
    scenario(
        [network_policy("web/all", "app=a").ingress(rule()).into()],
        &[
            (tcp(OUTSIDE, A, 80), "allow not-a-pod | allow rule web/all[0]"),
            (raw(B, A, Protocol::ICMP), "allow not-isolated | allow rule web/all[0]"),
        ],
    );
}

#[test]
fn s03_a_rule_matches_if_its_ports_and_its_peers_match() {
    let near = "allow not-isolated | deny default-deny of web/p near web/p[0] by its";
    scenario(
        [network_policy("web/p", "app=a").ingress(rule().pods_in("web", "app=b").tcp(80)).into()],
        &[
            (tcp(B, A, 80), "allow not-isolated | allow rule web/p[0]"),
            (tcp(B, A, 81), &format!("{near} port")),
            (tcp(C, A, 80), &format!("{near} peer")),
            (tcp(C, A, 81), "allow not-isolated | deny default-deny of web/p"),
        ],
    );
}

#[test]
fn s04_policies_that_select_a_pod_are_a_union() {
    let p = network_policy("web/p", "").ingress(rule().tcp(80));
    let q = network_policy("web/q", "app=a").ingress(rule().tcp(81));
    scenario(
        [q.into(), p.into()],
        &[
            (tcp(B, A, 80), "allow not-isolated | allow rule web/p[0]"),
            (tcp(B, A, 81), "allow not-isolated | allow rule web/q[0]"),
            (
                tcp(B, A, 82),
                "allow not-isolated | deny default-deny of web/p,web/q near web/p[0] by its port",
            ),
            // The empty selector selects only the policy's own namespace.
            (tcp(A, D, 82), OPEN),
            (tcp(A, C, 81), "allow not-isolated | deny default-deny of web/p near web/p[0] by its port"),
        ],
    );
}

#[test]
fn s05_a_pod_selector_selects_in_its_own_namespace_and_a_namespace_selector_all_pods() {
    let own = network_policy("web/own", "app=a").ingress(rule().pods_in("web", ""));
    let back = network_policy("web/back", "app=b").ingress(rule().pods("team=back", ""));
    scenario(
        [own.into(), back.into()],
        &[
            (tcp(B, A, 1), "allow not-isolated | allow rule web/own[0]"),
            (tcp(D, A, 1), "allow not-isolated | deny default-deny of web/own near web/own[0] by its peer"),
            (tcp(D, B, 1), "allow not-isolated | allow rule web/back[0]"),
            (tcp(A, B, 1), "allow not-isolated | deny default-deny of web/back near web/back[0] by its peer"),
        ],
    );
}

#[test]
fn s06_both_selectors_in_one_peer_are_an_and_and_two_peers_an_or() {
    let and = network_policy("web/and", "app=a").ingress(rule().pods("team=front", "app=b"));
    let or = network_policy("web/or", "app=c").ingress(rule().pods("team=back", "").pods_in("web", "app=b"));
    scenario(
        [and.into(), or.into()],
        &[
            (tcp(B, A, 1), "allow not-isolated | allow rule web/and[0]"),
            (tcp(C, A, 1), "allow not-isolated | deny default-deny of web/and near web/and[0] by its peer"),
            (tcp(B, C, 1), "allow not-isolated | allow rule web/or[0]"),
            (tcp(D, C, 1), "allow not-isolated | allow rule web/or[0]"),
            (tcp(A, C, 1), "allow not-isolated | deny default-deny of web/or near web/or[0] by its peer"),
        ],
    );
}

#[test]
fn s07_selectors_never_match_an_address_outside_the_cluster() {
    scenario(
        [network_policy("web/p", "app=a").ingress(rule().pods("", "")).into()],
        &[
            (tcp(D, A, 1), "allow not-isolated | allow rule web/p[0]"),
            (tcp(OUTSIDE, A, 1), "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer"),
        ],
    );
}

#[test]
fn s08_isolation_is_per_direction_and_both_directions_must_allow() {
    let out = network_policy("web/out", "app=a").egress(rule().pods_in("web", "app=b"));
    let into = network_policy("web/in", "app=b").ingress(rule().pods_in("web", "app=c"));
    scenario(
        [out.into(), into.into()],
        &[
            (tcp(C, A, 1), OPEN),
            (tcp(A, B, 1), "allow rule web/out[0] | deny default-deny of web/in near web/in[0] by its peer"),
            (tcp(A, C, 1), "deny default-deny of web/out near web/out[0] by its peer | allow not-isolated"),
            (tcp(B, D, 1), OPEN),
        ],
    );
}

#[test]
fn s09_baseline_is_skipped_only_in_isolated_directions() {
    let baseline = || {
        let deny = || rule().action(Action::Deny).pods("", "");
        cluster_policy("k", Tier::Baseline, 0).ingress(deny()).egress(deny())
    };
    scenario(
        [network_policy("web/p", "app=a").ingress(rule()).into(), baseline().into()],
        &[
            (tcp(B, A, 1), "deny rule k[0] | allow rule web/p[0]"),
            (tcp(A, OUTSIDE, 1), "allow not-isolated | allow not-a-pod"),
            (tcp(A, B, 1), "deny rule k[0] | deny rule k[0]"),
        ],
    );
}

#[test]
fn s10_not_in_and_does_not_exist_match_a_missing_key() {
    let with =
        |selector: &str| network_policy("web/p", "app=a").ingress(rule().pods_in("web", selector)).into();
    let yes = "allow not-isolated | allow rule web/p[0]";
    let no = "allow not-isolated | deny default-deny of web/p near web/p[0] by its peer";
    // b has no label env, c has env=test.
    scenario([with("env notin prod")], &[(tcp(B, A, 1), yes), (tcp(C, A, 1), yes)]);
    scenario([with("env notin test")], &[(tcp(B, A, 1), yes), (tcp(C, A, 1), no)]);
    scenario([with("!env")], &[(tcp(B, A, 1), yes), (tcp(C, A, 1), no)]);
    scenario([with("env in prod|test")], &[(tcp(B, A, 1), no), (tcp(C, A, 1), yes)]);
    scenario([with("env")], &[(tcp(B, A, 1), no), (tcp(C, A, 1), yes)]);
}

#[test]
fn s11_every_namespace_has_its_name_as_a_label() {
    // Including a namespace that is known only from a pod.
    let stranger = pod("new/x").at("10.244.1.9");
    let policy = network_policy("web/p", "app=a").ingress(rule().pods("kubernetes.io/metadata.name=new", ""));
    scenario(
        [stranger.into(), policy.into()],
        &[
            (tcp("10.244.1.9", A, 1), "allow not-isolated | allow rule web/p[0]"),
            (tcp(D, A, 1), "allow not-isolated | deny default-deny of web/p near web/p[0] by its peer"),
        ],
    );
}

#[test]
fn s12_a_block_matches_addresses_of_pods_too() {
    scenario(
        [network_policy("web/p", "app=a").ingress(rule().block("10.244.0.0/16", &[])).into()],
        &[
            (tcp(D, A, 1), "allow not-isolated | allow rule web/p[0]"),
            (tcp(OUTSIDE, A, 1), "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer"),
        ],
    );
}

#[test]
fn s13_an_exception_applies_to_its_own_block_only() {
    let one = network_policy("web/one", "app=a")
        .ingress(rule().block("192.0.2.0/24", &["192.0.2.0/25", "10.0.0.0/8"]));
    let other = network_policy("web/other", "app=a").ingress(rule().block("192.0.2.1/32", &[]).tcp(80));
    scenario(
        [one.into(), other.into()],
        &[
            (tcp("192.0.2.200", A, 80), "allow not-a-pod | allow rule web/one[0]"),
            (tcp(OUTSIDE, A, 80), "allow not-a-pod | allow rule web/other[0]"),
            (
                tcp(OUTSIDE, A, 81),
                "allow not-a-pod | deny default-deny of web/one,web/other near web/other[0] by its port",
            ),
        ],
    );
}

#[test]
fn s14_a_protocol_is_never_treated_as_another() {
    let probe = |protocol| Packet::new(B.parse().unwrap(), A.parse().unwrap(), protocol).to_port(80);
    let near = "allow not-isolated | deny default-deny of web/p near web/p[0] by its port";
    scenario(
        [network_policy("web/p", "app=a").ingress(rule().tcp(80)).into()],
        &[
            (probe(Protocol::TCP), "allow not-isolated | allow rule web/p[0]"),
            (probe(Protocol::UDP), near),
            (probe(Protocol::SCTP), near),
            (probe(Protocol(200)), near),
        ],
    );
}

#[test]
fn s15_a_protocol_without_a_port_matches_all_its_ports() {
    scenario(
        [network_policy("web/p", "app=a").ingress(rule().port(TCP, PortNumbers::Any)).into()],
        &[
            (tcp(B, A, 1), "allow not-isolated | allow rule web/p[0]"),
            (tcp(B, A, 65535), "allow not-isolated | allow rule web/p[0]"),
            (
                raw(B, A, Protocol::UDP).to_port(1),
                "allow not-isolated | deny default-deny of web/p near web/p[0] by its port",
            ),
        ],
    );
}

#[test]
fn s16_a_range_includes_both_ends() {
    let yes = "allow not-isolated | allow rule web/p[0]";
    let no = "allow not-isolated | deny default-deny of web/p near web/p[0] by its port";
    scenario(
        [network_policy("web/p", "app=a").ingress(rule().port(TCP, PortNumbers::Range(100, 200))).into()],
        &[(tcp(B, A, 99), no), (tcp(B, A, 100), yes), (tcp(B, A, 200), yes), (tcp(B, A, 201), no)],
    );
}

#[test]
fn s17_a_named_port_is_resolved_on_the_destination_in_both_directions() {
    // http is 8080 on b and 9090 on c.
    let into = network_policy("web/in", "app=b").ingress(rule().named(Protocol::TCP, "http"));
    let out = network_policy("web/out", "app=b").egress(rule().named(Protocol::TCP, "http"));
    let miss = "deny default-deny of web/out near web/out[0] by its port";
    scenario(
        [into.into(), out.into()],
        &[
            (tcp(A, B, 8080), "allow not-isolated | allow rule web/in[0]"),
            (tcp(C, B, 9090), "allow not-isolated | deny default-deny of web/in near web/in[0] by its port"),
            (tcp(B, C, 9090), "allow rule web/out[0] | allow not-isolated"),
            (tcp(B, C, 8080), &format!("{miss} | allow not-isolated")),
            (tcp(B, OUTSIDE, 8080), &format!("{miss} | allow not-a-pod")),
        ],
    );
}

#[test]
fn s17_a_named_port_applies_to_peers_by_block_too() {
    let out = network_policy("web/out", "app=b")
        .egress(rule().block("10.244.1.0/24", &[]).named(Protocol::TCP, "http"));
    scenario(
        [out.into()],
        &[
            (tcp(B, C, 9090), "allow rule web/out[0] | allow not-isolated"),
            (
                tcp(B, C, 8080),
                "deny default-deny of web/out near web/out[0] by its port | allow not-isolated",
            ),
        ],
    );
}

#[test]
fn s18_a_name_is_per_protocol_and_an_unknown_name_matches_nothing() {
    // dns is 53/UDP and 5353/TCP on d.
    let near = "allow not-isolated | deny default-deny of db/p near db/p[0] by its port";
    let udp = |port| raw(A, D, Protocol::UDP).to_port(port);
    scenario(
        [network_policy("db/p", "").ingress(rule().named(Protocol::UDP, "dns")).into()],
        &[
            (udp(53), "allow not-isolated | allow rule db/p[0]"),
            (udp(5353), near),
            (tcp(A, D, 53), near),
            (tcp(A, D, 5353), near),
        ],
    );
    let either = rule().port(None, PortNumbers::Named("dns".into()));
    scenario(
        [network_policy("db/p", "").ingress(either).into()],
        &[
            (udp(53), "allow not-isolated | allow rule db/p[0]"),
            (tcp(A, D, 5353), "allow not-isolated | allow rule db/p[0]"),
            (tcp(A, D, 53), near),
        ],
    );
    scenario(
        [network_policy("db/p", "").ingress(rule().named(Protocol::UDP, "nowhere")).into()],
        &[(udp(53), near)],
    );
}

#[test]
fn s20_host_network_pods_are_the_node() {
    let mut agent = pod("web/agent").labels("app=agent").host_network();
    agent.0.addresses.push("192.168.0.7".parse().unwrap());
    let all = network_policy("web/p", "").ingress(rule().pods("", ""));
    scenario(
        [agent.into(), all.into()],
        &[
            // It is never a subject.
            (tcp(A, "192.168.0.7", 1), "allow not-isolated | allow not-a-pod"),
            // A peer that selects pods never matches it.
            (
                tcp("192.168.0.7", A, 1),
                "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer",
            ),
        ],
    );
}

#[test]
fn s21_a_pods_own_node_and_the_pod_itself_always_reach_it() {
    let deny = || network_policy("web/p", "app=a").isolate_ingress().isolate_egress().into();
    let denied = "allow not-a-pod | deny default-deny of web/p";
    scenario(
        [deny(), node("n2", "192.168.0.2", "10.244.2.0/24")],
        &[
            (tcp("192.168.0.1", A, 80), "allow not-a-pod | allow own-node"),
            // The bridge and the tunnel device of the own node have the first addresses of its pod CIDR.
            (tcp("10.244.1.1", A, 80), "allow not-a-pod | allow own-node"),
            (tcp("10.244.1.0", A, 80), "allow not-a-pod | allow own-node"),
            // Another node is not the own node.
            (tcp("192.168.0.2", A, 80), denied),
            (tcp("10.244.2.1", A, 80), denied),
            (tcp(A, A, 80), "allow own-address | allow own-address"),
        ],
    );
}

#[test]
fn s21_the_first_address_of_a_pod_cidr_belongs_to_a_pod_that_has_it() {
    let first = pod("db/first").at("10.244.1.1");
    scenario(
        [first.into(), network_policy("web/p", "app=a").isolate_ingress().into()],
        &[(tcp("10.244.1.1", A, 80), "allow not-isolated | deny default-deny of web/p")],
    );
}

#[test]
fn s22_an_address_belongs_to_the_newest_pod_and_returns_to_the_older_one() {
    let deny = network_policy("db/p", "app=new").isolate_ingress();
    let newer = || pod("db/new").labels("app=new").at(A).created(2);
    let denied = "allow not-isolated | deny default-deny of db/p";
    scenario([deny.into(), newer().into()], &[(tcp(B, A, 1), denied)]);
    let deny = || network_policy("db/p", "app=new").isolate_ingress().into();
    scenario([deny(), newer().into(), Change::PodGone(pod_name("db/new"))], &[(tcp(B, A, 1), OPEN)]);
    // A finished pod still exists, and has released its addresses.
    scenario(
        [deny(), newer().into(), pod("db/new").labels("app=new").created(2).into()],
        &[(tcp(B, A, 1), OPEN)],
    );
    // Among equally old pods, the one with the name that sorts last: web/z after web/a.
    let same = pod("web/z").labels("app=z").at(A).created(1);
    let deny = network_policy("web/p", "app=z").isolate_ingress();
    scenario(
        [deny.into(), same.into()],
        &[(tcp(B, A, 1), "allow not-isolated | deny default-deny of web/p")],
    );
}

#[test]
fn s22_an_address_belongs_to_the_pod_that_reported_it_last() {
    // web/a reported A at version 7. After a reboot, the older pod db/old has A, and the new address of web/a
    // is not reported yet.
    let deny = || network_policy("db/p", "app=old").isolate_ingress().into();
    let a = || pod("web/a").labels("app=a").at(A).created(2).reported(7).into();
    let old = |version| pod("db/old").labels("app=old").at(A).created(1).reported(version).into();
    let denied = "allow not-isolated | deny default-deny of db/p";
    scenario([deny(), a(), old(9)], &[(tcp(B, A, 1), denied)]);
    scenario([deny(), a(), old(5)], &[(tcp(B, A, 1), OPEN)]);
    scenario([deny(), a(), old(9), Change::PodGone(pod_name("db/old"))], &[(tcp(B, A, 1), OPEN)]);
}

#[test]
fn s23_a_pod_keeps_its_policies_until_it_is_deleted() {
    let deny = || network_policy("web/p", "app=a").isolate_ingress().into();
    scenario([deny()], &[(tcp(B, A, 1), "allow not-isolated | deny default-deny of web/p")]);
    scenario(
        [deny(), Change::PodGone(pod_name("web/a"))],
        &[(tcp(B, A, 1), "allow not-isolated | deny unknown-pod")],
    );
}

#[test]
fn s25_only_rules_without_ports_match_icmp() {
    let v6 = || pod("web/six").labels("app=six").at("fd00:1::6").into();
    let ports = || network_policy("web/p", "").ingress(rule().port(TCP, PortNumbers::Any)).into();
    let near = "allow not-isolated | deny default-deny of web/p near web/p[0] by its port";
    let mut echo = raw("fd00:1::7", "fd00:1::6", Protocol::ICMPV6);
    echo.icmp_type = Some(128);
    // The kernel's rules accept neighbour discovery on the link itself; packets that are evaluated were
    // forwarded.
    let mut solicitation = echo;
    solicitation.icmp_type = Some(135);
    let v6_near = "allow not-a-pod | deny default-deny of web/p near web/p[0] by its port";
    scenario(
        [v6(), ports()],
        &[
            (raw(B, A, Protocol::ICMP), near),
            (raw(B, A, Protocol(47)), near),
            (solicitation, v6_near),
            (echo, v6_near),
        ],
    );
    scenario(
        [v6(), network_policy("web/p", "").ingress(rule().pods("", "")).into()],
        &[(raw(B, A, Protocol::ICMP), "allow not-isolated | allow rule web/p[0]")],
    );
}

#[test]
fn s26_every_address_of_a_pod_counts_in_both_families() {
    let dual = pod("web/dual").labels("app=dual").at("10.244.1.6").at("fd00:1::6");
    let policy = network_policy("web/p", "app=dual").ingress(rule().block("::ffff:192.0.2.0/120", &[]));
    let denied = "allow not-a-pod | deny default-deny of web/p near web/p[0] by its peer";
    scenario(
        [dual.into(), policy.into()],
        &[
            (tcp("2001:db8::1", "fd00:1::6", 1), denied),
            (tcp("198.51.100.1", "10.244.1.6", 1), denied),
            // An IPv4-mapped address or block equals the IPv4 one.
            (tcp("::ffff:192.0.2.1", "::ffff:10.244.1.6", 1), "allow not-a-pod | allow rule web/p[0]"),
            (tcp(OUTSIDE, "10.244.1.6", 1), "allow not-a-pod | allow rule web/p[0]"),
        ],
    );
}

#[test]
fn s27_a_packet_without_ports_matches_only_rules_without_ports() {
    let range = rule().port(TCP, PortNumbers::Range(0, 65535));
    scenario(
        [network_policy("web/p", "app=a").ingress(range).into()],
        &[
            (tcp(B, A, 0), "allow not-isolated | allow rule web/p[0]"),
            (
                raw(B, A, Protocol::TCP),
                "allow not-isolated | deny default-deny of web/p near web/p[0] by its port",
            ),
        ],
    );
}

#[test]
fn s28_what_could_not_be_understood_matches_nothing() {
    let mut policy = network_policy("web/p", "app=a")
        .ingress(rule().peer(Peer::Nothing))
        .ingress(rule().port(TCP, PortNumbers::Nothing));
    let nothing = Peer::Pods { namespaces: policy.0.subject.namespaces.clone(), pods: Selector::Nothing };
    policy = policy.ingress(rule().peer(nothing));
    let near = "allow not-isolated | deny default-deny of web/p near web/p[1] by its port";
    scenario([policy.into()], &[(tcp(B, A, 80), near)]);
    // An empty list, left by a source that omitted what it did not understand, matches nothing either.
    let mut policy = network_policy("web/p", "app=a").ingress(rule());
    policy.0.ingress[0].peers = Some(Vec::new());
    let near = "allow not-isolated | deny default-deny of web/p near web/p[0] by its peer";
    scenario([policy.into()], &[(tcp(B, A, 80), near)]);
}

#[test]
fn s56_nodes_are_peers_by_their_labels_and_own_addresses() {
    let edge = |labels: Labels| labelled_node("n9", "192.168.0.9", "10.244.9.0/24", labels);
    let deny =
        |nodes| cluster_policy("k", Tier::Admin, 1).egress(rule().action(Action::Deny).nodes(nodes)).into();
    let denied = "deny rule k[0] | allow not-a-pod";
    let open = "allow not-isolated | allow not-a-pod";
    scenario(
        [edge(labels("pool=edge")), deny("pool=edge")],
        &[
            (tcp(A, "192.168.0.9", 1), denied),
            (tcp(A, "10.244.9.1", 1), denied),
            (raw(A, "192.168.0.9", Protocol::ICMP), denied),
            (tcp(A, OUTSIDE, 1), open),
            (tcp("192.168.0.9", A, 1), "allow not-a-pod | allow not-isolated"),
        ],
    );
    scenario([edge(labels("pool=core")), deny("pool=edge")], &[(tcp(A, "192.168.0.9", 1), open)]);
    scenario([edge(labels("pool=core")), deny("")], &[(tcp(A, "192.168.0.9", 1), denied)]);
    scenario(
        [edge(labels("")), deny(""), Change::NodeGone("n9".into())],
        &[(tcp(A, "192.168.0.9", 1), open)],
    );
    // A node whose labels are unknown is denied, and never accepted.
    scenario([edge(Labels::unknown()), deny("pool=edge")], &[(tcp(A, "192.168.0.9", 1), denied)]);
    scenario([edge(Labels::unknown()), deny("!pool")], &[(tcp(A, "192.168.0.9", 1), denied)]);
    let pass = cluster_policy("k", Tier::Admin, 1).egress(rule().action(Action::Pass).nodes("pool=edge"));
    scenario([edge(Labels::unknown()), pass.into()], &[(tcp(A, "192.168.0.9", 1), denied)]);
    let accept = cluster_policy("k", Tier::Admin, 1)
        .egress(rule().nodes("!pool"))
        .egress(rule().action(Action::Deny).block("0.0.0.0/0", &[]));
    scenario(
        [edge(Labels::unknown()), accept.into()],
        &[(tcp(A, "192.168.0.9", 1), "deny rule k[1] | allow not-a-pod")],
    );
}

#[test]
fn s33_s56_an_address_that_only_the_node_object_reports_is_a_peer_and_not_the_own_node() {
    let mut node = node("n1", "192.168.0.1", "10.244.1.0/24");
    let Change::Node(own) = &mut node else { panic!("a node") };
    own.has_all_addresses = true;
    own.reported_addresses = vec!["192.168.0.1".parse().unwrap(), "203.0.113.1".parse().unwrap()];
    let policy = cluster_policy("k", Tier::Admin, 1)
        .egress(rule().action(Action::Deny).nodes(""))
        .ingress(rule().action(Action::Deny).block("0.0.0.0/0", &[]));
    scenario(
        [node, policy.into()],
        &[
            (tcp(A, "203.0.113.1", 1), "deny rule k[0] | allow not-a-pod"),
            (tcp(A, "192.168.0.1", 1), "deny rule k[0] | allow not-a-pod"),
            (tcp(A, "203.0.113.2", 1), "allow not-isolated | allow not-a-pod"),
            // Anyone can send from that address.
            (tcp("203.0.113.1", A, 1), "allow not-a-pod | deny rule k[0]"),
            (tcp("192.168.0.1", A, 1), "allow not-a-pod | allow own-node"),
        ],
    );
}

#[test]
fn s29_a_denial_in_one_direction_denies_the_packet() {
    let (_, snapshot) = common::compile(
        Scope::Cluster,
        Verdict::Deny,
        &cluster()
            .into_iter()
            .chain([network_policy("web/p", "app=a").isolate_ingress().into()])
            .collect::<Vec<_>>(),
    );
    assert_eq!(snapshot.evaluate(&tcp(B, A, 80), Directions::Both).verdict(), Verdict::Deny);
    assert_eq!(snapshot.evaluate(&tcp(A, B, 80), Directions::Both).verdict(), Verdict::Allow);
}

#[test]
fn s34_a_mid_stream_packet_is_allowed_only_if_both_ends_may_open_the_connection() {
    let from_b = || network_policy("web/p", "app=a").ingress(rule().pods("", "app=b")).into();
    let evaluated = |changes: Vec<Change>, packet| {
        let (_, snapshot) = common::compile(Scope::Cluster, Verdict::Deny, &changes);
        snapshot.evaluate_unproven(&packet, Directions::Both)
    };
    let pods = || vec![pod("web/a").labels("app=a").at(A).into(), pod("web/b").labels("app=b").at(B).into()];
    let (request, answer) = (tcp(B, A, 80), tcp(A, B, 40_000));
    // B may open connections to A, and no policy isolates B.
    let open: Vec<Change> = pods().into_iter().chain([from_b()]).collect();
    assert_eq!(evaluated(open.clone(), request).verdict(), Verdict::Allow);
    assert_eq!(evaluated(open, answer).verdict(), Verdict::Allow);
    // A may not open connections to B, so neither end may revive a connection that A has opened.
    let isolated = network_policy("web/q", "app=b").ingress(rule().pods("", "app=c")).into();
    let shut: Vec<Change> = pods().into_iter().chain([from_b(), isolated]).collect();
    for packet in [request, answer] {
        let decision = evaluated(shut.clone(), packet);
        assert_eq!(decision.verdict(), Verdict::Deny);
    }
    assert_eq!(evaluated(shut, request).egress.reason, Reason::Unproven);
}

#[test]
fn s36_an_address_has_the_uid_of_its_current_pod() {
    // The UID shows an agent that connections of the address belong to the old pod, so that it ends them.
    let owner = |change: &dyn Fn(&mut policy::Pod)| {
        let (mut compiler, before) = common::compile(Scope::Cluster, Verdict::Deny, &cluster());
        let mut later = pod("web/a").labels("app=a,env=prod").at(A).created(2).reported(2).0;
        change(&mut later);
        let after = compiler.apply([Change::Pod(later)]).snapshot;
        [before, after].map(|snapshot| snapshot.pod(A.parse().unwrap()).unwrap().uid)
    };
    let [before, after] = owner(&|pod| pod.uid = PodUid(7));
    assert_eq!((before, after), (PodUid::default(), PodUid(7)), "another pod of the same name");
    let [_, after] = owner(&|pod| (pod.name, pod.uid) = (pod_name("web/next"), PodUid(8)));
    assert_eq!(after, PodUid(8), "a pod of another name, while the old one is still listed");
    let [before, after] = owner(&|pod| pod.labels = labels("app=b"));
    assert_eq!(before, after, "the same pod with other labels");
}
