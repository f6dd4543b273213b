//! Pod events of another node that affect no rule of this node send nothing to the kernel and wake no worker.
//!
//! The only test in its file, so that no other runs at the same time: it counts how often threads are woken.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use integration::{Agent, Launch, Scenario, Testbed};

/// Longer than a sweep may be delayed.
const SETTLED: Duration = Duration::from_millis(1500);

/// Writes a pod of the other node.
fn write_pod(scenario: &Scenario, number: u32, labels: &str) {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: far-{number}, namespace: far, labels: {{{labels}}}}}\n\
         spec: {{nodeName: node-b}}\nstatus: {{phase: Running, podIP: 10.244.2.{}}}\n",
        100 + number
    );
    scenario.testbed.manifests().write(&format!("far-{number}.yaml"), &pod).unwrap();
}

/// `nft monitor`: one line for each batch, and one for each change in it.
struct Monitor(Child);

impl Monitor {
    fn start(scenario: &Scenario) -> Self {
        let node = scenario.testbed.namespace("node-a").unwrap();
        let spawn = || Command::new("nft").arg("monitor").stdout(Stdio::piped()).spawn().unwrap();
        let monitor = Self(node.run(spawn).unwrap());
        // Until it has subscribed.
        sleep(Duration::from_millis(300));
        monitor
    }

    /// Its output.
    fn end(mut self) -> String {
        self.0.kill().unwrap();
        let mut seen = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
        self.0.wait().unwrap();
        seen
    }
}

/// How often the agent's workers have been woken.
fn wake_ups(agent: &Agent) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.process())).unwrap();
    let mut switches = 0;
    for task in tasks {
        let task = task.unwrap().path();
        if fs::read_to_string(task.join("comm")).unwrap().starts_with("queue-") {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            switches += line.trim().parse::<u64>().unwrap();
        }
    }
    switches
}

/// How often the agent has swept connections.
fn sweeps(agent: &Agent) -> u64 {
    agent.status().unwrap()["sweeps"]["count"].as_u64().unwrap()
}

/// Runs `work`. Returns the changes that were sent to the kernel meanwhile, how often workers were woken, and
/// the number of sweeps.
fn during(scenario: &mut Scenario, work: impl FnOnce(&Scenario)) -> (String, u64, u64) {
    sleep(SETTLED);
    let monitor = Monitor::start(scenario);
    let (woken, swept) = (wake_ups(scenario.agent("node-a")), sweeps(scenario.agent("node-a")));
    let before = scenario.agent("node-a").applied_generation().unwrap();
    work(scenario);
    scenario.agent("node-a").wait_applied_after(before).unwrap();
    sleep(SETTLED);
    let agent = scenario.agent("node-a");
    (monitor.end(), wake_ups(agent) - woken, sweeps(agent) - swept)
}

#[test]
fn events_of_pods_that_affect_no_rule_send_no_message_and_wake_no_worker() {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"]);
    let mut scenario = Scenario::new(cluster);
    scenario.policy(
        "db/allow-app",
        "podSelector: {}\ningress:\n- from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: x}}}]",
    );
    (0..10).for_each(|number| write_pod(&scenario, number, "turn: first"));
    let agent = Agent::start(&scenario.testbed, "node-a", &Launch::default()).unwrap();
    scenario.put_agent(agent);
    scenario.agent("node-a").wait_ready().unwrap();

    let (changes, woken, swept) = during(&mut scenario, |scenario| {
        for turn in 0..20 {
            (0..10).for_each(|number| write_pod(scenario, number, &format!("turn: t{turn}")));
            sleep(Duration::from_millis(50));
        }
    });
    assert_eq!((changes.as_str(), woken, swept), ("", 0, 0), "labels that no policy selects");

    // The test does notice changes that affect a rule.
    let (changes, _, swept) = during(&mut scenario, |scenario| write_pod(scenario, 0, "app: x"));
    assert!(changes.contains("10.244.2.100") && swept == 1, "{swept} sweeps, and {changes}");
}
