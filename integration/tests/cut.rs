//! An established connection that an edit forbids is cut within a tenth of a second, among 100,000 others,
//! whether or not the edit also forbids these.
//!
//! The only test in its file, so that no other runs at the same time: it has a bound in time.

use std::thread::sleep;
use std::time::Duration;

use integration::web_to_db::{self, ALLOWED, FORBIDDEN, POLICY};
use integration::{ProcessorWait, Sampling, Scenario, SchedulingDelays, flood};

/// No byte may pass later than this after the file was written, apart from times in which the machine kept
/// the agent or this test from running.
const BOUND: Duration = Duration::from_millis(100);

/// The number of other connections that the agent must sweep.
const OTHERS: u32 = 100_000;

#[test]
fn an_established_connection_is_cut_within_a_tenth_of_a_second_and_resumes() {
    for others in [("other/x", "other/y"), ("web/a", "db/s")] {
        cut_among(others);
    }
}

/// Cuts the streams while there are [`OTHERS`] connections from one pod to another.
fn cut_among((from, to): (&str, &str)) {
    let mut scenario = Scenario::new(web_to_db::cluster_with_others());
    flood::fill_conntrack(&scenario.testbed, from, to, OTHERS).expect("the table is filled");
    scenario.policy(POLICY, ALLOWED);
    scenario.start_agents(&[]);
    let streams = web_to_db::open_streams(&scenario.testbed).expect("streams are opened");
    let (delays, agent) = (SchedulingDelays::watch(Sampling::FINE), scenario.agent("node-a").process());
    for _ in 0..3 {
        let wait = ProcessorWait::of(agent).expect("the agent runs");
        let written = scenario.testbed.manifests().policy(POLICY, FORBIDDEN).expect("the policy is written");
        // Longer than TCP's retransmission timeout.
        sleep(Duration::from_millis(600));
        let bound = BOUND + delays.since(written) + wait.so_far().expect("the agent runs");
        let server = scenario.testbed.server("db/s").expect("a server");
        for stream in &streams {
            let arrived = server
                .last_arrival(stream.client())
                .expect("something arrived")
                .saturating_duration_since(written);
            let echoed = stream.last_echo().saturating_duration_since(written);
            eprintln!(
                "{from} > {to}, {}: last byte {arrived:?}, last answer {echoed:?} after the edit",
                stream.client()
            );
            assert!(
                arrived < bound && echoed < bound,
                "{}: bytes passed {arrived:?} later, bound {bound:?}",
                stream.client()
            );
        }
        scenario.policy(POLICY, ALLOWED);
        for stream in &streams {
            stream.wait_progress(50).expect("the stream runs");
        }
    }
    assert!(flood::tracked(&scenario.testbed, "node-a").expect("the table is read") >= OTHERS);
}
