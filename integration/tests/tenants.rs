//! Policies of one namespace that are too large for anyone's good: they are enforced or refused, and other namespaces don't notice.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::fmt::Write as _;
use std::fs;

use integration::{Scenario, Side, Testbed, allowed, denied};

/// Of the agent's memory, in kB.
const MOST_MEMORY: u64 = 100_000;

fn begin(flags: &[&str]) -> Scenario {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"]);
    let mut scenario = Scenario::begin(cluster);
    scenario.start_agents(flags);
    scenario
}

/// A policy of 1.2 MB: a thousand rules, each with ports of its own and for all addresses but sixty.
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
            "- from: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [{}]}}}}]\n  ports: [{{port: {port}, endPort: {end}}}]",
            except.join(", ")
        );
    }
    text
}

fn problems(scenario: &mut Scenario) -> Vec<String> {
    let status = scenario.agent("node-a").status().unwrap();
    let problems = status["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem["text"].as_str().unwrap().to_owned()).collect()
}

/// The most that the agent had resident, in kB.
fn most_memory(scenario: &mut Scenario) -> u64 {
    let process = scenario.agent("node-a").process();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_policy_of_the_largest_size_is_enforced_in_little_memory() {
    let mut scenario = begin(&[]);
    scenario.policy("db/large", &large());
    // Port 5432 is first in rule 247, of which no exception is a pod's address.
    scenario.expect_in(
        integration::Family::V4,
        "web/a",
        "db/s",
        "5432",
        &allowed(Side::Ingress, "db/large", 247),
    );
    assert_eq!(problems(&mut scenario), [""; 0]);
    let memory = most_memory(&mut scenario);
    assert!(memory < MOST_MEMORY, "{memory} kB");
}

#[test]
fn what_exceeds_a_namespaces_budget_isolates_and_is_named_and_others_do_not_notice() {
    let mut scenario = begin(&["--policy-budget", "35"]);
    let open = "podSelector: {}\ningress: [{ports: [{port: 5432}]}]";
    scenario.policy("web/open", "podSelector: {}\ningress: [{ports: [{port: 80}]}]");
    scenario.policy("db/open", open);
    scenario.expect("db/s", "web/a", "80", &allowed(Side::Ingress, "web/open", 0));
    scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/open", 0));
    // Cheaper policies come first, so it is the large one that is refused; what it would allow alone is denied.
    let ports: Vec<String> = (1..30).map(|port| format!("{{port: {port}}}")).collect();
    scenario.remove_policy("db/open");
    scenario.policy(
        "db/many",
        &format!("podSelector: {{}}\ningress: [{{ports: [{{port: 5432}}, {}]}}]", ports.join(", ")),
    );
    scenario.expect("web/a", "db/s", "5432", &denied(Side::Ingress, "db/many"));
    scenario.expect("db/s", "web/a", "80", &allowed(Side::Ingress, "web/open", 0));
    let named = problems(&mut scenario);
    assert!(
        named.len() == 1
            && named[0].starts_with("NetworkPolicy db/many: it has 47 entries")
            && named[0].contains("--policy-budget"),
        "{named:?}"
    );
    // In its place one that fits.
    scenario.policy("db/many", open);
    scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/many", 0));
    assert_eq!(problems(&mut scenario), [""; 0]);
}

#[test]
fn a_policy_that_exceeds_its_budget_and_fits_again_many_times_fills_no_log() {
    const FLIPS: usize = 20;
    let mut scenario = begin(&["--policy-budget", "35"]);
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
    assert_eq!((lines(agent, "exceeds its namespace's budget: "), lines(agent, "problem resolved")), (1, 1));
    // What has no line is counted, at the latest when the agent ends.
    let mut agent = scenario.take_agent("node-a");
    agent.terminate().unwrap();
    assert_eq!(lines(&agent, &format!("changes={}", FLIPS - 2)), 1, "{}", agent.log());
}
