//! Workers hold packets from real queues until their pod is known.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use dataplane::queues::{QueueNumber, QueueRange};
use dataplane::workers::{HoldCounters, HoldLimits, HoldWaker, Workers, WorkersConfig};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use policy::{
    Change, Compiler, Evaluation, Labels, Node, Outcome, Pod, PodName, Published, Reason, Scope, Verdict,
};

use crate::namespace::in_namespace;
use crate::rules::{create_chains, queue_to};
use crate::shop::{self, ADDRESSES, DB, WEB};
use crate::workers::{TIMEOUT, config, receiver, total};

/// Addresses in this node's pod CIDR: pods that are not in the inventory yet.
const NEW: &str = "10.9.0.9";
const ALSO_NEW: &str = "10.9.0.10";
/// Addresses in the pod CIDR of node `node-b`: a pod that is not known yet, and the address that Flannel
/// assigns to the node's bridge.
const REMOTE: &str = "10.9.1.9";
const REMOTE_BRIDGE: &str = "10.9.1.1";
/// One queue, so that one worker gets all packets of a scenario.
const QUEUE: QueueRange = QueueRange { first: QueueNumber(100), count: 1 };
/// Long enough for a packet to arrive, and much shorter than any hold.
const ARRIVAL: Duration = Duration::from_millis(400);

/// The shop with a second node, its workers and their records.
struct Scenario {
    compiler: Compiler,
    published: Arc<Published>,
    workers: Workers,
    hold_waker: HoldWaker,
    records: Receiver<Evaluation>,
}

impl Scenario {
    fn begin(hold: HoldLimits, on_unknown_pod: Verdict) -> Self {
        create_chains("postrouting", &[]);
        let (first, _) = shop::open(&[5000]);
        let mut compiler = Compiler::new(Scope::Node("node-a".into())).on_unknown_pod(on_unknown_pod);
        let inventory = first.inventory();
        let nodes = inventory.nodes.values().cloned().map(Change::Node);
        let pods = inventory.pods.values().map(|pod| Change::Pod(Pod::clone(pod)));
        let policies = inventory.policies.values().cloned().map(Change::Policy);
        let far = Node {
            name: "node-b".into(),
            labels: Labels::none(),
            addresses: vec!["192.0.2.2".parse().unwrap()],
            has_all_addresses: false,
            reported_addresses: Vec::new(),
            pod_cidrs: vec!["10.9.1.0/24".parse().unwrap()],
        };
        let changes = nodes.chain(pods).chain(policies).chain([Change::Node(far)]);
        let published = Published::new(compiler.apply(changes).snapshot, 1);
        let (recorder, records) = channel();
        let workers = Workers::start(WorkersConfig { hold, ..config(QUEUE) }, &published, |_| {
            let recorder = recorder.clone();
            move |evaluation| recorder.send(evaluation).unwrap_or(())
        });
        let workers = workers.unwrap();
        queue_to(Some(QUEUE));
        Self { compiler, published, hold_waker: workers.hold_waker(), workers, records }
    }

    /// Publishes the snapshot after a change, as the agent does.
    fn change(&mut self, change: Change) {
        let mut grace = self.published.publish(self.compiler.apply([change]).snapshot);
        self.hold_waker.wake();
        let started = Instant::now();
        while !grace.over() {
            assert!(
                started.elapsed() < Duration::from_secs(2),
                "held packets must not delay the grace period"
            );
            thread::yield_now();
        }
    }

    /// Waits until the workers' counters satisfy `reached`.
    #[track_caller]
    fn wait(&self, what: &str, reached: impl Fn(HoldCounters) -> bool) -> HoldCounters {
        let started = Instant::now();
        loop {
            let counters = total(&self.workers).hold;
            if reached(counters) {
                return counters;
            }
            assert!(started.elapsed() < TIMEOUT, "waited for {what}: {counters:?}");
            sleep(Duration::from_millis(1));
        }
    }

    fn record(&self) -> Evaluation {
        self.records.recv_timeout(TIMEOUT).unwrap()
    }
}

/// A pod with the labels of `like`, under another name.
fn pod(name: &str, like: &str, node: &str, address: &str) -> Change {
    let pod = shop::pod(like, &[address]);
    Change::Pod(policy::Pod { name: PodName::new("shop", name), node: Some(node.into()), ..pod })
}

fn in_shop(scenario: impl FnOnce() + Send) {
    let more = [NEW, ALSO_NEW, REMOTE, REMOTE_BRIDGE].map(|address| format!("{address}/24"));
    let addresses: Vec<&str> = ADDRESSES.into_iter().chain(more.iter().map(String::as_str)).collect();
    in_namespace(&addresses, scenario);
}

fn from(source: &str) -> UdpSocket {
    UdpSocket::bind((source, 0)).unwrap()
}

