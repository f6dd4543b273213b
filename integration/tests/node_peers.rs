//! A cluster-wide policy about `nodes`, while nodes join, leave and change their addresses: new connections,
//! established ones, and both families.
//!
//! The host outside the cluster is such a node in some steps. It has two addresses of each family.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::command::ip;
use integration::{
    ClusterSpec, Direction, Expected, Family, OUTSIDE, Sampling, Scenario, SchedulingDelays, Stream, allowed,
    allowed_because, denied_by,
};

/// The addresses of the host outside: those that every testbed has, and more that the scenario adds.
const FIRST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const SECOND: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// The name of the policy.
const POLICY: &str = "about-nodes";

/// The file with the node that joins.
const NODE_FILE: &str = "edge.yaml";

/// How much later a busy machine may read a byte that has arrived.
const READ_DELAY: Duration = Duration::from_millis(100);

/// Longer than TCP's first retransmission timeouts.
const OBSERVED: Duration = Duration::from_millis(600);

/// A node of another kind than the testbed's own, with these addresses.
fn node(addresses: &[&str], labels: &str) -> String {
    let addresses: Vec<String> =
        addresses.iter().map(|address| format!("{{type: InternalIP, address: \"{address}\"}}")).collect();
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: edge, labels: {{{labels}}}}}\n\
         spec: {{podCIDR: 10.244.9.0/24, podCIDRs: [10.244.9.0/24, \"fd00:10:244:9::/64\"]}}\n\
         status: {{addresses: [{}]}}\n",
        addresses.join(", ")
    )
}

/// Starts an agent, and connections to the host outside that were open before.
fn start(rules: &str) -> (Scenario, Vec<Stream>) {
    let cluster = ClusterSpec::new().node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64").pod(
        "web/a",
        "node-a",
        &[("app", "a")],
        &["80"],
    );
    let mut scenario = Scenario::new(cluster);
    let outside = scenario.testbed.namespace(OUTSIDE).unwrap();
    ip(outside, &format!("addr add {}/24 dev lan0\naddr add {}/64 dev lan0 nodad\n", SECOND[0], SECOND[1]))
        .unwrap();
    let streams = ["7000", "7000/UDP"].iter().flat_map(|port| Family::BOTH.map(|family| (port, family)));
    let open = |(port, family): (&&str, Family)| {
        Stream::open(&scenario.testbed, "web/a", OUTSIDE, port.parse().unwrap(), family).unwrap()
    };
    let streams = streams.map(open).collect();
    scenario.start_agents(&[]);
    scenario.cluster_policy(
        POLICY,
        &format!("tier: Admin\npriority: 10\nsubject: {{namespaces: {{}}}}\negress:\n{rules}"),
    );
    (scenario, streams)
}

/// The node joins, or changes. Returns when the change is in force.
fn put_node(scenario: &mut Scenario, addresses: &[&str], labels: &str) -> Instant {
    let text = node(addresses, labels);
    scenario.change(|testbed| testbed.manifests().write(NODE_FILE, &text).map(drop));
    Instant::now()
}

/// The node leaves. Returns when the change is in force.
fn remove_node(scenario: &mut Scenario) -> Instant {
    scenario.change(|testbed| testbed.manifests().remove(NODE_FILE).map(drop));
    Instant::now()
}

/// Checks which of the streams, by family, pass bytes after a time, and what happens to new connections to
/// the first addresses, and to pings of the second ones.
#[track_caller]
fn check(
    scenario: &Scenario,
    streams: &[Stream],
    delays: &SchedulingDelays,
    since: Instant,
    first: [&Expected; 2],
    second: [&Expected; 2],
) {
    sleep(OBSERVED);
    for stream in streams {
        let family = usize::from(stream.client().is_ipv6());
        if first[family].is_reached() {
            stream.wait_progress(20).unwrap();
        } else {
            let bound = since + READ_DELAY + delays.since(since);
            let late = stream.last_echo().saturating_duration_since(since);
            assert!(stream.last_echo() <= bound, "{}: bytes passed {late:?} later", stream.client());
        }
    }
    for family in Family::BOTH {
        let of = family as usize;
        for target in ["7000", "7000/UDP"] {
            scenario.expect_in(family, "web/a", OUTSIDE, target, first[of]);
        }
        scenario.expect_in(family, "web/a", SECOND[of], "ping", second[of]);
    }
}

#[test]
fn what_is_denied_to_nodes_is_denied_when_one_joins_and_no_longer_once_it_has_left_or_moved() {
    let rules = "- action: Deny\n  to: [{nodes: {matchLabels: {role: edge}}}]";
    let (mut scenario, streams) = start(rules);
    let delays = SchedulingDelays::watch(Sampling::FINE);
    let open = &allowed_because(Direction::Egress, "not-isolated");
    let denied = &denied_by(Direction::Egress, POLICY, 0);
    check(&scenario, &streams, &delays, Instant::now(), [open; 2], [open; 2]);

    let since = put_node(&mut scenario, &FIRST, "role: other");
    check(&scenario, &streams, &delays, since, [open; 2], [open; 2]);
    let since = put_node(&mut scenario, &FIRST, "role: edge");
    check(&scenario, &streams, &delays, since, [denied; 2], [open; 2]);
    // Another address of each family, and then a different one of each.
    let since = put_node(&mut scenario, &SECOND, "role: edge");
    check(&scenario, &streams, &delays, since, [open; 2], [denied; 2]);
    let since = put_node(&mut scenario, &[FIRST[0], SECOND[1]], "role: edge");
    check(&scenario, &streams, &delays, since, [denied, open], [open, denied]);
    let since = put_node(&mut scenario, &[FIRST[1]], "role: edge");
    check(&scenario, &streams, &delays, since, [open, denied], [open; 2]);
    let since = remove_node(&mut scenario);
    check(&scenario, &streams, &delays, since, [open; 2], [open; 2]);
}

#[test]
fn what_is_accepted_to_nodes_only_passes_from_when_one_joins_until_it_leaves_or_moves() {
    let rules = "- action: Accept\n  to: [{nodes: {matchLabels: {role: edge}}}]\n\
                 - action: Deny\n  to: [{networks: [0.0.0.0/0, \"::/0\"]}]";
    let (mut scenario, streams) = start(rules);
    let since = Instant::now();
    let delays = SchedulingDelays::watch(Sampling::FINE);
    let accepted = &allowed(Direction::Egress, POLICY, 0);
    let denied = &denied_by(Direction::Egress, POLICY, 1);
    check(&scenario, &streams, &delays, since, [denied; 2], [denied; 2]);

    let since = put_node(&mut scenario, &FIRST, "role: edge");
    check(&scenario, &streams, &delays, since, [accepted; 2], [denied; 2]);
    let since = put_node(&mut scenario, &[SECOND[0], FIRST[1]], "role: edge");
    check(&scenario, &streams, &delays, since, [denied, accepted], [accepted, denied]);
    let since = put_node(&mut scenario, &[&FIRST[..], &SECOND[..]].concat(), "role: edge");
    check(&scenario, &streams, &delays, since, [accepted; 2], [accepted; 2]);
    let since = put_node(&mut scenario, &FIRST, "role: other");
    check(&scenario, &streams, &delays, since, [denied; 2], [denied; 2]);
    put_node(&mut scenario, &FIRST, "role: edge");
    let since = remove_node(&mut scenario);
    check(&scenario, &streams, &delays, since, [denied; 2], [denied; 2]);
}
