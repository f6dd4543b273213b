//! The verdict cache: real packets, real workers and the whole table. The policy lets pod `a` (10.244.1.9)
//! reach UDP and TCP ports 53 and 7000 of all addresses, and every port of 192.0.2.3, and nothing else.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dataplane::cache_log::{CacheLog, CacheLogError, History, LogEvent};
use dataplane::marks::Marks;
use dataplane::queue_statistics::QueueStatistics;
use dataplane::queues::QueueRange;
use dataplane::table::{CacheCounters, FailMode, OpenAddresses, Table, TableConfig, VerdictCacheConfig};
use dataplane::workers::{Counters, DEFAULT_QUEUE_LENGTH, HoldLimits, Workers, WorkersConfig};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket as socket_of,
};
use policy::{
    Action, Affected, Change, Compiler, IpBlock, Labels, Namespace, NamespaceMatch, Node, Peer, Pod, PodName,
    PolicyName, PolicySpec, PortMatch, PortNumbers, Protocol, Published, Reason, RuleSpec, Scope, Selector,
    Snapshot, Subject, Tier, Verdict,
};

use crate::namespace::{in_namespace, list_set, run};
use crate::packets::{POD, POD_6, REMOTE, REMOTE_6, World, counted, other, received, socket};
use crate::{RANGE_A, addresses};

/// Another address of the remote host. The pod may reach all its ports.
pub(crate) const TRUSTED: &str = "192.0.2.3";
pub(crate) const GROUP: u16 = 100;
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn policy(ports: &[u16]) -> Change {
    let numbers = |port: &u16| {
        [Protocol::TCP, Protocol::UDP]
            .map(|protocol| PortMatch { protocol: Some(protocol), numbers: PortNumbers::Range(*port, *port) })
    };
    let accept = |peers, ports| RuleSpec { name: None, action: Action::Accept, peers, ports };
    let trusted = Peer::Block(IpBlock {
        cidr: format!("{TRUSTED}/32").parse().expect("a CIDR"),
        except: Default::default(),
    });
    Change::Policy(Arc::new(PolicySpec {
        name: PolicyName::network_policy("shop", "a"),
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject { namespaces: NamespaceMatch::Named("shop".into()), pods: Selector::everything() },
        isolates_ingress: false,
        isolates_egress: true,
        ingress: Vec::new(),
        egress: vec![
            accept(None, Some(ports.iter().flat_map(numbers).collect())),
            accept(Some(vec![trusted]), None),
        ],
        omitted: None,
    }))
}

/// The node, with an agent's workers, table and log listener.
pub(crate) struct Agent {
    pub world: World,
    compiler: Compiler,
    pub snapshot: Arc<Snapshot>,
    published: Arc<Published>,
    pub workers: Workers,
    pub table: Table,
    history: Arc<History>,
    log: Option<CacheLog>,
    heard: Receiver<LogEvent>,
}

impl Agent {
    pub(crate) fn new(time: Duration) -> Self {
        Self::holding(time, HoldLimits::default())
    }

