//! Agents that come and go: by handing over, by a crash, and by being asked to end.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::{
    Agent, Answer, Cluster, Family, Launch, Load, Scenario, Side, Stream, Testbed, Way, agent, allowed,
    denied, flood, unevaluated,
};

/// A SYN that was lost comes again after one second: a connection that took less has lost none.
const NO_SYN_LOST: Duration = Duration::from_millis(900);
const PATIENT: Duration = Duration::from_secs(4);
const WHILE: Duration = Duration::from_millis(700);
/// The kernel caches verdicts for so long, in the scenarios in which an agent crashes.
const CACHED: Duration = Duration::from_secs(1);

const ALLOW_WEB: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
";

fn cluster() -> Cluster {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"])
        .pod("other/x", "node-a", &[], &["80"])
}

/// `web` may reach `db`, `other` may not; no policy applies to `web` and `other` themselves.
fn scenario(flags: &[&str]) -> Scenario {
    let mut scenario = Scenario::begin(cluster());
    scenario.policy("db/allow-web", ALLOW_WEB);
    scenario.start_agents(flags);
    scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
    scenario.expect("other/x", "db/s", "5432", &denied(Side::Ingress, "db/allow-web"));
    scenario
}

fn port() -> Way {
    "5432".parse().unwrap()
}

fn load(scenario: &Scenario, from: &str, clients: usize, patience: Duration) -> Vec<Load> {
    let start =
        |family| Load::start(&scenario.testbed, (from, "db/s"), port(), family, clients, patience).unwrap();
    Family::BOTH.map(start).into()
}

fn stream(scenario: &Scenario) -> Stream {
    Stream::open(&scenario.testbed, "web/a", "db/s", port(), Family::V4).unwrap()
}

fn answer(scenario: &Scenario, from: &str, to: &str) -> Answer {
    let way = if to == "db/s" { port() } else { "80".parse().unwrap() };
    scenario.testbed.probe(from, to, way, Family::V4, Duration::from_millis(400)).unwrap().answer
}

