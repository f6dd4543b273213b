//! Removing the agent from a node: nothing remains, and no connection is disturbed.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::wait::wait_until;
use integration::web_to_db::ALLOWED;
use integration::{
    Agent, ClusterSpec, Direction, Family, Launch, Load, ProbeTarget, Scenario, Stream, Testbed, agent,
    allowed, denied, unevaluated,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// TCP retransmits a lost SYN after one second, so a connection that takes less has lost none.
const NO_SYN_LOST: Duration = Duration::from_millis(900);
/// How long a connection under load may take.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How long the agent's status may take to follow a change.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

fn cluster() -> ClusterSpec {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"])
        .pod("other/x", "node-a", &[], &["80"])
}

/// `web` may reach `db`, but `other` may not. Also returns the state of the node before the agent.
fn scenario(flags: &[&str]) -> (Scenario, Vec<String>) {
    let mut scenario = Scenario::new(cluster());
    let before = node(&scenario);
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(flags);
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
    let with_agent = node(&scenario);
    for part in ["table inet kube-verdict", "table bridge kube-verdict", "no_linklocal_learn"] {
        let lines =
            |node: &[String]| node.iter().filter(|line| line.contains(part)).cloned().collect::<Vec<_>>();
        assert_ne!(lines(&with_agent), lines(&before), "an agent changes {part}");
    }
    (scenario, before)
}

/// The state of the node that a program could change: rules, network sysctls, and devices with all of their
/// options.
fn node(scenario: &Scenario) -> Vec<String> {
    let answer = |program: &str, arguments: &[&str]| {
        let namespace = scenario.testbed.namespace("node-a").unwrap();
        let output = namespace.run(|| Command::new(program).args(arguments).output()).unwrap().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut seen: Vec<String> = answer("nft", &["list", "ruleset"]).lines().map(str::to_owned).collect();
    // Counters, and sysctls that the kernel itself changes, are ignored.
    let is_volatile = |line: &&str| {
        [
            "conntrack_count",
            "random",
            ".neigh.",
            "hostname",
            "stat_refresh",
            "dirty",
            "drop_caches",
            "tcp_mem",
            "udp_mem",
        ]
        .iter()
        .any(|part| line.contains(part))
    };
    seen.extend(
        answer("sysctl", &["-a", "--pattern", r"^net\."])
            .lines()
            .filter(|line| !is_volatile(line))
            .map(str::to_owned),
    );
    let devices: Vec<Value> =
        serde_json::from_str(&answer("ip", &["-details", "-json", "link", "show"])).unwrap();
    for device in &devices {
        // Options that are configured, without those that the kernel measures.
        let by_itself = ["timer", "state", "designated", "ack", "pending", "topology", "root", "gc_"];
        for kind in ["info_data", "info_slave_data"] {
            let options = device["linkinfo"][kind].as_object().into_iter().flatten();
            let configured = options.filter(|(name, _)| !by_itself.iter().any(|part| name.contains(part)));
            seen.extend(
                configured.map(|(name, value)| format!("{} {kind} {name} {value}", device["ifname"])),
            );
        }
        let name = &device["ifname"];
        seen.push(format!(
            "{name} mtu {} qdisc {} master {}",
            device["mtu"], device["qdisc"], device["master"]
        ));
    }
    seen
}

fn port() -> ProbeTarget {
    "5432".parse().unwrap()
}

fn loads(scenario: &Scenario) -> Vec<Load> {
    let start =
        |family| Load::start(&scenario.testbed, ("web/a", "db/s"), port(), family, 2, TIMEOUT).unwrap();
    Family::BOTH.map(start).into()
}

fn streams(scenario: &Scenario) -> Vec<Stream> {
    let open = |family| Stream::open(&scenario.testbed, "web/a", "db/s", port(), family).unwrap();
    Family::BOTH.map(open).into()
}

#[track_caller]
fn undisturbed(loads: Vec<Load>, streams: Vec<Stream>) {
    for load in loads {
        let report = load.finish().unwrap();
        eprintln!("{} connections, the slowest took {:?}", report.reached, report.slowest);
        assert!(report.reached > 100 && report.timed_out == 0 && report.failed.is_empty(), "{report:?}");
        assert!(report.slowest < NO_SYN_LOST, "{report:?}");
    }
    for stream in streams {
        stream.wait_progress(50).unwrap();
        eprintln!("{:?}", stream.finish().unwrap());
    }
}

#[track_caller]
fn run(scenario: &Scenario, arguments: &[&str]) -> (i32, String) {
    let (code, output, error) =
        agent::command(scenario.testbed.namespace("node-a").unwrap(), arguments).unwrap();
    (code, format!("{output}{error}"))
}

#[track_caller]
fn expect_nothing_left(scenario: &Scenario, before: &[String]) {
    let now = node(scenario);
    let differ: Vec<_> = now
        .iter()
        .filter(|line| !before.contains(line))
        .map(|line| format!("+ {line}"))
        .chain(before.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}")))
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
    let (code, output) = run(scenario, &["cleanup", "--check"]);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn cleanup_after_the_agents_end_leaves_nothing_and_connections_continue() {
    let (mut scenario, before) = scenario(&[]);
    let streams = streams(&scenario);
    let status = scenario.agent("node-a").status().unwrap();
    let policy = &status["policies"][0];
    assert_eq!((&policy["policy"], &policy["resource_version"]), (&"db/allow-web".into(), &Value::Null));
    scenario.policy("db/soon-gone", "podSelector: {}");
    let names = |scenario: &mut Scenario| {
        let status = scenario.agent("node-a").status().unwrap();
        let all = status["policies"].as_array().unwrap().iter().map(|policy| policy["policy"].to_string());
        all.collect::<Vec<_>>().join(" ")
    };
    wait_until("both policies are in the status", STATUS_TIMEOUT, || {
        names(&mut scenario) == "\"db/allow-web\" \"db/soon-gone\""
    });
    scenario.testbed.manifests().remove_policy("db/soon-gone").unwrap();
    wait_until("only one policy is in the status", STATUS_TIMEOUT, || {
        names(&mut scenario) == "\"db/allow-web\""
    });
    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    let log = agent.audit_log().to_owned();
    let (code, output) = run(&scenario, &["cleanup", "--check"]);
    assert!(
        code == 1 && output.contains("table inet kube-verdict") && output.contains("the marks of"),
        "{output}"
    );
    let (code, output) = run(&scenario, &["cleanup", "--audit-log", log.to_str().unwrap()]);
    assert!(code == 0 && output.contains("removed the rules") && output.contains("removed /"), "{output}");
    assert!(!log.exists());
    expect_nothing_left(&scenario, &before);
    undisturbed(Vec::new(), streams);
    scenario.expect("other/x", "db/s", "5432", &unevaluated());
}

#[test]
fn cleanup_beside_a_running_agent_delays_no_connection_and_the_agent_goes_into_standby() {
    let (mut scenario, before) = scenario(&[]);
    let (loads, streams) = (loads(&scenario), streams(&scenario));
    sleep(Duration::from_millis(500));
    let began = Instant::now();
    let log = scenario.agent("node-a").audit_log().to_owned();
    let (code, output) = run(&scenario, &["cleanup", "--force", "--audit-log", log.to_str().unwrap()]);
    assert_eq!(code, 0, "{output}");
    eprintln!("cleanup took {:?}", began.elapsed());
    expect_nothing_left(&scenario, &before);
    scenario
        .agent("node-a")
        .wait_not_ready("the rules were removed from this node, as `kube-verdict cleanup` does")
        .unwrap();
    // Normalises white space, since the tables wrap lines.
    let ask = |command| run(&scenario, &[command]).1.split_whitespace().collect::<Vec<_>>().join(" ");
    let output = ask("status");
    assert!(output.contains("rules none: they were removed") && !output.contains("taken over"), "{output}");
    let output = ask("doctor");
    assert!(
        output.contains("none: the rules were removed") && !output.contains("try again in a moment"),
        "{output}"
    );
    // It does not install its rules again although policy changes, and leaves nothing behind when it exits.
    scenario.testbed.manifests().remove_policy("db/allow-web").unwrap();
    sleep(Duration::from_millis(1500));
    expect_nothing_left(&scenario, &before);
    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    assert!(agent.log().contains("removed, as by `kube-verdict cleanup`"), "{}", agent.log());
    expect_nothing_left(&scenario, &before);
    let named = ["cleanup", "--check", "--audit-log", log.to_str().unwrap(), "--state-dir", "/nowhere"];
    let (code, output) = run(&scenario, &named);
    assert!(
        code == 0 && output.contains("no audit log at /") && output.contains("no state in /nowhere"),
        "{output}"
    );
    let folder = log.parent().unwrap().to_str().unwrap();
    let (code, output) = run(&scenario, &["cleanup", "--audit-log", folder]);
    assert!(code == 2 && output.contains("names no file"), "{output}");
    assert!(!log.exists(), "an agent in standby writes no records");
    undisturbed(loads, streams);
}

/// A process that is killed when this is dropped.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_cleanup_that_stays_removes_the_rules_of_an_agent_that_is_started_again() {
    let (mut scenario, before) = scenario(&[]);
    let (loads, streams) = (loads(&scenario), streams(&scenario));
    let binary = agent::binary().unwrap();
    let log = scenario.testbed.manifests().sibling_file("cleanup.log");
    let output = fs::File::create(&log).unwrap();
    let start = || {
        Command::new(&binary)
            .args(["cleanup", "--stay"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .spawn()
    };
    let mut cleanup = Background(scenario.testbed.namespace("node-a").unwrap().run(start).unwrap().unwrap());
    let wait_clean = |scenario: &Scenario| {
        wait_until("nothing is left", Duration::from_secs(30), || {
            run(scenario, &["cleanup", "--check"]).0 == 0
        });
    };
    wait_clean(&scenario);
    scenario.take_agent("node-a").kill().unwrap();
    let mut agent = Agent::start(&scenario.testbed, "node-a", &Launch::default()).unwrap();
    agent.wait_log("the rules were removed").unwrap();
    wait_clean(&scenario);
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    expect_nothing_left(&scenario, &before);
    kill(Pid::from_raw(i32::try_from(cleanup.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(cleanup.0.wait().unwrap().code(), Some(0));
    let output = fs::read_to_string(&log).unwrap();
    assert!(output.matches("removed the rules").count() >= 2, "{output}");
    undisturbed(loads, streams);
}

#[test]
fn doctor_reports_rules_that_an_agent_has_left_and_their_effect_on_pods() {
    for (flag, experience, is_open) in [
        ("--fail-mode=closed", "get no traffic at all", false),
        ("--fail-mode=open", "new connections pass unevaluated", true),
    ] {
        let (mut scenario, _) = scenario(&[flag]);
        let (code, output) = run(&scenario, &["doctor"]);
        assert_eq!(code, 0, "{output}");
        let mut agent = scenario.take_agent("node-a");
        assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
        let (code, output) = run(&scenario, &["doctor"]);
        // Normalises white space, since the table wraps lines.
        let output = output.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code, 1, "{output}");
        for part in ["wrong", experience, "start an agent", "`kube-verdict cleanup`"] {
            assert!(output.contains(part), "{flag}: {part} in {output}");
        }
        // No policy selects these pods. The rules contain the first two, and the third has started since.
        scenario.testbed.add_pod("other/late", "node-a", &[], &["80"]).unwrap();
        let reaches = |scenario: &Scenario, from, to| {
            let target = "80".parse().unwrap();
            scenario
                .testbed
                .probe(from, to, target, Family::V4, Duration::from_millis(400))
                .unwrap()
                .answer
                .reached()
        };
        assert!(reaches(&scenario, "web/a", "other/x"));
        assert_eq!(reaches(&scenario, "other/late", "other/x"), is_open, "{flag}");
        assert_eq!(reaches(&scenario, "web/a", "other/late"), is_open, "{flag}");
        let (code, output) = run(&scenario, &["cleanup"]);
        assert_eq!(code, 0, "{output}");
        assert_eq!(run(&scenario, &["doctor"]).0, 0);
        assert!(reaches(&scenario, "other/late", "other/x") && reaches(&scenario, "web/a", "other/late"));
    }
}
