//! One pod floods another with what policy denies: the kernel answers, all others go on, and nothing is lost in silence.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use integration::flood::{Varying, flood};
use integration::probe::probe;
use integration::{Cluster, Family, Load, Side, Story, Testbed, Way, allowed};

const OPEN: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
      ports: [{port: 5432}]
";
const CLOSED: &str = "podSelector: {}\ningress: []";
/// A port that no policy opens.
const SHUT: u16 = 9;
/// A SYN that was lost comes again after one second.
const FIRST_SYN: Duration = Duration::from_millis(900);
/// How long a probe waits that must be dropped.
const SHORT: Duration = Duration::from_millis(50);

fn cluster() -> Cluster {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/flooder", "node-a", &[], &[])
        .pod("web/other", "node-a", &[], &[])
        .pod("db/s", "node-a", &[], &["5432"])
}

fn begin(flags: &[&str]) -> Story {
    let mut story = Story::begin(cluster());
    story.policy("db/allow-web", OPEN);
    story.start_agents(flags);
    story
}

fn way() -> Way {
    "5432".parse().unwrap()
}

/// Whether a connection of `from` is there before its first packet would be sent again.
fn connects(story: &Story, from: &str, family: Family, patience: Duration) -> bool {
    let started = Instant::now();
    let observed = story.testbed.probe(from, "db/s", way(), family, patience).unwrap();
    observed.answer.reached() && started.elapsed() < FIRST_SYN
}

#[test]
fn a_pod_that_hammers_a_closed_port_costs_a_verdict_for_each_cache_lifetime_and_every_packet_is_accounted_for()
 {
    for family in Family::BOTH {
        for varying in [Varying::Nothing, Varying::SourcePort] {
            let mut story = begin(&[]);
            let to = family.of(story.testbed.addresses("db/s").unwrap());
            let mark = story.agent("node-a").mark();
            let others =
                Load::start(&story.testbed, ("web/other", "db/s"), way(), family, 2, FIRST_SYN).unwrap();
            let flooder = story.testbed.namespace("web/flooder").unwrap();
            let sent = flooder.run(|| flood(to, SHUT, varying, Duration::from_secs(3))).unwrap().unwrap();
            let others = others.finish().unwrap();
            // Counts are read once a second, and records written a moment later.
            sleep(Duration::from_millis(2_500));

            let agent = story.agent("node-a");
            let evaluated = agent.metric("kube_verdict_packets_total", "deny").unwrap() as u64;
            let dropped = agent.metric("kube_verdict_remembered_denied_packets_total", "").unwrap() as u64;
            let full = agent.metric("kube_verdict_queue_full_drops_total", "").unwrap();
            let (records, folded) = (agent.records_after(mark).unwrap(), agent.drops_after(mark).unwrap());
            let denied = records.iter().filter(|record| record.verdict == "deny");
            let is_remembered = denied.map(|record| record.remembered).collect::<Vec<_>>();
            let recorded = is_remembered.iter().filter(|remembered| **remembered).count() as u64;
            let counted: u64 = folded.iter().map(|line| line.packets).sum();
            eprintln!(
                "{family:?}, {varying:?}: {sent} sent, {evaluated} evaluated, {dropped} dropped ({recorded} recorded, {counted} counted), {others:?}"
            );

            assert!(sent > 20_000, "the flood was none: {sent}");
            // Packets that come before the first verdict is remembered are evaluated as well.
            assert!(evaluated * 50 < sent, "{evaluated} of {sent} packets were evaluated");
            assert_eq!(evaluated + dropped, sent, "{varying:?}: each packet was evaluated or dropped");
            assert_eq!(
                recorded + counted,
                dropped,
                "{varying:?}: each dropped packet has a record or is counted"
            );
            assert_eq!(
                is_remembered.len() as u64 - recorded,
                evaluated,
                "each evaluated packet has a record"
            );
            assert!(folded.iter().all(|line| line.reason == "denied-flow" && line.is_from("web/flooder")));
            assert!(!folded.is_empty() && folded.len() <= 5, "a line a second: {folded:?}");
            assert_eq!((others.timed_out, others.failed), (0, Vec::new()), "connections of others were lost");
            assert_eq!(full, 0.0, "a queue was full");
        }
    }
}

#[test]
fn a_flow_that_was_denied_passes_with_its_first_packet_after_a_change_allows_it_a_hundred_times() {
    // Remembered for longer than the story takes: only a change can end it.
    let mut story = begin(&["--remember=3600"]);
    for round in 0..100 {
        let family = Family::BOTH[round % 2];
        story.policy("db/allow-web", CLOSED);
        assert!(!connects(&story, "web/other", family, SHORT), "round {round}");
        assert!(!connects(&story, "web/other", family, SHORT), "round {round}");
        story.policy("db/allow-web", OPEN);
        assert!(connects(&story, "web/other", family, FIRST_SYN), "round {round}: the first SYN was lost");
    }
    let agent = story.agent("node-a");
    let dropped = agent.metric("kube_verdict_remembered_denied_packets_total", "").unwrap();
    assert!(dropped >= 100.0, "the kernel answered {dropped} of the second tries alone");
}
