//! Marks of other programs: verdicts must not change them, neither on packets nor on connections.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use integration::command::{nft, nft_output};
use integration::{Answer, Direction, Family, Links, Scenario, allowed, denied, smoke};
use std::time::Duration;

/// Foreign rules on a node. They mark packets and connections from `web/front` before the verdict, and count
/// the marks after it. 0x4000 is kube-proxy's mark for masquerading, which the postrouting chain of `wiring`
/// does after the verdict.
const FOREIGN: &str = "
table inet foreign {
  counter packet-mark-kept {}
  counter verdict-left-behind {}
  counter connection-marks-kept {}
  counter connection-mark-lost {}
  chain before {
    type filter hook prerouting priority -150
    ip saddr 10.244.1.2 meta mark set meta mark or 0x4000
    ip6 saddr fd00:10:244:1::2 meta mark set meta mark or 0x4000
    ct direction original ct mark set ct mark or 0x10
  }
  chain after {
    type filter hook postrouting priority 97
    tcp dport 5432 meta mark & 0x4000 == 0x4000 counter name packet-mark-kept
    tcp dport 5432 meta mark & 0x0f000000 != 0 counter name verdict-left-behind
    tcp dport 5432 ct mark & 0x10000010 == 0x10000010 counter name connection-marks-kept
    tcp dport 5432 ct mark & 0x10 == 0 counter name connection-mark-lost
  }
}
";

fn count(scenario: &Scenario, counter: &str) -> u64 {
    let node = scenario.testbed.namespace("node-a").unwrap();
    let text = nft_output(node, &["list", "counter", "inet", "foreign", counter]).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").unwrap();
    words[at + 1].parse().unwrap()
}

#[test]
fn a_foreign_packet_mark_survives_the_verdict() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&[]);
    nft(scenario.testbed.namespace("node-a").unwrap(), FOREIGN).unwrap();
    for (family, node) in [(Family::V4, "10.244.1.1"), (Family::V6, "fd00:10:244:1::1")] {
        scenario.expect_in(
            family,
            "web/front",
            "db/store",
            "5432",
            &allowed(Direction::Ingress, "db/allow-front", 0),
        );
        let target = "5432".parse().unwrap();
        let timeout = Duration::from_secs(5);
        let observed = scenario.testbed.probe("web/front", "db/store", target, family, timeout).unwrap();
        // The server sees the node's address: the mark was still there for masquerading. The verdict before
        // that was given on the pod's own address.
        let Answer::Reached(greeting) = observed.answer else { panic!("{observed:?}") };
        assert_eq!(greeting.client.ip().to_string(), node);
    }
    assert!(count(&scenario, "packet-mark-kept") >= 4);
    assert_eq!(count(&scenario, "verdict-left-behind"), 0);
    assert!(count(&scenario, "connection-marks-kept") >= 4);
    assert_eq!(count(&scenario, "connection-mark-lost"), 0);
}

#[test]
fn marks_can_be_chosen() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&["--packet-marks=0xf", "--connection-marks=0xf0"]);
    scenario.expect("web/front", "db/store", "5432", &allowed(Direction::Ingress, "db/allow-front", 0));
    scenario.expect("other/client", "db/store", "5432", &denied(Direction::Ingress, "db/allow-dns"));
    let rules = scenario.testbed.ruleset("node-a").unwrap();
    for ours in ["0x01000000", "0x0e000000", "0x10000000", "0x20000000"] {
        assert!(!rules.contains(ours), "{ours}: {rules}");
    }
}