fn send(from: &UdpSocket, to: &UdpSocket) {
    from.send_to(b"hello", to.local_addr().unwrap()).unwrap();
}

/// How many packets arrive.
fn arrived(to: &UdpSocket) -> usize {
    to.set_read_timeout(Some(ARRIVAL)).unwrap();
    std::iter::from_fn(|| to.recv(&mut [0; 16]).ok()).count()
}

#[test]
fn a_packet_is_held_until_its_pod_is_known_and_passes_if_policy_allows_the_pod() {
    in_shop(|| {
        for (address, node) in [(NEW, "node-a"), (REMOTE, "node-b")] {
            let mut scenario = Scenario::begin(HoldLimits::default(), Verdict::Deny);
            let to = receiver(5000);
            send(&from(address), &to);
            scenario.wait("the packet to be held", |hold| hold.now == 1);
            // A change that does not concern the pod.
            scenario.change(pod("else", "other", "node-a", "10.9.0.40"));
            assert_eq!(arrived(&to), 0, "the pod of {address} is not known yet");

            let published = Instant::now();
            scenario.change(pod("new", "web", node, address));
            to.set_read_timeout(Some(TIMEOUT)).unwrap();
            to.recv(&mut [0; 16]).unwrap();
            let took = published.elapsed();
            assert!(took < ARRIVAL, "it came {took:?} after its pod");
            let record = scenario.record();
            assert_eq!(record.decision.verdict(), Verdict::Allow);
            assert!(matches!(record.decision.ingress.reason, Reason::Rule(_)), "{record:?}");
            assert!(record.held.unwrap() >= ARRIVAL && record.elapsed < ARRIVAL, "{record:?}");
            let counters = scenario.wait("its end", |hold| hold.now == 0);
            assert_eq!(counters, HoldCounters { held: 1, allowed: 1, ..Default::default() });
            queue_to(None);
            scenario.workers.stop();
            crate::namespace::run("nft delete table inet t");
        }
    });
}

#[test]
fn a_packet_is_held_until_its_pod_is_known_and_is_dropped_if_policy_denies_the_pod() {
    in_shop(|| {
        let mut scenario = Scenario::begin(HoldLimits::default(), Verdict::Allow);
        let to = receiver(5000);
        send(&from(REMOTE), &to);
        scenario.wait("the packet to be held", |hold| hold.now == 1);
        scenario.change(pod("new", "other", "node-b", REMOTE));
        let record = scenario.record();
        assert_eq!(record.decision.ingress, Outcome::deny(Reason::DefaultDeny));
        assert!(record.held.is_some());
        let counters = scenario.wait("its end", |hold| hold.now == 0);
        assert_eq!(counters, HoldCounters { held: 1, denied: 1, ..Default::default() });
        assert_eq!(arrived(&to), 0);
    });
}

#[test]
fn a_packet_that_is_denied_for_any_pod_is_not_held() {
    in_shop(|| {
        let scenario = Scenario::begin(HoldLimits::default(), Verdict::Deny);
        // No rule opens port 6000. The other node's own address never belongs to a pod.
        for (source, port) in [(REMOTE, 6000), (REMOTE_BRIDGE, 5000), (NEW, 6000)] {
            send(&from(source), &receiver(port));
            let record = scenario.record();
            assert_eq!(record.decision.ingress, Outcome::deny(Reason::DefaultDeny), "{source} to {port}");
            assert_eq!(record.held, None);
        }
        assert_eq!(total(&scenario.workers).hold, HoldCounters::default());
    });
}

#[test]
fn a_packet_whose_pod_stays_unknown_gets_the_operators_verdict() {
    let timeout = Duration::from_millis(300);
    for on_unknown_pod in [Verdict::Deny, Verdict::Allow] {
        in_shop(|| {
            let scenario = Scenario::begin(HoldLimits { timeout, ..HoldLimits::default() }, on_unknown_pod);
            let to = receiver(5000);
            for source in [NEW, REMOTE] {
                send(&from(source), &to);
            }
            let records = [scenario.record(), scenario.record()];
            assert_eq!(
                records[0].decision.egress,
                Outcome { verdict: on_unknown_pod, reason: Reason::UnknownPod }
            );
            for record in records {
                let held = record.held.unwrap();
                assert!((timeout..timeout + ARRIVAL).contains(&held), "held {held:?}");
                assert_eq!(
                    record.decision.ingress,
                    Outcome { verdict: on_unknown_pod, reason: Reason::UnknownPeer }
                );
            }
            let counters = scenario.wait("the end", |hold| hold.now == 0);
            assert_eq!(counters, HoldCounters { held: 2, expired: 2, ..Default::default() });
            assert_eq!(arrived(&to), if on_unknown_pod == Verdict::Allow { 2 } else { 0 });
        });
    }
}

