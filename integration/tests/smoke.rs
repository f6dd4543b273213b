//! Each kind of rule once, over each kind of link between the nodes; and packets that need no verdict.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use integration::record::Record;
use integration::wait::read_until;
use integration::{Direction, Family, Links, Scenario, Stream, allowed, denied, dns, smoke, unevaluated};
use std::time::Duration;

/// How long records may take to be written, on a busy machine.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

fn policies_hold(links: Links) {
    let mut scenario = Scenario::new(smoke::cluster(links));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&["--record-open"]);
    smoke::run(&scenario);
}

#[test]
fn policies_hold_over_routes() {
    policies_hold(Links::Routes);
}

#[test]
fn policies_hold_over_vxlan() {
    policies_hold(Links::Vxlan);
}

#[test]
fn policies_written_while_agents_run_hold_as_well() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    scenario.start_agents(&["--record-open"]);
    smoke::write_policies(&mut scenario);
    smoke::run(&scenario);
}

#[test]
fn pods_without_policy_are_not_evaluated_until_one_selects_them() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    scenario.start_agents(&[]);
    let audit_start = scenario.agent("node-a").audit_end();
    scenario.expect("other/client", "db/store", "5432", &unevaluated());
    scenario.expect("web/front", "web/far", "80", &unevaluated());
    let records = scenario.agent("node-a").records_after(audit_start).unwrap();
    assert_eq!(records, [], "no policy applies, so no packet should have been evaluated");

    smoke::write_policies(&mut scenario);
    scenario.expect("other/client", "db/store", "5432", &denied(Direction::Ingress, "db/allow-dns"));
    scenario.expect("web/front", "db/store", "5432", &allowed(Direction::Ingress, "db/allow-front", 0));
    scenario.expect("web/front", "web/far", "80", &unevaluated());

    for (name, _) in smoke::POLICIES {
        scenario.remove_policy(name);
    }
    scenario.expect("other/client", "db/store", "5432", &unevaluated());
}

#[test]
fn only_the_first_packet_of_a_connection_is_evaluated() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&["--record-open"]);
    let audit_start = scenario.agent("node-a").audit_end();
    let streams: Vec<Stream> = ["5432", "53/UDP"]
        .iter()
        .flat_map(|target| Family::BOTH.map(|family| (target, family)))
        .map(|(target, family)| {
            Stream::open(&scenario.testbed, "web/front", "db/store", target.parse().unwrap(), family).unwrap()
        })
        .collect();
    for stream in streams {
        stream.wait_progress(200).unwrap();
        stream.finish().unwrap();
    }
    let agent = scenario.agent("node-a");
    let read = || agent.records_after(audit_start).unwrap();
    let count = |records: &[Record], protocol: &str| {
        records.iter().filter(|record| record.protocol.as_deref() == Some(protocol)).count()
    };
    read_until(RECORD_TIMEOUT, read, |records| count(records, "TCP") >= 2 && count(records, "UDP") >= 2);
    // Records of further packets would follow within this time.
    std::thread::sleep(Duration::from_millis(200));
    let records = read();
    let of = |protocol: &str| count(&records, protocol);
    assert_eq!(of("TCP"), 2, "one record for each connection, not one for each packet: {records:#?}");
    // Datagrams that were sent before the verdict of the first one are evaluated as well.
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
