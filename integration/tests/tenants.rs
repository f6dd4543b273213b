//! Very large policies of one namespace are enforced or refused, and don't affect other namespaces.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use integration::wait::read_until;
use integration::{Direction, Scenario, Testbed, allowed, denied};

/// The bound of the agent's resident memory, in kB.
const MAX_MEMORY: u64 = 100_000;

/// How long the agent's status and log may take to follow a change.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

fn start(flags: &[&str]) -> Scenario {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"]);
    let mut scenario = Scenario::new(cluster);
    scenario.start_agents(flags);
    scenario
}

/// A policy of 1.2 MB: a thousand rules, each with its own ports and for all addresses except sixty.
fn large() -> String {
    let mut text = String::from("podSelector: {}\npolicyTypes: [Ingress]\ningress:\n");
    let mut number: u32 = 1;
    for rule in 0..1_000 {
        let except: Vec<String> = (0..60)
            .map(|_| {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [_, b, c, d] = number.to_be_bytes();
                format!("{}.{b}.{c}.{d}/32", 11 + d % 200)
            })
            .collect();
        let (port, end) = (rule * 20 + 1, rule * 20 + 500);
        let _ = writeln!(
            text,
            "- from: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [{}]}}}}]\n  ports: [{{port: {port}, endPort: \
             {end}}}]",
            except.join(", ")
        );
    }
    text
}

/// The problems in the agent's status, once there are as many as expected.
fn problems(scenario: &mut Scenario, expected: usize) -> Vec<String> {
    let agent = scenario.agent("node-a");
    let read = || {
        let status = agent.status().unwrap();
        let problems = status["problems"].as_array().unwrap();
        problems.iter().map(|problem| problem["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    read_until(STATUS_TIMEOUT, read, |problems| problems.len() == expected)
}

/// The agent's peak resident memory, in kB.
fn peak_memory(scenario: &mut Scenario) -> u64 {
    let process = scenario.agent("node-a").process();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_policy_of_the_largest_size_is_enforced_in_little_memory() {
    let mut scenario = start(&[]);
    scenario.policy("db/large", &large());
    // Port 5432 is first in rule 247, whose exceptions include no pod's address.
    scenario.expect_in(
        integration::Family::V4,
        "web/a",
        "db/s",
        "5432",
        &allowed(Direction::Ingress, "db/large", 247),
    );
    assert_eq!(problems(&mut scenario, 0), [""; 0]);
    let memory = peak_memory(&mut scenario);
    assert!(memory < MAX_MEMORY, "{memory} kB");
}

#[test]
fn what_exceeds_a_namespaces_budget_isolates_and_is_named_and_others_do_not_notice() {
    let mut scenario = start(&["--policy-budget", "35"]);
    let open = "podSelector: {}\ningress: [{ports: [{port: 5432}]}]";
    scenario.policy("web/open", "podSelector: {}\ningress: [{ports: [{port: 80}]}]");
    scenario.policy("db/open", open);
    scenario.expect("db/s", "web/a", "80", &allowed(Direction::Ingress, "web/open", 0));
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/open", 0));
    // Smaller policies have precedence, so the large one is refused. Traffic that only it allows is denied.
    let ports: Vec<String> = (1..30).map(|port| format!("{{port: {port}}}")).collect();
    scenario.remove_policy("db/open");
    scenario.policy(
        "db/many",
        &format!("podSelector: {{}}\ningress: [{{ports: [{{port: 5432}}, {}]}}]", ports.join(", ")),
    );
    scenario.expect("web/a", "db/s", "5432", &denied(Direction::Ingress, "db/many"));
    scenario.expect("db/s", "web/a", "80", &allowed(Direction::Ingress, "web/open", 0));
    let named = problems(&mut scenario, 1);
    assert!(
        named.len() == 1
            && named[0].starts_with("NetworkPolicy db/many: it has 47 entries")
            && named[0].contains("--policy-budget"),
        "{named:?}"
    );
    // Replaced by one within the budget.
    scenario.policy("db/many", open);
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/many", 0));
    assert_eq!(problems(&mut scenario, 0), [""; 0]);
}

#[test]
fn a_policy_that_exceeds_its_budget_and_fits_again_many_times_fills_no_log() {
    const FLIPS: usize = 20;
    let mut scenario = start(&["--policy-budget", "35"]);
    let ports: Vec<String> = (1..30).map(|port| format!("{{port: {port}}}")).collect();
    let large = format!("podSelector: {{}}\ningress: [{{ports: [{}]}}]", ports.join(", "));
    for _ in 0..FLIPS / 2 {
        scenario.policy("db/flips", &large);
        scenario.policy("db/flips", "podSelector: {}\ningress: [{ports: [{port: 5432}]}]");
    }
    let agent = scenario.agent("node-a");
    let lines = |agent: &integration::Agent, text: &str| {
        agent.log().lines().filter(|line| line.contains("db/flips") && line.contains(text)).count()
    };
    let read = || (lines(agent, "exceeds its namespace's budget: "), lines(agent, "problem resolved"));
    assert_eq!(read_until(STATUS_TIMEOUT, read, |counts| counts.0 > 0 && counts.1 > 0), (1, 1));
    // Suppressed lines are counted, at the latest when the agent exits.
    let mut agent = scenario.take_agent("node-a");
    agent.terminate().unwrap();
    assert_eq!(lines(&agent, &format!("changes={}", FLIPS - 2)), 1, "{}", agent.log());
}
