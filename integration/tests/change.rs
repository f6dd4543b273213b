//! Edits of the manifests, and the connections that exist meanwhile: cut at once, healed, or never disturbed.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::sync::mpsc::{TryRecvError, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use integration::{Busy, Cluster, Family, Scenario, Stream, Testbed};

/// Not one byte passes later than this after the file was written.
const BOUND: Duration = Duration::from_millis(100);

const OPEN: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
";
const CLOSED: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: nobody}}}]
";

fn cluster() -> Cluster {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[("app", "a")], &["80"])
        .pod("db/s", "node-a", &[("app", "s")], &["5432", "53/UDP"])
}

fn streams(scenario: &Scenario) -> Vec<Stream> {
    let ways =
        ["5432", "53/UDP"].iter().flat_map(|way| Family::BOTH.map(|family| (way.parse().unwrap(), family)));
    ways.map(|(way, family)| Stream::open(&scenario.testbed, "web/a", "db/s", way, family).unwrap()).collect()
}

/// Writes a policy that forbids the streams and holds the last byte of each against the bound.
fn cut(scenario: &Scenario, streams: &[Stream]) {
    let written = scenario.testbed.manifests().policy("db/allow-web", CLOSED).unwrap();
    // Longer than TCP waits before it sends again.
    sleep(Duration::from_millis(600));
    let server = scenario.testbed.server("db/s").unwrap();
    for stream in streams {
        let arrived = server.last_arrival(stream.client()).unwrap().saturating_duration_since(written);
        let echoed = stream.last_echo().saturating_duration_since(written);
        eprintln!(
            "{}: last byte arrived {arrived:?}, last answer {echoed:?} after the edit",
            stream.client()
        );
        assert!(arrived < BOUND && echoed < BOUND, "{}: bytes passed {arrived:?} later", stream.client());
    }
}

#[test]
fn a_stream_arrives_whole_across_200_edits_that_leave_it_allowed() {
    let mut scenario = Scenario::begin(cluster());
    scenario.policy("db/allow-web", OPEN);
    scenario.start_agents(&[]);
    let streams = streams(&scenario);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let manifests = scenario.testbed.manifests();
    for _ in 0..200 {
        // Each is another policy that applies to one end of the streams, or another way to say the one that allows.
        let number = random.below(6);
        let extra = format!("db/extra-{number}");
        let written = match random.below(5) {
            0 => manifests.policy("db/allow-web", OPEN),
            1 => {
                let spec = format!("podSelector: {{}}\ningress:\n- ports: [{{port: {number}}}]\n- {{}}");
                manifests.policy("db/allow-web", &spec)
            }
            2 => {
                let spec =
                    format!("podSelector: {{}}\ningress:\n- ports: [{{port: 1000, endPort: 100{number}}}]");
                manifests.policy(&extra, &spec)
            }
            3 => {
                let spec = "podSelector: {}\npolicyTypes: [Egress]\negress:\n- to: [{podSelector: {}}]\n- {}";
                manifests.policy(&format!("web/extra-{number}"), spec)
            }
            // It may not be there.
            _ => manifests.remove_policy(&extra).or_else(|_| manifests.policy("db/allow-web", OPEN)),
        };
        written.unwrap();
        sleep(Duration::from_millis(random.below(20)));
    }
    // What comes after all edits is in force, and so are they.
    scenario.policy("other/last", "podSelector: {}");
    for stream in streams {
        stream.wait_progress(50).unwrap();
        let report = stream.finish().unwrap();
        eprintln!("{report:?}");
    }
}

#[test]
fn while_pods_come_and_go_all_the_time_a_cut_comes_as_soon_and_sweeps_rest() {
    cut_while_pods_come_and_go();
}

/// The kernel then takes its time to let go of rules that were deleted, for which no change of policy may wait.
#[test]
fn while_all_processors_are_busy_as_well_a_cut_comes_as_soon() {
    let _busy = Busy::start().unwrap();
    cut_while_pods_come_and_go();
}

