//! Connections that are older than the agent. It keeps those that policy allows and cuts the others.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::{Family, Links, Scenario, Stream, smoke};

fn streams(scenario: &Scenario, from: &str, to: &str, target: &str) -> Vec<Stream> {
    let open = |family| Stream::open(&scenario.testbed, from, to, target.parse().unwrap(), family).unwrap();
    Family::BOTH.map(open).into()
}

#[test]
fn s34_connections_older_than_the_agent_are_kept_or_cut() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Vxlan));
    smoke::write_policies(&mut scenario);
    let mut kept = streams(&scenario, "web/front", "db/store", "5432");
    kept.extend(streams(&scenario, "other/client", "db/store", "53/UDP"));
    kept.extend(streams(&scenario, "web/far", "db/backup", "6432"));
    kept.extend(streams(&scenario, "other/client", "web/front", "80"));
    kept.extend(streams(&scenario, "node-a", "db/store", "8080"));
    let mut cut = streams(&scenario, "other/client", "db/store", "5432");
    cut.extend(streams(&scenario, "web/far", "db/store", "8080"));
    cut.extend(streams(&scenario, "other/caged", "other/client", "80"));
    cut.extend(streams(&scenario, "other/caged", "node-b", "7000/UDP"));
    cut.extend(streams(&scenario, "node-b", "db/store", "8080"));
    scenario.start_agents(&[]);
    let ready = Instant::now();
    sleep(Duration::from_millis(600));
    for stream in &cut {
        assert!(stream.last_echo() <= ready, "{} is not allowed but continues", stream.client());
    }
    for stream in kept {
        stream.wait_progress(100).unwrap();
        let report = stream.finish().unwrap();
        assert!(report.longest_gap < Duration::from_millis(900), "{report:?}");
    }
}

#[test]
fn a_connection_through_a_service_is_adopted_by_the_pod_behind_it() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    smoke::write_policies(&mut scenario);
    let target = "5432".parse().unwrap();
    let open = |from, family: Family| {
        Stream::open(&scenario.testbed, from, smoke::SERVICE[family as usize], target, family).unwrap()
    };
    let kept = Family::BOTH.map(|family| open("web/front", family));
    let cut = Family::BOTH.map(|family| open("other/client", family));
    // Its own address is masqueraded, so only the connection's original direction shows the client.
    let own = Family::BOTH.map(|family| open("db/store", family));
    scenario.start_agents(&[]);
    let ready = Instant::now();
    sleep(Duration::from_millis(600));
    for stream in &cut {
        assert!(stream.last_echo() <= ready, "{} is not allowed but continues", stream.client());
    }
    for stream in kept.into_iter().chain(own) {
        stream.wait_progress(100).unwrap();
        stream.finish().unwrap();
    }
}

#[test]
fn connections_older_than_the_first_agent_continue_after_it_has_exited_and_its_rules_remain() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Vxlan));
    smoke::write_policies(&mut scenario);
    let mut kept = streams(&scenario, "web/front", "db/store", "5432");
    kept.extend(streams(&scenario, "other/client", "db/store", "53/UDP"));
    // A peer on another node, and a pod that no policy selects.
    kept.extend(streams(&scenario, "web/far", "db/backup", "6432"));
    kept.extend(streams(&scenario, "other/client", "web/front", "80"));
    kept.extend(streams(&scenario, "node-a", "db/store", "8080"));
    let flags = ["--fail-mode=closed"];
    scenario.start_agents(&flags);
    for node in ["node-a", "node-b"] {
        let mut agent = scenario.take_agent(node);
        assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    }
    // Longer than verdicts are cached.
    sleep(Duration::from_secs(6));
    for stream in kept {
        stream.wait_progress(100).unwrap();
        // Fails if a datagram is lost.
        stream.finish().unwrap();
    }
}
