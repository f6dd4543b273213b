//! Each kind of rule, met once, over each way between the nodes; and the ways by which packets need no verdict.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use integration::{Family, Links, Side, Story, Stream, allowed, denied, dns, smoke, unjudged};
use std::time::Duration;

fn play(links: Links) {
    let mut story = Story::begin(smoke::cluster(links));
    smoke::write_policies(&mut story);
    story.start_agents(&["--record-open"]);
    smoke::play(&story);
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
    let mut story = Story::begin(smoke::cluster(Links::Routes));
    story.start_agents(&["--record-open"]);
    smoke::write_policies(&mut story);
    smoke::play(&story);
}

#[test]
fn pods_without_policy_are_not_judged_until_one_selects_them() {
    let mut story = Story::begin(smoke::cluster(Links::Routes));
    story.start_agents(&[]);
    let mark = story.agent("node-a").mark();
    story.expect("other/client", "db/store", "5432", &unjudged());
    story.expect("web/front", "web/far", "80", &unjudged());
    let records = story.agent("node-a").records_after(mark).unwrap();
    assert_eq!(records, [], "no policy applies, so no packet should have been judged");

    smoke::write_policies(&mut story);
    story.expect("other/client", "db/store", "5432", &denied(Side::Ingress, "db/allow-dns"));
    story.expect("web/front", "db/store", "5432", &allowed(Side::Ingress, "db/allow-front", 0));
    story.expect("web/front", "web/far", "80", &unjudged());

    for (name, _) in smoke::POLICIES {
        story.remove_policy(name);
    }
    story.expect("other/client", "db/store", "5432", &unjudged());
}

#[test]
fn only_the_first_packet_of_a_connection_is_judged() {
    let mut story = Story::begin(smoke::cluster(Links::Routes));
    smoke::write_policies(&mut story);
    story.start_agents(&["--record-open"]);
    let mark = story.agent("node-a").mark();
    let streams: Vec<Stream> = ["5432", "53/UDP"]
        .iter()
        .flat_map(|way| Family::BOTH.map(|family| (way, family)))
        .map(|(way, family)| {
            Stream::open(&story.testbed, "web/front", "db/store", way.parse().unwrap(), family).unwrap()
        })
        .collect();
    for stream in streams {
        stream.wait_progress(200).unwrap();
        stream.finish().unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    let records = story.agent("node-a").records_after(mark).unwrap();
    let of =
        |protocol: &str| records.iter().filter(|record| record.protocol.as_deref() == Some(protocol)).count();
    assert_eq!(of("TCP"), 2, "one record for each connection, not one for each packet: {records:#?}");
    // A datagram that was sent before the first one had its verdict is judged as well.
    assert!((2..20).contains(&of("UDP")), "of two times 200 datagrams: {records:#?}");
}

#[test]
fn parallel_queries_of_one_resolver_are_all_answered() {
    let story = dns::story(&[]);
    for family in Family::BOTH {
        let service = dns::SERVICE[family as usize];
        let lost = dns::lost_queries(&story.testbed, "web/a", service, family, 1000, Duration::from_secs(3))
            .unwrap();
        assert_eq!(lost, 0, "queries without an answer, of 2000, over {family:?}");
    }
}
