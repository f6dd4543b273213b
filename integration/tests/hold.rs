//! Pods that send before the agent knows them: their packets are held, and then evaluated.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use integration::record::Record;
use integration::wait::wait_until;
use integration::web_to_db::ALLOWED;
use integration::{Direction, Family, Scenario, Testbed, denied_because};

/// How long a pod runs before its manifest is written.
const EARLY: Duration = Duration::from_millis(300);
/// TCP retransmits its first packet after a second, so a connection that takes less has lost none.
const FIRST_PACKET_ONLY: Duration = Duration::from_millis(950);
/// How long counters may take to follow the packets that they count, on a busy machine.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pods `web/late` and `other/late` run, but have no manifest yet. Only namespace `web` may reach `db/s`.
fn begin(flags: &[&str]) -> Scenario {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .node("node-b", "10.244.2.0/24", "fd00:10:244:2::/64")
        .pod("web/early", "node-a", &[], &[])
        .pod("web/late", "node-a", &[], &[])
        .pod("other/late", "node-a", &[], &[])
        .pod("db/s", "node-b", &[], &["5432"]);
    let mut scenario = Scenario::new(cluster);
    write_without_late(&scenario.testbed).unwrap();
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(flags);
    scenario
}

/// Writes the manifests of all pods except those named `late`.
fn write_without_late(testbed: &Testbed) -> Result<()> {
    let late = ["web/late", "other/late"];
    testbed.manifests().write_cluster_without(testbed.cluster(), &late).map(drop)
}

#[test]
fn a_pod_that_connects_before_it_is_known_reaches_only_what_policy_allows() {
    let mut scenario = begin(&["--hold-timeout", "10s"]);
    let audit_starts = ["node-a", "node-b"].map(|node| scenario.agent(node).audit_end());
    for family in Family::BOTH {
        let testbed = &scenario.testbed;
        let connect = |from: &'static str, timeout| {
            move || {
                let started = Instant::now();
                let observed = testbed.probe(from, "db/s", "5432".parse().unwrap(), family, timeout).unwrap();
                (observed.answer.reached(), started.elapsed())
            }
        };
        let ((friend, took), (stranger, _)) = scope(|scope| {
            let friend = scope.spawn(connect("web/late", Duration::from_secs(5)));
            let stranger = scope.spawn(connect("other/late", Duration::from_secs(2)));
            sleep(EARLY);
            testbed.manifests().write_cluster(testbed.cluster()).unwrap();
            (friend.join().unwrap(), stranger.join().unwrap())
        });
        eprintln!("{family:?}: connected after {took:?}");
        assert!(friend, "{family:?}: policy allows web/late");
        assert!(took > EARLY && took < FIRST_PACKET_ONLY, "{family:?}: connected after {took:?}");
        assert!(!stranger, "{family:?}: policy denies other/late");
        // Makes them unknown again for the other family.
        scenario.change(write_without_late);
    }

    // On their own node, packets were held until the pods were known, and then passed, since no policy
    // isolates the pods there.
    let held =
        scenario.agent("node-a").wait_record(audit_starts[0], |record| record.held_ms.is_some()).unwrap();
    assert!(held.held_ms.unwrap() >= 200, "{held:?}");
    assert_eq!((held.egress.reason.as_str(), held.verdict.as_str()), ("not-isolated", "allow"));
    let agent = scenario.agent("node-a");
    wait_until("the held packets of all four probes are released", COUNT_TIMEOUT, || {
        agent.metric("kube_verdict_hold_ended_total", "by=\"allow\"").unwrap() >= 4.0
            && agent.metric("kube_verdict_hold_packets", "").unwrap() == 0.0
    });
    assert_eq!(agent.metric("kube_verdict_hold_ended_total", "by=\"timeout\"").unwrap(), 0.0);
    // On the server's node, the stranger was denied by policy.
    let stranger = |record: &Record| {
        record.source.as_ref().and_then(|source| source.namespace.as_deref()) == Some("other")
    };
    let denied = scenario.agent("node-b").wait_record(audit_starts[1], stranger).unwrap();
    assert_eq!((denied.ingress.reason.as_str(), denied.verdict.as_str()), ("default-deny", "deny"));
}

#[test]
fn packets_of_a_pod_that_stays_unknown_are_denied_after_the_hold_timeout() {
    let mut scenario = begin(&["--hold-timeout", "200ms"]);
    let audit_start = scenario.agent("node-a").audit_end();
    scenario.expect("web/late", "db/s", "5432", &denied_because(Direction::Egress, "unknown-pod"));
    let record =
        scenario.agent("node-a").wait_record(audit_start, |record| record.held_ms.is_some()).unwrap();
    assert!((200..2_000).contains(&record.held_ms.unwrap()), "{record:?}");
    let agent = scenario.agent("node-a");
    wait_until("a held packet of each family is denied", COUNT_TIMEOUT, || {
        agent.metric("kube_verdict_hold_ended_total", "by=\"timeout\"").unwrap() >= 2.0
    });
}

#[test]
fn an_agent_that_ends_does_not_wait_for_pods() {
    let mut scenario = begin(&["--hold-timeout", "60s"]);
    let mut agent = scenario.take_agent("node-a");
    let testbed = &scenario.testbed;
    scope(|scope| {
        let timeout = Duration::from_secs(5);
        let probe = scope
            .spawn(move || testbed.probe("web/late", "db/s", "5432".parse().unwrap(), Family::V4, timeout));
        wait_until("a packet is held", COUNT_TIMEOUT, || {
            agent.metric("kube_verdict_hold_packets", "").unwrap() > 0.0
        });
        let terminated = Instant::now();
        assert!(agent.terminate().unwrap().success());
        assert!(terminated.elapsed() < Duration::from_secs(5), "exiting took {:?}", terminated.elapsed());
        assert!(!probe.join().unwrap().unwrap().answer.reached());
    });
}