#[test]
fn packets_of_known_pods_pass_while_others_are_held() {
    in_shop(|| {
        let scenario = Scenario::begin(
            HoldLimits { timeout: Duration::from_secs(2), ..HoldLimits::default() },
            Verdict::Deny,
        );
        let to = receiver(5000);
        send(&from(NEW), &to);
        scenario.wait("the packet to be held", |hold| hold.now == 1);
        let web = from(WEB);
        for _ in 0..100 {
            send(&web, &to);
            to.recv(&mut [0; 16]).unwrap();
        }
        let counters = scenario.wait("the end of the hold while other packets arrive", |hold| {
            send(&web, &to);
            hold.now == 0
        });
        assert_eq!(counters.expired, 1);
    });
}

#[test]
fn packets_beyond_the_limit_are_evaluated_at_once() {
    for on_unknown_pod in [Verdict::Deny, Verdict::Allow] {
        in_shop(|| {
            let limits = HoldLimits { limit: 8, ..HoldLimits::default() };
            let scenario = Scenario::begin(limits, on_unknown_pod);
            let (to, web) = (receiver(5000), from(NEW));
            (0..10).for_each(|_| send(&web, &to));
            let expected = HoldCounters { now: 8, held: 8, over_limit: 2, ..Default::default() };
            let counters = scenario.wait("ten packets", |hold| hold.held + hold.over_limit == 10);
            assert_eq!(counters, expected);
            for _ in 0..2 {
                let record = scenario.record();
                assert_eq!((record.held, record.decision.verdict()), (None, on_unknown_pod));
            }
            assert_eq!(arrived(&to), if on_unknown_pod == Verdict::Allow { 2 } else { 0 });
        });
    }
}

#[test]
fn nothing_is_held_if_the_operator_disables_it() {
    for limits in [
        HoldLimits { limit: 0, ..Default::default() },
        HoldLimits { timeout: Duration::ZERO, ..Default::default() },
    ] {
        in_shop(|| {
            let scenario = Scenario::begin(limits, Verdict::Deny);
            send(&from(NEW), &receiver(5000));
            assert_eq!(scenario.record().held, None);
            assert_eq!(total(&scenario.workers).hold, HoldCounters::default());
        });
    }
}

#[test]
fn held_packets_leave_half_of_the_kernels_queue_free() {
    in_shop(|| {
        create_chains("postrouting", &[]);
        let published = shop::published(&[5000], 1);
        let workers =
            Workers::start(WorkersConfig { queue_length: 16, ..config(QUEUE) }, &published, |_| |_| {})
                .unwrap();
        queue_to(Some(QUEUE));
        let (to, web) = (receiver(5000), from(WEB));
        for source in [NEW, ALSO_NEW] {
            let unknown = from(source);
            (0..8).for_each(|_| send(&unknown, &to));
        }
        while total(&workers).hold.over_limit < 8 {
            thread::yield_now();
        }
        // If the queue were full, these would be dropped.
        for _ in 0..100 {
            send(&web, &to);
            to.recv(&mut [0; 16]).unwrap();
        }
        let HoldCounters { now, over_limit, .. } = total(&workers).hold;
        assert_eq!((now, over_limit), (8, 8));
    });
}

#[test]
fn a_flood_from_one_unknown_address_leaves_permits_for_others() {
    in_shop(|| {
        let mut scenario = Scenario::begin(HoldLimits { limit: 160, ..HoldLimits::default() }, Verdict::Deny);
        let to = receiver(5000);
        let flood = from(NEW);
        (0..500).for_each(|_| send(&flood, &to));
        scenario.wait("the flood", |hold| hold.held + hold.over_limit == 500);
        send(&from(ALSO_NEW), &to);
        let counters = scenario.wait("another packet", |hold| hold.held + hold.over_limit == 501);
        assert_eq!((counters.now, counters.over_limit), (11, 490), "a sixteenth of the limit, and one more");
        scenario.change(pod("new", "web", "node-a", ALSO_NEW));
        to.recv(&mut [0; 16]).unwrap();
    });
}

#[test]
fn stopping_workers_evaluate_held_packets_under_the_newest_snapshot() {
    in_shop(|| {
        let mut scenario = Scenario::begin(HoldLimits::default(), Verdict::Deny);
        let to = receiver(5000);
        for source in [NEW, ALSO_NEW] {
            send(&from(source), &to);
        }
        scenario.wait("both to be held", |hold| hold.now == 2);
        // The worker is not woken, so it evaluates its packets only when it stops.
        drop(
            scenario.published.publish(scenario.compiler.apply([pod("new", "web", "node-a", NEW)]).snapshot),
        );
        queue_to(None);
        let stopping = Instant::now();
        scenario.workers.stop();
        let took = stopping.elapsed();
        assert!(took < Duration::from_secs(3), "stopping took {took:?}");
        assert_eq!(arrived(&to), 1, "the packet whose pod is known passes");
        let verdicts = [(); 2].map(|()| scenario.records.recv_timeout(TIMEOUT).unwrap().decision.verdict());
        assert_eq!(verdicts, [Verdict::Allow, Verdict::Deny]);
    });
}

