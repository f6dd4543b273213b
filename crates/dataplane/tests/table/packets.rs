//! Real packets through the rules, without an agent: packets that need no verdict pass, and all others are
//! dropped, since no program listens to the queues and the fail mode is closed.
//!
//! ```text
//!  pod 10.244.1.9 --- 10.244.1.1 node (the table) 192.0.2.1 --- 192.0.2.2 remote
//! ```

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use dataplane::queue_statistics::QueueStatistics;
use dataplane::table::{FailMode, Table, TableConfig};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket as socket_of,
};
use policy::{Affected, Packet, Protocol};

use crate::namespace::{NetworkNamespace, in_namespace, run, wait_for_links};
use crate::{GENERATION, RANGE_A, RANGE_B, install, node_a, open};

pub(crate) const POD: &str = "10.244.1.9";
pub(crate) const POD_6: &str = "fd00:10:244:1::9";
pub(crate) const NODE: &str = "10.244.1.1";
pub(crate) const REMOTE: &str = "192.0.2.2";
pub(crate) const REMOTE_6: &str = "2001:db8::2";

/// How long an expected packet may take, and how long the test waits for one that must not arrive.
const TIMEOUT: Duration = Duration::from_millis(300);

pub(crate) struct World {
    pub pod: NetworkNamespace,
    pub remote: NetworkNamespace,
}

