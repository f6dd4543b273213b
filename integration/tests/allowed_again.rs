//! A connection that an edit cut and another edit allows again: it resumes at once, also among 50,000 other connections and while
//! other policies are edited 100 times a second.
//!
//! One test alone in its file, so that no other works beside it: it is held to a bound in time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use integration::applied::wait_applied;
use integration::{Agent, Family, Scenario, SchedulingDelays, Stream, Testbed, flood};

/// A datagram arrives this soon after the edit was applied that allows its connection again.
const BOUND: Duration = Duration::from_millis(150);

/// TCP waits twice as long each time before it sends again, so about as long as it was cut: what it sends then passes.
const LATER_THAN_CUT_FOR: Duration = Duration::from_secs(1);

/// How long a connection is cut: longer than a sweep may be put off, so that its conntrack entry is marked.
const CUT_FOR: Duration = Duration::from_secs(2);

/// Connections that the agent has to look at besides.
const OTHERS: u32 = 50_000;

/// Between two edits of another policy.
const EDIT_EVERY: Duration = Duration::from_millis(10);

const ALLOWED: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
";
const FORBIDDEN: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: nobody}}}]
";

#[test]
fn a_connection_that_is_allowed_again_resumes_at_once_while_policies_are_edited() {
    // Policies that select pods without connections, the pods of the connection, and the pods whose 50,000 connections they cut.
    for edited in ["third/edited", "db/edited", "other/edited"] {
        cut_and_allow_while_editing(edited);
    }
}

fn cut_and_allow_while_editing(edited: &str) {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &[])
        .pod("db/s", "node-a", &[], &["5432", "53/UDP"])
        .pod("other/x", "node-a", &[], &[])
        .pod("other/y", "node-a", &[], &[])
        .pod("third/z", "node-a", &[], &[]);
    let mut scenario = Scenario::begin(cluster);
    flood::fill_conntrack(&scenario.testbed, "other/x", "other/y", OTHERS).expect("the table is filled");
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(&[]);
    let agent = scenario.take_agent("node-a");
    let mut streams = Vec::new();
    for port in ["5432", "53/UDP"] {
        for family in Family::BOTH {
            let way = port.parse().expect("a way");
            let stream = Stream::open(&scenario.testbed, "web/a", "db/s", way, family).expect("a stream");
            streams.push((port, stream));
        }
    }
    let (stop, stalls) = (AtomicBool::new(false), SchedulingDelays::watch());
    scope(|scope| {
        scope.spawn(|| edit(&scenario.testbed, edited, &stop));
        let rounds =
            || (0..3).for_each(|_| cut_and_allow(&scenario.testbed, (&agent, &stalls), edited, &streams));
        let result = catch_unwind(AssertUnwindSafe(rounds));
        stop.store(true, Ordering::Release);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
    assert!(flood::tracked(&scenario.testbed, "node-a").expect("the table is read") >= OTHERS);
    scenario.put_agent(agent);
}

/// Writes a policy again and again, each time with another port.
fn edit(testbed: &Testbed, policy: &str, stop: &AtomicBool) {
    let mut next = Instant::now();
    for number in 0_u16.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let spec = format!("podSelector: {{}}\ningress:\n- ports: [{{port: {}}}]", 7_000 + number % 100);
        testbed.manifests().policy(policy, &spec).expect("the policy is written");
        next += EDIT_EVERY;
        sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn cut_and_allow(
    testbed: &Testbed,
    (agent, stalls): (&Agent, &SchedulingDelays),
    edited: &str,
    streams: &[(&str, Stream)],
) {
    let server = testbed.server("db/s").expect("a server");
    let last = |stream: &Stream| server.last_arrival(stream.client()).expect("something arrived");
    let written = testbed.manifests().policy("db/allow-web", FORBIDDEN).expect("the policy is written");
    wait_applied(agent, "db/allow-web", written).expect("it is applied");
    sleep(CUT_FOR);
    let written = testbed.manifests().policy("db/allow-web", ALLOWED).expect("the policy is written");
    let before = stalls.so_far();
    let cut_for: Vec<Duration> =
        streams.iter().map(|(_, stream)| written.saturating_duration_since(last(stream))).collect();
    let patience = cut_for.iter().max().copied().unwrap_or_default() + 2 * LATER_THAN_CUT_FOR;
    let mut resumed = vec![None; streams.len()];
    while resumed.contains(&None) && written.elapsed() < patience + (stalls.so_far() - before) {
        for (at, (_, stream)) in resumed.iter_mut().zip(streams) {
            if at.is_none() && last(stream) > written {
                *at = Some(last(stream).saturating_duration_since(written));
            }
        }
        sleep(Duration::from_millis(1));
    }
    let applied = wait_applied(agent, "db/allow-web", written).expect("it is applied");
    let applied = applied.saturating_duration_since(written);
    let stalled = stalls.so_far() - before;
    eprintln!(
        "{edited} edited: applied {applied:?} after the edit, first arrivals after {resumed:?}, stalled {stalled:?}"
    );
    for ((at, (port, stream)), cut_for) in resumed.into_iter().zip(streams).zip(cut_for) {
        let bound = if *port == "5432" { cut_for + LATER_THAN_CUT_FOR } else { BOUND };
        assert!(
            at.is_some_and(|at| at < applied + bound + stalled),
            "{} to {port} resumed {at:?} after the edit, and not within {bound:?} of {applied:?}",
            stream.client()
        );
        // A machine that stands still for seconds uses up the patience of one call.
        let runs = (0..3).any(|_| stream.wait_progress(50).is_ok());
        assert!(runs, "the stream of {} stands still", stream.client());
    }
}
