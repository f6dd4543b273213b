//! Edits of the manifests and their effect on existing connections: these are cut at once, resume, or are
//! never disturbed.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::sync::mpsc::{TryRecvError, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use integration::web_to_db::{self, ALLOWED, FORBIDDEN, POLICY};
use integration::{Busy, Family, ProcessorWait, Sampling, Scenario, SchedulingDelays, Stream};

/// No byte may pass later than this after the file was written, apart from times in which the machine kept
/// the agent or this test from running.
const BOUND: Duration = Duration::from_millis(100);

/// Writes a policy that forbids the streams, and checks that the last byte of each is within the bound.
/// `agent` is the process of the agent.
fn cut(scenario: &Scenario, agent: u32, streams: &[Stream]) {
    let (delays, wait) = (SchedulingDelays::watch(Sampling::FINE), ProcessorWait::of(agent).unwrap());
    let written = scenario.testbed.manifests().policy(POLICY, FORBIDDEN).unwrap();
    // Longer than TCP's retransmission timeout.
    sleep(Duration::from_millis(600));
    let bound = BOUND + delays.since(written) + wait.so_far().unwrap();
    let server = scenario.testbed.server("db/s").unwrap();
    for stream in streams {
        let arrived = server.last_arrival(stream.client()).unwrap().saturating_duration_since(written);
        let echoed = stream.last_echo().saturating_duration_since(written);
        eprintln!(
            "{}: last byte arrived {arrived:?}, last answer {echoed:?} after the edit",
            stream.client()
        );
        assert!(
            arrived < bound && echoed < bound,
            "{}: bytes passed {arrived:?} later, bound {bound:?}",
            stream.client()
        );
    }
}

