//! Cluster-wide policies and the queue: packets of pods that such policies can only allow, or that they don't
//! concern, are never queued for a worker. Packets of pods that they may deny are.
//!
//! The only test in its file, so that no other runs at the same time: it opens thousands of connections and
//! counts the packets that the kernel has queued.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::scope;
use std::time::Duration;

use integration::probe::probe;
use integration::queued::queued_packets;
use integration::wait::{read_until, wait_until};
use integration::{ClusterSpec, Family, ProbeTarget, Scenario};

/// Connections between each pair of pods, in each family.
const CONNECTIONS: u64 = 500;

/// The timeout of a connection that must be established, on a busy machine.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of a connection that must be denied.
const DROP_TIMEOUT: Duration = Duration::from_millis(200);

/// How long an agent may take to sweep connections after a change. Until then, packets of the pods that the
/// change affects are revalidated.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long counters may take to follow the packets that they count, on a busy machine.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pairs of pods between which only pods are involved that no cluster-wide policy may deny something in the
/// direction of the connection: as a mere peer, as the subject of rules that accept, in the other direction.
const OPEN: [(&str, &str, &str); 6] = [
    ("peers/client", "open/free", "80"),
    ("peers/client", "open/accepted", "80"),
    ("open/accepted", "open/free", "53/UDP"),
    ("peers/client", "closed/egress", "80"),
    ("closed/ingress", "open/free", "80"),
    ("far/client", "open/accepted", "80"),
];

/// Pairs of pods with one that a cluster-wide policy may deny something in the connection's direction. The
/// policies allow all of these connections.
const EVALUATED: [(&str, &str, &str); 4] = [
    ("peers/client", "closed/ingress", "80"),
    ("closed/egress", "open/free", "80"),
    ("far/client", "closed/ingress", "80"),
    ("open/free", "closed/passed", "80"),
];

fn cluster() -> ClusterSpec {
    const PORTS: [&str; 3] = ["80", "81", "53/UDP"];
    ClusterSpec::of_two_nodes()
        .pod("peers/client", "node-a", &[("app", "client")], &PORTS)
        .pod("open/free", "node-a", &[("app", "free")], &PORTS)
        .pod("open/accepted", "node-a", &[("app", "accepted")], &PORTS)
        .pod("closed/ingress", "node-a", &[("app", "ingress")], &PORTS)
        .pod("closed/egress", "node-a", &[("app", "egress")], &PORTS)
        .pod("closed/passed", "node-a", &[("app", "passed")], &PORTS)
        .pod("far/client", "node-b", &[("app", "client")], &PORTS)
}

/// A policy for the pods with this label, with the same rules for ingress or egress.
fn policy(tier: &str, app: &str, rules: &str) -> String {
    format!(
        "tier: {tier}\npriority: 10\nsubject: {{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: \
         {app}}}}}}}}}\n{rules}"
    )
}

/// One rule of ingress, or of egress, about port 81 of or to the pods of namespace `peers`.
fn rule(direction: &str, action: &str) -> String {
    let peers = if direction == "ingress" { "from" } else { "to" };
    format!(
        "{direction}:\n- action: {action}\n  {peers}: [{{namespaces: {{matchLabels: {{kubernetes.io/metadata.name: \
         peers}}}}}}]\n  protocols: [{{tcp: {{destinationPort: {{number: 81}}}}}}]\n"
    )
}

/// The packets that the kernels of both nodes have queued so far.
fn queued(scenario: &Scenario) -> u64 {
    let of = |node| queued_packets(scenario.testbed.namespace(node).unwrap()).unwrap();
    of("node-a") + of("node-b")
}

/// The packets that the workers of both nodes have evaluated so far.
fn evaluated(scenario: &mut Scenario) -> u64 {
    let mut of = |node| scenario.agent(node).metric("kube_verdict_packets_total", "").unwrap() as u64;
    of("node-a") + of("node-b")
}

