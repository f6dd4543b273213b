//! One pod floods another with packets that policy denies. The kernel's verdict cache drops them, other pods
//! are not disturbed, and no loss is silent.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::flood::{Varying, flood};
use integration::wait::read_until;
use integration::{Agent, ClusterSpec, Dropped, Family, Launch, Load, ProbeTarget, Scenario, Testbed};

const OPEN: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
      ports: [{port: 5432}]
";
const CLOSED: &str = "podSelector: {}\ningress: []";
/// A port that no policy allows.
const SHUT: u16 = 9;
/// TCP retransmits a lost SYN after one second, so no SYN was lost if a connection takes less.
const FIRST_SYN: Duration = Duration::from_millis(900);
/// The timeout of a probe that must be dropped.
const DROP_TIMEOUT: Duration = Duration::from_millis(50);
/// Within this time the agent usually reads all counters and writes all records.
const COUNT_INTERVAL: Duration = Duration::from_millis(2_500);
/// How long that may take on a busy machine.
const COUNT_TIMEOUT: Duration = Duration::from_secs(10);

fn cluster() -> ClusterSpec {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/flooder", "node-a", &[], &[])
        .pod("web/other", "node-a", &[], &[])
        .pod("db/s", "node-a", &[], &["5432"])
}

fn begin(flags: &[&str]) -> Scenario {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", OPEN);
    scenario.start_agents(flags);
    scenario
}

fn target() -> ProbeTarget {
    "5432".parse().unwrap()
}

