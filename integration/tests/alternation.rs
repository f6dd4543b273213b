//! A connection that is cut and allowed again in quick alternation. No message passes after the last cut was
//! applied, although sweeps of earlier edits may still be in progress. The connection resumes when it is
//! allowed.
//!
//! The only test in its file, so that no other runs at the same time: it has a bound in time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::applied::wait_applied;
use integration::web_to_db::{self, ALLOWED, POLICY};
use integration::{ProcessorWait, Sampling, Scenario, SchedulingDelays, Stream, flood};

/// Messages that passed the node before the cut was applied arrive within this time.
const BOUND: Duration = Duration::from_millis(100);

/// The longest time until TCP retransmits: a connection that was cut for most of the time has a long timeout.
const TCP_SENDS_AGAIN: Duration = Duration::from_secs(60);

/// The number of other connections that the agent must sweep, so that sweeps take longer than edits.
const OTHERS: u32 = 50_000;

/// The number of alternations.
const ALTERNATIONS: u64 = 200;
/// After this many alternations, the connection stays cut for a while.
const LASTING_CUT_EVERY: u64 = 20;

/// Allows only another namespace, each time on another port, so that no edit reverts the one before.
fn forbidden(number: u64) -> String {
    let peer = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: empty}}}";
    format!("podSelector: {{}}\ningress:\n- from: [{peer}]\n  ports: [{{port: {}}}]", 7_000 + number)
}

#[test]
fn nothing_passes_after_the_last_of_many_cuts_and_a_connection_that_is_allowed_last_resumes() {
    let mut scenario = Scenario::new(web_to_db::cluster_with_others());
    flood::fill_conntrack(&scenario.testbed, "other/x", "other/y", OTHERS).expect("the table is filled");
    scenario.policy(POLICY, ALLOWED);
    scenario.start_agents(&[]);
    let agent = scenario.take_agent("node-a");
    let streams = web_to_db::open_streams(&scenario.testbed).expect("streams are opened");
    let server = scenario.testbed.server("db/s").expect("a server");
    let last = |stream: &Stream| server.last_arrival(stream.client()).expect("something arrived");
    let write = |spec: &str| -> Instant {
        scenario.testbed.manifests().policy(POLICY, spec).expect("the policy is written")
    };
    let mut random = fastrand::Rng::with_seed(1);
    let mut pause = move || sleep(Duration::from_millis(random.u64(0..=50)));
    let delays = SchedulingDelays::watch(Sampling::FINE);
    for number in 1..=ALTERNATIONS {
        let begun = Instant::now();
        let wait = ProcessorWait::of(agent.process()).expect("the agent runs");
        write(ALLOWED);
        pause();
        let written = write(&forbidden(number));
        pause();
        if number % LASTING_CUT_EVERY == 0 {
            wait_applied(&agent, POLICY, written).expect("an edit is applied");
            // The applied edit may be the previous one. Also, sweeps of earlier edits end meanwhile.
            sleep(Duration::from_millis(1_500));
            let applied = wait_applied(&agent, POLICY, written).expect("the cut is applied");
            let delayed = delays.since(begun) + wait.so_far().expect("the agent runs");
            for stream in &streams {
                let passed = last(stream).saturating_duration_since(applied);
                eprintln!(
                    "{number}: last arrival of {} {passed:?} after the cut was applied",
                    stream.client()
                );
                assert!(
                    passed < BOUND + delayed,
                    "{}: a message passed {passed:?} after the cut",
                    stream.client()
                );
            }
        }
    }
    let written = write(ALLOWED);
    wait_applied(&agent, POLICY, written).expect("it is applied");
    for stream in &streams {
        while last(stream) < written && written.elapsed() < TCP_SENDS_AGAIN {
            sleep(Duration::from_millis(5));
        }
        // If the machine is paused for seconds, one call may time out.
        let runs = (0..3).any(|_| stream.wait_progress(50).is_ok());
        assert!(runs, "the stream of {} has stalled", stream.client());
    }
    scenario.put_agent(agent);
}
