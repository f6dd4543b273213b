//! An established connection that an edit forbids: cut within a tenth of a second, among 100,000 others, whether the edit forbids
//! them as well or not.
//!
//! One test alone in its file, so that no other works beside it: it is held to a bound in time.

use std::thread::sleep;
use std::time::Duration;

use integration::{Family, Scenario, Stream, Testbed, flood};

/// Not one byte passes later than this after the file was written.
const BOUND: Duration = Duration::from_millis(100);

/// Connections that the agent has to look at besides.
const OTHERS: u32 = 100_000;

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
fn an_established_connection_is_cut_within_a_tenth_of_a_second_and_heals() {
    for others in [("other/x", "other/y"), ("web/a", "db/s")] {
        cut_among(others);
    }
}

/// With that many others from the one pod to the other.
fn cut_among((from, to): (&str, &str)) {
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &[])
        .pod("db/s", "node-a", &[], &["5432", "53/UDP"])
        .pod("other/x", "node-a", &[], &[])
        .pod("other/y", "node-a", &[], &[]);
    let mut scenario = Scenario::begin(cluster);
    flood::fill_conntrack(&scenario.testbed, from, to, OTHERS).expect("the table is filled");
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(&[]);
    let mut streams = Vec::new();
    for way in ["5432", "53/UDP"] {
        for family in Family::BOTH {
            let way = way.parse().expect("a way");
            streams.push(Stream::open(&scenario.testbed, "web/a", "db/s", way, family).expect("a stream"));
        }
    }
    for _ in 0..3 {
        let written =
            scenario.testbed.manifests().policy("db/allow-web", FORBIDDEN).expect("the policy is written");
        // Longer than TCP waits before it sends again.
        sleep(Duration::from_millis(600));
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
            assert!(arrived < BOUND && echoed < BOUND, "{}: bytes passed {arrived:?} later", stream.client());
        }
        scenario.policy("db/allow-web", ALLOWED);
        for stream in &streams {
            stream.wait_progress(50).expect("the stream runs");
        }
    }
    assert!(flood::tracked(&scenario.testbed, "node-a").expect("the table is read") >= OTHERS);
}
