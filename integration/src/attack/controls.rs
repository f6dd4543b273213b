//! Traffic that policy allows, which must work before and after the attacks.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::case::Case;
use super::frame;
use super::layout::SERVICE;
use super::message::{self, Path};
use super::packet::packet_for;
use super::suite::Suite;
use crate::cluster::OUTSIDE;
use crate::command::ip;
use crate::probe::{Answer, Family};
use crate::testbed::Testbed;

/// The timeout of a probe. It is long, since the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(3);

/// TCP retransmits a lost SYN after a second, so no SYN was lost if a connection takes less.
const FIRST_PACKET: Duration = Duration::from_millis(900);

/// Pairs that must reach each other by TCP, UDP and ping.
const PATHS: [(&str, &str); 12] = [
    ("friend/f", "victim/v"),
    ("friend/f", "victim/w"),
    ("friend/g", "victim/v"),
    ("open/o", "open/p"),
    ("open/p", "open/o"),
    ("open/o", "evil/a"),
    ("evil/a", "open/o"),
    ("limited/l", "open/o"),
    ("node-a", "victim/v"),
    ("node-a", "open/o"),
    (OUTSIDE, "open/o"),
    (OUTSIDE, "open/p"),
];

/// Checks everything. `when` distinguishes the rows before and after the attacks.
pub fn all(suite: &mut Suite, when: &str) {
    flush_neighbours(suite);
    allowed_paths(suite, when);
    hosts(suite, when);
    service(suite, when);
    if suite.topology.is_bridged() {
        multicast(suite, when);
    }
    new_pod(suite, when);
}

/// Empties the neighbour caches of pods and nodes, so that they resolve addresses again.
fn flush_neighbours(suite: &mut Suite) {
    let testbed = &suite.scenario.testbed;
    let hosts = testbed.cluster().pods.iter().map(|pod| pod.full_name());
    for name in hosts.chain(testbed.cluster().nodes.iter().map(|node| node.name.clone())) {
        if let Ok(namespace) = testbed.namespace(&name) {
            // Neighbour entries of flanneld are permanent and remain.
            let _ = ip(namespace, "neigh flush all\n");
        }
    }
}

/// Sends TCP, UDP and ping between pods, from a node and from outside, in both families.
fn allowed_paths(suite: &mut Suite, when: &str) {
    for family in Family::BOTH {
        for (from, to) in PATHS {
            for target in ["80", "53/UDP", "ping"] {
                let case =
                    Case::new(format!("{when}: {from} reaches {to} by {target}"), from, to).family(family);
                let result = reach(&suite.scenario.testbed, from, to, target, family);
                suite.record_allowed(case, result);
            }
        }
    }
}

/// Reaches nodes and the host outside from a pod.
fn hosts(suite: &mut Suite, when: &str) {
    for family in Family::BOTH {
        for to in ["node-a", "node-b", OUTSIDE] {
            let case = Case::new(format!("{when}: open/o reaches {to}"), "open/o", to).family(family);
            let result = reach(&suite.scenario.testbed, "open/o", to, "7000", family);
            suite.record_allowed(case, result);
        }
    }
}

/// Reaches a service of another pod, of the same pod (hairpin), and from the other node.
fn service(suite: &mut Suite, when: &str) {
    for family in Family::BOTH {
        for from in ["evil/a", "open/o", "open/p"] {
            let case = Case::new(format!("{when}: {from} reaches a service"), from, "open/o").family(family);
            let address = SERVICE[family as usize];
            let result = reach(&suite.scenario.testbed, from, address, "80", family);
            suite.record_allowed(case, result);
        }
    }
}

/// Sends multicast between pods of one bridge that no policy selects.
fn multicast(suite: &mut Suite, when: &str) {
    for group in ["224.0.0.251", "ff02::fb"] {
        let Ok(group) = group.parse::<std::net::IpAddr>() else { continue };
        let family = if group.is_ipv6() { Family::V6 } else { Family::V4 };
        let mut case = Case::new(format!("{when}: open/o reaches evil/a by {group}"), "open/o", "victim/v");
        case.must_reach = vec!["evil/a".to_owned()];
        case.must_miss.clear();
        suite.frame(case.family(family), |topology, mark| {
            let host = &topology["open/o"];
            let path = Path::new(host.address(family), group);
            let datagram = message::udp(path, (5353, 5353), &mark.bytes());
            frame::of_packet(frame::group_mac(group), host.mac(), &packet_for(path, &datagram, 255))
        });
    }
}

/// Checks that the first packets of a new pod are not lost.
fn new_pod(suite: &mut Suite, when: &str) {
    let name = "open/new";
    let added = suite.scenario.testbed.add_pod(name, "node-a", &[], &["80"]);
    let families = Family::BOTH.map(|family| {
        let begun = Instant::now();
        (family, reach(&suite.scenario.testbed, name, "open/o", "80", family), begun.elapsed())
    });
    let case = |what: &str| Case::new(format!("{when}: {what}"), "evil/a", "open/o");
    suite.record_allowed(case("a pod is added"), added);
    for (family, result, took) in families {
        let in_time = result.and_then(|()| {
            ensure!(took < FIRST_PACKET, "it took {took:?}");
            Ok(())
        });
        suite.record_allowed(case("a new pod's first packet passes").family(family), in_time);
    }
    let removed = suite.scenario.testbed.remove_pod(name);
    suite.record_allowed(case("the pod is removed"), removed);
}

fn reach(testbed: &Testbed, from: &str, to: &str, target: &str, family: Family) -> Result<()> {
    let observed = testbed.probe(from, to, target.parse()?, family, TIMEOUT)?;
    match observed.answer {
        Answer::Reached(_) | Answer::Replied => Ok(()),
        other => bail!("{other}"),
    }
}
