//! Agents that start and end: by takeover, crash and termination.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::web_to_db::ALLOWED;
use integration::{
    Agent, Answer, ClusterSpec, Direction, Family, Launch, Load, ProbeTarget, Scenario, Stream, Testbed,
    agent, allowed, denied, flood, unevaluated,
};

/// TCP retransmits a lost SYN after one second, so a connection that takes less has lost none.
const NO_SYN_LOST: Duration = Duration::from_millis(900);
/// How long a connection under load may take.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How long a state is observed.
const WHILE: Duration = Duration::from_millis(700);
/// The verdict cache's TTL in the scenarios in which an agent crashes.
const CACHED: Duration = Duration::from_secs(1);

fn cluster() -> ClusterSpec {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"])
        .pod("other/x", "node-a", &[], &["80"])
}

/// `web` may reach `db`, but `other` may not. No policy applies to `web` and `other` themselves.
fn scenario(flags: &[&str]) -> Scenario {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(flags);
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
    scenario
}

fn port() -> ProbeTarget {
    "5432".parse().unwrap()
}

fn load(scenario: &Scenario, from: &str, clients: usize, timeout: Duration) -> Vec<Load> {
    let start =
        |family| Load::start(&scenario.testbed, (from, "db/s"), port(), family, clients, timeout).unwrap();
    Family::BOTH.map(start).into()
}

fn stream(scenario: &Scenario) -> Stream {
    Stream::open(&scenario.testbed, "web/a", "db/s", port(), Family::V4).unwrap()
}

fn answer(scenario: &Scenario, from: &str, to: &str) -> Answer {
    let target = if to == "db/s" { port() } else { "80".parse().unwrap() };
    scenario.testbed.probe(from, to, target, Family::V4, Duration::from_millis(400)).unwrap().answer
}

#[test]
fn a_second_agent_takes_over_and_no_connection_is_lost() {
    let mut scenario = scenario(&[]);
    let stream = stream(&scenario);
    let allowed_load = load(&scenario, "web/a", 3, TIMEOUT);
    let denied_load = load(&scenario, "other/x", 2, Duration::from_millis(100));
    for round in 0..3 {
        sleep(WHILE);
        let http_port = agent::HTTP_PORT + 1 + round;
        let mut next =
            Agent::start(&scenario.testbed, "node-a", &Launch { http_port, ..Launch::default() }).unwrap();
        next.wait_ready().unwrap();
        let mut old = scenario.take_agent("node-a");
        old.wait_not_ready("taken over").unwrap();
        assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
        let warnings = |log: &str| log.lines().filter(|line| line.contains(" WARN ")).count();
        assert_eq!(warnings(&old.log()) + warnings(&next.log()), 0, "{}\n{}", old.log(), next.log());
        scenario.put_agent(next);
    }
    sleep(WHILE);
    for load in allowed_load {
        let report = load.finish().unwrap();
        eprintln!("{} connections, the slowest took {:?}", report.reached, report.slowest);
        assert!(report.reached > 100 && report.timed_out == 0 && report.failed.is_empty(), "{report:?}");
        assert!(report.slowest < NO_SYN_LOST, "{report:?}");
    }
    for load in denied_load {
        let report = load.finish().unwrap();
        assert!(report.reached == 0 && report.timed_out > 10 && report.failed.is_empty(), "{report:?}");
    }
    stream.finish().unwrap();
}

#[test]
fn during_a_takeover_both_agents_report_whose_rules_are_in_force() {
    let mut scenario = scenario(&[]);
    let http_port = agent::HTTP_PORT + 1;
    let mut next =
        Agent::start(&scenario.testbed, "node-a", &Launch { http_port, ..Launch::default() }).unwrap();
    next.wait_ready().unwrap();
    let protections = next.status().unwrap()["origins"]["protections"].clone();
    assert!(
        protections.as_array().is_some_and(|all| !all.is_empty()),
        "reported together with the rules: {protections}"
    );
    let mut old = scenario.take_agent("node-a");
    old.wait_not_ready("taken over").unwrap();
    let ask = |command, port: u16| {
        let node = scenario.testbed.namespace("node-a").unwrap();
        agent::command(node, &[command, "--http-port", &port.to_string()]).unwrap().1
    };
    let output = ask("doctor", agent::HTTP_PORT);
    assert!(output.contains("another agent has taken over"), "{output}");
    assert!(output.contains("those of another agent, whose rules are in force"), "{output}");
    assert!(!output.contains("not installed"), "{output}");
    assert!(
        ask("doctor", http_port).contains("in force: "),
        "the agent that has taken over reports which rules are in force"
    );
    let output = ask("status", agent::HTTP_PORT);
    assert!(output.contains("those of the agent that has taken over"), "{output}");
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    let output = ask("doctor", agent::HTTP_PORT);
    assert!(output.contains("no agent answers, but one serves the rules in the"), "{output}");
    scenario.put_agent(next);
}

