//! A pod that reaches itself through its own Service is subject to cluster-wide policies, and to no
//! NetworkPolicy (semantics 62). The services are translated and masqueraded as kube-proxy does it.

use std::thread::sleep;
use std::time::Duration;

use integration::{
    ClusterSpec, Direction, Expected, Family, Scenario, Stream, allowed_because, denied, denied_by,
};

use Direction::{Egress, Ingress};

const SERVICE: [&str; 2] = ["10.96.0.30", "fd00:10:96::30"];

/// The pod `web/self` is behind the service.
fn scenario() -> Scenario {
    let cluster = ClusterSpec::of_two_nodes()
        .namespace("web", &[("team", "front")])
        .pod("web/self", "node-a", &[("app", "self")], &["8080"])
        .pod("web/client", "node-a", &[("app", "client")], &["80"])
        .service(SERVICE[0], SERVICE[1], "80", &["web/self"], 8080);
    let mut scenario = Scenario::new(cluster);
    scenario.start_agents(&["--record-open"]);
    scenario
}

/// Writes the ClusterNetworkPolicy `guard` for `web/self`, and waits until it is in force.
#[track_caller]
fn guard(scenario: &mut Scenario, tier: &str, rules: &str) {
    let text = format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: guard}}\n\
         spec:\n  tier: {tier}\n  priority: 10\n  subject:\n    pods:\n      namespaceSelector: {{}}\n      \
         podSelector: {{matchLabels: {{app: self}}}}\n  {rules}\n"
    );
    scenario.change(|testbed| testbed.manifests().write("guard.yaml", &text).map(drop));
}

/// Probes the service from its own pod in both families, and the pod itself directly.
#[track_caller]
fn expect(scenario: &Scenario, expected: &Expected) {
    for family in Family::BOTH {
        let service = SERVICE[family as usize];
        scenario.expect_via(family, "web/self", service, "80", ("web/self", 8080), expected);
        // What a pod sends to its own address never leaves it.
        let observed = scenario
            .testbed
            .probe("web/self", "web/self", "8080".parse().expect("a port"), family, Duration::from_secs(5))
            .expect("the probe runs");
        assert!(observed.answer.reached(), "{family:?}: the pod does not reach its own address");
    }
}

/// A denial by the first rule of the policy `guard`.
fn denied_by_rule(direction: Direction) -> Expected {
    denied_by(direction, "guard", 0)
}

#[test]
fn s62_cluster_wide_policies_decide_whether_a_pod_reaches_itself_through_its_service() {
    let mut scenario = scenario();
    let own_address = |direction| allowed_because(direction, "own-address");
    // Without a policy the packet needs no verdict.
    for family in Family::BOTH {
        let service = SERVICE[family as usize];
        let target = "80".parse().expect("a port");
        let observed = scenario.testbed.probe("web/self", service, target, family, Duration::from_secs(5));
        assert!(observed.expect("the probe runs").answer.reached());
    }
    // A NetworkPolicy that isolates the pod keeps others out, not the pod itself.
    let isolate = "podSelector: {matchLabels: {app: self}}\npolicyTypes: [Ingress, Egress]";
    scenario.policy("web/isolate", isolate);
    expect(&scenario, &own_address(Ingress));
    expect(&scenario, &own_address(Egress));
    scenario.expect("web/client", "web/self", "8080", &denied(Ingress, "web/isolate"));
    // Admin comes first.
    let from_pods = |action: &str| format!("ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]");
    guard(&mut scenario, "Admin", &from_pods("Deny"));
    expect(&scenario, &denied_by_rule(Ingress));
    guard(&mut scenario, "Admin", &from_pods("Pass"));
    expect(&scenario, &own_address(Ingress));
    let to_itself = "egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: self}}}}]}]";
    guard(&mut scenario, "Admin", to_itself);
    expect(&scenario, &denied_by_rule(Egress));
    // Baseline is skipped where a NetworkPolicy isolates.
    guard(&mut scenario, "Baseline", &from_pods("Deny"));
    expect(&scenario, &own_address(Ingress));
    scenario.remove_policy("web/isolate");
    expect(&scenario, &denied_by_rule(Ingress));
}

#[test]
fn s62_an_established_connection_of_a_pod_with_itself_is_cut_and_resumes() {
    let mut scenario = scenario();
    let from_pods = |action: &str| format!("ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]");
    guard(&mut scenario, "Admin", &from_pods("Accept"));
    let open = |family: Family| {
        let service = SERVICE[family as usize];
        Stream::open(&scenario.testbed, "web/self", service, "80".parse().expect("a port"), family)
    };
    let streams = Family::BOTH.map(|family| open(family).expect("a stream"));
    for stream in &streams {
        stream.wait_progress(50).expect("the stream runs");
    }
    guard(&mut scenario, "Admin", &from_pods("Deny"));
    // Echoes that were on their way arrive.
    sleep(Duration::from_millis(500));
    let echoed: Vec<u64> = streams.iter().map(Stream::echoed).collect();
    sleep(Duration::from_secs(1));
    assert_eq!(streams.iter().map(Stream::echoed).collect::<Vec<u64>>(), echoed, "it is cut");
    guard(&mut scenario, "Admin", &from_pods("Accept"));
    for stream in &streams {
        stream.wait_progress(50).expect("the stream resumes");
    }
    for stream in streams {
        stream.finish().expect("no message is lost");
    }
}