fn cut_while_pods_come_and_go() {
    let mut scenario = Scenario::begin(cluster());
    scenario.policy("db/allow-web", OPEN);
    scenario.policy("web/allow-all", "podSelector: {}\ningress: [{}]");
    scenario.start_agents(&[]);
    let streams = streams(&scenario);
    let open =
        |family| Stream::open(&scenario.testbed, "db/s", "web/a", "80".parse().unwrap(), family).unwrap();
    let undisturbed = Family::BOTH.map(open);
    let counts = |scenario: &mut Scenario| {
        let status = scenario.agent("node-a").status().unwrap();
        (status["applied_generation"].as_u64().unwrap(), status["sweeps"]["count"].as_u64().unwrap())
    };
    let before = counts(&mut scenario);
    // Closed by a panic, too: the scope waits for its threads.
    let (going_on, over) = channel::<()>();
    thread::scope(|scope| {
        let _going_on = going_on;
        let testbed = &scenario.testbed;
        scope.spawn(move || {
            // A hundred events a second, of pods on another node that web/a and db/s might talk to.
            for turn in (0..).take_while(|_| over.try_recv() == Err(TryRecvError::Empty)) {
                let (number, label) = (turn % 50, turn / 50);
                let pod = format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: far-{number}, namespace: web, labels: {{turn: t{label}}}}}\n\
                     spec: {{nodeName: node-b}}\nstatus: {{phase: Running, podIP: 10.244.9.{number}}}\n"
                );
                testbed.manifests().write(&format!("far-{number}.yaml"), &pod).unwrap();
                sleep(Duration::from_millis(10));
            }
        });
        for _ in 0..3 {
            sleep(Duration::from_millis(500));
            cut(&scenario, &streams);
            scenario.testbed.manifests().policy("db/allow-web", OPEN).unwrap();
            for stream in &streams {
                stream.wait_progress(50).unwrap();
            }
        }
    });
    let after = counts(&mut scenario);
    let (changes, sweeps) = (after.0 - before.0, after.1 - before.1);
    eprintln!("{changes} changes, {sweeps} sweeps");
    assert!(changes > 50 && sweeps * 2 < changes, "{changes} changes took {sweeps} sweeps");
    for stream in undisturbed {
        eprintln!("{:?}", stream.finish().unwrap());
    }
}

#[test]
fn the_next_pod_at_an_address_gets_nothing_on_the_word_of_the_one_before() {
    let mut scenario = Scenario::begin(cluster());
    scenario.start_agents(&["--hold-timeout", "300ms"]);
    // Nobody isolates the server, so no worker is ever asked about these.
    let streams = streams(&scenario);
    let expect_silence = |scenario: &Scenario| {
        let since = Instant::now();
        sleep(Duration::from_millis(600));
        let server = scenario.testbed.server("db/s").unwrap();
        for stream in &streams {
            let arrived = server.last_arrival(stream.client()).unwrap().saturating_duration_since(since);
            assert!(arrived < BOUND, "{}: bytes passed {arrived:?} later", stream.client());
        }
    };
    // The pod is gone; who has its address now, nobody knows yet.
    scenario
        .change(|testbed| testbed.manifests().write_cluster_without(testbed.cluster(), &["db/s"]).map(drop));
    expect_silence(&scenario);
    // It is one that policy isolates.
    scenario.policy("db/allow-nobody", CLOSED);
    scenario.change(|testbed| testbed.manifests().write_cluster(testbed.cluster()).map(drop));
    expect_silence(&scenario);
    scenario.remove_policy("db/allow-nobody");
    for stream in &streams {
        stream.wait_progress(50).unwrap();
    }
}

#[test]
fn policies_on_either_end_and_of_labels_cut_as_well() {
    let mut scenario = Scenario::begin(cluster());
    scenario.start_agents(&[]);
    let streams = streams(&scenario);
    // No policy at all before: these connections were never evaluated.
    cut(&scenario, &streams);
    scenario.remove_policy("db/allow-web");
    for stream in &streams {
        stream.wait_progress(50).unwrap();
    }
    // The source's egress, by the first policy that isolates it.
    let begun = Instant::now();
    scenario.policy("web/closed", "podSelector: {matchLabels: {app: a}}\npolicyTypes: [Egress]");
    let in_force = Instant::now();
    sleep(Duration::from_millis(600));
    for stream in &streams {
        assert!(
            // On a busy machine a byte that passed before is read a moment later.
            stream.last_echo() <= in_force + BOUND,
            "bytes passed after the policy was in force ({:?})",
            begun.elapsed()
        );
    }
}

/// A small generator of numbers (xorshift), the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
