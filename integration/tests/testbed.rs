//! The testbed itself, without agents: every host reaches every other, in both families and by all protocols.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::time::{Duration, Instant};

use integration::command::nft;
use integration::{
    Answer, Attachment, ClusterSpec, Family, Links, Load, OUTSIDE, ProbeTarget, Stream, Testbed,
};

/// The timeout of a probe that must reach its target.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of a probe that must be dropped.
const SHORT_TIMEOUT: Duration = Duration::from_millis(300);

fn cluster(links: Links) -> ClusterSpec {
    ClusterSpec::of_two_nodes()
        .links(links)
        .pod("web/a", "node-a", &[], &["80", "53/UDP"])
        .pod("web/b", "node-a", &[], &["80", "53/UDP"])
        .pod("db/c", "node-b", &[], &["80", "53/UDP"])
        .host_pod("kube-system/h", "node-b", &[], &["8080"])
        .service("10.96.0.10", "fd00:10:96::10", "80", &["web/a"], 80)
        .service("10.96.0.10", "fd00:10:96::10", "53/UDP", &["db/c"], 53)
}

/// Probes, and returns the server's name and the client's address as the server sees it.
fn reach(testbed: &Testbed, from: &str, to: &str, target: &str, family: Family) -> (String, String) {
    let observed = testbed.probe(from, to, target.parse().unwrap(), family, TIMEOUT).unwrap();
    match observed.answer {
        Answer::Reached(greeting) => (greeting.server, greeting.client.ip().to_string()),
        Answer::Replied => ("replied".into(), String::new()),
        other => panic!("{from} to {to} {target} {family:?}: {other}"),
    }
}

fn every_host_reaches_every_other(links: Links, attachment: Attachment) {
    let begun = Instant::now();
    let testbed = cluster(links).attachment(attachment).build().unwrap();
    eprintln!("built in {:?}", begun.elapsed());
    for family in Family::BOTH {
        for from in ["web/a", "web/b", "db/c", "node-a", "node-b", OUTSIDE] {
            for to in ["web/a", "web/b", "db/c"].into_iter().filter(|to| *to != from) {
                for target in ["80", "53/UDP"] {
                    assert_eq!(reach(&testbed, from, to, target, family).0, to, "{from} {target} {family:?}");
                }
                reach(&testbed, from, to, "ping", family);
            }
            assert_eq!(reach(&testbed, from, "kube-system/h", "8080", family).0, "kube-system/h");
            assert_eq!(reach(&testbed, from, "node-a", "7000/UDP", family).0, "node-a");
        }
    }
}

#[test]
fn routes_join_the_nodes() {
    every_host_reaches_every_other(Links::Routes, Attachment::Bridge);
}

#[test]
fn vxlan_joins_the_nodes() {
    every_host_reaches_every_other(Links::Vxlan, Attachment::Bridge);
}

#[test]
fn pods_are_routed_without_a_bridge() {
    every_host_reaches_every_other(Links::Routes, Attachment::Routed);
}

#[test]
fn a_new_pod_gets_the_addresses_of_a_removed_one() {
    for attachment in [Attachment::Bridge, Attachment::Routed] {
        let mut testbed = cluster(Links::Routes).attachment(attachment).build().unwrap();
        let (addresses, device) =
            (testbed.addresses("web/a").unwrap(), testbed.device("web/a").unwrap().to_owned());
        testbed.remove_pod("web/a").unwrap();
        testbed.add_pod("web/new", "node-a", &[], &["80"]).unwrap();
        assert_eq!(testbed.addresses("web/new").unwrap(), addresses);
        assert_ne!(testbed.device("web/new").unwrap(), device);
        for family in Family::BOTH {
            assert_eq!(reach(&testbed, "db/c", "web/new", "80", family).0, "web/new");
        }
    }
}

