//! Denied flows: real packets, real workers and the whole table, as in `verdict_cache`.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dataplane::cache_log::LogEvent;
use dataplane::drops::{DropOrigin, DropReason};
use dataplane::table::{CacheCounters, OpenAddresses, QueueQuota, Table, TableConfig, VerdictCacheConfig};
use dataplane::workers::{Counters, HoldLimits};
use policy::{Protocol, Verdict};

use crate::namespace::{in_namespace, list_set, run};
use crate::packets::{NODE, POD, POD_6, REMOTE, REMOTE_6, closed, other, send_tcp_ack, socket};
use crate::verdict_cache::{Agent, GROUP, TRUSTED, echo_request_to, policy};
use crate::{RANGE_A, RANGE_B};

const NODE_6: &str = "fd00:10:244:1::1";
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends one datagram of a new flow from the pod, from a new source port.
fn send(agent: &Agent, to: &'static str, port: u16) {
    let from = if to.contains(':') { POD_6 } else { POD };
    agent.world.pod.run(move || socket(from, 0).send_to(b"x", (to, port)).expect("sent"));
}

/// Sends a datagram to each of these ports of the remote host.
fn send_to_each(agent: &Agent, ports: impl IntoIterator<Item = u16> + Send + 'static) {
    agent.world.pod.run(move || {
        let socket = socket(POD, 0);
        for port in ports {
            socket.send_to(b"x", (REMOTE, port)).expect("sent");
        }
    });
}

fn evaluated(agent: &Agent) -> u64 {
    agent.workers.counters().iter().map(|one: &Counters| one.denied).sum()
}

/// Packets that workers have denied, and packets of denied flows that the kernel has dropped, once the
/// expected numbers are reached.
#[track_caller]
fn expect(agent: &Agent, denied: u64, dropped: u64) {
    let now = || {
        let dropped = CacheCounters::open().and_then(|mut all| all.denied());
        (evaluated(agent), dropped.expect("the counter is there"))
    };
    let deadline = Instant::now() + TIMEOUT;
    while now() != (denied, dropped) && Instant::now() < deadline {
        sleep(Duration::from_millis(2));
    }
    assert_eq!(now(), (denied, dropped));
}

/// The key of the pod's count of packets dropped for this reason.
fn of_pod(reason: DropReason) -> (DropOrigin, DropReason) {
    (DropOrigin::Source(POD.parse::<IpAddr>().expect("an address")), reason)
}

fn config(agent: &Agent, queue_quota: Option<QueueQuota>) -> TableConfig {
    TableConfig {
        pod_cidrs: agent.snapshot.pod_cidrs().to_vec(),
        open: OpenAddresses::default(),
        verdict_cache: Some(VerdictCacheConfig { ttl: Duration::from_secs(3600), log_group: Some(GROUP) }),
        generation: agent.snapshot.generation(),
        queue_quota,
        ..closed()
    }
}

#[test]
fn the_next_packets_of_a_denied_flow_are_dropped_without_a_verdict_from_any_source_port() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        let flows = [(REMOTE, 9), (REMOTE_6, 9), (REMOTE, 10), (NODE, 9), (NODE_6, 9)];
        for (number, (to, port)) in (1..).zip(flows) {
            send(&agent, to, port);
            expect(&agent, number, 2 * (number - 1));
            send(&agent, to, port);
            send(&agent, to, port);
            expect(&agent, number, 2 * number);
        }
        // Allowed packets are not among them.
        assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((TRUSTED, 9)));
        expect(&agent, 5, 10);
    });
}

#[test]
fn dns_and_what_has_no_ports_are_flows_as_well() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        agent.change(policy(&[7000]));
        send(&agent, REMOTE, 53);
        expect(&agent, 1, 0);
        send(&agent, REMOTE, 53);
        expect(&agent, 1, 1);
        let ping = |identifier| agent.world.pod.run(move || echo_request_to([192, 0, 2, 2], identifier));
        ping(1);
        expect(&agent, 2, 1);
        ping(2);
        expect(&agent, 2, 2);
        // A flow to port 0 is one of a protocol with ports, and denies nothing else.
        agent.world.pod.run(|| send_tcp_ack(POD, 1_000, REMOTE, 0));
        expect(&agent, 3, 2);
        agent.world.pod.run(|| send_tcp_ack(POD, 1_000, REMOTE, 7000));
        agent.world.pod.run(|| send_tcp_ack(POD, 1_000, REMOTE, 0));
        expect(&agent, 3, 3);
    });
}