/// The processor time that a process has used so far.
fn processor_time(process: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // proc(5): fields 3 and up follow the name in parentheses. Fields 14 and 15 are user and system time in
    // ticks of 10 ms.
    let (_, rest) = text.rsplit_once(") ").unwrap();
    let ticks: u64 = rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// What the agent reports about denied packets.
struct DeniedCounts {
    /// Packets that workers evaluated.
    evaluated: u64,
    /// Packets that the kernel dropped by its verdict cache.
    dropped: u64,
    /// Dropped packets that have a record.
    recorded: u64,
    /// Evaluated packets that have a record.
    evaluated_records: u64,
    /// Lines that count dropped packets.
    folded: Vec<Dropped>,
}

impl DeniedCounts {
    fn read(agent: &Agent, audit_start: u64) -> Self {
        let metric = |name, label| agent.metric(name, label).unwrap() as u64;
        let records = agent.records_after(audit_start).unwrap();
        let denied = |cached| {
            let denied = records.iter().filter(|record| record.verdict == "deny" && record.cached == cached);
            denied.count() as u64
        };
        Self {
            evaluated: metric("kube_verdict_packets_total", "deny"),
            dropped: metric("kube_verdict_verdict_cache_hits_total", "deny"),
            recorded: denied(true),
            evaluated_records: denied(false),
            folded: agent.drops_after(audit_start).unwrap(),
        }
    }

    fn folded_packets(&self) -> u64 {
        self.folded.iter().map(|line| line.packets).sum()
    }
}

/// Whether a connection of `from` is established before its first packet would be retransmitted.
fn connects(scenario: &Scenario, from: &str, family: Family, timeout: Duration) -> bool {
    let started = Instant::now();
    let observed = scenario.testbed.probe(from, "db/s", target(), family, timeout).unwrap();
    observed.answer.reached() && started.elapsed() < FIRST_SYN
}

#[test]
fn a_flood_to_a_denied_port_costs_one_verdict_for_each_cache_lifetime_and_each_packet_is_counted() {
    for family in Family::BOTH {
        for varying in [Varying::Nothing, Varying::SourcePort] {
            let mut scenario = begin(&[]);
            let to = family.of(scenario.testbed.addresses("db/s").unwrap());
            let audit_start = scenario.agent("node-a").audit_end();
            let others =
                Load::start(&scenario.testbed, ("web/other", "db/s"), target(), family, 2, FIRST_SYN)
                    .unwrap();
            let process = scenario.agent("node-a").process();
            let before = processor_time(process);
            let flooder = scenario.testbed.namespace("web/flooder").unwrap();
            let sent = flooder.run(|| flood(to, SHUT, varying, Duration::from_secs(3))).unwrap().unwrap();
            let took = processor_time(process) - before;
            let others = others.finish().unwrap();
            sleep(COUNT_INTERVAL);
            let agent = scenario.agent("node-a");
            let counts = read_until(
                COUNT_TIMEOUT,
                || DeniedCounts::read(agent, audit_start),
                |counts| {
                    counts.evaluated + counts.dropped == sent
                        && counts.recorded + counts.folded_packets() == counts.dropped
                        && counts.evaluated_records == counts.evaluated
                },
            );
            let DeniedCounts { evaluated, dropped, recorded, evaluated_records, folded } = &counts;
            let (evaluated, dropped, recorded) = (*evaluated, *dropped, *recorded);
            let counted = counts.folded_packets();
            let full = agent.metric("kube_verdict_queue_full_drops_total", "").unwrap();
            eprintln!(
                "{family:?}, {varying:?}: {sent} sent, {evaluated} evaluated, {dropped} dropped ({recorded} \
                 recorded, {counted} counted), agent {took:?} of processor time, {others:?}"
            );

            assert!(sent > 20_000, "the flood was too small: {sent}");
            // Packets that arrive before the first verdict is cached are evaluated as well.
            assert!(evaluated * 50 < sent, "{evaluated} of {sent} packets were evaluated");
            assert_eq!(evaluated + dropped, sent, "{varying:?}: each packet was evaluated or dropped");
            assert_eq!(
                recorded + counted,
                dropped,
                "{varying:?}: each dropped packet has a record or is counted"
            );
            assert_eq!(*evaluated_records, evaluated, "each evaluated packet has a record");
            assert!(folded.iter().all(|line| line.reason == "denied-flow" && line.is_from("web/flooder")));
            assert!(!folded.is_empty() && folded.len() <= 5, "a line a second: {folded:?}");
            assert_eq!((others.timed_out, others.failed), (0, Vec::new()), "connections of others were lost");
            assert_eq!(full, 0.0, "a queue was full");
        }
    }
}

#[test]
fn a_flow_that_was_denied_passes_with_its_first_packet_after_a_change_allows_it_a_hundred_times() {
    // Cached for longer than the scenario takes, so only a change can end it.
    let mut scenario = begin(&["--verdict-cache-ttl=3600s"]);
    for round in 0..100 {
        let family = Family::BOTH[round % 2];
        scenario.policy("db/allow-web", CLOSED);
        assert!(!connects(&scenario, "web/other", family, DROP_TIMEOUT), "round {round}");
        assert!(!connects(&scenario, "web/other", family, DROP_TIMEOUT), "round {round}");
        scenario.policy("db/allow-web", OPEN);
        assert!(connects(&scenario, "web/other", family, FIRST_SYN), "round {round}: the first SYN was lost");
    }
    let agent = scenario.agent("node-a");
    let read = || agent.metric("kube_verdict_verdict_cache_hits_total", "deny").unwrap();
    let dropped = read_until(COUNT_TIMEOUT, read, |dropped| *dropped >= 100.0);
    assert!(dropped >= 100.0, "the kernel dropped {dropped} of the second probes by its cache");
}

#[test]
fn a_denied_flow_passes_with_its_first_packet_once_an_agent_with_another_policy_has_taken_over() {
    let mut scenario = begin(&["--verdict-cache-ttl=3600s"]);
    for (round, family) in Family::BOTH.into_iter().enumerate() {
        scenario.policy("db/allow-web", CLOSED);
        (0..2).for_each(|_| assert!(!connects(&scenario, "web/other", family, DROP_TIMEOUT)));
        // The agent's source is a folder with a policy that denies, and its successor's is one with a policy
        // that allows.
        let open = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(scenario.testbed.manifests().path()).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap().replace("ingress: []", "ingress: [{}]");
            std::fs::write(open.path().join(path.file_name().unwrap()), text).unwrap();
        }
        let launch = Launch {
            flags: &["--verdict-cache-ttl=3600s"],
            http_port: 9_500 + round as u16,
            source: Some(open.path()),
            ..Launch::default()
        };
        let mut successor = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
        successor.wait_ready().unwrap();
        assert!(connects(&scenario, "web/other", family, FIRST_SYN), "{family:?}: after a takeover");

        // The same without a takeover, after crashes.
        scenario.take_agent("node-a").terminate().unwrap();
        successor.kill().unwrap();
        scenario.start_agents(&["--verdict-cache-ttl=3600s"]);
        (0..2).for_each(|_| assert!(!connects(&scenario, "web/other", family, DROP_TIMEOUT)));
        scenario.take_agent("node-a").kill().unwrap();
        scenario.testbed.manifests().policy("db/allow-web", OPEN).unwrap();
        scenario.start_agents(&["--verdict-cache-ttl=3600s"]);
        assert!(connects(&scenario, "web/other", family, FIRST_SYN), "{family:?}: after a crash");
    }
}