impl World {
    /// The calling thread's namespace becomes the node.
    pub(crate) fn new() -> Self {
        let world = Self { pod: NetworkNamespace::new(), remote: NetworkNamespace::new() };
        // Without this, the link tries its own address for a second before it solicits any neighbour.
        let no_trial = || {
            fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("a sysctl of this namespace")
        };
        no_trial();
        world.pod.run(no_trial);
        world.remote.run(no_trial);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a sysctl of this namespace");
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("a sysctl of this namespace");
        let ends = [
            (&world.pod, "pod", [NODE, "fd00:10:244:1::1"], [POD, POD_6]),
            (&world.remote, "remote", ["192.0.2.1", "2001:db8::1"], [REMOTE, REMOTE_6]),
        ];
        for (place, name, here, there) in ends {
            let tid = place.tid.to_string();
            run("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &tid]);
            run("ip", &["link", "set", name, "up"]);
            run("ip", &["addr", "add", &format!("{}/24", here[0]), "dev", name]);
            run("ip", &["addr", "add", &format!("{}/64", here[1]), "dev", name, "nodad"]);
            place.run(move || {
                run("ip", &["link", "set", "lo", "up"]);
                run("ip", &["link", "set", "eth0", "up"]);
                run("ip", &["addr", "add", &format!("{}/24", there[0]), "dev", "eth0"]);
                run("ip", &["addr", "add", &format!("{}/64", there[1]), "dev", "eth0", "nodad"]);
                run("ip", &["route", "add", "default", "via", here[0]]);
                run("ip", &["route", "add", "default", "via", here[1]]);
                wait_for_links();
            });
        }
        wait_for_links();
        world
    }
}

pub(crate) fn closed() -> TableConfig {
    TableConfig { fail_mode: FailMode::Closed, open: open(&[], &[]), ..node_a() }
}

pub(crate) fn socket(address: &str, port: u16) -> UdpSocket {
    let address: SocketAddr = (address.parse::<std::net::IpAddr>().expect("an address"), port).into();
    let deadline = Instant::now() + Duration::from_secs(5);
    let socket = loop {
        match UdpSocket::bind(address) {
            Ok(socket) => break socket,
            // A program that another test is starting briefly holds a copy of an earlier socket.
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{address} can't be bound: {error}"),
        }
    };
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket
}

/// Receives a packet, or returns why there is none. An interrupted call is repeated.
fn receive(socket: &UdpSocket) -> Result<usize, ErrorKind> {
    loop {
        match socket.recv(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome.map_err(|error| error.kind()),
        }
    }
}

pub(crate) fn received(socket: &UdpSocket) -> bool {
    match receive(socket) {
        Ok(_) => true,
        Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(kind) => panic!("receiving: {kind}"),
    }
}

/// Whether a datagram of a new connection from the pod reaches the remote host's `port`.
fn pod_reaches_remote(world: &World, port: u16) -> bool {
    let server = world.remote.run(move || socket(REMOTE, port));
    world.pod.run(move || socket(POD, 0).send_to(b"x", (REMOTE, port)).expect("sent"));
    received(&server)
}

fn remote_reaches_pod(world: &World, port: u16) -> bool {
    let server = world.pod.run(move || socket(POD, port));
    world.remote.run(move || socket(REMOTE, 0).send_to(b"x", (POD, port)).expect("sent"));
    received(&server)
}

fn pod_reaches_node(world: &World, port: u16) -> bool {
    let server = socket(NODE, port);
    world.pod.run(move || socket(POD, 0).send_to(b"x", (NODE, port)).expect("sent"));
    received(&server)
}

/// How many packets the counter in this chain of table `other` has counted.
pub(crate) fn counted(chain: &str) -> u32 {
    let text = run("nft", &["list", "chain", "inet", "other", chain]);
    let (_, rest) = text.split_once("counter packets ").expect("a counter");
    rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn packets_of_unknown_pods_are_dropped_and_those_of_open_pods_pass_in_that_direction() {
    in_namespace(|| {
        let world = World::new();
        let mut table = install(closed(), RANGE_A);
        let cidrs = closed().pod_cidrs;
        assert!(
            !pod_reaches_remote(&world, 7000)
                && !remote_reaches_pod(&world, 7001)
                && !pod_reaches_node(&world, 7002)
        );
        table.update(&cidrs, &open(&[], &[POD]), GENERATION, &Affected::All).expect("update");
        assert!(
            pod_reaches_remote(&world, 7010)
                && !remote_reaches_pod(&world, 7011)
                && pod_reaches_node(&world, 7012)
        );
        table.update(&cidrs, &open(&[POD], &[]), GENERATION, &Affected::All).expect("update");
        assert!(
            !pod_reaches_remote(&world, 7020)
                && remote_reaches_pod(&world, 7021)
                && !pod_reaches_node(&world, 7022)
        );
        // A pod's DNS queries pass another chain.
        assert!(!pod_reaches_remote(&world, 53));
        table.update(&cidrs, &open(&[], &[POD]), GENERATION, &Affected::All).expect("update");
        assert!(pod_reaches_remote(&world, 53));
        // Packets outside the pod CIDRs are not queued.
        table
            .update(&["10.9.0.0/16".parse().expect("a CIDR")], &open(&[], &[]), GENERATION, &Affected::All)
            .expect("update");
        assert!(pod_reaches_remote(&world, 7030) && remote_reaches_pod(&world, 7031));
    });
}

#[test]
fn s21_s24_the_node_reaches_its_pods_and_replies_pass() {
    in_namespace(|| {
        let world = World::new();
        install(closed(), RANGE_A);
        // Semantics 21. The pod's answer is a reply (semantics 24).
        let server = world.pod.run(|| socket(POD, 7000));
        let client = socket(NODE, 7000);
        client.send_to(b"x", (POD, 7000)).expect("sent");
        assert!(received(&server), "from the node to its pod");
        world.pod.run(move || server.send_to(b"y", (NODE, 7000)).expect("sent"));
        assert!(received(&client), "the pod's answer");
    });
}

#[test]
fn s25_ipv6_is_evaluated_as_well_and_neighbour_discovery_passes() {
    in_namespace(|| {
        let world = World::new();
        let mut table = install(closed(), RANGE_A);
        let reaches = |port| {
            let server = world.remote.run(move || socket(REMOTE_6, port));
            world.pod.run(move || socket(POD_6, 0).send_to(b"x", (REMOTE_6, port)).expect("sent"));
            received(&server)
        };
        assert!(!reaches(7000));
        // Semantics 25: the open set lets the datagram pass, but neighbour discovery must have passed before
        // it.
        table.update(&closed().pod_cidrs, &open(&[], &[POD_6]), GENERATION, &Affected::All).expect("update");
        assert!(reaches(7001));
    });
}

#[test]
fn while_the_agent_is_down_first_packets_pass_in_fail_mode_open() {
    in_namespace(|| {
        let world = World::new();
        install(TableConfig { fail_mode: FailMode::Open, ..closed() }, RANGE_A);
        assert!(
            pod_reaches_remote(&world, 7000)
                && remote_reaches_pod(&world, 7001)
                && pod_reaches_node(&world, 7002)
        );
    });
}

#[test]
fn connection_marks_decide_before_anything_else() {
    in_namespace(|| {
        let world = World::new();
        // As a sweep would mark them: 7001 accepted, 7002 revoked, 7003 both.
        other(
            "chain marks { type filter hook prerouting priority -140; \
             udp dport 7001 ct mark set 0x10000000; \
             udp dport 7002 ct mark set 0x20000000; \
             udp dport 7003 ct mark set 0x30000000; }",
        );
        let mut table = install(closed(), RANGE_A);
        assert!(!pod_reaches_remote(&world, 7000));
        assert!(
            pod_reaches_remote(&world, 7001)
                && remote_reaches_pod(&world, 7001)
                && pod_reaches_node(&world, 7001)
        );
        table.update(&closed().pod_cidrs, &open(&[POD], &[POD]), GENERATION, &Affected::All).expect("update");
        for port in [7002, 7003] {
            assert!(!pod_reaches_remote(&world, port), "{port}");
            assert!(!remote_reaches_pod(&world, port), "{port}");
            assert!(!pod_reaches_node(&world, port), "{port}");
        }
        assert!(pod_reaches_remote(&world, 7000));
    });
}

/// Semantics 35. Found by reading: only packets that were not dropped by a mark restarted the timeout.
#[test]
fn a_revoked_connection_that_sends_packets_keeps_its_tuple() {
    in_namespace(|| {
        let world = World::new();
        other(
            "chain marks { type filter hook prerouting priority -140; \
             udp dport 7002 ct mark set 0x20000000; }",
        );
        let mut table = install(closed(), RANGE_A);
        for (from, to) in [(POD, REMOTE), (POD_6, REMOTE_6)] {
            let [source, destination] = [from, to].map(|text| text.parse().expect("an address"));
            let mut connection = Packet::new(source, destination, Protocol::UDP).to_port(7002);
            connection.source_port = Some(5555);
            assert_eq!(table.add_revoked(&[connection]), Ok(Vec::new()));
        }
        std::thread::sleep(Duration::from_millis(2_500));
        let server = world.remote.run(|| socket(REMOTE, 7002));
        world.pod.run(|| {
            for (from, to) in [(POD, REMOTE), (POD_6, REMOTE_6)] {
                socket(from, 5555).send_to(b"x", (to, 7002)).expect("sent");
            }
        });
        assert!(!received(&server));
        for set in ["revoked4", "revoked6"] {
            let text = run("nft", &["list", "set", "inet", "kube-verdict", set]);
            assert_eq!(
                text.matches("expires 59m59s").count(),
                1,
                "the timeout of this orientation restarts: {text}"
            );
        }
    });
}

/// Creates a table of another program.
pub(crate) fn other(chains: &str) {
    run("nft", &[&format!("table inet other {{ {} }}", chains.replace('}', "}\n"))]);
}

/// Sends a TCP packet with only the flag ACK from this namespace.
pub(crate) fn send_tcp_ack(from: &str, source_port: u16, to: &str, port: u16) {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().expect("an address").octets();
    let (from, to) = (octets(from), octets(to));
    let mut header = [0; 20];
    header[..2].copy_from_slice(&source_port.to_be_bytes());
    header[2..4].copy_from_slice(&port.to_be_bytes());
    (header[7], header[11]) = (1, 1);
    // Five words long; ACK.
    (header[12], header[13]) = (5 << 4, 0x10);
    // RFC 9293: the checksum covers addresses, protocol and length as well.
    let words = [&from[..], &to[..], &[0, libc::IPPROTO_TCP as u8, 0, 20], &header[..]].concat();
    let sum: u32 = words.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    let socket = socket_of(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)
        .expect("a raw socket");
    let [a, b, c, d] = to;
    sendto(socket.as_raw_fd(), &header, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).expect("sent");
}

#[test]
fn a_reinjected_packet_is_accepted_and_foreign_marks_stay() {
    in_namespace(|| {
        let world = World::new();
        // Marks as on a reinjected packet, with kube-proxy's 0x4000 and another program's bit in the
        // connection mark.
        other(
            "chain marks { type filter hook prerouting priority -140; \
               meta mark set 0x01004000; ct mark set 0x40000040; } \
             chain reinjected { type filter hook postrouting priority 97; \
               udp dport 7000 meta mark 0x00004000 ct mark 0x10000040 counter; } \
             chain reinjected-input { type filter hook input priority 107; \
               udp dport 7001 meta mark 0x00004000 ct mark 0x10000040 counter; }",
        );
        install(TableConfig { prerouting_dns: false, ..closed() }, RANGE_A);
        assert!(pod_reaches_remote(&world, 7000) && pod_reaches_node(&world, 7001));
        assert_eq!((counted("reinjected"), counted("reinjected-input")), (1, 1));
    });
}

#[test]
fn a_packet_that_already_has_the_verdicts_mark_is_still_evaluated() {
    in_namespace(|| {
        let world = World::new();
        other(
            "chain untracking { type filter hook prerouting priority -300; udp dport 7001 notrack; } \
             chain marks { type filter hook prerouting priority -140; meta mark set 0x03004000; }",
        );
        install(closed(), RANGE_A);
        for port in [53, 7000, 7001] {
            assert!(!pod_reaches_remote(&world, port), "{port}");
            assert!(!remote_reaches_pod(&world, port), "{port}");
            assert!(!pod_reaches_node(&world, port), "{port}");
        }
    });
}

#[test]
fn what_conntrack_does_not_track_is_evaluated_every_time() {
    in_namespace(|| {
        let world = World::new();
        other("chain untracking { type filter hook prerouting priority -300; udp dport 7000 notrack; }");
        let mut table = install(closed(), RANGE_A);
        assert!(!pod_reaches_remote(&world, 7000));
        table.update(&closed().pod_cidrs, &open(&[], &[POD]), GENERATION, &Affected::All).expect("update");
        assert!(pod_reaches_remote(&world, 7000));
        table.update(&closed().pod_cidrs, &open(&[], &[]), GENERATION, &Affected::All).expect("update");
        assert!(!pod_reaches_remote(&world, 7000));
    });
}

#[test]
fn s24_an_icmp_error_has_mark_and_direction_of_the_connection_that_it_quotes() {
    in_namespace(|| {
        let world = World::new();
        other(
            "chain marks { type filter hook prerouting priority -140; \
               udp dport 7000 ct mark set 0x00000040; } \
             chain related { type filter hook postrouting priority 94; \
               icmp type destination-unreachable \
               ct state related ct direction reply ct mark 0x10000040 counter; }",
        );
        // The pod may send, but not receive: the error passes as a reply (semantics 24).
        install(TableConfig { open: open(&[], &[POD]), ..closed() }, RANGE_A);
        let refused = |world: &World| {
            world.pod.run(|| {
                let client = socket(POD, 0);
                client.connect((REMOTE, 7000)).expect("a route");
                client.send(b"x").expect("sent");
                receive(&client)
            })
        };
        assert_eq!(refused(&world), Err(ErrorKind::ConnectionRefused));
        assert_eq!(counted("related"), 1);
    });
}

#[test]
fn an_icmp_error_of_the_node_does_not_vouch_for_the_connection_that_it_quotes() {
    in_namespace(|| {
        let world = World::new();
        other(
            "chain related { type filter hook postrouting priority 97; \
               icmp type destination-unreachable ct state related ct direction original counter; } \
             chain unmarked { type filter hook postrouting priority 97; \
               icmp type destination-unreachable ct state related ct mark 0x00000000 counter; }",
        );
        // A connection from before the agent's start.
        let server = world.remote.run(|| socket(REMOTE, 7000));
        let _client = world.pod.run(|| {
            let client = socket(POD, 0);
            client.send_to(b"x", (REMOTE, 7000)).expect("sent");
            client
        });
        let (_, client) = server.recv_from(&mut [0; 16]).expect("nothing is in the way");
        install(closed(), RANGE_A);
        // The node answers in place of the pod, in the direction of the connection's first packet.
        run("ip", &["route", "add", "unreachable", POD]);
        server.send_to(b"y", client).expect("sent");
        let deadline = Instant::now() + Duration::from_secs(5);
        while counted("related") == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!((counted("related"), counted("unmarked")), (1, 1));
    });
}

#[test]
fn the_connection_of_what_needs_no_verdict_is_marked() {
    in_namespace(|| {
        let world = World::new();
        other(
            "chain forwarded { type filter hook postrouting priority 97; \
               udp dport { 7000, 7001 } ct mark 0x10000000 counter; } \
             chain delivered { type filter hook input priority 107; \
               udp dport 7002 ct mark 0x10000000 counter; }",
        );
        install(TableConfig { prerouting_dns: false, open: open(&[POD], &[POD]), ..closed() }, RANGE_A);
        assert!(pod_reaches_remote(&world, 7000) && pod_reaches_node(&world, 7002));
        let server = world.pod.run(|| socket(POD, 7001));
        socket(NODE, 0).send_to(b"x", (POD, 7001)).expect("sent");
        assert!(received(&server));
        assert_eq!((counted("forwarded"), counted("delivered")), (2, 1));
    });
}

/// The number of queued packets, once there are any or the timeout is over.
fn queued() -> u32 {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let queued = QueueStatistics::read()
            .expect("the kernel reports its queues")
            .iter()
            .map(|queue| queue.waiting)
            .sum();
        if queued > 0 || Instant::now() > deadline {
            return queued;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn queued_packets_survive_everything_except_the_removal_of_the_table() {
    in_namespace(|| {
        let world = World::new();
        let mut listener = nfq::Queue::open().expect("a queue socket");
        RANGE_A.numbers().for_each(|number| listener.bind(number.0).expect("a free queue"));
        let mut table = install(TableConfig { prerouting_dns: false, ..closed() }, RANGE_A);
        world.pod.run(|| socket(POD, 0).send_to(b"x", (REMOTE, 7000)).expect("sent"));
        assert_eq!(queued(), 1);
        table.update(&closed().pod_cidrs, &open(&[POD], &[]), GENERATION, &Affected::All).expect("update");
        assert_eq!(queued(), 1, "after an update");
        install(TableConfig { prerouting_dns: false, ..closed() }, RANGE_B);
        assert_eq!(queued(), 1, "after a takeover");
        // Chains are added, and none is deleted.
        install(closed(), RANGE_A);
        assert_eq!(queued(), 1, "after an upgrade that adds chains");
        dataplane::preflight::check(&dataplane::preflight::PreflightConfig::default());
        assert_eq!(queued(), 1, "after the preflight checks");
        Table::remove().expect("the table is ours");
        assert_eq!(queued(), 0, "the kernel drops queued packets when base chains are deleted");
    });
}