#[test]
fn a_packet_in_mid_stream_belongs_to_the_flow_of_either_orientation() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let ack = |agent: &Agent, source, port| {
            agent.world.pod.run(move || send_tcp_ack(POD, source, REMOTE, port))
        };
        // Denied as the pod's own connection: packets from new source ports belong to the same flow.
        ack(&agent, 1_000, 9);
        expect(&agent, 1, 0);
        ack(&agent, 1_001, 9);
        expect(&agent, 1, 1);
        // Allowed as the pod's own connection, and denied as the remote host's: each source port is a flow,
        // to any port.
        agent.change(isolating_ingress(policy(&[53, 7000])));
        ack(&agent, 1_000, 7000);
        expect(&agent, 2, 1);
        ack(&agent, 1_000, 7000);
        ack(&agent, 1_000, 53);
        expect(&agent, 2, 3);
        ack(&agent, 1_001, 7000);
        expect(&agent, 3, 3);
        // A connection that the pod opens still passes.
        assert!(agent.reaches((REMOTE, 7000)));
        expect(&agent, 3, 3);
    });
}

/// The same policy, which isolates the pod's ingress as well.
fn isolating_ingress(change: policy::Change) -> policy::Change {
    let policy::Change::Policy(spec) = change else { panic!("a policy") };
    let spec = policy::PolicySpec { isolates_ingress: true, ..(*spec).clone() };
    policy::Change::Policy(spec.into())
}

#[test]
fn what_a_change_allows_passes_at_once_whichever_pods_it_affects() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let change = |agent: &mut Agent, ports: &[u16], affected: Option<&[&str]>| match affected {
            None => agent.change(policy(ports)),
            Some(affected) => agent.change_affecting(policy(ports), affected),
        };
        let mut number = 0;
        for affected in [None, Some(&[POD, POD_6][..]), Some(&[REMOTE, REMOTE_6][..])] {
            for to in [REMOTE, REMOTE_6] {
                send(&agent, to, 7001);
                expect(&agent, number + 1, number);
                send(&agent, to, 7001);
                number += 1;
                expect(&agent, number, number);
            }
            change(&mut agent, &[7000, 7001], affected);
            assert!(agent.reaches((REMOTE, 7001)) && agent.reaches((REMOTE_6, 7001)), "{affected:?}");
            change(&mut agent, &[7000], affected);
        }
        expect(&agent, number, number);
    });
}

#[test]
fn a_flow_denied_before_a_change_is_never_denied_from_the_cache_again() {
    in_namespace(|| {
        let mut agent = Agent::new(Duration::from_secs(1));
        send(&agent, REMOTE, 7001);
        expect(&agent, 1, 0);
        send(&agent, REMOTE, 7001);
        expect(&agent, 1, 1);
        agent.change_affecting(policy(&[7000, 7001]), &[POD]);
        assert!(agent.reaches((REMOTE, 7001)));
        // Changes that affect no pod: while the flow would still be cached, and when the pod no longer counts
        // as changed.
        for pause in [0, 2_100] {
            sleep(Duration::from_millis(pause));
            agent.change_affecting(policy(&[7000, 7001]), &[]);
            assert!(agent.reaches((REMOTE, 7001)));
        }
        expect(&agent, 1, 1);
    });
}

#[test]
fn a_new_table_has_no_denied_flows_and_an_agent_that_ends_leaves_none() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        send(&agent, REMOTE, 9);
        expect(&agent, 1, 0);
        send(&agent, REMOTE, 9);
        expect(&agent, 1, 1);
        agent.table.invalidate_cache().expect("the table is ours");
        for number in 2..4 {
            send(&agent, REMOTE, 9);
            expect(&agent, number, 1);
        }
        // As after a restart.
        Table::install(config(&agent, None), RANGE_A).expect("the table can be installed");
        send(&agent, REMOTE, 9);
        expect(&agent, 4, 1);
        send(&agent, REMOTE, 9);
        expect(&agent, 4, 2);
        // As in a takeover: packets go to the other range of queues, to which no worker listens here.
        Table::install(config(&agent, None), RANGE_B).expect("the table can be installed");
        send(&agent, REMOTE, 9);
        expect(&agent, 4, 2);
    });
}