#[test]
fn a_denied_flow_passes_with_its_first_packet_once_an_agent_that_fails_open_has_ended() {
    let mut scenario = begin(&["--verdict-cache-ttl=3600s", "--fail-mode=open"]);
    scenario.policy("db/allow-web", CLOSED);
    for family in Family::BOTH {
        (0..2).for_each(|_| assert!(!connects(&scenario, "web/other", family, DROP_TIMEOUT)));
    }
    assert!(scenario.take_agent("node-a").terminate().unwrap().success());
    for family in Family::BOTH {
        assert!(connects(&scenario, "web/other", family, FIRST_SYN), "{family:?}");
    }
}

#[test]
fn a_pod_that_tries_all_ports_has_a_quota_of_the_queues_and_is_named_and_others_lose_nothing() {
    let mut scenario = begin(&["--queue-quota=2000"]);
    let to = Family::V4.of(scenario.testbed.addresses("db/s").unwrap());
    let audit_start = scenario.agent("node-a").audit_end();
    let others =
        Load::start(&scenario.testbed, ("web/other", "db/s"), target(), Family::V4, 2, FIRST_SYN).unwrap();
    let flooder = scenario.testbed.namespace("web/flooder").unwrap();
    let time = Duration::from_secs(3);
    let sent = flooder.run(|| flood(to, SHUT, Varying::DestinationPort, time)).unwrap().unwrap();
    let others = others.finish().unwrap();
    sleep(COUNT_INTERVAL);
    let agent = scenario.agent("node-a");
    let read = || {
        let metric = |name, label| agent.metric(name, label).unwrap() as u64;
        let evaluated = metric("kube_verdict_packets_total", "deny");
        let cached = metric("kube_verdict_verdict_cache_hits_total", "deny");
        (evaluated, cached, metric("kube_verdict_dropped_packets_total", "queue-quota"))
    };
    let is_complete = |(evaluated, cached, over): &(u64, u64, u64)| evaluated + cached + over == sent;
    let (evaluated, cached, over) = read_until(COUNT_TIMEOUT, read, is_complete);
    let full = agent.metric("kube_verdict_queue_full_drops_total", "").unwrap();
    eprintln!("{sent} sent, {evaluated} evaluated, {cached} cached, {over} over the quota, {others:?}");
    assert!(sent > 20_000, "the flood was too small: {sent}");
    assert_eq!(evaluated + cached + over, sent, "each packet is accounted for");
    // The burst, and the quota of three to four seconds.
    assert!(evaluated <= 1_024 + 4 * 2_000, "{evaluated} of {sent} packets were evaluated");
    assert_eq!((others.timed_out, others.failed), (0, Vec::new()), "connections of others were lost");
    assert_eq!(full, 0.0, "a queue was full");
    let read = || agent.drops_after(audit_start).unwrap();
    let lines =
        read_until(COUNT_TIMEOUT, read, |lines| lines.iter().any(|line| line.reason == "queue-quota"));
    let over_quota: Vec<_> = lines.iter().filter(|line| line.reason == "queue-quota").collect();
    assert!(!over_quota.is_empty() && over_quota.iter().all(|line| line.is_from("web/flooder")), "{lines:?}");
}