    /// Packets of unknown pods are held within these limits.
    pub(crate) fn holding(time: Duration, hold: HoldLimits) -> Self {
        let world = World::new();
        world.remote.run(|| run("ip", &["addr", "add", &format!("{TRUSTED}/24"), "dev", "eth0"]));
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut compiler = Compiler::new(Scope::Node("node-a".into()));
        let snapshot = compiler
            .apply([
                Change::Node(Node {
                    name: "node-a".into(),
                    labels: Labels::none(),
                    addresses: vec![address("192.0.2.1")],
                    has_all_addresses: false,
                    reported_addresses: Vec::new(),
                    pod_cidrs: ["10.244.1.0/24", "fd00:10:244:1::/64"]
                        .map(|c| c.parse().expect("a CIDR"))
                        .into(),
                }),
                Change::Namespace(Namespace { name: "shop".into(), labels: Labels::none() }),
                Change::Pod(Pod {
                    name: PodName::new("shop", "a"),
                    labels: Labels::none(),
                    addresses: vec![address(POD), address(POD_6)],
                    ports: Vec::new(),
                    node: Some("node-a".into()),
                    host_network: false,
                    reported: 0,
                    created: 0,
                    uid: Default::default(),
                    workload: None,
                }),
                policy(&[53, 7000]),
            ])
            .snapshot;
        let published = Published::new(Arc::clone(&snapshot), usize::from(RANGE_A.count));
        let workers = start(RANGE_A, &published, hold);
        let history = Arc::<History>::default();
        history.publish(&snapshot, Instant::now());
        let (report, heard) = channel();
        let log = CacheLog::start(GROUP, Arc::clone(&history), move |event| drop(report.send(event)));
        let config = TableConfig {
            marks: Marks::default(),
            fail_mode: FailMode::Closed,
            prerouting_dns: true,
            holder: "node-a pid 1".to_owned(),
            pod_cidrs: snapshot.pod_cidrs().to_vec(),
            open: OpenAddresses::default(),
            verdict_cache: Some(VerdictCacheConfig { ttl: time, log_group: Some(GROUP) }),
            queue_quota: None,
            generation: snapshot.generation(),
            origin: None,
            trust_replies: false,
        };
        let table = Table::install(config, RANGE_A).expect("the table can be installed");
        let log = Some(log.expect("the group is free"));
        Self { world, compiler, snapshot, published, workers, table, history, log, heard }
    }

    /// Caches verdicts for longer than any test runs.
    pub(crate) fn with_long_ttl() -> Self {
        Self::new(Duration::from_secs(3600))
    }

    /// Applies another policy, up to the sweep, as a change that may affect any pod.
    pub(crate) fn change(&mut self, change: Change) {
        self.put_in_force(change, &Affected::All);
    }

    /// Applies another policy as a change that affects only the pods at these addresses.
    pub(crate) fn change_affecting(&mut self, change: Change, affected: &[&str]) {
        self.put_in_force(change, &Affected::any_peer(addresses(affected)));
    }

    fn put_in_force(&mut self, change: Change, affected: &Affected) {
        self.snapshot = self.compiler.apply([change]).snapshot;
        self.history.publish(&self.snapshot, Instant::now());
        let mut grace = self.published.publish(Arc::clone(&self.snapshot));
        while !grace.over() {
            sleep(Duration::from_millis(1));
        }
        let cidrs = self.snapshot.pod_cidrs();
        self.table
            .update(cidrs, &OpenAddresses::default(), self.snapshot.generation(), affected)
            .expect("update");
    }

    /// Whether a datagram of a new connection arrives.
    pub(crate) fn reaches(&self, (to, port): (&'static str, u16)) -> bool {
        let from = if to.contains(':') { POD_6 } else { POD };
        let server = self.world.remote.run(move || socket(to, port));
        self.world.pod.run(move || socket(from, 0).send_to(b"x", (to, port)).expect("sent"));
        received(&server)
    }

    /// Packets that workers have allowed and denied, and connections that passed by the cache, once the
    /// expected numbers are reached.
    fn numbers(&self, expected: (u64, u64, u64)) -> (u64, u64, u64) {
        let now = || {
            let sum = |number: fn(&Counters) -> u64| self.workers.counters().iter().map(number).sum::<u64>();
            let cached = CacheCounters::open().and_then(|mut all| all.count()).expect("the counter is there");
            (sum(|one| one.allowed), sum(|one| one.denied), cached)
        };
        let deadline = Instant::now() + TIMEOUT;
        // A packet is counted shortly after its verdict.
        while now() != expected && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
        now()
    }

    /// The next logged connection.
    pub(crate) fn heard(&self) -> LogEvent {
        self.heard.recv_timeout(TIMEOUT).expect("a connection is logged")
    }
}

fn start(queues: QueueRange, published: &Arc<Published>, hold: HoldLimits) -> Workers {
    let config = WorkersConfig {
        queues,
        marks: Marks::default(),
        caches_denied: true,
        queue_length: DEFAULT_QUEUE_LENGTH,
        fail_open: false,
        hold,
    };
    Workers::start(config, published, |_| |_| {}).expect("the queues are free")
}

#[track_caller]
pub(crate) fn expect(agent: &Agent, allowed: u64, denied: u64, cached: u64) {
    assert_eq!(agent.numbers((allowed, denied, cached)), (allowed, denied, cached));
}

#[test]
fn the_next_connections_of_an_allowed_flow_pass_without_a_verdict_in_both_families_and_in_dns() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        for (number, to) in
            (1..).zip([(REMOTE, 7000), (REMOTE_6, 7000), (REMOTE, 53), (REMOTE_6, 53), (TRUSTED, 9)])
        {
            for _ in 0..3 {
                assert!(agent.reaches(to), "{to:?}");
            }
            expect(&agent, number, 0, 2 * number);
        }
    });
}

