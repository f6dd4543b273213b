//! Workers evaluate real packets from real queues.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dataplane::marks::Marks;
use dataplane::queue_statistics::QueueStatistics;
use dataplane::queues::{QueueNumber, QueueRange};
use dataplane::workers::{
    Counters, DEFAULT_QUEUE_LENGTH, FamilyClass, HoldLimits, PacketClass, ProtocolClass, WorkerError,
    Workers, WorkersConfig,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use policy::{Decision, Direction, Evaluation, Outcome, Reason, Verdict};

use crate::namespace::{in_namespace, run};
use crate::rules::{create_chains, queue_to};
use crate::shop::{self, ADDRESSES, DB, OTHER, WEB};

/// How long a test waits before a packet counts as dropped.
const SILENCE: Duration = Duration::from_millis(200);
/// How long a test waits for a packet or record that must arrive.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
const QUEUES: QueueRange = QueueRange { first: QueueNumber(100), count: 2 };

pub(crate) fn config(queues: QueueRange) -> WorkersConfig {
    WorkersConfig {
        queues,
        marks: Marks::default(),
        caches_denied: false,
        queue_length: DEFAULT_QUEUE_LENGTH,
        fail_open: false,
        hold: HoldLimits::default(),
    }
}

/// Workers for [`QUEUES`], and their records.
fn workers() -> (Workers, Receiver<Evaluation>) {
    let (recorder, records) = channel();
    let workers = Workers::start(config(QUEUES), &shop::published(&[5000], QUEUES.count), |_| {
        let recorder = recorder.clone();
        move |evaluation| recorder.send(evaluation).unwrap_or(())
    });
    (workers.unwrap(), records)
}

/// The counters of all workers once they have evaluated this many packets. A packet is counted shortly after
/// its verdict.
fn after(packets: u64, workers: &Workers) -> Counters {
    for _ in 0..500 {
        if total(workers).packets >= packets {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    total(workers)
}

pub(crate) fn total(workers: &Workers) -> Counters {
    workers.counters().into_iter().sum()
}

pub(crate) fn receiver(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((DB, port)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

pub(crate) fn send(from: &str, to: &UdpSocket) {
    UdpSocket::bind((from, 0)).unwrap().send_to(b"hello", to.local_addr().unwrap()).unwrap();
}

fn arrives(from: &str, to: &UdpSocket) -> bool {
    send(from, to);
    to.recv(&mut [0; 16]).is_ok()
}

fn is_dropped(from: &str, to: &UdpSocket) -> bool {
    send(from, to);
    to.set_read_timeout(Some(SILENCE)).unwrap();
    to.recv(&mut [0; 16]).is_err()
}

#[test]
fn allowed_packets_pass_and_denied_packets_are_dropped() {
    in_namespace(&ADDRESSES, || {
        create_chains("postrouting", &[]);
        let (workers, records) = workers();
        queue_to(Some(QUEUES));
        let (open, shut) = (receiver(5000), receiver(6000));
        assert!(arrives(WEB, &open), "web may reach db on 5000");
        assert!(is_dropped(WEB, &shut), "db opens only 5000");
        assert!(is_dropped(OTHER, &open), "only web may reach db");
        assert_eq!(after(3, &workers), Counters { packets: 3, allowed: 1, denied: 2, ..Default::default() });
        assert!(workers.health().is_ok());
        let counts: Vec<_> = workers
            .packet_counts()
            .iter()
            .map(|(class, count)| {
                let PacketClass { verdict, direction, reason, protocol, family } = class;
                assert_eq!((direction, protocol), (Direction::Ingress, ProtocolClass::Udp));
                assert_eq!(family, FamilyClass::Ipv4);
                (verdict, reason.code(), count)
            })
            .collect();
        assert_eq!(counts, [(Verdict::Allow, "rule", 1), (Verdict::Deny, "default-deny", 2)]);

        let records: Vec<Evaluation> = (0..3).map(|_| records.recv_timeout(TIMEOUT).unwrap()).collect();
        let [first, second, third] = records.as_slice() else { panic!("three records: {records:?}") };
        assert_eq!(first.decision.verdict(), Verdict::Allow);
        assert!(matches!(first.decision.ingress.reason, Reason::Rule(_)), "{first:?}");
        for denied in [second, third] {
            assert_eq!(denied.decision.ingress, Outcome::deny(Reason::DefaultDeny));
            assert_eq!(denied.decision.egress, Outcome::allow(Reason::NotIsolated));
        }
        let packet = second.packet.unwrap();
        assert_eq!((packet.destination().to_string().as_str(), packet.destination_port), (DB, Some(6000)));
        assert!(
            first.elapsed < Duration::from_secs(1) && first.at.elapsed().unwrap() < Duration::from_secs(60)
        );
        workers.stop();
        assert_eq!(QueueStatistics::read().unwrap(), [], "the queues are unbound");
    });
}

#[test]
fn s43_a_packet_to_the_node_itself_is_evaluated_only_for_its_senders_egress() {
    in_namespace(&ADDRESSES, || {
        create_chains("input", &[]);
        let (workers, records) = workers();
        queue_to(Some(QUEUES));
        assert!(arrives(OTHER, &receiver(6000)), "nothing isolates the egress of other");
        assert_eq!(records.recv_timeout(TIMEOUT).unwrap().decision.ingress.reason, Reason::NotAPod);
        workers.stop();
    });
}

#[test]
fn a_foreign_mark_is_kept_beside_the_verdicts_bit() {
    in_namespace(&ADDRESSES, || {
        create_chains("postrouting", &["meta mark 0x01004000 counter"]);
        let (workers, _records) = workers();
        queue_to(Some(QUEUES));
        let to = receiver(5000);
        let from = UdpSocket::bind((WEB, 0)).unwrap();
        setsockopt(&from, sockopt::Mark, &0x4000).unwrap();
        from.send_to(b"hello", to.local_addr().unwrap()).unwrap();
        to.recv(&mut [0; 16]).unwrap();
        let rules = run("nft list chain inet t after");
        assert!(rules.contains("counter packets 1 "), "{rules}");
        workers.stop();
    });
}

#[test]
fn packets_that_cant_be_parsed_are_dropped_and_counted() {
    in_namespace(&ADDRESSES, || {
        create_chains("postrouting", &[]);
        let (workers, records) = workers();
        queue_to(Some(QUEUES));
        let raw = |protocol: i32| -> OwnedFd {
            // SAFETY: `socket` returns a descriptor that has no other owner, or -1, which the assertion
            // refuses.
            #[allow(unsafe_code)]
            unsafe {
                let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
                assert!(fd >= 0, "a raw socket");
                std::os::fd::FromRawFd::from_raw_fd(fd)
            }
        };
        let (sender, tcp) = (raw(libc::IPPROTO_RAW), raw(libc::IPPROTO_TCP));
        setsockopt(&tcp, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(0, 200_000)).unwrap();
        let send = |payload: &[u8]| {
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
            packet.extend_from_slice(payload);
            sendto(sender.as_raw_fd(), &packet, &SockaddrIn::new(10, 9, 0, 2, 0), MsgFlags::empty()).unwrap();
        };
        // Four bytes of TCP, and a TCP header whose data offset is 4 bytes. Both have the port that is open.
        send(&[0x9c, 0x40, 0x13, 0x88]);
        send(&[0x9c, 0x40, 0x13, 0x88, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 2, 0, 0, 0, 0, 0, 0]);
        assert!(
            recv(tcp.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).is_err(),
            "an unparsable packet arrived"
        );
        assert_eq!(
            after(2, &workers),
            Counters { packets: 2, denied: 2, unparsable: 2, ..Default::default() }
        );
        for _ in 0..2 {
            let evaluation = records.recv_timeout(TIMEOUT).unwrap();
            assert_eq!((evaluation.packet, evaluation.decision), (None, Decision::UNPARSABLE));
        }
        assert!(workers.health().is_ok());
        workers.stop();
    });
}

#[test]
fn large_packets_are_queued_unsegmented() {
    const SIZE: usize = 4 << 20;
    in_namespace(&ADDRESSES, || {
        run("ip link set lo mtu 1500");
        create_chains("postrouting", &[]);
        let (workers, _records) = workers();
        let listener = TcpListener::bind((DB, 5000)).unwrap();
        let from =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).unwrap();
        nix::sys::socket::bind(from.as_raw_fd(), &SockaddrIn::new(10, 9, 0, 1, 0)).unwrap();
        nix::sys::socket::connect(from.as_raw_fd(), &SockaddrIn::new(10, 9, 0, 2, 5000)).unwrap();
        let mut from = TcpStream::from(from);
        let (mut to, _) = listener.accept().unwrap();
        queue_to(Some(QUEUES));
        let received = thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut bytes = Vec::new();
                to.read_to_end(&mut bytes).map(|_| bytes)
            });
            from.write_all(&vec![0x5a; SIZE]).unwrap();
            drop(from);
            reader.join().unwrap().unwrap()
        });
        assert!(received.len() == SIZE && received.iter().all(|byte| *byte == 0x5a));
        // Replies go from db to web, whose ingress is not isolated. In segments of 1,448 bytes there would be
        // 2,897 packets with data.
        let Counters { packets, denied, .. } = total(&workers);
        assert!(denied == 0 && packets < 2_000, "{packets} packets, {denied} denied");
        workers.stop();
    });
}