#[test]
fn what_is_denied_because_a_pod_is_unknown_is_evaluated_every_time() {
    in_namespace(|| {
        let hold = HoldLimits { timeout: Duration::ZERO, ..HoldLimits::default() };
        let agent = Agent::holding(Duration::from_secs(3600), hold);
        agent.world.pod.run(|| run("ip", &["addr", "add", "10.244.1.77/24", "dev", "eth0"]));
        for number in 1..=3 {
            let send = || socket("10.244.1.77", 0).send_to(b"x", (REMOTE, 7000)).expect("sent");
            agent.world.pod.run(send);
            expect(&agent, number, 0);
        }
    });
}

#[test]
fn a_pod_that_tries_every_port_has_a_share_of_the_set_and_no_more() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        send_to_each(&agent, 10_000..12_000);
        expect(&agent, 2_000, 0);
        let flows = list_set("denied4").len();
        assert!((1_024..1_040).contains(&flows), "{flows} flows of one sender");
        // Flows of another sender are still added.
        send(&agent, REMOTE_6, 9);
        expect(&agent, 2_001, 0);
        send(&agent, REMOTE_6, 9);
        expect(&agent, 2_001, 1);
    });
}

#[test]
fn some_packets_of_a_flood_are_recorded_with_the_deciding_policy_and_all_others_are_counted() {
    in_namespace(|| {
        const FLOOD: u64 = 2_000;
        let mut agent = Agent::with_long_ttl();
        send(&agent, REMOTE, 9);
        expect(&agent, 1, 0);
        send_to_each(&agent, (0..FLOOD).map(|_| 9));
        expect(&agent, 1, FLOOD);
        let counts = agent.table.drop_counts().expect("the counts can be read");
        let counted = counts.get(&of_pod(DropReason::DeniedFlow)).copied().unwrap_or_default();
        let recorded = FLOOD - counted;
        assert!((20..100).contains(&recorded), "{recorded} of {FLOOD} packets are recorded one by one");
        for _ in 0..recorded {
            let LogEvent::Connection(evaluation) = agent.heard() else { panic!("lost") };
            assert!(evaluation.cached && evaluation.decision.verdict() == Verdict::Deny);
            let packet = evaluation.packet.expect("a packet");
            assert_eq!((packet.protocol, packet.destination_port), (Protocol::UDP, Some(9)));
            assert_eq!(evaluation.snapshot.generation(), agent.snapshot.generation());
        }
    });
}

#[test]
fn marks_of_other_programs_deny_no_flow() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        // Every value of the four bits on every packet, as written by a program that uses the same bits.
        for bits in 0..16_u32 {
            let mark = bits << 24;
            other(&format!(
                "chain marks {{ type filter hook prerouting priority -140; meta mark set {mark:#010x}; }}"
            ));
            assert!(agent.reaches((REMOTE, 7000)), "{bits:#x}");
            let destination: SocketAddr = (REMOTE.parse::<IpAddr>().expect("an address"), 53).into();
            agent.world.pod.run(move || {
                let socket = socket(POD, 0);
                for _ in 0..20 {
                    socket.send_to(b"x", destination).expect("sent");
                }
            });
            run("nft", &["delete", "table", "inet", "other"]);
        }
        expect(&agent, 0, 0);
    });
}

#[test]
fn packets_over_a_senders_quota_are_dropped_and_counted_and_others_get_a_verdict() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        let quota = Some(QueueQuota { rate: 1, burst: 50 });
        let mut table = Table::install(config(&agent, quota), RANGE_A).expect("the table can be installed");
        send_to_each(&agent, 10_000..10_500);
        send(&agent, REMOTE_6, 9);
        let of_quota = |table: &mut Table| {
            let counts = table.drop_counts().expect("the counts can be read");
            counts.get(&of_pod(DropReason::QueueQuota)).copied().unwrap_or_default()
        };
        let deadline = Instant::now() + TIMEOUT;
        while evaluated(&agent) + of_quota(&mut table) < 501 && Instant::now() < deadline {
            sleep(Duration::from_millis(2));
        }
        let (evaluated, dropped) = (evaluated(&agent), of_quota(&mut table));
        assert_eq!(evaluated + dropped, 501, "{evaluated} evaluated, {dropped} dropped");
        assert!((51..60).contains(&evaluated), "{evaluated} evaluated");
    });
}
