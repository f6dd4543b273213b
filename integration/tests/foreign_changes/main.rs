//! Other programs delete or change the agent's rules. The agent repairs them at once, cuts connections that
//! were opened meanwhile, and records the bypass in the audit log.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

mod commits;

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use commits::Commits;
use dataplane::cache_log::CacheLog;
use integration::command::{nft, nft_output};
use integration::namespace::NetworkNamespace;
use integration::wait::wait_until;
use integration::web_to_db::ALLOWED;
use integration::{
    Agent, ClusterSpec, Direction, Family, Launch, Scenario, Stream, Testbed, agent, allowed, denied,
};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The bound of the median time of a repair, on a machine that is busy with other tests.
const BOUND: Duration = Duration::from_millis(250);
/// How long the agent's records and rules may take to follow a change.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the time of each repair is measured.
const TIMES: usize = 100;

fn cluster() -> ClusterSpec {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"])
        .pod("other/x", "node-a", &[], &["80"])
}

/// `web` may reach `db`, but `other` may not.
fn scenario(flags: &[&str]) -> Scenario {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(flags);
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
    scenario
}

fn node(scenario: &Scenario) -> Arc<NetworkNamespace> {
    Arc::clone(scenario.testbed.namespace("node-a").unwrap())
}

/// A change of the rules by a program, and the nftables object that shows it.
struct Damage {
    does: &'static str,
    to: &'static [&'static str],
}

const DAMAGES: &[Damage] = &[
    Damage { does: "flush ruleset", to: &["chain", "inet", "kube-verdict", "nfqueue"] },
    Damage {
        does: "flush chain inet kube-verdict postrouting",
        to: &["chain", "inet", "kube-verdict", "postrouting"],
    },
    Damage {
        does: "flush chain inet kube-verdict enqueue",
        to: &["chain", "inet", "kube-verdict", "nfqueue"],
    },
    Damage {
        does: "flush chain bridge kube-verdict forward",
        to: &["chain", "bridge", "kube-verdict", "forward"],
    },
    Damage {
        does: "delete element inet kube-verdict pod-cidrs4 { 10.244.1.0/24 }",
        to: &["set", "inet", "kube-verdict", "pod-cidrs4"],
    },
    Damage {
        does: "add element inet kube-verdict open-ingress4 { 10.244.1.3 }",
        to: &["set", "inet", "kube-verdict", "open-ingress4"],
    },
    Damage { does: "flush map bridge kube-verdict bound4", to: &["map", "bridge", "kube-verdict", "bound4"] },
    Damage {
        does: "insert rule inet kube-verdict postrouting accept",
        to: &["chain", "inet", "kube-verdict", "postrouting"],
    },
    Damage {
        does: "delete table bridge kube-verdict",
        to: &["chain", "bridge", "kube-verdict", "prerouting"],
    },
    Damage { does: "add table inet kube-verdict { flags dormant; }", to: &["table", "inet", "kube-verdict"] },
    Damage {
        // A table with our name but other content.
        does: "flush ruleset; add table inet kube-verdict; add set inet kube-verdict open-ingress4 { type \
               inet_service; }",
        to: &["set", "inet", "kube-verdict", "open-ingress4"],
    },
];

#[test]
fn changes_of_another_program_are_repaired() {
    let mut scenario = scenario(&[]);
    let node = node(&scenario);
    let stream =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();
    for Damage { does, to } in DAMAGES {
        let show = || nft_output(&node, &[&["-s", "list"], *to].concat()).unwrap_or_default();
        // Of a table, only the flag is compared, since other content changes without a repair.
        let shown = |text: &str| match to[0] {
            "table" => text.contains("dormant").to_string(),
            _ => text.to_owned(),
        };
        let before = shown(&show());
        nft(&node, does).unwrap();
        wait_until(&format!("{does} is repaired: {before}"), TIMEOUT, || shown(&show()) == before);
        stream.wait_progress(20).unwrap();
        scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
        scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
        scenario.agent("node-a").wait_log("program=\"nft\"").unwrap();
    }
    scenario.agent("node-a").wait_ready().unwrap();
    stream.finish().unwrap();
}

/// Suspends or resumes the agent of node-a.
fn signal(scenario: &mut Scenario, signal: Signal) {
    let process = scenario.agent("node-a").process();
    kill(Pid::from_raw(process.try_into().unwrap()), signal).unwrap();
}

fn bypasses(scenario: &mut Scenario) -> Vec<serde_json::Value> {
    scenario.agent("node-a").lines("bypass").unwrap()
}

