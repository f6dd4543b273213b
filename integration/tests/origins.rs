//! The origins of packets: bridges and ports that appear and disappear, exempt pods, overlays, and rules that
//! another program deletes.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use integration::attack::frame::{self, Arp};
use integration::attack::message::{self, Path};
use integration::attack::{packet, wire};
use integration::command::{ip, nft_output};
use integration::namespace::NetworkNamespace;
use integration::wait::wait_until;
use integration::web_to_db::ALLOWED;
use integration::{
    ClusterSpec, Direction, Family, Links, Scenario, Stream, Testbed, allowed, allowed_because, denied,
    unevaluated,
};

/// How long an agent may take to notice a change, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(5);

fn cluster() -> ClusterSpec {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .node("node-b", "10.244.2.0/24", "fd00:10:244:2::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("web/far", "node-b", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432", "53/UDP"])
}

fn begin(flags: &[&str]) -> Scenario {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(flags);
    scenario
}

/// Sends a datagram from an address of the namespace, and returns its source.
fn send(namespace: &NetworkNamespace, from: &str, to: SocketAddr) -> SocketAddr {
    let from: IpAddr = from.parse().unwrap();
    let sent = namespace.run(|| {
        let socket = UdpSocket::bind((from, 0))?;
        socket.send_to(b"from elsewhere", to)?;
        socket.local_addr()
    });
    sent.unwrap().unwrap()
}

fn drops(scenario: &mut Scenario, node: &str, audit_start: u64, reason: &str) -> u64 {
    let drops = scenario.agent(node).drops_after(audit_start).unwrap();
    drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum()
}

#[test]
fn the_bridges_own_switch_is_sufficient() {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", ALLOWED);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    for sysctl in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
        node.sysctl(sysctl, "0").unwrap();
    }
    ip(&node, "link set cni0 type bridge nf_call_iptables 1 nf_call_ip6tables 1\n").unwrap();
    scenario.start_agents(&[]);
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    scenario.policy("db/allow-web", "podSelector: {}\ningress: []");
    scenario.expect("web/a", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
}

#[test]
fn a_bridge_that_appears_after_the_agent_is_protected_from_its_first_port() {
    let cluster = Testbed::new().node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64");
    let mut scenario = Scenario::new(cluster);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    ip(&node, "link del cni0\n").unwrap();
    // A missing bridge is no problem: the CNI plugin creates it with the first pod.
    scenario.start_agents(&[]);
    ip(
        &node,
        "link add cni0 type bridge mcast_snooping 0\n\
         addr add 10.244.1.1/24 dev cni0\n\
         addr add fd00:10:244:1::1/64 dev cni0 nodad\n\
         link set cni0 up\n",
    )
    .unwrap();
    scenario.testbed.add_pod("web/a", "node-a", &[], &["80"]).unwrap();
    scenario.testbed.add_pod("db/s", "node-a", &[], &["5432", "53/UDP"]).unwrap();
    scenario.policy("db/allow-web", ALLOWED);
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    let audit_start = scenario.agent("node-a").audit_end();
    let pod = scenario.testbed.namespace("web/a").unwrap().clone();
    ip(&pod, "addr add 198.51.100.7/32 dev lo\n").unwrap();
    send(&pod, "198.51.100.7", "10.244.1.3:53".parse().unwrap());
    wait_until("the forged source is recorded", TIMEOUT, || {
        drops(&mut scenario, "node-a", audit_start, "spoofed-source") > 0
    });
}

