//! Connections that a change has cut stay cut if the agent that applied the change is killed, or superseded,
//! before its sweep.
//!
//! There are many other connections, so that sweeps take a while.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::wait::wait_until;
use integration::web_to_db::{self, ALLOWED, FORBIDDEN, POLICY};
use integration::{Agent, Family, Launch, Scenario, Stream, agent, flood};

/// The number of other connections in a sweep.
const OTHERS: u32 = 60_000;

/// How long a sweep may take to start.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How much later a busy machine may read a byte that has arrived.
const READ_DELAY: Duration = Duration::from_millis(100);

fn scenario(flags: &[&str]) -> (Scenario, Vec<Stream>) {
    let mut scenario = Scenario::new(web_to_db::cluster_with_others());
    flood::fill_conntrack(&scenario.testbed, "other/x", "other/y", OTHERS).unwrap();
    scenario.policy(POLICY, ALLOWED);
    scenario.policy("web/allow-all", "podSelector: {}\ningress: [{}]");
    scenario.start_agents(flags);
    let ways = [("53/UDP", Family::V4), ("53/UDP", Family::V6), ("5432", Family::V4)];
    let open = |(target, family): (&str, _)| {
        Stream::open(&scenario.testbed, "web/a", "db/s", target.parse().unwrap(), family).unwrap()
    };
    let streams = ways.map(open).into();
    (scenario, streams)
}

/// Cuts the streams by a change whose sweep is delayed.
fn cut(scenario: &mut Scenario, streams: &[Stream]) {
    scenario.testbed.manifests().policy(POLICY, ALLOWED).unwrap();
    for stream in streams {
        stream.wait_progress(20).unwrap();
    }
    let sweeps =
        |scenario: &mut Scenario| scenario.agent("node-a").status().unwrap()["sweeps"]["count"].as_u64();
    let before = sweeps(scenario);
    // The sweep after this change takes a while, and delays the next one.
    static PORT: AtomicU16 = AtomicU16::new(1);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    scenario.policy("db/other", &format!("podSelector: {{}}\ningress: [{{ports: [{{port: {port}}}]}}]"));
    wait_until("connections are swept", SWEEP_TIMEOUT, || sweeps(scenario) != before);
    scenario.policy(POLICY, FORBIDDEN);
}

/// Checks that no byte has arrived since a time.
fn expect_silence(scenario: &Scenario, streams: &[Stream], since: Instant, what: &str) {
    let server = scenario.testbed.server("db/s").unwrap();
    for stream in streams {
        let late = server.last_arrival(stream.client()).unwrap().saturating_duration_since(since);
        assert!(late.is_zero(), "{}: bytes arrived until {late:?} after {what}", stream.client());
    }
}

#[test]
fn what_was_cut_stays_cut_when_the_agent_is_killed_before_its_sweep() {
    for (flags, kills) in
        [(&["--fail-mode=closed"][..], 12), (&["--fail-mode=closed", "--verdict-cache-ttl=off"], 8)]
    {
        let (mut scenario, streams) = scenario(flags);
        let undisturbed =
            Stream::open(&scenario.testbed, "db/s", "web/a", "80".parse().unwrap(), Family::V4).unwrap();
        for _ in 0..kills {
            cut(&mut scenario, &streams);
            scenario.take_agent("node-a").kill().unwrap();
            sleep(READ_DELAY);
            let begun = Instant::now();
            scenario.start_agents(flags);
            sleep(READ_DELAY);
            expect_silence(&scenario, &streams, begun, "another agent was started");
            undisturbed.wait_progress(20).unwrap();
        }
        undisturbed.finish().unwrap();
    }
}

#[test]
fn what_was_cut_stays_cut_when_another_agent_takes_over_before_the_sweep() {
    let (mut scenario, streams) = scenario(&["--fail-mode=closed"]);
    for round in 1..9 {
        cut(&mut scenario, &streams);
        let mut old = scenario.take_agent("node-a");
        // Otherwise its sweep might end before the other agent has started.
        let is_suspended = round % 2 == 0;
        if is_suspended {
            old.suspend().unwrap();
        }
        sleep(READ_DELAY);
        let begun = Instant::now();
        let flags = ["--fail-mode=closed", "--queue-base", if round % 2 == 0 { "100" } else { "300" }];
        let launch = Launch { flags: &flags, http_port: agent::HTTP_PORT + round, ..Launch::default() };
        let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
        next.wait_ready().unwrap();
        sleep(READ_DELAY);
        expect_silence(&scenario, &streams, begun, "another agent was started");
        if is_suspended {
            old.resume().unwrap();
        }
        old.wait_not_ready("taken over").unwrap();
        assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
        scenario.put_agent(next);
        expect_silence(&scenario, &streams, begun, "another agent was started");
    }
}

#[test]
fn what_was_cut_stays_cut_while_a_change_that_may_affect_any_pod_is_put_in_force() {
    let (mut scenario, streams) = scenario(&[]);
    for round in 0..4 {
        cut(&mut scenario, &streams);
        sleep(READ_DELAY);
        let begun = Instant::now();
        // Enough pods change at once that all connections are swept.
        scenario.change(|testbed| {
            let mut pods = String::new();
            for number in 1..100 {
                write!(
                    pods,
                    "---\napiVersion: v1\nkind: Pod\n\
                     metadata: {{name: far-{number}, namespace: web, labels: {{round: r{round}}}}}\n\
                     spec: {{nodeName: node-b}}\nstatus: {{phase: Running, podIP: 10.244.9.{number}}}\n"
                )?;
            }
            testbed.manifests().write("far.yaml", &pods).map(drop)
        });
        sleep(READ_DELAY);
        expect_silence(&scenario, &streams, begun, "a change that leaves it denied");
    }
}
