//! Each kind of rule, met once, over each way between the nodes; and the ways by which packets need no verdict.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use integration::{Family, Links, Scenario, Side, Stream, allowed, denied, dns, smoke, unevaluated};
use std::time::Duration;

fn play(links: Links) {
    let mut scenario = Scenario::begin(smoke::cluster(links));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&["--record-open"]);
    smoke::play(&scenario);
}

#[test]
fn policies_hold_over_routes() {
    play(Links::Routes);
}

#[test]
fn policies_hold_over_vxlan() {
    play(Links::Vxlan);
}

#[test]
fn policies_written_while_agents_run_hold_as_well() {
    let mut scenario = Scenario::begin(smoke::cluster(Links::Routes));
    scenario.start_agents(&["--record-open"]);
    smoke::write_policies(&mut scenario);
    smoke::play(&scenario);
}

#[test]
fn pods_without_policy_are_not_evaluated_until_one_selects_them() {
    let mut scenario = Scenario::begin(smoke::cluster(Links::Routes));
    scenario.start_agents(&[]);
    let mark = scenario.agent("node-a").mark();
    scenario.expect("other/client", "db/store", "5432", &unevaluated());
    scenario.expect("web/front", "web/far", "80", &unevaluated());
    let records = scenario.agent("node-a").records_after(mark).unwrap();
    assert_eq!(records, [], "no policy applies, so no packet should have been evaluated");

    smoke::write_policies(&mut scenario);
    scenario.expect("other/client", "db/store", "5432", &denied(Side::Ingress, "db/allow-dns"));
    scenario.expect("web/front", "db/store", "5432", &allowed(Side::Ingress, "db/allow-front", 0));
    scenario.expect("web/front", "web/far", "80", &unevaluated());

    for (name, _) in smoke::POLICIES {
        scenario.remove_policy(name);
    }
    scenario.expect("other/client", "db/store", "5432", &unevaluated());
}

#[test]
fn only_the_first_packet_of_a_connection_is_evaluated() {
    let mut scenario = Scenario::begin(smoke::cluster(Links::Routes));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&["--record-open"]);
    let mark = scenario.agent("node-a").mark();
    let streams: Vec<Stream> = ["5432", "53/UDP"]
        .iter()
        .flat_map(|way| Family::BOTH.map(|family| (way, family)))
        .map(|(way, family)| {
            Stream::open(&scenario.testbed, "web/front", "db/store", way.parse().unwrap(), family).unwrap()
        })
        .collect();
    for stream in streams {
        stream.wait_progress(200).unwrap();
        stream.finish().unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    let records = scenario.agent("node-a").records_after(mark).unwrap();
    let of =
        |protocol: &str| records.iter().filter(|record| record.protocol.as_deref() == Some(protocol)).count();
    assert_eq!(of("TCP"), 2, "one record for each connection, not one for each packet: {records:#?}");
    // A datagram that was sent before the first one had its verdict is evaluated as well.
    assert!((2..20).contains(&of("UDP")), "of two times 200 datagrams: {records:#?}");
}

#[test]
fn parallel_queries_of_one_resolver_are_all_answered() {
    let scenario = dns::scenario(&[]);
    for family in Family::BOTH {
        let service = dns::SERVICE[family as usize];
        let lost =
            dns::lost_queries(&scenario.testbed, "web/a", service, family, 1000, Duration::from_secs(3))
                .unwrap();
        assert_eq!(lost, 0, "queries without an answer, of 2000, over {family:?}");
    }
}
