//! Missing prerequisites and resources that other programs hold: the agent is not ready, and reports what to
//! do in one sentence.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dataplane::cache_log::CacheLog;
use integration::command::ip;
use integration::conntrack;
use integration::{
    Agent, ClusterSpec, Direction, Family, Launch, Scenario, Stream, Testbed, agent, allowed, denied,
};

/// How long the connections that fill the table last, in seconds.
const FILLED_SECONDS: u32 = 600;

fn cluster() -> ClusterSpec {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"])
}

fn begin() -> Scenario {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow", "podSelector: {}\ningress:\n- ports: [{port: 5432}]");
    scenario
}

/// Starts an agent that must be live but not ready, and must report why.
fn not_ready(scenario: &mut Scenario, launch: &Launch<'_>, naming: &str) {
    let mut agent = Agent::start(&scenario.testbed, "node-a", launch).unwrap();
    eprintln!("{}", agent.wait_not_ready(naming).unwrap());
    assert_eq!(agent.get("/livez").unwrap().status, 200, "a restart would not help, so it must be live");
    scenario.put_agent(agent);
}

#[test]
fn without_br_netfilter_it_enforces_what_is_routed_and_is_not_ready_until_that_is_on() {
    let mut scenario = begin();
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    node.sysctl("net.bridge.bridge-nf-call-iptables", "0").unwrap();
    // The bridge's own switch, in one family only.
    ip(&node, "link set cni0 type bridge nf_call_ip6tables 1\n").unwrap();
    scenario.policy("db/allow", "podSelector: {}\ningress: []");
    not_ready(&mut scenario, &Launch::default(), "sysctl -w net.bridge.bridge-nf-call-iptables=1");
    scenario.agent("node-a").wait_applied_after(0).unwrap();
    scenario.expect(integration::OUTSIDE, "db/s", "5432", &denied(Direction::Ingress, "db/allow"));
    scenario.policy("db/allow", "podSelector: {}\ningress:\n- ports: [{port: 5432}]");
    scenario.expect(integration::OUTSIDE, "db/s", "5432", &allowed(Direction::Ingress, "db/allow", 0));
    assert!(scenario.agent("node-a").readiness().unwrap().body.contains("all others are under policy"));
    node.sysctl("net.bridge.bridge-nf-call-iptables", "1").unwrap();
    scenario.agent("node-a").wait_ready().unwrap();
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow", 0));
}

#[test]
fn an_agent_that_starts_with_a_table_of_connections_that_is_nearly_full_enforces() {
    let mut scenario = begin();
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    scenario.policy("db/allow", "podSelector: {}\ningress: []");
    let most: u32 = node.read_sysctl("net.netfilter.nf_conntrack_max").unwrap().parse().unwrap();
    // Full by the agent's criterion, with room for this scenario's connections.
    node.run(|| conntrack::fill(most - most / 150, FILLED_SECONDS)).unwrap().unwrap();
    not_ready(&mut scenario, &Launch::default(), "sysctl -w net.netfilter.nf_conntrack_max=");
    scenario.agent("node-a").wait_applied_after(0).unwrap();
    scenario.expect("web/a", "db/s", "5432", &denied(Direction::Ingress, "db/allow"));
    node.run(conntrack::flush).unwrap().unwrap();
    scenario.agent("node-a").wait_ready().unwrap();
}

#[test]
fn queue_numbers_that_others_hold_are_named_and_not_stolen() {
    let mut scenario = begin();
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let mut other = node.run(nfq::Queue::open).unwrap().unwrap();
    // With one worker, the agent may use either queue.
    let flags = ["--queue-base", "4242", "--workers", "1"];
    other.bind(4242).unwrap();
    other.bind(4243).unwrap();
    not_ready(&mut scenario, &Launch { flags: &flags, ..Launch::default() }, "4242");
    other.unbind(4243).unwrap();
    scenario.agent("node-a").wait_ready().unwrap();
    assert_eq!(scenario.agent("node-a").status().unwrap()["table"]["queues"], "4243-4243");
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow", 0));
}