#[test]
fn an_agent_in_standby_reports_that_its_successor_is_gone() {
    let mut scenario = scenario(&[]);
    let http_port = agent::HTTP_PORT + 1;
    let mut next =
        Agent::start(&scenario.testbed, "node-a", &Launch { http_port, ..Launch::default() }).unwrap();
    next.wait_ready().unwrap();
    let mut old = scenario.take_agent("node-a");
    old.wait_not_ready("another agent has taken over on this node (queues ").unwrap();
    assert_eq!(old.status().unwrap()["successor"], "agent");
    next.kill().unwrap();
    old.wait_not_ready("another agent had taken over on this node and is gone").unwrap();
    assert_eq!(old.status().unwrap()["successor"], "agent-gone");
    // It still holds queues that the next agent needs.
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    assert!(old.log().contains("those of another agent, which is gone"), "{}", old.log());
    let mut again = Agent::start(&scenario.testbed, "node-a", &Launch::default()).unwrap();
    again.wait_ready().unwrap();
    scenario.put_agent(again);
}

/// A suspended agent has packets in its queues. The rules of the agent that has taken over must not accept
/// its verdicts when it is resumed.
#[test]
fn verdicts_of_a_suspended_agent_after_a_takeover_open_no_connection() {
    let mut scenario = scenario(&["--verdict-cache-ttl=off"]);
    for (round, queue_base) in [(1, "100"), (2, "300")] {
        let mut old = scenario.take_agent("node-a");
        old.suspend().unwrap();
        let waiting = load(&scenario, "web/a", 4, TIMEOUT);
        sleep(WHILE);
        scenario.policy("db/allow-web", "{podSelector: {}, policyTypes: [Ingress]}");
        let flags = ["--verdict-cache-ttl=off", "--queue-base", queue_base];
        let http_port = agent::HTTP_PORT + round;
        let launch = Launch { flags: &flags, http_port, ..Launch::default() };
        let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
        next.wait_ready().unwrap();
        old.resume().unwrap();
        old.wait_not_ready("taken over").unwrap();
        for load in waiting {
            let report = load.finish().unwrap();
            assert!(report.reached == 0 && report.timed_out > 0 && report.failed.is_empty(), "{report:?}");
        }
        assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
        scenario.put_agent(next);
        scenario.policy("db/allow-web", ALLOWED);
        scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    }
}

#[test]
fn a_crash_lets_nothing_through_fail_mode_means_closed() {
    let flags = ["--fail-mode=closed", "--verdict-cache-ttl=1s"];
    let mut scenario = scenario(&flags);
    let stream = stream(&scenario);
    let denied_load = load(&scenario, "other/x", 4, Duration::from_millis(50));
    sleep(WHILE);
    for _ in 0..2 {
        scenario.take_agent("node-a").kill().unwrap();
        // Existing connections continue. Once cached verdicts have expired, new connections wait for an
        // agent. Pods without policy are not disturbed.
        stream.wait_progress(200).unwrap();
        sleep(CACHED);
        assert_eq!(answer(&scenario, "web/a", "db/s"), Answer::TimedOut);
        assert!(answer(&scenario, "web/a", "other/x").reached());
        sleep(WHILE);
        scenario.start_agents(&flags);
        scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
        sleep(WHILE);
    }
    for load in denied_load {
        let report = load.finish().unwrap();
        assert!(report.reached == 0 && report.timed_out > 50 && report.failed.is_empty(), "{report:?}");
    }
    stream.finish().unwrap();
}

#[test]
fn a_crash_lets_everything_through_fail_mode_means_open() {
    let mut scenario = scenario(&["--fail-mode=open", "--verdict-cache-ttl=1s"]);
    let known = stream(&scenario);
    scenario.take_agent("node-a").kill().unwrap();
    known.wait_progress(50).unwrap();
    assert!(answer(&scenario, "web/a", "db/s").reached());
    // A flow that was denied just before stays denied while its verdict is cached.
    sleep(CACHED);
    assert!(answer(&scenario, "other/x", "db/s").reached());
    let uninvited = Stream::open(&scenario.testbed, "other/x", "db/s", port(), Family::V4).unwrap();
    // The next agent cuts denied connections that were opened meanwhile.
    scenario.start_agents(&["--fail-mode=open"]);
    let before = uninvited.echoed();
    sleep(WHILE);
    assert_eq!(uninvited.echoed(), before);
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
    known.wait_progress(50).unwrap();
    known.finish().unwrap();
}