#[test]
fn flows_that_are_not_tracked_cost_a_verdict_and_a_record_for_each_cache_lifetime() {
    let mut scenario = begin(&["--verdict-cache-ttl=3600s"]);
    scenario.policy("db/allow-datagrams", "podSelector: {}\ningress: [{ports: [{port: 53, protocol: UDP}]}]");
    let rules = "table inet untracking {\nchain first {\ntype filter hook prerouting priority -300\n\
                 udp dport { 9, 53 } notrack\n}\n}\n";
    integration::command::nft(scenario.testbed.namespace("node-a").unwrap(), rules).unwrap();
    for family in Family::BOTH {
        let to = family.of(scenario.testbed.addresses("db/s").unwrap());
        let audit_start = scenario.agent("node-a").audit_end();
        let count = |scenario: &mut Scenario| {
            let names = [
                ("kube_verdict_packets_total", "allow"),
                ("kube_verdict_packets_total", "deny"),
                ("kube_verdict_verdict_cache_untracked_hits_total", ""),
                ("kube_verdict_verdict_cache_hits_total", "deny"),
            ];
            names.map(|(name, label)| scenario.agent("node-a").metric(name, label).unwrap() as u64)
        };
        let before = count(&mut scenario);
        let time = Duration::from_secs(1);
        let sent = [53, SHUT].map(|port| {
            let flooder = scenario.testbed.namespace("web/flooder").unwrap();
            flooder.run(|| flood(to, port, Varying::SourcePort, time)).unwrap().unwrap()
        });
        sleep(COUNT_INTERVAL);
        // A packet whose verdict takes longer than a few milliseconds may find its flow in the cache when it
        // is reinjected. Then it is counted twice.
        let is_accounted_for = |sent: u64, evaluated: u64, cached: u64| {
            (sent..=sent + evaluated).contains(&(evaluated + cached))
        };
        let read = || {
            let after = count(&mut scenario);
            [0, 1, 2, 3].map(|index| after[index] - before[index])
        };
        let [allowed, denied, passed, dropped] =
            read_until(COUNT_TIMEOUT, read, |[allowed, denied, passed, dropped]| {
                is_accounted_for(sent[0], *allowed, *passed) && is_accounted_for(sent[1], *denied, *dropped)
            });
        eprintln!(
            "{family:?}: {sent:?} sent, {allowed} allowed, {denied} denied, {passed} passed, {dropped} \
             dropped"
        );
        assert!(
            is_accounted_for(sent[0], allowed, passed) && is_accounted_for(sent[1], denied, dropped),
            "each packet is accounted for"
        );
        assert!(
            (1..1_000).contains(&allowed) && (1..1_000).contains(&denied),
            "{allowed} and {denied} evaluated"
        );
        // Each verdict has a record. Some dropped packets also have one.
        let agent = scenario.agent("node-a");
        let read = || {
            let records = agent.records_after(audit_start).unwrap();
            ["allow", "deny"].map(|verdict| {
                records.iter().filter(|record| record.verdict == verdict && !record.cached).count() as u64
            })
        };
        assert_eq!(read_until(COUNT_TIMEOUT, read, |counts| *counts == [allowed, denied]), [allowed, denied]);
    }
}