/// Opens [`CONNECTIONS`] connections in each family between all pairs. All must be established.
/// Returns how many packets were queued meanwhile.
fn connect(scenario: &Scenario, pairs: &[(&str, &str, &str)]) -> u64 {
    let before = queued(scenario);
    scope(|scope| {
        for (from, to, target) in pairs {
            let testbed = &scenario.testbed;
            scope.spawn(move || {
                let target: ProbeTarget = target.parse().unwrap();
                for family in Family::BOTH {
                    let address = family.of(testbed.addresses(to).unwrap());
                    let open = || {
                        (0..CONNECTIONS).try_for_each(|number| {
                            let observed = probe(address, target, REACH_TIMEOUT)?;
                            anyhow::ensure!(observed.answer.reached(), "connection {number}: {observed:?}");
                            Ok(())
                        })
                    };
                    let opened = testbed.namespace(from).unwrap().run(open).unwrap();
                    opened.unwrap_or_else(|error| panic!("{from} to {to} {target} {family:?}: {error:#}"));
                }
            });
        }
    });
    queued(scenario) - before
}

/// The number of connections that [`connect`] opens between all pairs.
fn connections(pairs: &[(&str, &str, &str)]) -> u64 {
    pairs.len() as u64 * 2 * CONNECTIONS
}

/// How many sweeps of connections have ended.
fn sweeps(scenario: &mut Scenario) -> u64 {
    scenario.agent("node-a").status().unwrap()["sweeps"]["count"].as_u64().unwrap()
}

#[test]
fn only_pods_that_a_cluster_wide_policy_may_deny_something_are_evaluated() {
    let mut scenario = Scenario::new(cluster());
    for (name, tier, app, rules) in [
        ("accepts", "Admin", "accepted", rule("ingress", "Accept") + &rule("egress", "Accept")),
        ("accepts-by-default", "Baseline", "accepted", rule("ingress", "Accept")),
        ("without-rules", "Admin", "free", String::new()),
        ("denies-ingress", "Admin", "ingress", rule("ingress", "Deny")),
        ("denies-egress", "Baseline", "egress", rule("egress", "Deny")),
        ("passes", "Admin", "passed", rule("ingress", "Pass")),
        ("for-no-pod", "Admin", "nothing", rule("ingress", "Deny") + &rule("egress", "Deny")),
    ] {
        scenario.cluster_policy(name, &policy(tier, app, &rules));
    }
    // Every verdict is a worker's: what the kernel answered from its cache would not be counted, and what
    // exceeded a quota would be sent again.
    scenario.start_agents(&["--verdict-cache-ttl=off", "--queue-quota=off"]);

    // The policies are in force.
    let denied = |scenario: &Scenario, from: &str, to: &str| {
        for family in Family::BOTH {
            let target = "81".parse().unwrap();
            let observed = scenario.testbed.probe(from, to, target, family, DROP_TIMEOUT).unwrap();
            assert!(!observed.answer.reached(), "{from} to {to}: {observed:?}");
        }
    };
    denied(&scenario, "peers/client", "closed/ingress");
    denied(&scenario, "closed/egress", "peers/client");

    let before = evaluated(&mut scenario);
    assert_eq!(connect(&scenario, &OPEN), 0, "packets that no policy can deny were queued");
    assert_eq!(evaluated(&mut scenario), before);

    // The figures do notice packets that are queued: at least the first of each connection.
    let expected = connections(&EVALUATED);
    let queued = connect(&scenario, &EVALUATED);
    assert!(queued >= expected, "{queued} packets of {expected} connections were queued");
    let counted =
        read_until(COUNT_TIMEOUT, || evaluated(&mut scenario), |now| now - before >= expected) - before;
    assert!(counted >= expected, "{counted} packets of {expected} connections were evaluated");
    eprintln!(
        "{} connections without and {expected} with packets in the queue: {queued}",
        connections(&OPEN)
    );

    // A pod enters the queue with the first policy that may deny it something, and leaves with the last.
    let pair = [("peers/client", "open/free", "80")];
    for (action, is_queued) in [("Deny", true), ("Accept", false)] {
        let before = sweeps(&mut scenario);
        scenario.cluster_policy("without-rules", &policy("Admin", "free", &rule("ingress", action)));
        wait_until("the sweep has ended", SWEEP_TIMEOUT, || sweeps(&mut scenario) > before);
        let (queued, expected) = (connect(&scenario, &pair), connections(&pair));
        let range = if is_queued { expected..=u64::MAX } else { 0..=0 };
        assert!(range.contains(&queued), "{action}: {queued} packets of {expected} connections were queued");
    }
}
