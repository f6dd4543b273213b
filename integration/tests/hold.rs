//! Pods that send before the inventory knows them: their packets wait, and then policy decides.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use integration::record::Record;
use integration::{Family, Scenario, Side, Testbed, denied_because};

/// How much earlier than its manifest a pod is there.
const EARLY: Duration = Duration::from_millis(300);
/// TCP sends its first packet again after a second: who connects earlier has lost none.
const FIRST_PACKET_ONLY: Duration = Duration::from_millis(950);

/// Pods `web/late` and `other/late` are there, but have no manifest yet. Only namespace `web` may reach `db/s`.
fn begin(flags: &[&str]) -> Scenario {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .node("node-b", "10.244.2.0/24", "fd00:10:244:2::/64")
        .pod("web/early", "node-a", &[], &[])
        .pod("web/late", "node-a", &[], &[])
        .pod("other/late", "node-a", &[], &[])
        .pod("db/s", "node-b", &[], &["5432"]);
    let mut scenario = Scenario::begin(cluster);
    write_without_late(&scenario.testbed).unwrap();
    let spec = "
        podSelector: {}
        ingress:
        - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
    ";
    scenario.policy("db/allow-web", spec);
    scenario.start_agents(flags);
    scenario
}

/// Writes the manifests of all but the pods `late`.
fn write_without_late(testbed: &Testbed) -> Result<()> {
    let late = ["web/late", "other/late"];
    testbed.manifests().write_cluster_without(testbed.cluster(), &late).map(drop)
}

#[test]
fn a_pod_that_connects_before_it_is_known_reaches_what_policy_allows_it_and_no_more() {
    let mut scenario = begin(&["--hold-timeout", "10s"]);
    let marks = ["node-a", "node-b"].map(|node| scenario.agent(node).mark());
    for family in Family::BOTH {
        let testbed = &scenario.testbed;
        let connect = |from: &'static str, patience| {
            move || {
                let started = Instant::now();
                let observed =
                    testbed.probe(from, "db/s", "5432".parse().unwrap(), family, patience).unwrap();
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
        // For the other family they are unknown again.
        scenario.change(write_without_late);
    }

    // On their own node they waited to be known at all, and then passed: nothing isolates them there.
    let waited = scenario.agent("node-a").wait_record(marks[0], |record| record.held_ms.is_some()).unwrap();
    assert!(waited.held_ms.unwrap() >= 200, "{waited:?}");
    assert_eq!((waited.egress.reason.as_str(), waited.verdict.as_str()), ("not-isolated", "allow"));
    let agent = scenario.agent("node-a");
    assert_eq!(agent.metric("kube_verdict_hold_packets", "").unwrap(), 0.0);
    assert!(agent.metric("kube_verdict_hold_ended_total", "by=\"allow\"").unwrap() >= 4.0);
    assert_eq!(agent.metric("kube_verdict_hold_ended_total", "by=\"timeout\"").unwrap(), 0.0);
    // On the server's node the stranger was denied for what it is.
    let stranger = |record: &Record| {
        record.source.as_ref().and_then(|source| source.namespace.as_deref()) == Some("other")
    };
    let denied = scenario.agent("node-b").wait_record(marks[1], stranger).unwrap();
    assert_eq!((denied.ingress.reason.as_str(), denied.verdict.as_str()), ("default-deny", "deny"));
}

#[test]
fn a_pod_that_never_becomes_known_is_denied_when_its_time_is_over() {
    let mut scenario = begin(&["--hold-timeout", "200ms"]);
    let mark = scenario.agent("node-a").mark();
    scenario.expect("web/late", "db/s", "5432", &denied_because(Side::Egress, "unknown-pod"));
    let record = scenario.agent("node-a").wait_record(mark, |record| record.held_ms.is_some()).unwrap();
    assert!((200..2_000).contains(&record.held_ms.unwrap()), "{record:?}");
    assert!(
        scenario.agent("node-a").metric("kube_verdict_hold_ended_total", "by=\"timeout\"").unwrap() >= 2.0
    );
}

#[test]
fn an_agent_that_ends_does_not_wait_for_pods() {
    let mut scenario = begin(&["--hold-timeout", "60s"]);
    let mut agent = scenario.take_agent("node-a");
    let testbed = &scenario.testbed;
    scope(|scope| {
        let patience = Duration::from_secs(5);
        let probe = scope
            .spawn(move || testbed.probe("web/late", "db/s", "5432".parse().unwrap(), Family::V4, patience));
        while agent.metric("kube_verdict_hold_packets", "").unwrap() == 0.0 {
            sleep(Duration::from_millis(5));
        }
        let asked = Instant::now();
        assert!(agent.terminate().unwrap().success());
        assert!(asked.elapsed() < Duration::from_secs(5), "to end took {:?}", asked.elapsed());
        assert!(!probe.join().unwrap().unwrap().answer.reached());
    });
}