#[test]
fn services_are_translated_and_what_leaves_the_cluster_is_masqueraded() {
    let testbed = cluster(Links::Routes).build().unwrap();
    for family in Family::BOTH {
        let service = ["10.96.0.10", "fd00:10:96::10"][family as usize];
        for from in ["web/b", "db/c", "node-a"] {
            assert_eq!(reach(&testbed, from, service, "80", family).0, "web/a");
            assert_eq!(reach(&testbed, from, service, "53/UDP", family).0, "db/c");
        }
        // A pod that reaches itself through its service sees its node.
        let gateway = ["10.244.1.1", "fd00:10:244:1::1"][family as usize];
        assert_eq!(reach(&testbed, "web/a", service, "80", family), ("web/a".into(), gateway.into()));
        // Between pods, no address is translated. Towards the host outside, it is the node's.
        let pod = family.of(testbed.addresses("web/a").unwrap()).to_string();
        assert_eq!(reach(&testbed, "web/a", "db/c", "80", family).1, pod);
        let node = family.of(testbed.addresses("node-a").unwrap()).to_string();
        assert_eq!(reach(&testbed, "web/a", OUTSIDE, "7000", family).1, node);
    }
}

#[test]
fn drops_and_refusals_are_distinguished_on_the_bridge() {
    let testbed = cluster(Links::Routes).build().unwrap();
    let rules = "table inet t {\nchain c {\ntype filter hook postrouting priority 0\ntcp dport 80 drop\n}\n}";
    nft(testbed.namespace("node-a").unwrap(), rules).unwrap();
    for family in Family::BOTH {
        let answer = |to: &str, target: &str| {
            testbed
                .probe("web/a", to, target.parse::<ProbeTarget>().unwrap(), family, SHORT_TIMEOUT)
                .unwrap()
                .answer
        };
        // Both pods are attached to one bridge: without br_netfilter, the rule would not see this packet.
        assert_eq!(answer("web/b", "80"), Answer::TimedOut);
        assert_eq!(answer("web/b", "81"), Answer::Refused);
        assert_eq!(answer("web/b", "99/UDP"), Answer::Refused);
        assert!(answer("web/b", "53/UDP").reached());
    }
}

#[test]
fn everything_is_removed() {
    let testbed = cluster(Links::Routes).build().unwrap();
    let name = testbed.namespace("web/a").unwrap().name().to_owned();
    let folder = testbed.manifests().path().to_owned();
    let namespace = std::path::Path::new("/run/netns").join(name);
    assert!(namespace.exists() && folder.exists());
    let panicked = std::thread::spawn(move || {
        let _testbed = testbed;
        panic!("as a failed test does");
    });
    assert!(panicked.join().is_err());
    assert!(!namespace.exists() && !folder.exists());
}

#[test]
fn streams_are_echoed_completely_and_stall_when_cut() {
    let testbed = cluster(Links::Routes).build().unwrap();
    let node = testbed.namespace("node-a").unwrap();
    let streams: Vec<Stream> = ["80", "53/UDP"]
        .iter()
        .flat_map(|target| Family::BOTH.map(|family| (target.parse().unwrap(), family)))
        .map(|(target, family)| Stream::open(&testbed, "web/a", "web/b", target, family).unwrap())
        .collect();
    for stream in &streams {
        stream.wait_progress(100).unwrap();
        assert!(testbed.server("web/b").unwrap().last_arrival(stream.client()).is_some());
    }
    nft(
        node,
        "table inet t {\nchain c {\ntype filter hook postrouting priority 0\ntcp dport 80 drop\n\
         udp dport 53 drop\n}\n}",
    )
    .unwrap();
    std::thread::sleep(SHORT_TIMEOUT);
    let stopped: Vec<u64> = streams.iter().map(Stream::echoed).collect();
    std::thread::sleep(SHORT_TIMEOUT);
    assert_eq!(streams.iter().map(Stream::echoed).collect::<Vec<_>>(), stopped);
    nft(node, "delete table inet t").unwrap();
    for (number, stream) in streams.into_iter().enumerate() {
        stream.wait_progress(100).unwrap();
        // TCP retransmits dropped data. Dropped datagrams are lost, which is a failure.
        assert_eq!(stream.finish().is_ok(), number < 2);
    }
}

#[test]
fn a_load_reaches_servers() {
    let testbed = cluster(Links::Routes).build().unwrap();
    let target: ProbeTarget = "80".parse().unwrap();
    let load = Load::start(&testbed, ("web/a", "db/c"), target, Family::V4, 2, TIMEOUT).unwrap();
    std::thread::sleep(SHORT_TIMEOUT);
    let report = load.finish().unwrap();
    assert!(report.reached > 10, "{report:?}");
    assert_eq!((report.timed_out, report.failed.len()), (0, 0), "{report:?}");
}