#[test]
fn another_port_or_protocol_or_address_is_another_flow() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        assert!(agent.reaches((REMOTE, 7000)));
        assert!(!agent.reaches((REMOTE, 7001)) && !agent.reaches((REMOTE, 7001)));
        expect(&agent, 1, 1, 0);
        assert!(agent.reaches((TRUSTED, 7001)));
        assert!(!agent.reaches((REMOTE, 7001)));
        expect(&agent, 2, 1, 0);
        // TCP to the same port: no program listens there, and the error says so.
        let refused =
            agent.world.pod.run(|| std::net::TcpStream::connect((REMOTE, 7000)).expect_err("refused"));
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        expect(&agent, 3, 1, 0);
        let set = run("nft", &["list", "set", "inet", "kube-verdict", "allowed4"]);
        let flows = set.matches("expires").count();
        assert_eq!(flows, 3, "{set}");
    });
}

#[test]
fn what_has_no_ports_is_evaluated_every_time() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        for number in 1..=3 {
            agent.world.pod.run(move || echo_request(number as u8));
            expect(&agent, number, 0, 0);
        }
    });
}

/// Sends an ICMP echo request to the trusted address.
pub(crate) fn echo_request(identifier: u8) {
    echo_request_to([192, 0, 2, 3], identifier);
}

/// Sends an ICMP echo request.
pub(crate) fn echo_request_to([a, b, c, d]: [u8; 4], identifier: u8) {
    let socket = socket_of(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
        .expect("a raw socket");
    // Type 8, code 0, checksum, identifier, number 0: the sum of all words is 0xffff.
    let request = [8, 0, !8, !identifier, 0, identifier, 0, 0];
    sendto(socket.as_raw_fd(), &request, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).expect("sent");
}

#[test]
fn a_change_that_may_affect_any_pod_invalidates_all_flows_at_once() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)));
        expect(&agent, 1, 0, 1);
        agent.change(policy(&[7001]));
        assert!(!agent.reaches((REMOTE, 7000)));
        assert!(agent.reaches((REMOTE, 7001)));
        expect(&agent, 2, 1, 1);
        // Reverted: flows cached under the first policy are not valid under the third, which is equal to it.
        agent.change(policy(&[7000]));
        assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)));
        expect(&agent, 3, 1, 2);
        agent.table.invalidate_cache().expect("the table is ours");
        assert!(agent.reaches((REMOTE, 7000)));
        expect(&agent, 4, 1, 2);
    });
}

#[test]
fn a_change_invalidates_the_flows_of_affected_pods_and_no_others() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        for to in [(REMOTE, 7000), (REMOTE_6, 7000), (TRUSTED, 9)] {
            assert!(agent.reaches(to) && agent.reaches(to));
        }
        expect(&agent, 3, 0, 3);
        // A peer changes, whichever end of the connection it is.
        agent.change_affecting(policy(&[7000, 7001]), &[REMOTE, REMOTE_6]);
        assert!(agent.reaches((TRUSTED, 9)));
        expect(&agent, 3, 0, 4);
        for to in [(REMOTE, 7000), (REMOTE_6, 7000)] {
            assert!(agent.reaches(to) && agent.reaches(to));
        }
        expect(&agent, 5, 0, 6);
        agent.table.end_revalidation().expect("the table is ours");
        assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((TRUSTED, 9)));
        expect(&agent, 5, 0, 8);
        // The next change affects no pod: flows of recently changed pods are evaluated once more, and the
        // others are not.
        agent.change_affecting(policy(&[7000, 7002]), &[]);
        assert!(
            agent.reaches((TRUSTED, 9)) && agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000))
        );
        expect(&agent, 6, 0, 10);
        // The pod itself changes.
        agent.change_affecting(policy(&[7001]), &[POD]);
        assert!(!agent.reaches((REMOTE, 7000)) && !agent.reaches((REMOTE, 7000)));
        assert!(agent.reaches((TRUSTED, 9)) && agent.reaches((TRUSTED, 9)));
        expect(&agent, 7, 1, 11);
    });
}