#[test]
fn a_second_agent_takes_over_and_no_connection_is_lost() {
    let mut scenario = scenario(&[]);
    let stream = stream(&scenario);
    let allowed_load = load(&scenario, "web/a", 3, PATIENT);
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
fn while_one_agent_takes_over_from_another_either_says_whose_rules_are_in_force() {
    let mut scenario = scenario(&[]);
    let http_port = agent::HTTP_PORT + 1;
    let mut next =
        Agent::start(&scenario.testbed, "node-a", &Launch { http_port, ..Launch::default() }).unwrap();
    next.wait_ready().unwrap();
    let protections = next.status().unwrap()["origins"]["protections"].clone();
    assert!(protections.as_array().is_some_and(|all| !all.is_empty()), "said with the rules: {protections}");
    let mut old = scenario.take_agent("node-a");
    old.wait_not_ready("taken over").unwrap();
    let ask = |command, port: u16| {
        let node = scenario.testbed.namespace("node-a").unwrap();
        agent::command(node, &[command, "--http-port", &port.to_string()]).unwrap().1
    };
    let said = ask("doctor", agent::HTTP_PORT);
    assert!(said.contains("another agent has taken over"), "{said}");
    assert!(said.contains("those of another agent, whose rules are in force"), "{said}");
    assert!(!said.contains("not installed"), "{said}");
    assert!(ask("doctor", http_port).contains("in force: "), "the agent in force says which");
    let said = ask("status", agent::HTTP_PORT);
    assert!(said.contains("those of the agent that has taken over"), "{said}");
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    let said = ask("doctor", agent::HTTP_PORT);
    assert!(said.contains("no agent answers, but one serves the rules in the"), "{said}");
    scenario.put_agent(next);
}

#[test]
fn an_agent_that_stands_by_says_that_the_one_that_took_over_is_gone() {
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
    // It holds queues that the next one needs.
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    assert!(old.log().contains("those of another agent, which is gone"), "{}", old.log());
    let mut again = Agent::start(&scenario.testbed, "node-a", &Launch::default()).unwrap();
    again.wait_ready().unwrap();
    scenario.put_agent(again);
}

/// A stopped agent has packets in its queues. What it answers once it goes on is not an answer to the rules of the agent that has taken over.
#[test]
fn what_a_stopped_agent_answers_after_a_takeover_opens_no_connection() {
    let mut scenario = scenario(&["--verdict-cache-ttl=off"]);
    for (round, queue_base) in [(1, "100"), (2, "300")] {
        let mut old = scenario.take_agent("node-a");
        old.stop().unwrap();
        let waiting = load(&scenario, "web/a", 4, PATIENT);
        sleep(WHILE);
        scenario.policy("db/allow-web", "{podSelector: {}, policyTypes: [Ingress]}");
        let flags = ["--verdict-cache-ttl=off", "--queue-base", queue_base];
        let http_port = agent::HTTP_PORT + round;
        let launch = Launch { flags: &flags, http_port, ..Launch::default() };
        let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
        next.wait_ready().unwrap();
        old.go_on().unwrap();
        old.wait_not_ready("taken over").unwrap();
        for load in waiting {
            let report = load.finish().unwrap();
            assert!(report.reached == 0 && report.timed_out > 0 && report.failed.is_empty(), "{report:?}");
        }
        assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
        scenario.put_agent(next);
        scenario.policy("db/allow-web", ALLOW_WEB);
        scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
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
        // Known connections go on; new ones wait for an agent once what the dead one allowed is no longer cached; and pods
        // without policy don't notice.
        stream.wait_progress(200).unwrap();
        sleep(CACHED);
        assert_eq!(answer(&scenario, "web/a", "db/s"), Answer::TimedOut);
        assert!(answer(&scenario, "web/a", "other/x").reached());
        sleep(WHILE);
        scenario.start_agents(&flags);
        scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
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
    // A flow that was denied just before is denied for as long as it is cached.
    sleep(CACHED);
    assert!(answer(&scenario, "other/x", "db/s").reached());
    let uninvited = Stream::open(&scenario.testbed, "other/x", "db/s", port(), Family::V4).unwrap();
    // The next agent finds what came in meanwhile, and cuts it.
    scenario.start_agents(&["--fail-mode=open"]);
    let before = uninvited.echoed();
    sleep(WHILE);
    assert_eq!(uninvited.echoed(), before);
    scenario.expect("other/x", "db/s", "5432", &denied(Side::Ingress, "db/allow-web"));
    known.wait_progress(50).unwrap();
    known.finish().unwrap();
}

#[test]
fn an_agent_that_is_asked_to_end_leaves_the_rules_and_cleanup_removes_them() {
    let mut scenario = scenario(&["--fail-mode=closed"]);
    let known = stream(&scenario);
    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    assert_eq!(answer(&scenario, "other/x", "db/s"), Answer::TimedOut);
    // What was cached is forgotten at once, unlike after a crash.
    assert_eq!(answer(&scenario, "web/a", "db/s"), Answer::TimedOut);
    known.wait_progress(50).unwrap();
    let node = scenario.testbed.namespace("node-a").unwrap();
    let (code, said, error) = agent::command(node, &["cleanup"]).unwrap();
    assert_eq!(code, 0, "{said}{error}");
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
    scenario.expect("other/x", "db/s", "5432", &denied(Side::Ingress, "db/allow-web"));
}

/// Found by reading: an agent that was stopped in the middle of a sweep went on with it after another had taken over, and cleared REVOKED
/// on connections that its own snapshot allowed.
#[test]
fn a_sweep_that_was_stopped_before_a_takeover_restores_no_connection() {
    const OTHERS: u32 = 150_000;
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &[])
        .pod("db/s", "node-a", &[], &["53/UDP"]);
    let mut scenario = Scenario::begin(cluster);
    scenario.policy("db/allow-web", ALLOW_WEB);
    flood::fill_conntrack(&scenario.testbed, "web/a", "db/s", OTHERS).unwrap();
    scenario.start_agents(&[]);
    let open =
        |_| Stream::open(&scenario.testbed, "web/a", "db/s", "53/UDP".parse().unwrap(), Family::V4).unwrap();
    let streams: Vec<Stream> = (0..16).map(open).collect();
    // So that the next sweep is not put off.
    sleep(Duration::from_secs(2));
    // It still allows them, and affects their pods: a sweep begins.
    scenario.policy("db/allow-web", &format!("{ALLOW_WEB}    - from: [{{podSelector: {{}}}}]\n"));
    sleep(Duration::from_millis(50));
    let mut old = scenario.take_agent("node-a");
    old.stop().unwrap();
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
    // Also the one after its predecessor's last answer.
    sleep(Duration::from_secs(5));
    let swept = sweeps(&mut scenario);
    // The others stay allowed.
    scenario.policy(
        "db/allow-web",
        &format!("{ALLOW_WEB}      ports: [{{protocol: UDP, port: 2000, endPort: 61999}}]\n"),
    );
    wait_swept(&mut scenario, swept);
    let before: Vec<u64> = streams.iter().map(Stream::echoed).collect();
    old.go_on().unwrap();
    old.wait_not_ready("taken over").unwrap();
    // The rest of its sweep would be over.
    sleep(Duration::from_secs(6));
    let after: Vec<u64> = streams.iter().map(Stream::echoed).collect();
    assert_eq!(after, before, "all stay cut");
    // It may have been stopped between its look at the rules and its write.
    let swept = sweeps(&mut scenario);
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    wait_swept(&mut scenario, swept);
}
