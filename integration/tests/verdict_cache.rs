//! The kernel's verdict cache: it saves evaluations, and never outlives a change of policy.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use integration::probe::probe;
use integration::record::Record;
use integration::wait::read_until;
use integration::web_to_db::ALLOWED;
use integration::{ClusterSpec, Direction, Family, ProbeTarget, Scenario, Testbed, allowed};

const CLOSED: &str = "podSelector: {}\ningress: []";

/// The timeout of a probe, which is shorter than TCP's retransmission timeout of a SYN.
const TIMEOUT: Duration = Duration::from_millis(200);

/// How long records and counters may take to follow the packets that they count, on a busy machine.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

fn cluster() -> ClusterSpec {
    Testbed::new().node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64").pod("web/a", "node-a", &[], &[]).pod(
        "db/s",
        "node-a",
        &[],
        &["5432", "53/UDP"],
    )
}

/// A connection or datagram.
struct Try {
    target: ProbeTarget,
    begun: Instant,
    reached: bool,
}

/// Clients that open one connection after the other, over each protocol and family.
fn clients(scenario: &Scenario, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Result<Result<Vec<Try>>>>> {
    let ways = ["5432", "53/UDP"]
        .into_iter()
        .flat_map(|target| Family::BOTH.map(|family| (target.parse::<ProbeTarget>(), family)));
    ways.map(|(target, family)| {
        let (target, stop) = (target.unwrap(), Arc::clone(stop));
        let address = family.of(scenario.testbed.addresses("db/s").unwrap());
        let client = move || {
            let mut tries = Vec::new();
            while !stop.load(Ordering::Acquire) {
                let begun = Instant::now();
                tries.push(Try { target, begun, reached: probe(address, target, TIMEOUT)?.answer.reached() });
                sleep(Duration::from_millis(1));
            }
            Ok(tries)
        };
        scenario.testbed.namespace("web/a").unwrap().spawn(client).unwrap()
    })
    .collect()
}

#[test]
fn what_is_cached_never_passes_once_a_change_that_denies_it_is_in_force() {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", ALLOWED);
    // Cached for longer than the scenario takes, so only a change can end it.
    scenario.start_agents(&["--verdict-cache-ttl=3600s"]);
    let audit_start = scenario.agent("node-a").audit_end();
    let stop = Arc::<AtomicBool>::default();
    let clients = clients(&scenario, &stop);
    let mut closed = Vec::new();
    let mut open_generations = vec![scenario.agent("node-a").applied_generation().unwrap()];
    for _ in 0..10 {
        sleep(Duration::from_millis(100));
        scenario.policy("db/allow-web", CLOSED);
        let from = Instant::now();
        // Longer than the timeout of a probe that was dropped just before, so each client starts a probe
        // while it is forbidden.
        sleep(2 * TIMEOUT);
        closed.push((from, Instant::now()));
        scenario.policy("db/allow-web", ALLOWED);
        open_generations.push(scenario.agent("node-a").applied_generation().unwrap());
    }
    stop.store(true, Ordering::Release);
    let tries: Vec<Try> =
        clients.into_iter().flat_map(|client| client.join().unwrap().unwrap().unwrap()).collect();
    let is_closed = |one: &&Try| closed.iter().any(|(from, to)| (*from..*to).contains(&one.begun));
    let late = tries.iter().filter(is_closed).filter(|one| one.reached).count();
    assert_eq!(late, 0, "connections passed after they were forbidden");
    assert!(tries.iter().any(|one| is_closed(&one)), "no probe was made while it was forbidden");

    // Every connection that passed is recorded, by a worker or by the kernel's cache. In UDP, a client's port
    // that is reused belongs to the connection before.
    let reached = tries.iter().filter(|one| one.reached && one.target == "5432".parse().unwrap()).count();
    let is_tcp = |record: &&Record| record.verdict == "allow" && record.protocol.as_deref() == Some("TCP");
    let tcp_records = |records: &Vec<Record>| records.iter().filter(is_tcp).count();
    let agent = scenario.agent("node-a");
    let read = || agent.records_after(audit_start).unwrap();
    let records = read_until(COUNT_TIMEOUT, read, |records| tcp_records(records) >= reached);
    let recorded = tcp_records(&records);
    assert!(recorded >= reached, "{recorded} records of {reached} connections");
    let is_allowed = |record: &&Record| record.cached && record.verdict == "allow";
    let cached: Vec<_> = records.iter().filter(is_allowed).collect();
    let reached = tries.iter().filter(|one| one.reached).count();
    eprintln!("{} tries, {reached} reached, {} cached", tries.len(), cached.len());
    assert!(cached.len() * 2 > reached, "the kernel cached too little");
    for record in cached {
        assert_eq!((record.policy.as_deref(), record.rule), (Some("db/allow-web"), Some(0)), "{record:?}");
        assert!(open_generations.contains(&record.generation), "{record:?} of {open_generations:?}");
    }
    assert_eq!(scenario.agent("node-a").metric("kube_verdict_audit_records_lost_total", "").unwrap(), 0.0);
}

#[test]
fn only_a_change_that_affects_a_connection_invalidates_its_cached_verdict() {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(&["--verdict-cache-ttl=3600s"]);
    // Opens a connection in each family, and returns how many packets workers have evaluated so far.
    let evaluated = |scenario: &mut Scenario, expected: f64| {
        scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
        let agent = scenario.agent("node-a");
        let read = || agent.metric("kube_verdict_packets_total", "allow").unwrap();
        read_until(COUNT_TIMEOUT, read, |evaluated| *evaluated >= expected)
    };
    assert_eq!(evaluated(&mut scenario, 2.0), 2.0);
    for number in 1..=20 {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: far-{number}, namespace: web}}\n\
             spec: {{nodeName: node-b}}\nstatus: {{phase: Running, podIP: 10.244.2.{number}}}\n"
        );
        scenario.change(|testbed| {
            testbed.manifests().write(&format!("far-{number}.yaml"), &pod)?;
            Ok(())
        });
        assert_eq!(evaluated(&mut scenario, 2.0), 2.0, "after {number} pods");
    }
    let relabelled = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[("app", "other")], &[])
        .pod("db/s", "node-a", &[], &["5432", "53/UDP"]);
    scenario.change(|testbed| testbed.manifests().write_cluster(&relabelled).map(drop));
    assert_eq!(evaluated(&mut scenario, 2.0), 2.0, "no rule selects that label");
    scenario.policy("db/allow-web", &format!("{ALLOWED}    - ports: [{{port: 9}}]\n"));
    assert_eq!(evaluated(&mut scenario, 4.0), 4.0, "the policy of one end changed");
    assert_eq!(evaluated(&mut scenario, 4.0), 4.0);
}

#[test]
fn cached_connections_are_counted_and_caching_can_be_switched_off() {
    for (flags, some) in [(&[][..], true), (&["--verdict-cache-ttl=off"], false)] {
        let mut scenario = Scenario::new(cluster());
        scenario.policy("db/allow-web", ALLOWED);
        scenario.start_agents(flags);
        for _ in 0..5 {
            scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
        }
        let agent = scenario.agent("node-a");
        let read = || {
            let metric = |name, label| agent.metric(name, label).unwrap();
            let cached = metric("kube_verdict_verdict_cache_hits_total", "allow");
            let evaluated = metric("kube_verdict_packets_total", "allow");
            (
                cached,
                evaluated,
                metric("kube_verdict_policy_verdicts_total", r#"namespace="db",policy="allow-web""#),
            )
        };
        let (cached, evaluated, by_policy) =
            read_until(COUNT_TIMEOUT, read, |(cached, evaluated, by_policy)| {
                cached + evaluated >= 10.0 && *by_policy >= 10.0
            });
        assert_eq!((evaluated + cached, by_policy), (10.0, 10.0));
        assert_eq!(cached > 0.0, some, "{flags:?}: {cached} cached");
    }
}