#[test]
fn what_was_cached_before_a_change_is_never_valid_again() {
    in_namespace(|| {
        let mut agent = Agent::new(Duration::from_secs(1));
        for _ in 0..2 {
            // Cached up to the moment of the change.
            assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)));
            agent.change_affecting(policy(&[7001]), &[POD]);
            assert!(!agent.reaches((REMOTE, 7000)));
            // Changes that affect no pod: while the flow would still be cached, and when the pod no longer
            // counts as changed.
            agent.change_affecting(policy(&[7001, 7002]), &[]);
            assert!(!agent.reaches((REMOTE, 7000)));
            sleep(Duration::from_millis(2100));
            agent.change_affecting(policy(&[7001]), &[]);
            let changed = list_set("changed4");
            assert!(changed.is_empty(), "{changed:?}");
            assert!(!agent.reaches((REMOTE, 7000)));
            assert!(agent.reaches((REMOTE, 7001)));
            agent.change_affecting(policy(&[7000]), &[POD]);
        }
    });
}

#[test]
fn a_busy_flow_is_still_evaluated_again_after_its_ttl() {
    in_namespace(|| {
        let agent = Agent::new(Duration::from_secs(1));
        let started = Instant::now();
        assert!(agent.reaches((REMOTE, 7000)));
        while started.elapsed() < Duration::from_millis(2500) {
            assert!(agent.reaches((REMOTE, 7000)));
            sleep(Duration::from_millis(20));
        }
        let allowed: u64 = agent.workers.counters().iter().map(|one| one.allowed).sum();
        assert!((3..=4).contains(&allowed), "{allowed} verdicts in two and a half seconds");
    });
}

#[test]
fn foreign_marks_stay_and_the_connection_is_marked() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        other(
            "chain marks { type filter hook prerouting priority -140; \
               meta mark set 0x00004000; ct mark set 0x00000040; } \
             chain passed { type filter hook postrouting priority 97; \
               udp dport 7000 meta mark 0x00004000 ct mark 0x10000040 counter; }",
        );
        assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)));
        expect(&agent, 1, 0, 1);
        assert_eq!(counted("passed"), 2);
    });
}

#[test]
fn a_full_cache_stores_no_more_and_does_no_harm() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        let mut text = String::new();
        for thousand in 0..33 {
            text += "add element inet kube-verdict allowed4 {";
            for number in 0..1000.min(32_767 - thousand * 1000) {
                let address = std::net::Ipv4Addr::from_bits(0x0b00_0000 + thousand * 1000 + number);
                text += &format!(" {address} . 10.1.1.1 . 6 . 80 . 0x1 timeout 1h,");
            }
            text.pop();
            text += "}\n";
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        run("nft", &["-f", file.path().to_str().expect("UTF-8")]);
        assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)));
        assert!(!agent.reaches((REMOTE, 7001)));
        expect(&agent, 2, 1, 0);
        // Later packets of a connection that could not be cached are not queued, and their packet mark is
        // restored.
        assert!(agent.reaches((REMOTE_6, 7000)) && agent.reaches((REMOTE_6, 7000)));
        expect(&agent, 3, 1, 1);
    });
}