#[test]
fn an_address_that_two_pods_claim_belongs_to_the_first_one() {
    let mut scenario = begin(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let thief = NetworkNamespace::create("thief").unwrap();
    // `web/a` has 10.244.1.2.
    ip(
        &node,
        &format!(
            "link add thief type veth peer name eth0 netns {}\n\
             link set thief master cni0 up\n",
            thief.name()
        ),
    )
    .unwrap();
    ip(&thief, "link set lo up\naddr add 10.244.1.2/24 dev eth0\nlink set eth0 up\n").unwrap();
    wait_until("the conflict is in status", TIMEOUT, || {
        let status = scenario.agent("node-a").status().unwrap();
        let conflicts = &status["origins"]["conflicts"];
        conflicts[0]["address"] == "10.244.1.2" && conflicts[0]["claimed_by"] == "thief"
    });
    let audit_start = scenario.agent("node-a").audit_end();
    send(&thief, "10.244.1.2", "10.244.1.3:53".parse().unwrap());
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    wait_until("its packet is recorded as dropped", TIMEOUT, || {
        drops(&mut scenario, "node-a", audit_start, "spoofed-source")
            + drops(&mut scenario, "node-a", audit_start, "unbound-port")
            > 0
    });
    ip(&node, "link del thief\n").unwrap();
    wait_until("the conflict is over", TIMEOUT, || {
        let status = scenario.agent("node-a").status().unwrap();
        status["origins"]["conflicts"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn ports_that_appear_and_disappear_a_hundred_times_a_second_disturb_no_connection() {
    let mut scenario = begin(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let stream =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();
    let churn = NetworkNamespace::create("churn").unwrap();
    let started = Instant::now();
    for number in 0..60 {
        ip(
            &node,
            &format!(
                "link add churn{number} type veth peer name c{number} netns {}\n\
                 link set churn{number} master cni0 up\n",
                churn.name()
            ),
        )
        .unwrap();
        ip(
            &churn,
            &format!("addr add 10.244.1.{}/24 dev c{number}\nlink set c{number} up\n", 50 + number % 100),
        )
        .unwrap();
        ip(&node, &format!("link del churn{number}\n")).unwrap();
    }
    eprintln!("60 ports appeared and disappeared in {:?}", started.elapsed());
    scenario.testbed.add_pod("web/late", "node-a", &[], &["80"]).unwrap();
    scenario.expect("web/late", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    stream.wait_progress(50).unwrap();
    stream.finish().unwrap();
    wait_until("no port is left behind", TIMEOUT, || {
        let status = scenario.agent("node-a").status().unwrap();
        status["origins"]["ports"].as_array().is_some_and(|ports| ports.len() == 3)
    });
    scenario.agent("node-a").wait_ready().unwrap();
}

/// Sends a frame through `eth0` repeatedly while `during` runs.
fn flood(namespace: &NetworkNamespace, frame: &[u8], during: impl FnOnce()) {
    let interface = wire::interface(namespace, "eth0").unwrap();
    let (ends, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sender = scope.spawn(|| wire::flood(namespace, &interface, frame, &ends, &sent).unwrap());
        // On a busy machine, the sender may start late.
        wait_until("frames are sent", TIMEOUT, || sent.load(Ordering::Relaxed) > 0);
        during();
        ends.store(true, Ordering::Relaxed);
        sender.join().unwrap();
    });
}

/// A rule looks up several sets one after the other, and they may change in between.
#[test]
fn no_frame_is_lost_while_its_port_is_being_bound() {
    let mut scenario = begin(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let web = scenario.testbed.namespace("web/a").unwrap().clone();
    let web_mac = wire::interface(&web, "eth0").unwrap().mac;
    let web_address = Ipv4Addr::new(10, 244, 1, 2);
    let audit_start = scenario.agent("node-a").audit_end();
    for number in 0..60 {
        let address = Ipv4Addr::new(10, 244, 1, 50 + number);
        let pod = NetworkNamespace::create(&format!("bound-{number}")).unwrap();
        let device = format!("bound{number}");
        ip(
            &node,
            &format!(
                "link add {device} type veth peer name eth0 netns {}\nlink set {device} master cni0 up\n",
                pod.name()
            ),
        )
        .unwrap();
        ip(&pod, "link set eth0 up\n").unwrap();
        pod.wait_for_links().unwrap();
        let own = wire::interface(&pod, "eth0").unwrap();
        let mac = own.mac;
        let question = Arp { operation: 1, sender: (mac, address), target: ([0; 6], web_address) };
        let question = frame::arp([0xff; 6], mac, question, &[]);
        // The bridge learns the pod's port, and then sends frames for it to no other port.
        wire::send_frames(&pod, &own, std::slice::from_ref(&question)).unwrap();
        let set_address = || {
            ip(&pod, &format!("addr add {address}/24 dev eth0\n")).unwrap();
            wait_until("the address is bound", TIMEOUT, || {
                let bound = nft_output(&node, &["list", "map", "bridge", "kube-verdict", "bound4"]).unwrap();
                bound.contains(&format!("\"{device}\""))
            });
        };
        // Floods from the port, and to it.
        if number % 2 == 0 {
            flood(&pod, &question, set_address);
        } else {
            let path = Path::new(web_address, address);
            let datagram = packet::packet(path, &message::udp(path, (1, 2), b"early"));
            flood(&web, &frame::of_packet(mac, web_mac, &datagram), set_address);
        }
        ip(&node, &format!("link del {device}\n")).unwrap();
    }
    // Drops are recorded in order, so this one follows all others.
    ip(&web, "addr add 198.51.100.7/32 dev lo\n").unwrap();
    send(&web, "198.51.100.7", "10.244.1.3:53".parse().unwrap());
    wait_until("the last drop is recorded", TIMEOUT, || {
        let drops = scenario.agent("node-a").drops_after(audit_start).unwrap();
        drops.iter().any(|drop| drop.is_from("web/a") && drop.reason == "spoofed-source")
    });
    let drops = scenario.agent("node-a").drops_after(audit_start).unwrap();
    let lost: Vec<_> =
        drops.iter().filter(|drop| drop.reason == "unbound-destination" || !drop.is_from("web/a")).collect();
    assert!(
        lost.is_empty(),
        "{} frames were lost: {lost:?}",
        lost.iter().map(|drop| drop.packets).sum::<u64>()
    );
}

#[test]
fn an_exempt_pod_sends_from_addresses_that_no_other_has() {
    let mut scenario = begin(&["--exempt-origin", "web", "--record-open"]);
    let pod = scenario.testbed.namespace("web/a").unwrap().clone();
    ip(&pod, "addr add 198.51.100.7/32 dev lo\naddr add 10.244.1.3/32 dev lo\n").unwrap();
    scenario.remove_policy("db/allow-web");
    let to: SocketAddr = "10.244.2.2:7".parse().unwrap();
    let audit_start = scenario.agent("node-a").audit_end();
    // To another node, which evaluates the claimed source address.
    let from = send(&pod, "198.51.100.7", to);
    let is_of = |record: &integration::record::Record| {
        record.source.as_ref().is_some_and(|source| source.address == from.ip())
    };
    scenario.agent("node-b").wait_record(0, is_of).unwrap();
    assert_eq!(drops(&mut scenario, "node-a", audit_start, "spoofed-source"), 0);
    // The address of `db/s`.
    send(&pod, "10.244.1.3", to);
    wait_until("the forged address is recorded", TIMEOUT, || {
        drops(&mut scenario, "node-a", audit_start, "spoofed-source") > 0
    });
    ip(&pod, "addr del 10.244.1.3/32 dev lo\n").unwrap();
    let status = scenario.agent("node-a").status().unwrap();
    assert_eq!(status["origins"]["exemptions"][0], "web");
    scenario.expect("web/a", "db/s", "5432", &allowed_because(Direction::Ingress, "not-isolated"));
}

#[test]
fn overlay_packets_come_from_nodes_alone_if_so_configured() {
    let mut scenario = Scenario::new(cluster().links(Links::Vxlan));
    scenario.policy("db/allow-web", ALLOWED);
    scenario.start_agents(&["--overlay-sources", "nodes"]);
    let outside = scenario.testbed.namespace(integration::OUTSIDE).unwrap().clone();
    let [node4, node6] = scenario.testbed.addresses("node-a").unwrap();
    let [outside4, outside6] = scenario.testbed.addresses(integration::OUTSIDE).unwrap();
    let audit_start = scenario.agent("node-a").audit_end();
    for (from, to) in [(outside4, node4), (outside6, node6)] {
        send(&outside, &from.to_string(), SocketAddr::new(to, 8472));
        wait_until("it is recorded", TIMEOUT, || {
            let drops = scenario.agent("node-a").drops_after(audit_start).unwrap();
            drops.iter().any(|drop| {
                drop.reason == "foreign-overlay"
                    && drop.source.as_ref().is_some_and(|source| source.address == from)
            })
        });
    }
    // Traffic between nodes still passes.
    scenario.expect("web/far", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    scenario.expect(integration::OUTSIDE, "web/a", "80", &unevaluated());
}

#[test]
fn deleted_rules_are_repaired_and_replies_are_evaluated_again() {
    let scenario = begin(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let stream =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V6).unwrap();
    for table in
        [&["delete", "table", "inet", "kube-verdict"], &["delete", "table", "bridge", "kube-verdict"]]
    {
        nft_output(&node, table).unwrap();
        wait_until("both tables exist", TIMEOUT, || {
            let tables = nft_output(&node, &["list", "tables"]).unwrap();
            tables.contains("inet kube-verdict") && tables.contains("bridge kube-verdict")
        });
        wait_until("no rule accepts every reply by its conntrack state alone", TIMEOUT, || {
            let rules = scenario.testbed.ruleset("node-a").unwrap();
            // The rule for the node's own replies has another condition before it.
            !rules.contains("\tct direction reply accept")
        });
    }
    stream.wait_progress(50).unwrap();
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
}