#[test]
fn a_full_queue_is_reported_with_the_pod_that_filled_it() {
    let mut scenario = begin(&["--queue-length=16", "--queue-quota=off", "--hold-limit=8"]);
    let to = Family::V4.of(scenario.testbed.addresses("db/s").unwrap());
    let audit_start = scenario.agent("node-a").audit_end();
    let flooder = scenario.testbed.namespace("web/flooder").unwrap();
    let time = Duration::from_secs(2);
    flooder.run(|| flood(to, SHUT, Varying::DestinationPort, time)).unwrap().unwrap();
    sleep(COUNT_INTERVAL);
    let agent = scenario.agent("node-a");
    let read = || {
        let lost = agent.metric("kube_verdict_queue_full_drops_total", "").unwrap()
            + agent.metric("kube_verdict_queue_socket_drops_total", "").unwrap();
        let mut full = agent.drops_after(audit_start).unwrap();
        full.retain(|line| line.reason == "queue-full");
        (lost as u64, full)
    };
    let packets = |full: &[Dropped]| full.iter().map(|line| line.packets).sum::<u64>();
    let (lost, full) = read_until(COUNT_TIMEOUT, read, |(lost, full)| *lost > 0 && packets(full) == *lost);
    assert!(lost > 0, "no queue was full");
    assert!(full.iter().all(|line| line.is_from("web/flooder")), "{full:?}");
    assert_eq!(packets(&full), lost);
    let status = agent.status().unwrap();
    assert_eq!(status["full_queue"]["sender"], "web/flooder", "{status}");
    agent.wait_log("a queue was full").unwrap();
}

#[test]
fn a_pod_that_sends_from_many_addresses_holds_the_packets_of_one_port_and_no_more() {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .node("node-b", "10.244.2.0/24", "fd00:10:244:2::/64")
        .pod("vpn/gateway", "node-a", &[], &[])
        .pod("web/late", "node-a", &[], &[])
        .pod("db/s", "node-b", &[], &["5432"]);
    let mut scenario = Scenario::new(cluster);
    let without_late = ["web/late"];
    let testbed = &scenario.testbed;
    testbed.manifests().write_cluster_without(testbed.cluster(), &without_late).unwrap();
    scenario.start_agents(&["--exempt-origin=vpn", "--hold-limit=320", "--hold-timeout=5s"]);
    let to = Family::V4.of(scenario.testbed.addresses("db/s").unwrap());
    let gateway = scenario.testbed.namespace("vpn/gateway").unwrap();
    let sources: Vec<_> = (50..250).map(|last| format!("10.244.1.{last}")).collect();
    let lines: String = sources.iter().map(|source| format!("addr add {source}/32 dev lo\n")).collect();
    integration::command::ip(gateway, &lines).unwrap();
    let send = || {
        for source in &sources {
            let socket = std::net::UdpSocket::bind((source.as_str(), 0)).unwrap();
            socket.send_to(b"x", (to, SHUT)).unwrap();
        }
    };
    gateway.run(send).unwrap();
    let agent = scenario.agent("node-a");
    let wait = Instant::now() + FIRST_SYN;
    let mut held = 0.0;
    while held < 20.0 && Instant::now() < wait {
        held = agent.metric("kube_verdict_hold_packets", "").unwrap();
    }
    let read = || agent.metric("kube_verdict_hold_rejected_total", "").unwrap();
    let refused = read_until(COUNT_TIMEOUT, read, |refused| *refused >= 180.0);
    assert_eq!(
        (held, refused),
        (20.0, 180.0),
        "a sixteenth of the limit of 320 packets is held for one port"
    );
    // Another pod's first packet is still held until the pod is known.
    let testbed = &scenario.testbed;
    std::thread::scope(|scope| {
        let late = scope.spawn(|| connects(&scenario, "web/late", Family::V4, FIRST_SYN));
        sleep(Duration::from_millis(200));
        testbed.manifests().write_cluster(testbed.cluster()).unwrap();
        assert!(late.join().unwrap(), "its first SYN was lost");
    });
}