#[test]
fn each_cached_connection_is_logged_with_rule_and_generation() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let first = agent.snapshot.generation();
        assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)));
        let LogEvent::Connection(evaluation) = agent.heard() else { panic!("lost") };
        assert!(evaluation.cached && evaluation.decision.verdict() == Verdict::Allow);
        assert_eq!(evaluation.snapshot.generation(), first);
        let packet = evaluation.packet.expect("a packet");
        assert_eq!(
            (packet.source().to_string(), packet.destination().to_string()),
            (POD.into(), REMOTE.into())
        );
        assert_eq!((packet.protocol, packet.destination_port), (Protocol::UDP, Some(7000)));
        assert!(packet.source_port.is_some_and(|port| port != 0));
        let Reason::Rule(rule) = evaluation.decision.egress.reason else { panic!("{evaluation:?}") };
        assert_eq!(evaluation.snapshot.rule_name(rule).map(|name| name.index), Some(0));

        agent.change(policy(&[7000, 7001]));
        assert!(agent.reaches((REMOTE_6, 7001)) && agent.reaches((REMOTE_6, 7001)));
        let LogEvent::Connection(evaluation) = agent.heard() else { panic!("lost") };
        assert_eq!(evaluation.snapshot.generation(), agent.snapshot.generation());
        assert_eq!(evaluation.packet.map(|packet| packet.destination().to_string()), Some(REMOTE_6.into()));
        // A change that affects no pod: the flow is still cached, and recorded under the snapshot that is in
        // force now.
        agent.change_affecting(policy(&[7000, 7001, 7002]), &[]);
        assert!(agent.reaches((REMOTE_6, 7001)));
        let LogEvent::Connection(evaluation) = agent.heard() else { panic!("lost") };
        assert_eq!(evaluation.snapshot.generation(), agent.snapshot.generation());
        // Dropping the listener delivers the last ones.
        assert!(agent.reaches((REMOTE_6, 7001)));
        agent.log = None;
        assert!(matches!(agent.heard.try_recv(), Ok(LogEvent::Connection(_))));
        assert!(agent.heard.try_recv().is_err(), "nothing twice");
    });
}

#[test]
fn a_flow_cached_after_the_next_snapshot_was_published_names_the_snapshot_that_allowed_it() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        // Published, but not in the rules yet: a worker allows what the older snapshot would deny.
        let next = agent.compiler.apply([policy(&[7001])]).snapshot;
        agent.history.publish(&next, Instant::now());
        drop(agent.published.publish(Arc::clone(&next)));
        assert!(agent.reaches((REMOTE, 7001)) && agent.reaches((REMOTE, 7001)));
        let LogEvent::Connection(evaluation) = agent.heard() else { panic!("lost") };
        assert_eq!(evaluation.snapshot.generation(), next.generation());
    });
}

#[test]
fn a_burst_is_logged_completely() {
    in_namespace(|| {
        const BURST: u16 = 3_000;
        let agent = Agent::with_long_ttl();
        assert!(agent.reaches((REMOTE, 7000)));
        let _server = agent.world.remote.run(|| socket(REMOTE, 7000));
        agent.world.pod.run(|| {
            // Each from a new port: a port that was used before belongs to a known connection.
            for number in 0..BURST {
                socket(POD, 10_000 + number).send_to(b"x", (REMOTE, 7000)).expect("sent");
            }
        });
        expect(&agent, 1, 0, BURST.into());
        for number in 0..BURST {
            assert!(matches!(agent.heard(), LogEvent::Connection(_)), "number {number}");
        }
    });
}

#[test]
fn a_taken_log_group_is_reported_with_its_owner() {
    in_namespace(|| {
        let start = || CacheLog::start(GROUP, Arc::default(), |_| {});
        let _first = start().expect("the group is free");
        let error = start().expect_err("it is taken");
        assert!(matches!(error, CacheLogError::Taken { group: GROUP, .. }), "{error:?}");
        let pid = std::process::id();
        assert!(
            error.to_string().starts_with(&format!("NFLOG group 100 is taken by process {pid} (")),
            "{error}"
        );
    });
}

#[test]
fn without_a_log_listener_cached_connections_pass_and_queues_are_unaffected() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        assert!(agent.reaches((REMOTE, 7000)));
        agent.log = None;
        assert!(agent.reaches((REMOTE, 7000)));
        expect(&agent, 1, 0, 1);
        let dropped: u32 = QueueStatistics::read()
            .expect("the kernel reports its queues")
            .iter()
            .map(|queue| queue.dropped_full + queue.dropped_by_socket)
            .sum();
        assert_eq!(dropped, 0);
    });
}