#[test]
fn a_stream_arrives_whole_across_200_edits_that_leave_it_allowed() {
    let mut scenario = Scenario::new(web_to_db::cluster());
    scenario.policy(POLICY, ALLOWED);
    scenario.start_agents(&[]);
    let streams = web_to_db::open_streams(&scenario.testbed).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let manifests = scenario.testbed.manifests();
    for _ in 0..200 {
        // Each edit adds or removes a policy for one end of the streams, or rewrites the one that allows
        // them.
        let number = random.below(6);
        let extra = format!("db/extra-{number}");
        let written = match random.below(5) {
            0 => manifests.policy(POLICY, ALLOWED),
            1 => {
                let spec = format!("podSelector: {{}}\ningress:\n- ports: [{{port: {number}}}]\n- {{}}");
                manifests.policy(POLICY, &spec)
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
            // The policy may not exist.
            _ => manifests.remove_policy(&extra).or_else(|_| manifests.policy(POLICY, ALLOWED)),
        };
        written.unwrap();
        sleep(Duration::from_millis(random.below(20)));
    }
    // When this edit is in force, all earlier ones are, too.
    scenario.policy("other/last", "podSelector: {}");
    for stream in streams {
        stream.wait_progress(50).unwrap();
        let report = stream.finish().unwrap();
        eprintln!("{report:?}");
    }
}

#[test]
fn while_pods_change_all_the_time_cuts_are_as_quick_and_sweeps_are_limited() {
    cut_while_pods_change();
}

/// Busy processors delay the kernel in freeing deleted rules. No change of policy may wait for that.
#[test]
fn while_all_processors_are_also_busy_cuts_are_as_quick() {
    let _busy = Busy::start().unwrap();
    cut_while_pods_change();
}

fn cut_while_pods_change() {
    let mut scenario = Scenario::new(web_to_db::cluster());
    scenario.policy(POLICY, ALLOWED);
    scenario.policy("web/allow-all", "podSelector: {}\ningress: [{}]");
    scenario.start_agents(&[]);
    let streams = web_to_db::open_streams(&scenario.testbed).unwrap();
    let open =
        |family| Stream::open(&scenario.testbed, "db/s", "web/a", "80".parse().unwrap(), family).unwrap();
    let undisturbed = Family::BOTH.map(open);
    let counts = |scenario: &mut Scenario| {
        let status = scenario.agent("node-a").status().unwrap();
        (status["applied_generation"].as_u64().unwrap(), status["sweeps"]["count"].as_u64().unwrap())
    };
    let agent = scenario.agent("node-a").process();
    let before = counts(&mut scenario);
    // A panic also closes the channel. Otherwise the scope would wait for its threads forever.
    let (running, over) = channel::<()>();
    thread::scope(|scope| {
        let _running = running;
        let testbed = &scenario.testbed;
        scope.spawn(move || {
            // A hundred events a second of pods on another node that could be peers of web/a and db/s.
            for turn in (0..).take_while(|_| over.try_recv() == Err(TryRecvError::Empty)) {
                let (number, label) = (turn % 50, turn / 50);
                let pod = format!(
                    "apiVersion: v1\nkind: Pod\n\
                     metadata: {{name: far-{number}, namespace: web, labels: {{turn: t{label}}}}}\n\
                     spec: {{nodeName: node-b}}\nstatus: {{phase: Running, podIP: 10.244.9.{number}}}\n"
                );
                testbed.manifests().write(&format!("far-{number}.yaml"), &pod).unwrap();
                sleep(Duration::from_millis(10));
            }
        });
        for _ in 0..3 {
            sleep(Duration::from_millis(500));
            cut(&scenario, agent, &streams);
            scenario.testbed.manifests().policy(POLICY, ALLOWED).unwrap();
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
fn connections_of_a_deleted_pod_do_not_reach_the_next_pod_with_its_address() {
    let mut scenario = Scenario::new(web_to_db::cluster());
    scenario.start_agents(&["--hold-timeout", "300ms"]);
    // No policy isolates the server, so workers never evaluate these connections.
    let streams = web_to_db::open_streams(&scenario.testbed).unwrap();
    let delays = SchedulingDelays::watch(Sampling::FINE);
    let expect_silence = |scenario: &Scenario| {
        let since = Instant::now();
        sleep(Duration::from_millis(600));
        // The change is in force, so only this test may be late.
        let bound = BOUND + delays.since(since);
        let server = scenario.testbed.server("db/s").unwrap();
        for stream in &streams {
            let arrived = server.last_arrival(stream.client()).unwrap().saturating_duration_since(since);
            assert!(arrived < bound, "{}: bytes passed {arrived:?} later, bound {bound:?}", stream.client());
        }
    };
    // The pod is deleted, and the next owner of its address is unknown.
    scenario
        .change(|testbed| testbed.manifests().write_cluster_without(testbed.cluster(), &["db/s"]).map(drop));
    expect_silence(&scenario);
    // The next owner is isolated by policy.
    scenario.policy("db/allow-none", FORBIDDEN);
    scenario.change(|testbed| testbed.manifests().write_cluster(testbed.cluster()).map(drop));
    expect_silence(&scenario);
    scenario.remove_policy("db/allow-none");
    for stream in &streams {
        stream.wait_progress(50).unwrap();
    }
}

#[test]
fn policies_on_either_end_and_of_labels_cut_as_well() {
    let mut scenario = Scenario::new(web_to_db::cluster());
    scenario.start_agents(&[]);
    let streams = web_to_db::open_streams(&scenario.testbed).unwrap();
    let agent = scenario.agent("node-a").process();
    // Without any policy before, these connections were never evaluated.
    cut(&scenario, agent, &streams);
    scenario.remove_policy(POLICY);
    for stream in &streams {
        stream.wait_progress(50).unwrap();
    }
    // The first policy that isolates the source for egress.
    let (begun, delays) = (Instant::now(), SchedulingDelays::watch(Sampling::FINE));
    scenario.policy("web/closed", "podSelector: {matchLabels: {app: a}}\npolicyTypes: [Egress]");
    let in_force = Instant::now();
    sleep(Duration::from_millis(600));
    // On a busy machine, a byte that passed before is read a moment later.
    let bound = BOUND + delays.since(in_force);
    for stream in &streams {
        assert!(
            stream.last_echo() <= in_force + bound,
            "bytes passed after the policy was in force ({:?})",
            begun.elapsed()
        );
    }
}

/// A small random number generator (xorshift), with the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