#[test]
fn what_got_in_meanwhile_is_cut_and_the_bypass_is_recorded_from_its_beginning() {
    let mut scenario = scenario(&[]);
    let node = node(&scenario);
    let allowed =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();
    // The agent can't repair the rules for a while.
    signal(&mut scenario, Signal::SIGSTOP);
    nft(&node, "flush ruleset").unwrap();
    let begun = Timestamp::now();
    let intruder =
        Stream::open(&scenario.testbed, "other/x", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();
    sleep(Duration::from_millis(1_500));
    signal(&mut scenario, Signal::SIGCONT);
    wait_until("the bypass is recorded", TIMEOUT, || !bypasses(&mut scenario).is_empty());
    let (before, ended) = (intruder.echoed(), Timestamp::now());
    sleep(Duration::from_millis(500));
    assert!(intruder.echoed() <= before + 1, "it is cut: {} echoes since", intruder.echoed() - before);
    allowed.wait_progress(20).unwrap();
    allowed.finish().unwrap();

    let lines = bypasses(&mut scenario);
    let time = |name: &str| lines[0][name].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(time("from") <= begun, "{lines:?} begins no later than {begun}");
    assert!(time("to") > begun && time("to") <= ended, "{lines:?} is over before {ended}");
    assert_eq!((&lines[0]["reason"], &lines[0]["program"]), (&"rules-changed".into(), &"nft".into()));
    let agent = scenario.agent("node-a");
    assert_eq!(agent.metric("kube_verdict_bypasses_total", "").unwrap(), 1.0);
    assert!(agent.metric("kube_verdict_bypass_seconds_total", "").unwrap() > 1.4);
    assert_eq!(
        agent.log().matches("another program changed the agent's rules").count(),
        1,
        "{}",
        agent.log()
    );
}

/// Found by reading: an agent that got its NFLOG group rewrote the rules for that. It then missed a deletion
/// whose notification it had not read yet, since the rules were complete again.
#[test]
fn a_bypass_is_recorded_though_the_rules_are_written_for_another_reason_in_the_same_moment() {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", "podSelector: {}\ningress: []");
    let node = node(&scenario);
    let hold = |group| CacheLog::start(group, Arc::default(), |_| {}).unwrap();
    let held = node.run(|| [hold(100), hold(101)]).unwrap();
    let mut agent = Agent::start(&scenario.testbed, "node-a", &Launch::default()).unwrap();
    agent.wait_not_ready("NFLOG group 100 is taken by").unwrap();
    agent.wait_applied_after(0).unwrap();
    scenario.put_agent(agent);
    scenario.agent("node-a").suspend().unwrap();
    // Reading these notifications takes the agent a while, but it looks for its group at once.
    let elements: Vec<String> = (0..40_000_u32).map(|number| number.to_string()).collect();
    nft(
        &node,
        &format!(
            "add table inet other; add set inet other numbers {{ type mark; elements = {{ {} }}; }}",
            elements.join(",")
        ),
    )
    .unwrap();
    nft(&node, "flush ruleset").unwrap();
    let begun = Timestamp::now();
    drop(held);
    sleep(Duration::from_millis(1_500));
    scenario.agent("node-a").resume().unwrap();
    wait_until("the bypass is recorded", TIMEOUT, || !bypasses(&mut scenario).is_empty());
    let line = bypasses(&mut scenario).remove(0);
    assert_eq!(line["program"], "nft", "{line:?}");
    assert!(
        line["from"].as_str().unwrap().parse::<Timestamp>().unwrap() <= begun,
        "{line:?} must begin by {begun}"
    );
    scenario.agent("node-a").wait_ready().unwrap();
    assert_eq!(bypasses(&mut scenario).len(), 1);
}

/// Found by a chaos run: the agent dated a change back only if it had been suspended for at least half a
/// second before it read the notification.
#[test]
fn a_bypass_begins_no_later_than_the_change_however_short_the_agent_was_suspended() {
    let mut scenario = scenario(&[]);
    let node = node(&scenario);
    for (times, stopped_ms) in [(1, 80), (2, 150), (3, 300), (4, 450)] {
        sleep(Duration::from_millis(400));
        signal(&mut scenario, Signal::SIGSTOP);
        nft(&node, "flush chain inet kube-verdict postrouting").unwrap();
        let begun = Timestamp::now();
        sleep(Duration::from_millis(stopped_ms));
        signal(&mut scenario, Signal::SIGCONT);
        wait_until("the bypass is recorded", TIMEOUT, || bypasses(&mut scenario).len() == times);
        let line = bypasses(&mut scenario).pop().unwrap();
        let time = |name: &str| line[name].as_str().unwrap().parse::<Timestamp>().unwrap();
        assert!(time("from") <= begun && begun <= time("to"), "{line:?} has {begun}");
        assert!(begun.duration_since(time("from")).as_millis() < 250, "{line:?} begins long before {begun}");
    }
}

/// Agents of one node alternate between two queue ranges, and their answer marks differ. Found by a chaos
/// run: the repaired rules of such an agent accepted only its predecessor's marks. So its own packets were
/// queued again without end, and no new connection was established.
#[test]
fn an_agent_that_has_taken_over_repairs_rules_so_that_they_accept_its_answers() {
    let flags = ["--verdict-cache-ttl=off"];
    let mut scenario = scenario(&flags);
    let launch = Launch { flags: &flags, http_port: agent::HTTP_PORT + 1, ..Launch::default() };
    let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    next.wait_ready().unwrap();
    let mut old = scenario.take_agent("node-a");
    old.wait_not_ready("taken over").unwrap();
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    scenario.put_agent(next);
    nft(&node(&scenario), "flush chain inet kube-verdict postrouting").unwrap();
    wait_until("the bypass is recorded", TIMEOUT, || !bypasses(&mut scenario).is_empty());
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
    let evaluated = |scenario: &mut Scenario| {
        let packets = scenario.agent("node-a").status().unwrap()["packets"].clone();
        packets["allowed"].as_u64().unwrap() + packets["denied"].as_u64().unwrap()
    };
    assert!(
        evaluated(&mut scenario) < 100,
        "each packet is evaluated once: {} were",
        evaluated(&mut scenario)
    );
}

/// Found by a chaos run: no rule showed that the bound queues belonged to an agent. So the next agent
/// attributed them to another program and waited.
#[test]
fn an_agent_takes_over_from_a_suspended_one_whose_queue_rule_is_gone() {
    for damage in ["flush chain inet kube-verdict enqueue", "flush ruleset"] {
        let mut scenario = scenario(&["--verdict-cache-ttl=off"]);
        let mut suspended = scenario.take_agent("node-a");
        suspended.suspend().unwrap();
        nft(&node(&scenario), damage).unwrap();
        let begun = Timestamp::now();
        // The second one finds the rules of the first, and the suspended agent's queues still bound.
        for number in 1..3 {
            let http_port = agent::HTTP_PORT + number;
            let launch = Launch { flags: &["--verdict-cache-ttl=off"], http_port, ..Launch::default() };
            let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
            next.wait_ready().unwrap();
            scenario.put_agent(next);
            scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
            scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
            if number == 1 {
                scenario.take_agent("node-a").kill().unwrap();
            }
        }
        suspended.resume().unwrap();
        suspended.wait_not_ready("taken over").unwrap();
        wait_until("the bypass is recorded", TIMEOUT, || !suspended.lines("bypass").unwrap().is_empty());
        let line = suspended.lines("bypass").unwrap().remove(0);
        let from: Timestamp = line["from"].as_str().unwrap().parse().unwrap();
        assert!(from <= begun, "{line:?} begins no later than {begun}");
        assert_eq!(suspended.terminate().unwrap().code(), Some(0), "{}", suspended.log());
        scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    }
}

/// Found by a chaos run: only the suspended agent has the time of the change, and it discarded that when it
/// found itself superseded.
#[test]
fn a_bypass_is_recorded_by_the_agent_that_knows_of_it_though_another_has_taken_over() {
    let mut scenario = scenario(&[]);
    scenario.agent("node-a").suspend().unwrap();
    nft(&node(&scenario), "flush chain inet kube-verdict postrouting").unwrap();
    let begun = Timestamp::now();
    let launch = Launch { http_port: agent::HTTP_PORT + 1, ..Launch::default() };
    let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    next.wait_ready().unwrap();
    let mut old = scenario.take_agent("node-a");
    old.resume().unwrap();
    old.wait_not_ready("taken over").unwrap();
    wait_until("the bypass is recorded", TIMEOUT, || !old.lines("bypass").unwrap().is_empty());
    let lines = old.lines("bypass").unwrap();
    let time = |name: &str| lines[0][name].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!((lines.len(), &lines[0]["program"]), (1, &"nft".into()), "{lines:?}");
    assert!(time("from") <= begun && begun <= time("to"), "{lines:?} has {begun}");
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    scenario.put_agent(next);
    assert_eq!(bypasses(&mut scenario), Vec::<serde_json::Value>::new());
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
}

#[test]
fn a_revoked_connection_stays_cut_although_the_set_that_contains_it_was_deleted() {
    let mut scenario = scenario(&[]);
    let node = node(&scenario);
    let stream =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();
    scenario.policy("db/allow-web", "podSelector: {}\ningress: []");
    let revoked = || {
        nft_output(&node, &["list", "set", "inet", "kube-verdict", "revoked4"])
            .unwrap_or_default()
            .contains(" . 5432")
    };
    wait_until("its tuple is in the set", TIMEOUT, revoked);
    nft(&node, "flush ruleset").unwrap();
    wait_until("its tuple is in the set again", TIMEOUT, revoked);
    let before = stream.echoed();
    sleep(Duration::from_millis(500));
    assert_eq!(stream.echoed(), before);
}

#[test]
fn what_other_programs_do_to_their_own_tables_is_no_bypass_and_neither_is_a_takeover() {
    let mut scenario = scenario(&[]);
    let node = node(&scenario);
    // Many times as large as kube-proxy's tables.
    let elements: Vec<String> =
        (0..20_000).map(|number| format!("10.{}.{}.1", 96 + number / 250, number % 250)).collect();
    let table = format!(
        "add table ip proxy; add set ip proxy services {{ type ipv4_addr; }}; add element ip proxy services \
         {{ {} }}",
        elements.join(",")
    );
    let ticks = |scenario: &mut Scenario| cpu_ticks(scenario.agent("node-a").process());
    let before = ticks(&mut scenario);
    for _ in 0..20 {
        nft(&node, &table).unwrap();
        nft(&node, "delete table ip proxy").unwrap();
    }
    sleep(Duration::from_millis(500));
    eprintln!("800,000 foreign elements cost the agent {} ticks of 10 ms", ticks(&mut scenario) - before);

    let http_port = agent::HTTP_PORT + 1;
    let mut next =
        Agent::start(&scenario.testbed, "node-a", &Launch { http_port, ..Launch::default() }).unwrap();
    next.wait_ready().unwrap();
    let mut old = scenario.take_agent("node-a");
    old.wait_not_ready("taken over").unwrap();
    for agent in [&old, &next] {
        assert_eq!(agent.lines("bypass").unwrap(), Vec::<serde_json::Value>::new());
        assert!(!agent.log().contains("another program changed"), "{}", agent.log());
    }
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    scenario.put_agent(next);
    nft(&node, "flush chain inet kube-verdict postrouting").unwrap();
    wait_until("the bypass of the next agent's rules is recorded", TIMEOUT, || {
        !bypasses(&mut scenario).is_empty()
    });
}

/// The user and system time of a process, in ticks.
fn cpu_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// How long after the damage the agent has committed its repair, in ascending order.
fn repairs(scenario: &mut Scenario, commits: &Commits, damage: impl Fn() -> String) -> Vec<Duration> {
    let node = node(scenario);
    let mut took: Vec<Duration> = (0..TIMES)
        .map(|_| {
            let (damage, before) = (damage(), bypasses(scenario).len());
            commits.discard();
            nft(&node, &damage).unwrap();
            let damaged = commits.next_by("nft", TIMEOUT).unwrap();
            let took = commits.next_by("kube-verdict", TIMEOUT).unwrap().at - damaged.at;
            wait_until("the bypass is over", TIMEOUT, || bypasses(scenario).len() > before);
            took
        })
        .collect();
    took.sort_unstable();
    took
}

#[test]
fn a_hundred_times_each_is_repaired_at_once() {
    let mut scenario = scenario(&[]);
    let node = node(&scenario);
    let commits = Commits::listen(&node).unwrap();
    let first_rule = || {
        let rules =
            nft_output(&node, &["-a", "list", "chain", "inet", "kube-verdict", "postrouting"]).unwrap();
        let handle = rules.lines().filter_map(|line| line.split("# handle ").nth(1)).nth(1).unwrap();
        format!("delete rule inet kube-verdict postrouting handle {handle}")
    };
    let damages: [(&str, &dyn Fn() -> String); 4] = [
        ("flush ruleset", &|| "flush ruleset".to_owned()),
        ("flush chain", &|| "flush chain inet kube-verdict postrouting".to_owned()),
        ("delete element", &|| "delete element inet kube-verdict pod-cidrs4 { 10.244.1.0/24 }".to_owned()),
        ("delete rule", &first_rule),
    ];
    for (name, damage) in damages {
        let took = repairs(&mut scenario, &commits, damage);
        let percent = |share: usize| took[(took.len() * share).div_ceil(100) - 1];
        eprintln!(
            "{name}: p50 {:?}, p90 {:?}, p99 {:?}, max {:?}",
            percent(50),
            percent(90),
            percent(99),
            percent(100)
        );
        assert!(percent(50) < BOUND, "{name}: {took:?}");
        if std::env::var_os("PAUSE").is_some() {
            sleep(Duration::from_secs(2));
        }
    }
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
}
