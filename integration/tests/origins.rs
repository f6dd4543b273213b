//! Where packets enter, and what is known of that: bridges and ports that come and go, exempt pods, overlays, and rules that another
//! program deletes.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use integration::attack::frame::{self, Arp};
use integration::attack::message::{self, Path};
use integration::attack::{packet, wire};
use integration::command::{ip, nft_answer};
use integration::namespace::Namespace;
use integration::{
    Cluster, Family, Links, Scenario, Side, Stream, Testbed, allowed, allowed_because, denied, unevaluated,
};

/// How long an agent may take to see what changed, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(5);

fn cluster() -> Cluster {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .node("node-b", "10.244.2.0/24", "fd00:10:244:2::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("web/far", "node-b", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432", "53/UDP"])
}

const FROM_WEB: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
";

fn begin(flags: &[&str]) -> Scenario {
    let mut scenario = Scenario::begin(cluster());
    scenario.policy("db/allow-web", FROM_WEB);
    scenario.start_agents(flags);
    scenario
}

/// Waits until it is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} until {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Sends a datagram from an address that the namespace has, and returns where from.
fn send(namespace: &Namespace, from: &str, to: SocketAddr) -> SocketAddr {
    let from: IpAddr = from.parse().unwrap();
    let sent = namespace.run(|| {
        let socket = UdpSocket::bind((from, 0))?;
        socket.send_to(b"from elsewhere", to)?;
        socket.local_addr()
    });
    sent.unwrap().unwrap()
}

fn drops(scenario: &mut Scenario, node: &str, mark: u64, reason: &str) -> u64 {
    let drops = scenario.agent(node).drops_after(mark).unwrap();
    drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum()
}

#[test]
fn the_bridges_own_switch_is_as_good_as_the_nodes() {
    let mut scenario = Scenario::begin(cluster());
    scenario.policy("db/allow-web", FROM_WEB);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    for sysctl in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
        node.sysctl(sysctl, "0").unwrap();
    }
    ip(&node, "link set cni0 type bridge nf_call_iptables 1 nf_call_ip6tables 1\n").unwrap();
    scenario.start_agents(&[]);
    scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
    scenario.policy("db/allow-web", "podSelector: {}\ningress: []");
    scenario.expect("web/a", "db/s", "5432", &denied(Side::Ingress, "db/allow-web"));
}

#[test]
fn a_bridge_that_comes_after_the_agent_is_watched_from_its_first_port() {
    let cluster = Testbed::new().node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64");
    let mut scenario = Scenario::begin(cluster);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    ip(&node, "link del cni0\n").unwrap();
    // Nothing is said of a bridge that isn't there: the CNI plugin makes it with the first pod.
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
    scenario.policy("db/allow-web", FROM_WEB);
    scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
    let mark = scenario.agent("node-a").mark();
    let pod = scenario.testbed.namespace("web/a").unwrap().clone();
    ip(&pod, "addr add 198.51.100.7/32 dev lo\n").unwrap();
    send(&pod, "198.51.100.7", "10.244.1.3:53".parse().unwrap());
    until("the forged source is recorded", || drops(&mut scenario, "node-a", mark, "spoofed-source") > 0);
}

