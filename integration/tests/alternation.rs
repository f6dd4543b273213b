//! A connection that is cut and allowed again in quick alternation: no message passes after the last cut was applied, whatever the
//! sweeps of earlier edits still do, and it resumes whenever it is allowed.
//!
//! One test alone in its file, so that no other works beside it: it is held to a bound in time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::applied::wait_applied;
use integration::{Family, Scenario, SchedulingDelays, Stream, Testbed, flood};

/// What passed the node before the cut was applied has arrived by then.
const BOUND: Duration = Duration::from_millis(100);

/// A connection that was cut for most of the time waits for long before it sends again.
const TCP_SENDS_AGAIN: Duration = Duration::from_secs(60);

/// Connections that the agent has to look at besides, so that sweeps take longer than edits.
const OTHERS: u32 = 50_000;

/// Alternations, some of which end with a cut that stays for a while.
const ALTERNATIONS: u64 = 200;
const A_CUT_STAYS: u64 = 20;

const ALLOWED: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
";

/// Allows another namespace a port, each time another, so that no edit takes back the one before.
fn forbidden(number: u64) -> String {
    let nobody = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: nobody}}}";
    format!("podSelector: {{}}\ningress:\n- from: [{nobody}]\n  ports: [{{port: {}}}]", 7_000 + number)
}

#[test]
fn nothing_passes_after_the_last_of_many_cuts_and_what_is_allowed_last_goes_on() {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &[])
        .pod("db/s", "node-a", &[], &["5432", "53/UDP"])
        .pod("other/x", "node-a", &[], &[])
        .pod("other/y", "node-a", &[], &[]);
    let mut scenario = Scenario::begin(cluster);
    flood::fill_conntrack(&scenario.testbed, "other/x", "other/y", OTHERS).expect("the table is filled");
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(&[]);
    let agent = scenario.take_agent("node-a");
    let mut streams = Vec::new();
    for way in ["5432", "53/UDP"] {
        for family in Family::BOTH {
            let way = way.parse().expect("a way");
            streams.push(Stream::open(&scenario.testbed, "web/a", "db/s", way, family).expect("a stream"));
        }
    }
    let server = scenario.testbed.server("db/s").expect("a server");
    let last = |stream: &Stream| server.last_arrival(stream.client()).expect("something arrived");
    let write = |spec: &str| -> Instant {
        scenario.testbed.manifests().policy("db/allow-web", spec).expect("the policy is written")
    };
    let mut random = fastrand::Rng::with_seed(1);
    let mut pause = move || sleep(Duration::from_millis(random.u64(0..=50)));
    let stalls = SchedulingDelays::watch();
    for number in 1..=ALTERNATIONS {
        let before = stalls.so_far();
        write(ALLOWED);
        pause();
        let written = write(&forbidden(number));
        pause();
        if number % A_CUT_STAYS == 0 {
            wait_applied(&agent, "db/allow-web", written).expect("an edit is applied");
            // What was applied may be the edit before. And sweeps of the edits before end meanwhile.
            sleep(Duration::from_millis(1_500));
            let applied = wait_applied(&agent, "db/allow-web", written).expect("the cut is applied");
            let stalled = stalls.so_far() - before;
            for stream in &streams {
                let passed = last(stream).saturating_duration_since(applied);
                eprintln!(
                    "{number}: last arrival of {} {passed:?} after the cut was applied",
                    stream.client()
                );
                assert!(
                    passed < BOUND + stalled,
                    "{}: a message passed {passed:?} after the cut",
                    stream.client()
                );
            }
        }
    }
    let written = write(ALLOWED);
    wait_applied(&agent, "db/allow-web", written).expect("it is applied");
    for stream in &streams {
        while last(stream) < written && written.elapsed() < TCP_SENDS_AGAIN {
            sleep(Duration::from_millis(5));
        }
        // A machine that stands still for seconds uses up the patience of one call.
        let runs = (0..3).any(|_| stream.wait_progress(50).is_ok());
        assert!(runs, "the stream of {} stands still", stream.client());
    }
    scenario.put_agent(agent);
}