#[test]
fn a_terminated_agent_leaves_the_rules_and_cleanup_removes_them() {
    let mut scenario = scenario(&["--fail-mode=closed"]);
    let known = stream(&scenario);
    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    assert_eq!(answer(&scenario, "other/x", "db/s"), Answer::TimedOut);
    // Unlike after a crash, the verdict cache is emptied at once.
    assert_eq!(answer(&scenario, "web/a", "db/s"), Answer::TimedOut);
    known.wait_progress(50).unwrap();
    let node = scenario.testbed.namespace("node-a").unwrap();
    let (code, output, error) = agent::command(node, &["cleanup"]).unwrap();
    assert_eq!(code, 0, "{output}{error}");
    assert!(!scenario.testbed.ruleset("node-a").unwrap().contains("kube-verdict"));
    scenario.expect("other/x", "db/s", "5432", &unevaluated());
    known.finish().unwrap();
}

#[test]
fn cleanup_refuses_while_an_agent_is_live() {
    let scenario = scenario(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap();
    let (code, ..) = agent::command(node, &["cleanup"]).unwrap();
    assert_ne!(code, 0);
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
}

/// Found by reading: an agent that was suspended during a sweep continued it after another agent had taken
/// over. So it cleared REVOKED on connections that its own snapshot allowed.
#[test]
fn a_sweep_that_was_suspended_before_a_takeover_restores_no_connection() {
    const OTHERS: u32 = 150_000;
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &[])
        .pod("db/s", "node-a", &[], &["53/UDP"]);
    let mut scenario = Scenario::new(cluster);
    scenario.policy("db/allow-web", ALLOWED);
    flood::fill_conntrack(&scenario.testbed, "web/a", "db/s", OTHERS).unwrap();
    scenario.start_agents(&[]);
    let open =
        |_| Stream::open(&scenario.testbed, "web/a", "db/s", "53/UDP".parse().unwrap(), Family::V4).unwrap();
    let streams: Vec<Stream> = (0..16).map(open).collect();
    // So that the next sweep is not delayed.
    sleep(Duration::from_secs(2));
    // This edit still allows them, but affects their pods, so a sweep starts.
    scenario.policy("db/allow-web", &format!("{ALLOWED}    - from: [{{podSelector: {{}}}}]\n"));
    sleep(Duration::from_millis(50));
    let mut old = scenario.take_agent("node-a");
    old.suspend().unwrap();
    let launch = Launch { http_port: agent::HTTP_PORT + 1, ..Launch::default() };
    let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    next.wait_ready().unwrap();
    scenario.put_agent(next);
    let sweeps =
        |scenario: &mut Scenario| scenario.agent("node-a").log().matches("connections swept").count();
    let wait_swept = |scenario: &mut Scenario, before| {
        let end = Instant::now() + Duration::from_secs(30);
        while sweeps(scenario) == before {
            assert!(Instant::now() < end, "waited for a sweep: {}", scenario.agent("node-a").log());
            sleep(Duration::from_millis(20));
        }
    };
    // Also after the sweep that follows its predecessor's last verdict.
    sleep(Duration::from_secs(5));
    let swept = sweeps(&mut scenario);
    // The other connections stay allowed.
    scenario.policy(
        "db/allow-web",
        &format!("{ALLOWED}      ports: [{{protocol: UDP, port: 2000, endPort: 61999}}]\n"),
    );
    wait_swept(&mut scenario, swept);
    let before: Vec<u64> = streams.iter().map(Stream::echoed).collect();
    old.resume().unwrap();
    old.wait_not_ready("taken over").unwrap();
    // Within this time, the rest of its sweep would end.
    sleep(Duration::from_secs(6));
    let after: Vec<u64> = streams.iter().map(Stream::echoed).collect();
    assert_eq!(after, before, "all connections stay cut");
    // It may have been suspended between reading the rules and writing a mark. So its successor sweeps once
    // more.
    let swept = sweeps(&mut scenario);
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    wait_swept(&mut scenario, swept);
}