#[test]
fn while_another_program_holds_its_nflog_groups_it_enforces_and_counts_what_it_cannot_record() {
    let mut scenario = begin();
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let hold = |group| CacheLog::start(group, Arc::default(), |_| {}).unwrap();
    let held = node.run(|| [hold(100), hold(101)]).unwrap();
    not_ready(&mut scenario, &Launch::default(), "NFLOG group 100 is taken by");
    scenario.agent("node-a").wait_applied_after(0).unwrap();
    let output = scenario.agent("node-a").readiness().unwrap().body;
    assert!(output.contains("policy is enforced") && output.contains("counted as lost"), "{output}");
    let doctor = agent::command(&node, &["doctor", "--output", "json"]).unwrap().1;
    assert!(doctor.contains("NFLOG group 100 is taken by"), "{doctor}");
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow", 0));
    // From here on, the kernel gives verdicts from its cache.
    let target = "5432".parse().unwrap();
    for _ in 0..10 {
        let probed =
            scenario.testbed.probe("web/a", "db/s", target, Family::V4, Duration::from_secs(5)).unwrap();
        assert!(probed.answer.reached(), "{probed:?}");
    }
    let begun = Instant::now();
    while scenario.agent("node-a").status().unwrap()["audit"]["lost"] != 10 {
        let audit = scenario.agent("node-a").status().unwrap()["audit"].clone();
        assert!(begun.elapsed() < Duration::from_secs(10), "ten connections are lost records: {audit}");
        sleep(Duration::from_millis(100));
    }
    scenario.policy("db/allow", "podSelector: {}\ningress: []");
    scenario.expect("web/a", "db/s", "5432", &denied(Direction::Ingress, "db/allow"));
    scenario.policy("db/allow", "podSelector: {}\ningress:\n- ports: [{port: 5432}]");

    let stream = Stream::open(&scenario.testbed, "web/a", "db/s", target, Family::V4).unwrap();
    drop(held);
    scenario.agent("node-a").wait_ready().unwrap();
    // A worker gives the first verdict, and the kernel's cache the second.
    for _ in 0..2 {
        scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow", 0));
    }
    let lost = scenario.agent("node-a").status().unwrap()["audit"]["lost"].clone();
    assert!(lost.as_u64().is_some_and(|lost| (10..=12).contains(&lost)), "{lost}");
    stream.finish().unwrap();
}

#[test]
fn without_the_capability_it_ends_with_one_sentence() {
    let scenario = begin();
    let wrapper = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let launch = Launch { wrapper: &wrapper, ..Launch::default() };
    let mut agent = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(1), "{}", agent.log());
    assert!(agent.log().contains("CAP_NET_ADMIN"), "{}", agent.log());
}

#[test]
fn a_node_without_addresses_for_pods_is_not_ready() {
    let mut scenario = begin();
    let manifests = tempfile::tempdir().unwrap();
    std::fs::write(
        manifests.path().join("node.yaml"),
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {}\n",
    )
    .unwrap();
    let source: &Path = manifests.path();
    let launch = Launch { source: Some(source), ..Launch::default() };
    not_ready(&mut scenario, &launch, "the pod CIDR of node node-a is unknown");
}

#[test]
fn the_log_says_how_the_agent_was_started_and_which_policies_are_in_force() {
    let mut scenario = begin();
    for number in 0..12 {
        let policy = format!("db/more-{number:02}");
        scenario.testbed.manifests().policy(&policy, "podSelector: {}\ningress: []").unwrap();
    }
    scenario.start_agents(&["--log-level", "info,dataplane=debug"]);
    scenario.agent("node-a").wait_log("policy applied").unwrap();
    let log = scenario.agent("node-a").log();
    let line = |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{log}"));
    let started = line("agent started");
    for part in [
        " version=",
        " kernel=",
        " queue_rule=",
        " bridge_family=",
        " node=\"node-a\"",
        " log_level=info,dataplane=debug",
    ] {
        assert!(started.contains(part), "{part} in {started}");
    }
    let applied = line("policy applied");
    assert!(applied.contains(r#"policies=["db/allow", "db/more-00","#), "{applied}");
    assert!(applied.contains(r#""db/more-08"] more_policies=3"#), "ten at most: {applied}");

    scenario.policy("db/more-00", "podSelector: {}\ningress: [{}]");
    scenario.agent("node-a").wait_log(r#"policies=["db/more-00"]"#).unwrap();
    scenario.remove_policy("db/more-01");
    scenario.agent("node-a").wait_log(r#"policies=["db/more-01"]"#).unwrap();
}

#[test]
fn a_full_table_of_connections_is_named() {
    let mut scenario = begin();
    scenario.start_agents(&[]);
    let stream =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let most: u32 = node.read_sysctl("net.netfilter.nf_conntrack_max").unwrap().parse().unwrap();
    node.run(|| conntrack::fill(most, FILLED_SECONDS)).unwrap().unwrap();
    // A request for its readiness would be a new connection, which the kernel may drop now. So its log must
    // report it.
    scenario.agent("node-a").wait_log("sysctl -w net.netfilter.nf_conntrack_max=").unwrap();
    // Existing connections continue.
    stream.wait_progress(50).unwrap();

    node.run(conntrack::flush).unwrap().unwrap();
    scenario.agent("node-a").wait_ready().unwrap();
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow", 0));
}
