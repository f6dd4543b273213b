//! A connection that an edit cuts and another edit allows again resumes at once, also among 50,000 other
//! connections and while other policies are edited 100 times a second.
//!
//! The only test in its file, so that no other runs at the same time: it has a bound in time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use integration::applied::wait_applied;
use integration::web_to_db::{self, ALLOWED, FORBIDDEN, POLICY};
use integration::{
    Agent, ProcessorWait, Sampling, Scenario, SchedulingDelays, Stream, Testbed, Transport, flood,
};

/// A datagram must arrive within this time after the edit that allows its connection again was applied.
const BOUND: Duration = Duration::from_millis(150);

/// TCP doubles its retransmission timeout each time, so it retransmits after about as long as it was cut.
/// This is the tolerance.
const LATER_THAN_CUT_FOR: Duration = Duration::from_secs(1);

/// How long a connection is cut: longer than a sweep may be delayed, so that its conntrack entry is marked.
const CUT_FOR: Duration = Duration::from_secs(2);

/// The number of other connections that the agent must sweep.
const OTHERS: u32 = 50_000;

/// The pause between two edits of another policy.
const EDIT_EVERY: Duration = Duration::from_millis(10);

#[test]
fn a_connection_that_is_allowed_again_resumes_at_once_while_policies_are_edited() {
    // Policies that select pods without connections, the pods of the connection, and the pods with 50,000
    // connections, which they cut.
    for edited in ["third/edited", "db/edited", "other/edited"] {
        cut_and_allow_while_editing(edited);
    }
}

fn cut_and_allow_while_editing(edited: &str) {
    let cluster = web_to_db::cluster_with_others().pod("third/z", "node-a", &[], &[]);
    let mut scenario = Scenario::new(cluster);
    flood::fill_conntrack(&scenario.testbed, "other/x", "other/y", OTHERS).expect("the table is filled");
    scenario.policy(POLICY, ALLOWED);
    scenario.start_agents(&[]);
    let agent = scenario.take_agent("node-a");
    let streams = web_to_db::open_streams(&scenario.testbed).expect("streams are opened");
    let (stop, delays) = (AtomicBool::new(false), SchedulingDelays::watch(Sampling::FINE));
    scope(|scope| {
        scope.spawn(|| edit(&scenario.testbed, edited, &stop));
        let rounds =
            || (0..3).for_each(|_| cut_and_allow(&scenario.testbed, (&agent, &delays), edited, &streams));
        let result = catch_unwind(AssertUnwindSafe(rounds));
        stop.store(true, Ordering::Release);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
    assert!(flood::tracked(&scenario.testbed, "node-a").expect("the table is read") >= OTHERS);
    scenario.put_agent(agent);
}

/// Writes a policy repeatedly, each time with another port.
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
    (agent, delays): (&Agent, &SchedulingDelays),
    edited: &str,
    streams: &[Stream],
) {
    let server = testbed.server("db/s").expect("a server");
    let last = |stream: &Stream| server.last_arrival(stream.client()).expect("something arrived");
    let written = testbed.manifests().policy(POLICY, FORBIDDEN).expect("the policy is written");
    wait_applied(agent, POLICY, written).expect("it is applied");
    sleep(CUT_FOR);
    let wait = ProcessorWait::of(agent.process()).expect("the agent runs");
    let waited = || wait.so_far().expect("the agent runs");
    let written = testbed.manifests().policy(POLICY, ALLOWED).expect("the policy is written");
    let cut_for: Vec<Duration> =
        streams.iter().map(|stream| written.saturating_duration_since(last(stream))).collect();
    let timeout = cut_for.iter().max().copied().unwrap_or_default() + 2 * LATER_THAN_CUT_FOR;
    let mut resumed = vec![None; streams.len()];
    while resumed.contains(&None) && written.elapsed() < timeout + delays.since(written) + waited() {
        for (at, stream) in resumed.iter_mut().zip(streams) {
            if at.is_none() && last(stream) > written {
                *at = Some(last(stream).saturating_duration_since(written));
            }
        }
        sleep(Duration::from_millis(1));
    }
    let applied = wait_applied(agent, POLICY, written).expect("it is applied");
    let applied = applied.saturating_duration_since(written);
    let delayed = delays.since(written) + waited();
    eprintln!(
        "{edited} edited: applied {applied:?} after the edit, first arrivals after {resumed:?}, delayed \
         {delayed:?}"
    );
    for ((at, stream), cut_for) in resumed.into_iter().zip(streams).zip(cut_for) {
        let bound = if stream.transport() == Transport::Tcp { cut_for + LATER_THAN_CUT_FOR } else { BOUND };
        assert!(
            at.is_some_and(|at| at < applied + bound + delayed),
            "{} by {} resumed {at:?} after the edit, and not within {bound:?} of {applied:?}",
            stream.client(),
            stream.transport()
        );
        // If the machine is paused for seconds, one call may time out.
        let runs = (0..3).any(|_| stream.wait_progress(50).is_ok());
        assert!(runs, "the stream of {} has stalled", stream.client());
    }
}