#[test]
fn a_connection_that_is_held_until_its_pod_is_known_succeeds() {
    in_shop(|| {
        let mut scenario = Scenario::begin(HoldLimits::default(), Verdict::Deny);
        let listener = TcpListener::bind((DB, 5000)).unwrap();
        let connected = thread::scope(|scope| {
            let client = scope.spawn(|| {
                let client =
                    socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)
                        .unwrap();
                bind(client.as_raw_fd(), &SockaddrIn::new(10, 9, 0, 9, 0)).unwrap();
                connect(client.as_raw_fd(), &SockaddrIn::new(10, 9, 0, 2, 5000)).unwrap();
                TcpStream::from(client)
            });
            scenario.wait("its first packet to be held", |hold| hold.now == 1);
            scenario.change(pod("new", "web", "node-a", NEW));
            client.join().unwrap()
        });
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(connected.local_addr().unwrap(), peer);
    });
}

#[test]
fn retransmissions_of_a_held_packet_are_not_held() {
    in_shop(|| {
        let mut scenario = Scenario::begin(HoldLimits::default(), Verdict::Deny);
        let raw = |protocol| -> OwnedFd {
            // SAFETY: `socket` returns a descriptor that has no other owner, or -1, which the assertion
            // refuses.
            #[allow(unsafe_code)]
            unsafe {
                let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
                assert!(fd >= 0, "a raw socket");
                FromRawFd::from_raw_fd(fd)
            }
        };
        let (sender, receiver) = (raw(libc::IPPROTO_RAW), raw(libc::IPPROTO_TCP));
        setsockopt(&receiver, sockopt::ReceiveTimeout, &TimeVal::new(0, 400_000)).unwrap();
        // TCP does not retransmit a packet that its own kernel still holds, but TCP on another node does, so
        // the test sends raw packets.
        let first_packet_from_port = |port: u8| {
            let header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 9, 0, 9, 10, 9, 0, 2];
            let tcp = [0x9c, port, 0x13, 0x88, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
            let to = SockaddrIn::new(10, 9, 0, 2, 0);
            sendto(sender.as_raw_fd(), &[header, tcp].concat(), &to, MsgFlags::empty()).unwrap();
        };
        [1, 1, 2, 1].into_iter().for_each(first_packet_from_port);
        let counters = scenario.wait("four packets", |hold| hold.held + hold.repeated == 4);
        assert_eq!(counters, HoldCounters { now: 2, held: 2, repeated: 2, ..Default::default() });
        scenario.change(pod("new", "web", "node-a", NEW));
        scenario.wait("their end", |hold| hold.now == 0);
        let received = std::iter::from_fn(|| {
            let mut packet = [0; 64];
            recv(receiver.as_raw_fd(), &mut packet, MsgFlags::empty()).ok().map(|_| packet)
        });
        // The replies to them are received here, too.
        let ports: Vec<u8> =
            received.filter(|packet| packet[12..16] == [10, 9, 0, 9]).map(|packet| packet[21]).collect();
        assert_eq!(ports, [1, 2], "each connection's first packet, once");
        let verdicts = [(); 2].map(|()| scenario.record().decision.verdict());
        assert_eq!(verdicts, [Verdict::Allow; 2]);
    });
}

#[test]
fn a_pod_that_becomes_known_while_its_packet_is_queued_is_not_missed() {
    in_shop(|| {
        let mut scenario = Scenario::begin(HoldLimits::default(), Verdict::Deny);
        let (to, from) = (receiver(5000), from(NEW));
        to.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for round in 0..500u32 {
            scenario.change(Change::PodGone(PodName::new("shop", "new")));
            let next = scenario.compiler.apply([pod("new", "web", "node-a", NEW)]).snapshot;
            // From almost none to some milliseconds, because the time that a thread takes to start varies.
            let pause = 1u32 << (round % 18);
            thread::scope(|scope| {
                scope.spawn(|| send(&from, &to));
                (0..pause).for_each(|_| std::hint::spin_loop());
                drop(scenario.published.publish(next));
                scenario.hold_waker.wake();
            });
            to.recv(&mut [0; 16]).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        let counters = total(&scenario.workers).hold;
        assert_eq!((counters.expired, counters.now), (0, 0), "{counters:?}");
        assert!(counters.held > 0, "no packet arrived before its pod: {counters:?}");
    });
}