#[test]
fn a_burst_waits_in_the_queue_and_no_packet_is_lost_when_the_workers_stop() {
    const BURST: u32 = 4_000;
    in_namespace(&ADDRESSES, || {
        create_chains("postrouting", &[]);
        let one = QueueRange { first: QueueNumber(100), count: 1 };
        // The recorder of the first packet blocks until the test opens the gate, and so blocks its worker.
        let gate = Arc::new(Mutex::new(()));
        let workers = Workers::start(config(one), &shop::published(&[5000], 1), |_| {
            let gate = Arc::clone(&gate);
            move |_| drop(gate.lock())
        })
        .unwrap();
        let shut = gate.lock().unwrap();
        queue_to(Some(one));
        let to = receiver(5000);
        setsockopt(&to, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        let from = UdpSocket::bind((WEB, 0)).unwrap();
        // Packets in a queue are charged to the sender's buffer, so that the sender would block.
        setsockopt(&from, sockopt::SndBufForce, &(64 << 20)).unwrap();
        for number in 0..BURST {
            from.send_to(&number.to_ne_bytes(), to.local_addr().unwrap()).unwrap();
        }
        let statistics = QueueStatistics::of(QueueNumber(100)).unwrap().unwrap();
        assert_eq!((statistics.dropped_full, statistics.dropped_by_socket), (0, 0), "{statistics:?}");
        assert!(statistics.waiting >= BURST - 1, "{statistics:?}");
        assert_eq!(statistics.copy_range, 128);
        queue_to(None);
        thread::scope(|scope| {
            let stopping = scope.spawn(|| workers.stop());
            thread::sleep(Duration::from_millis(20));
            drop(shut);
            stopping.join().unwrap();
        });
        for number in 0..BURST {
            let mut bytes = [0; 4];
            to.recv(&mut bytes).unwrap_or_else(|error| panic!("packet {number} of {BURST}: {error}"));
            assert_eq!(u32::from_ne_bytes(bytes), number);
        }
    });
}

#[test]
fn a_full_queue_drops_and_counts_packets_unless_it_fails_open() {
    in_namespace(&ADDRESSES, || {
        create_chains("postrouting", &[]);
        for fail_open in [false, true] {
            let one = QueueRange { first: QueueNumber(100), count: 1 };
            let gate = Arc::new(Mutex::new(()));
            let config = WorkersConfig { queue_length: 8, fail_open, ..config(one) };
            let workers = Workers::start(config, &shop::published(&[5000], 1), |_| {
                let gate = Arc::clone(&gate);
                move |_| drop(gate.lock())
            })
            .unwrap();
            let shut = gate.lock().unwrap();
            queue_to(Some(one));
            let to = receiver(5000);
            let from = UdpSocket::bind((WEB, 0)).unwrap();
            for _ in 0..20 {
                from.send_to(b"hello", to.local_addr().unwrap()).unwrap();
            }
            let dropped = QueueStatistics::of(QueueNumber(100)).unwrap().unwrap().dropped_full;
            queue_to(None);
            drop(shut);
            workers.stop();
            to.set_read_timeout(Some(SILENCE)).unwrap();
            let arrived = std::iter::from_fn(|| to.recv(&mut [0; 16]).ok()).count();
            assert_eq!(dropped > 0, !fail_open, "{dropped} dropped");
            assert_eq!(arrived, 20 - dropped as usize, "fail-open: {fail_open}");
        }
    });
}

#[test]
fn workers_that_wait_for_packets_stop_at_once() {
    in_namespace(&ADDRESSES, || {
        let (workers, _records) = workers();
        let started = std::time::Instant::now();
        workers.stop();
        assert!(started.elapsed() < Duration::from_secs(10), "the workers were not woken");
        assert_eq!(QueueStatistics::read().unwrap(), []);
    });
}

#[test]
fn a_queue_that_is_already_bound_is_reported_with_its_owner() {
    in_namespace(&ADDRESSES, || {
        let (first, _records) = workers();
        let second = Workers::start(
            config(QueueRange { first: QueueNumber(99), count: 2 }),
            &shop::published(&[], 2),
            |_| |_| {},
        );
        let error = second.unwrap_err();
        assert!(matches!(error, WorkerError::Taken { queue: QueueNumber(100), .. }), "{error:?}");
        let sentence = error.to_string();
        let pid = std::process::id();
        assert!(sentence.starts_with(&format!("NFQUEUE 100 is taken by process {pid} (")), "{sentence}");
        let left: Vec<QueueNumber> =
            QueueStatistics::read().unwrap().iter().map(|queue| queue.number).collect();
        assert_eq!(
            left,
            [100, 101].map(QueueNumber),
            "the second has unbound its queues, and the first still has its own"
        );
        assert!(first.health().is_ok());
        first.stop();
    });
}

#[test]
fn without_permission_the_error_names_the_missing_capability() {
    in_namespace(&ADDRESSES, || {
        // Drops the effective capabilities of this thread and of the threads that it starts.
        // SAFETY: the call takes three numbers and accesses no memory of this process.
        #[allow(unsafe_code)]
        let answer = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
        assert_eq!(answer, 0);
        let error = Workers::start(config(QUEUES), &shop::published(&[], 2), |_| |_| {}).unwrap_err();
        assert!(matches!(error, WorkerError::NotPermitted { queue: QueueNumber(100) }), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

#[test]
fn a_worker_that_panics_is_reported() {
    in_namespace(&ADDRESSES, || {
        create_chains("postrouting", &[]);
        let one = QueueRange { first: QueueNumber(100), count: 1 };
        let workers = Workers::start(config(one), &shop::published(&[5000], 1), |_| {
            |_| panic!("a recorder panics, as this test intends")
        })
        .unwrap();
        queue_to(Some(one));
        assert!(arrives(WEB, &receiver(5000)), "the verdict comes before the record");
        let died = (0..200).any(|_| {
            thread::sleep(Duration::from_millis(10));
            workers.health().is_err()
        });
        assert!(
            died && matches!(workers.health(), Err(WorkerError::Panicked { queue: QueueNumber(100) })),
            "{:?}",
            workers.health()
        );
    });
}
