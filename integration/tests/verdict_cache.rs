//! What the kernel caches of verdicts: it saves questions, and never outlives a change of policy.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use integration::probe::probe;
use integration::record::Record;
use integration::{Cluster, Family, Scenario, Side, Testbed, Way, allowed};

const OPEN: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
";
const CLOSED: &str = "podSelector: {}\ningress: []";

/// A probe that takes longer was dropped. Less than TCP waits before it sends a SYN again.
const PATIENCE: Duration = Duration::from_millis(200);

fn cluster() -> Cluster {
    Testbed::new().node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64").pod("web/a", "node-a", &[], &[]).pod(
        "db/s",
        "node-a",
        &[],
        &["5432", "53/UDP"],
    )
}

/// One connection.
struct Try {
    way: Way,
    begun: Instant,
    reached: bool,
}

/// Clients that open one connection after the other, over each protocol and family.
fn clients(scenario: &Scenario, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Result<Result<Vec<Try>>>>> {
    let ways = ["5432", "53/UDP"]
        .into_iter()
        .flat_map(|way| Family::BOTH.map(|family| (way.parse::<Way>(), family)));
    ways.map(|(way, family)| {
        let (way, stop) = (way.unwrap(), Arc::clone(stop));
        let address = family.of(scenario.testbed.addresses("db/s").unwrap());
        let client = move || {
            let mut tries = Vec::new();
            while !stop.load(Ordering::Acquire) {
                let begun = Instant::now();
                tries.push(Try { way, begun, reached: probe(address, way, PATIENCE)?.answer.reached() });
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
    let mut scenario = Scenario::begin(cluster());
    scenario.policy("db/allow-web", OPEN);
    // Cached for longer than the scenario takes: only a change can end it.
    scenario.start_agents(&["--verdict-cache-ttl=3600s"]);
    let mark = scenario.agent("node-a").mark();
    let stop = Arc::<AtomicBool>::default();
    let clients = clients(&scenario, &stop);
    let mut closed = Vec::new();
    let mut open_generations = vec![scenario.agent("node-a").applied_generation().unwrap()];
    for _ in 0..10 {
        sleep(Duration::from_millis(100));
        scenario.policy("db/allow-web", CLOSED);
        let from = Instant::now();
        // Longer than a probe that was dropped just before it waits: each client begins one while it is forbidden.
        sleep(2 * PATIENCE);
        closed.push((from, Instant::now()));
        scenario.policy("db/allow-web", OPEN);
        open_generations.push(scenario.agent("node-a").applied_generation().unwrap());
    }
    stop.store(true, Ordering::Release);
    let tries: Vec<Try> =
        clients.into_iter().flat_map(|client| client.join().unwrap().unwrap().unwrap()).collect();
    let is_closed = |one: &&Try| closed.iter().any(|(from, to)| (*from..*to).contains(&one.begun));
    let late = tries.iter().filter(is_closed).filter(|one| one.reached).count();
    assert_eq!(late, 0, "connections passed after they were forbidden");
    assert!(tries.iter().any(|one| is_closed(&one)), "nobody tried while it was forbidden");

    // The last records come a moment later.
    sleep(Duration::from_millis(500));
    let records = scenario.agent("node-a").records_after(mark).unwrap();
    let is_allowed = |record: &&Record| record.cached && record.verdict == "allow";
    let cached: Vec<_> = records.iter().filter(is_allowed).collect();
    let reached = tries.iter().filter(|one| one.reached).count();
    eprintln!("{} tries, {reached} reached, {} cached", tries.len(), cached.len());
    assert!(cached.len() * 2 > reached, "the kernel cached too little");
    for record in cached {
        assert_eq!((record.policy.as_deref(), record.rule), (Some("db/allow-web"), Some(0)), "{record:?}");
        assert!(open_generations.contains(&record.generation), "{record:?} of {open_generations:?}");
    }
    // Every connection that passed is recorded, by a worker or from memory. In UDP a client's port that comes again is the
    // connection of before.
    let reached = tries.iter().filter(|one| one.reached && one.way == "5432".parse().unwrap()).count();
    let is_tcp = |record: &&Record| record.verdict == "allow" && record.protocol.as_deref() == Some("TCP");
    let recorded = records.iter().filter(is_tcp).count();
    assert!(recorded >= reached, "{recorded} records of {reached} connections");
    assert_eq!(scenario.agent("node-a").metric("kube_verdict_audit_records_lost_total", "").unwrap(), 0.0);
}

#[test]
fn only_a_change_that_affects_a_connection_makes_its_next_one_a_question_again() {
    let mut scenario = Scenario::begin(cluster());
    scenario.policy("db/allow-web", OPEN);
    scenario.start_agents(&["--verdict-cache-ttl=3600s"]);
    let asked = |scenario: &mut Scenario| {
        // A connection of each family.
        scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
        scenario.agent("node-a").metric("kube_verdict_packets_total", "allow").unwrap()
    };
    assert_eq!(asked(&mut scenario), 2.0);
    for number in 1..=20 {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: far-{number}, namespace: web}}\n\
             spec: {{nodeName: node-b}}\nstatus: {{phase: Running, podIP: 10.244.2.{number}}}\n"
        );
        scenario.change(|testbed| {
            testbed.manifests().write(&format!("far-{number}.yaml"), &pod)?;
            Ok(())
        });
        assert_eq!(asked(&mut scenario), 2.0, "after {number} pods");
    }
    let relabelled = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[("app", "other")], &[])
        .pod("db/s", "node-a", &[], &["5432", "53/UDP"]);
    scenario.change(|testbed| testbed.manifests().write_cluster(&relabelled).map(drop));
    assert_eq!(asked(&mut scenario), 2.0, "no rule asks for that label");
    scenario.policy("db/allow-web", &format!("{OPEN}    - ports: [{{port: 9}}]\n"));
    assert_eq!(asked(&mut scenario), 4.0, "the policy of one end changed");
    assert_eq!(asked(&mut scenario), 4.0);
}

#[test]
fn cached_connections_are_counted_and_caching_can_be_switched_off() {
    for (flags, some) in [(&[][..], true), (&["--verdict-cache-ttl=off"], false)] {
        let mut scenario = Scenario::begin(cluster());
        scenario.policy("db/allow-web", OPEN);
        scenario.start_agents(flags);
        for _ in 0..5 {
            scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
        }
        let agent = scenario.agent("node-a");
        let cached = agent.metric("kube_verdict_verdict_cache_hits_total", "allow").unwrap();
        let evaluated = agent.metric("kube_verdict_packets_total", "allow").unwrap();
        let by_policy = agent
            .metric("kube_verdict_policy_verdicts_total", r#"namespace="db",policy="allow-web""#)
            .unwrap();
        assert_eq!((evaluated + cached, by_policy), (10.0, 10.0));
        assert_eq!(cached > 0.0, some, "{flags:?}: {cached} cached");
    }
}