#[test]
fn of_two_pods_that_claim_an_address_the_first_one_has_it() {
    let mut scenario = begin(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let thief = Namespace::create("thief").unwrap();
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
    until("the conflict is in status", || {
        let status = scenario.agent("node-a").status().unwrap();
        let conflicts = &status["origins"]["conflicts"];
        conflicts[0]["address"] == "10.244.1.2" && conflicts[0]["claimed_by"] == "thief"
    });
    let mark = scenario.agent("node-a").mark();
    send(&thief, "10.244.1.2", "10.244.1.3:53".parse().unwrap());
    scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
    until("what it sent is recorded", || {
        drops(&mut scenario, "node-a", mark, "spoofed-source")
            + drops(&mut scenario, "node-a", mark, "unbound-port")
            > 0
    });
    ip(&node, "link del thief\n").unwrap();
    until("the conflict is over", || {
        let status = scenario.agent("node-a").status().unwrap();
        status["origins"]["conflicts"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn ports_that_come_and_go_a_hundred_times_a_second_disturb_no_one() {
    let mut scenario = begin(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let stream =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();
    let churn = Namespace::create("churn").unwrap();
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
    eprintln!("200 ports came and went in {:?}", started.elapsed());
    scenario.testbed.add_pod("web/late", "node-a", &[], &["80"]).unwrap();
    scenario.expect("web/late", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
    stream.wait_progress(50).unwrap();
    stream.finish().unwrap();
    until("no port is left behind", || {
        let status = scenario.agent("node-a").status().unwrap();
        status["origins"]["ports"].as_array().is_some_and(|ports| ports.len() == 3)
    });
    scenario.agent("node-a").wait_ready().unwrap();
}

/// Sends a frame out of `eth0` again and again while `during` runs.
fn flood(namespace: &Namespace, frame: &[u8], during: impl FnOnce()) {
    let interface = wire::interface(namespace, "eth0").unwrap();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| wire::flood(namespace, &interface, frame, &ends).unwrap());
        during();
        ends.store(true, Ordering::Relaxed);
        assert!(sender.join().unwrap() > 0, "no frame was sent");
    });
}

/// A rule looks into several sets, one after the other, and they may change in between.
#[test]
fn no_frame_is_lost_in_the_moment_in_which_its_port_is_bound() {
    let mut scenario = begin(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let web = scenario.testbed.namespace("web/a").unwrap().clone();
    let web_mac = wire::interface(&web, "eth0").unwrap().mac;
    let web_address = Ipv4Addr::new(10, 244, 1, 2);
    let mark = scenario.agent("node-a").mark();
    for number in 0..60 {
        let address = Ipv4Addr::new(10, 244, 1, 50 + number);
        let pod = Namespace::create(&format!("bound-{number}")).unwrap();
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
        // The bridge learns where the pod is, and sends frames for it to no other port.
        wire::send_frames(&pod, &own, std::slice::from_ref(&question)).unwrap();
        let set_address = || {
            ip(&pod, &format!("addr add {address}/24 dev eth0\n")).unwrap();
            until("the address is bound", || {
                let bound = nft_answer(&node, &["list", "map", "bridge", "kube-verdict", "bound4"]).unwrap();
                bound.contains(&format!("\"{device}\""))
            });
        };
        // From the port, and to it.
        if number % 2 == 0 {
            flood(&pod, &question, set_address);
        } else {
            let path = Path::new(web_address, address);
            let datagram = packet::packet(path, &message::udp(path, (1, 2), b"early"));
            flood(&web, &frame::of_packet(mac, web_mac, &datagram), set_address);
        }
        ip(&node, &format!("link del {device}\n")).unwrap();
    }
    // Drops are recorded in their order: this one comes after all others.
    ip(&web, "addr add 198.51.100.7/32 dev lo\n").unwrap();
    send(&web, "198.51.100.7", "10.244.1.3:53".parse().unwrap());
    until("the last drop is recorded", || {
        let drops = scenario.agent("node-a").drops_after(mark).unwrap();
        drops.iter().any(|drop| drop.is_from("web/a") && drop.reason == "spoofed-source")
    });
    let drops = scenario.agent("node-a").drops_after(mark).unwrap();
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
    let mark = scenario.agent("node-a").mark();
    // Beyond the node: what is evaluated is the address that it claims.
    let from = send(&pod, "198.51.100.7", to);
    let is_of = |record: &integration::record::Record| {
        record.source.as_ref().is_some_and(|source| source.address == from.ip())
    };
    scenario.agent("node-b").wait_record(0, is_of).unwrap();
    assert_eq!(drops(&mut scenario, "node-a", mark, "spoofed-source"), 0);
    // The address of `db/s`.
    send(&pod, "10.244.1.3", to);
    until("another's address is recorded", || drops(&mut scenario, "node-a", mark, "spoofed-source") > 0);
    ip(&pod, "addr del 10.244.1.3/32 dev lo\n").unwrap();
    let status = scenario.agent("node-a").status().unwrap();
    assert_eq!(status["origins"]["exemptions"][0], "web");
    scenario.expect("web/a", "db/s", "5432", &allowed_because(Side::Ingress, "not-isolated"));
}

#[test]
fn overlay_packets_come_from_nodes_alone_if_so_configured() {
    let mut scenario = Scenario::begin(cluster().links(Links::Vxlan));
    scenario.policy("db/allow-web", FROM_WEB);
    scenario.start_agents(&["--overlay-sources", "nodes"]);
    let outside = scenario.testbed.namespace(integration::OUTSIDE).unwrap().clone();
    let [node4, node6] = scenario.testbed.addresses("node-a").unwrap();
    let [outside4, outside6] = scenario.testbed.addresses(integration::OUTSIDE).unwrap();
    let mark = scenario.agent("node-a").mark();
    for (from, to) in [(outside4, node4), (outside6, node6)] {
        send(&outside, &from.to_string(), SocketAddr::new(to, 8472));
        until("it is recorded", || {
            let drops = scenario.agent("node-a").drops_after(mark).unwrap();
            drops.iter().any(|drop| {
                drop.reason == "foreign-overlay"
                    && drop.source.as_ref().is_some_and(|source| source.address == from)
            })
        });
    }
    // Between nodes it goes on.
    scenario.expect("web/far", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
    scenario.expect(integration::OUTSIDE, "web/a", "80", &unevaluated());
}

#[test]
fn rules_that_were_deleted_come_back_and_trust_no_reply() {
    let scenario = begin(&[]);
    let node = scenario.testbed.namespace("node-a").unwrap().clone();
    let stream =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V6).unwrap();
    for table in
        [&["delete", "table", "inet", "kube-verdict"], &["delete", "table", "bridge", "kube-verdict"]]
    {
        nft_answer(&node, table).unwrap();
        until("both tables are there", || {
            let tables = nft_answer(&node, &["list", "tables"]).unwrap();
            tables.contains("inet kube-verdict") && tables.contains("bridge kube-verdict")
        });
        until("no reply passes on conntrack's word alone", || {
            let rules = scenario.testbed.ruleset("node-a").unwrap();
            // With another condition before it stands what the node itself replies.
            !rules.contains("\tct direction reply accept")
        });
    }
    stream.wait_progress(50).unwrap();
    scenario.expect("web/a", "db/s", "5432", &allowed(Side::Ingress, "db/allow-web", 0));
}
