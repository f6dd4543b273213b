//! Records of a small cluster, in which only web/a and an office network may reach db.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use policy::{
    Action, Change, Compiler, Decision, Direction, Directions, Evaluation, Generation, IpBlock, Labels,
    Namespace, NamespaceMatch, Packet, Peer, Pod, PodName, PolicyName, PolicySpec, PortMatch, PortNumbers,
    Protocol, Requirement, RuleSpec, Scope, Selector, Snapshot, Subject, Tier, Verdict, Workload,
    explanation::Miss,
};
use proptest::prelude::*;

use super::*;
use crate::community_id::CommunityId;
use crate::policy_versions::{PolicyVersion, PolicyVersions};

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn pod(namespace: &str, name: &str, at: &str) -> Change {
    Change::Pod(Pod {
        name: PodName::new(namespace, name),
        labels: [("app", name)].into_iter().collect(),
        addresses: vec![address(at)],
        ports: Vec::new(),
        node: Some("node-a".into()),
        host_network: false,
        reported: 0,
        created: 0,
        uid: Default::default(),
        workload: (name == "a")
            .then(|| Arc::new(Workload { kind: "Deployment".into(), name: "front".into() })),
    })
}

fn namespace(name: &str) -> Change {
    let labels: Labels = [("kubernetes.io/metadata.name", name)].into_iter().collect();
    Change::Namespace(Namespace { name: name.into(), labels })
}

fn rule(peer: Peer, port: u16) -> RuleSpec {
    let ports = vec![PortMatch { protocol: Some(Protocol::TCP), numbers: PortNumbers::Range(port, port) }];
    RuleSpec { name: None, action: Action::Accept, peers: Some(vec![peer]), ports: Some(ports) }
}

/// web/a 10.0.0.1 and web/b 10.0.0.3; db/db 10.0.1.2, which allows 192.0.2.0/24 to port 22 and web/a to port
/// 5432.
pub(crate) fn snapshot() -> Arc<Snapshot> {
    let app = |name: &str| Selector::All([Requirement::In("app".into(), [Arc::from(name)].into())].into());
    let office =
        Peer::Block(IpBlock { cidr: "192.0.2.0/24".parse().expect("block"), except: Default::default() });
    let web = Peer::Pods { namespaces: NamespaceMatch::Named("web".into()), pods: app("a") };
    let policy = PolicySpec {
        name: PolicyName::network_policy("db", "allow-web"),
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject { namespaces: NamespaceMatch::Named("db".into()), pods: Selector::everything() },
        isolates_ingress: true,
        isolates_egress: false,
        ingress: vec![rule(office, 22), rule(web, 5432)],
        egress: Vec::new(),
        omitted: None,
    };
    Compiler::new(Scope::Cluster)
        .apply([
            namespace("web"),
            namespace("db"),
            pod("web", "a", "10.0.0.1"),
            pod("web", "b", "10.0.0.3"),
            pod("db", "db", "10.0.1.2"),
            Change::Policy(Arc::new(policy)),
        ])
        .snapshot
}

/// The evaluation of `packet` at 2026-01-02T03:04:05.678901Z, which took 123 ns.
pub(crate) fn evaluation(snapshot: &Arc<Snapshot>, packet: Option<Packet>) -> Evaluation {
    let decision =
        packet.as_ref().map_or(Decision::UNPARSABLE, |packet| snapshot.evaluate(packet, Directions::Both));
    Evaluation {
        at: SystemTime::UNIX_EPOCH + Duration::new(1_767_323_045, 678_901_234),
        packet,
        decision,
        elapsed: Duration::from_nanos(123),
        held: None,
        snapshot: Arc::clone(snapshot),
        cached: false,
    }
}

pub(crate) fn from_to(source: &str, destination: &str, port: u16) -> Packet {
    let mut packet = Packet::new(address(source), address(destination), Protocol::TCP).to_port(port);
    packet.source_port = Some(40000);
    packet.with_tcp_flags(0x02)
}

pub(crate) fn instance() -> Instance {
    Instance { id: "i-1".into(), node: "node-a".into(), cluster: None }
}

/// Version 7 of db/allow-web.
fn versions() -> PolicyVersions {
    let mut versions = PolicyVersions::default();
    let version = PolicyVersion { uid: Some("u-1".into()), resource_version: Some("7".into()) };
    let name = Arc::new(PolicyName::network_policy("db", "allow-web"));
    versions.set(&name, Generation(1), Some(Arc::new(version)));
    versions
}

/// The record of an evaluation, as it is written. Checks that it reads back equal, that serde writes the
/// same, and that the schema describes it.
fn line_of(evaluation: &Evaluation) -> String {
    let connection = Connection::new(evaluation, &versions());
    let time = Timestamp::try_from(evaluation.at).expect("a time");
    let mut lines = LineBuffer::new(instance(), 0);
    lines.push_connection(time, ConnectionEvent::Connection, &connection);
    let line = checked(lines);
    let read: Record = serde_json::from_str(&line).expect("reads");
    assert_eq!((read.time, read.event), (time, Event::Connection(Box::new(connection.clone()))));
    assert_eq!(connection.packet(), evaluation.packet, "the packet can be evaluated again");
    line
}

fn line(packet: Option<Packet>) -> String {
    line_of(&evaluation(&snapshot(), packet))
}

/// The only line of a buffer.
fn checked(lines: LineBuffer) -> String {
    let text = String::from_utf8(lines.bytes).expect("text");
    let line = text.strip_suffix('\n').expect("a line");
    let read: Record = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(serde_json::to_string(&read).expect("writes"), line, "serde writes the same");
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    schema::validate(&value);
    let sorted = serde_json::to_string(&value).expect("writes");
    let read_sorted: Record =
        serde_json::from_str(&sorted).unwrap_or_else(|error| panic!("{error}: {sorted}"));
    assert_eq!(read_sorted, read, "the order of the fields does not matter");
    line.to_owned()
}

#[test]
fn an_allowed_connection_names_the_rule() {
    assert_eq!(
        line(Some(from_to("10.0.0.1", "10.0.1.2", 5432))),
        concat!(
            r#"{"schema":1,"seq":1,"instance":"i-1","node":"node-a","time":"2026-01-02T03:04:05.678901234Z","#,
            r#""event":"connection","verdict":"allow","reason":"rule","direction":"ingress","generation":1,"#,
            r#""protocol":"TCP","tcp_flags":"SYN","community_id":"1:7lr2hJZ8SXt6mU++gkZ09AaL3Cc=","#,
            r#""source":{"address":"10.0.0.1","port":40000,"namespace":"web","pod":"a","#,
            r#""workload":{"kind":"Deployment","name":"front"},"node":"node-a"},"#,
            r#""destination":{"address":"10.0.1.2","port":5432,"namespace":"db","pod":"db","node":"node-a"},"#,
            r#""tier":"NetworkPolicy","policy":{"kind":"NetworkPolicy","namespace":"db","name":"allow-web","#,
            r#""uid":"u-1","resource_version":"7"},"rule":1,"#,
            r#""egress":{"verdict":"allow","reason":"not-isolated","policy":null,"rule":null},"#,
            r#""ingress":{"verdict":"allow","reason":"rule","policy":{"kind":"NetworkPolicy","namespace":"db","#,
            r#""name":"allow-web","uid":"u-1","resource_version":"7"},"rule":1},"nanoseconds":123}"#,
        )
    );
}

#[test]
fn a_record_of_a_cached_verdict_is_marked_as_cached() {
    let packet = Some(from_to("10.0.0.1", "10.0.1.2", 5432));
    let evaluation = Evaluation { cached: true, elapsed: Duration::ZERO, ..evaluation(&snapshot(), packet) };
    let text = line_of(&evaluation);
    assert!(text.ends_with(r#""nanoseconds":0,"cached":true}"#), "{text}");
}

#[test]
fn a_default_deny_names_the_isolating_policies_and_no_policy_that_decided() {
    let text = line(Some(from_to("10.0.0.1", "10.0.1.2", 80)));
    let allow_web =
        r#"{"kind":"NetworkPolicy","namespace":"db","name":"allow-web","uid":"u-1","resource_version":"7"}"#;
    let parts = [
        r#""verdict":"deny","reason":"default-deny","direction":"ingress""#.to_owned(),
        r#""tier":"NetworkPolicy","policy":null,"rule":null,"#.to_owned(),
        r#""ingress":{"verdict":"deny","reason":"default-deny","policy":null,"rule":null},"#.to_owned(),
        format!(
            r#""isolated_by":[{allow_web}],"nearest_miss":{{"policy":{allow_web},"rule":1,"miss":"port"}}"#
        ),
    ];
    for part in parts {
        assert!(text.contains(&part), "{part} in {text}");
    }
}

#[test]
fn a_verdict_of_a_cluster_wide_policy_has_kind_tier_priority_and_rule_name() {
    let deny = RuleSpec {
        name: Some("no-ssh".into()),
        action: Action::Deny,
        ..rule(
            Peer::Pods {
                namespaces: NamespaceMatch::Labels(Selector::everything()),
                pods: Selector::everything(),
            },
            22,
        )
    };
    let guard = PolicySpec {
        name: PolicyName::cluster_wide(policy::PolicyKind::AdminNetworkPolicy, "guard"),
        tier: Tier::Admin,
        priority: 10,
        subject: Subject {
            namespaces: NamespaceMatch::Labels(Selector::everything()),
            pods: Selector::everything(),
        },
        isolates_ingress: false,
        isolates_egress: false,
        ingress: vec![deny],
        egress: Vec::new(),
        omitted: None,
    };
    let snapshot = Compiler::new(Scope::Cluster)
        .apply([
            namespace("web"),
            namespace("db"),
            pod("web", "a", "10.0.0.1"),
            pod("db", "db", "10.0.1.2"),
            Change::Policy(Arc::new(guard)),
        ])
        .snapshot;
    let line = |port| line_of(&evaluation(&snapshot, Some(from_to("10.0.0.1", "10.0.1.2", port))));
    let fields = r#""tier":"Admin","priority":10,"policy":{"kind":"AdminNetworkPolicy","name":"guard"},"rule":0,"rule_name":"no-ssh","egress""#;
    assert!(line(22).contains(fields), "{}", line(22));
    let other = line(80);
    assert!(!other.contains("tier") && !other.contains("priority"), "no policy decided: {other}");
}

#[test]
fn a_record_of_a_held_packet_has_the_time_it_was_held() {
    let evaluation = Evaluation {
        held: Some(Duration::from_micros(312_900)),
        ..evaluation(&snapshot(), Some(from_to("10.0.0.1", "10.0.1.2", 5432)))
    };
    let line = line_of(&evaluation);
    assert!(line.ends_with(r#""nanoseconds":123,"held_ms":312}"#), "{line}");
}

#[test]
fn an_external_address_has_no_pod_and_icmp_has_no_port() {
    let mut ping = Packet::new(address("192.0.2.1"), address("10.0.0.1"), Protocol::ICMP);
    (ping.icmp_type, ping.icmp_code) = (Some(8), Some(0));
    let line = line(Some(ping));
    let id = CommunityId::of(&ping).expect("an ID");
    let part = format!(
        r#""protocol":"ICMP","icmp_type":8,"icmp_code":0,"community_id":"{id}","source":{{"address":"192.0.2.1"}},"#
    );
    assert!(line.contains(&part), "{line}");
}

#[test]
fn an_unparsable_packet_is_denied_and_has_no_endpoints() {
    let line = line(None);
    let part = r#""verdict":"deny","reason":"unparsable","direction":"egress","generation":1,"policy":null,"rule":null,"#;
    assert!(line.contains(part), "{line}");
}

#[test]
fn a_line_of_another_schema_or_without_a_field_is_refused_with_the_reason() {
    let whole = line(Some(from_to("10.0.0.1", "10.0.1.2", 5432)));
    let error = |from: &str, to: &str| {
        let changed = whole.replace(from, to);
        assert_ne!(changed, whole);
        serde_json::from_str::<Record>(&changed).expect_err("no record").to_string()
    };
    let newer = error(r#""schema":1,"#, r#""schema":2,"#);
    assert!(newer.starts_with("its schema is 2, this program reads 1: use the version"), "{newer}");
    assert!(error(r#""schema":1,"#, "").starts_with("missing field `schema`"));
    assert!(error(r#""seq":1,"#, "").starts_with("missing field `seq`"));
    assert!(error(r#""event":"connection","#, "").starts_with("missing field `event`"));
    assert!(error(r#""event":"connection""#, r#""event":"other""#).starts_with("unknown variant `other`"));
    assert!(
        error(r#""verdict":"allow","reason":"rule","#, r#""verdict":"allow","#)
            .contains("missing field `reason`")
    );
    assert!(error(r#""tcp_flags":"SYN""#, r#""tcp_flags":"NYS""#).contains("is no TCP flag: use FIN, SYN"));
    let added = whole.replace(r#""rule":1,"#, r#""later":{"a":[1]},"rule":1,"#);
    assert!(serde_json::from_str::<Record>(&added).is_ok(), "fields of later programs are ignored");
}

fn text() -> BoxedStrategy<Arc<str>> {
    prop_oneof!["[a-z0-9.-]{1,12}", "\\PC{0,6}", Just("with \"quotes\"\n\u{1b}[31m and \\".to_owned())]
        .prop_map(Arc::from)
        .boxed()
}

fn moment() -> BoxedStrategy<Timestamp> {
    (-10_000_000_000_i64..200_000_000_000, 0..1_000_000_000_i32)
        .prop_map(|(second, nanosecond): (i64, i32)| {
            Timestamp::new(second, if second < 0 { -nanosecond } else { nanosecond }).expect("a time")
        })
        .boxed()
}

fn policy_ref() -> BoxedStrategy<PolicyRef> {
    let kind = prop_oneof![
        Just(policy::PolicyKind::NetworkPolicy),
        Just(policy::PolicyKind::ClusterNetworkPolicy),
        Just(policy::PolicyKind::AdminNetworkPolicy),
        Just(policy::PolicyKind::BaselineAdminNetworkPolicy),
    ];
    let version = (proptest::option::of(text()), proptest::option::of(text()));
    let name =
        (kind, text(), text()).prop_map(|(kind, namespace, name)| PolicyName { kind, namespace, name });
    (name, version)
        .prop_map(|(name, (uid, resource_version))| PolicyRef {
            name: Arc::new(name),
            version: (uid.is_some() || resource_version.is_some())
                .then(|| Arc::new(PolicyVersion { uid, resource_version })),
        })
        .boxed()
}

fn workload() -> BoxedStrategy<Option<Arc<Workload>>> {
    proptest::option::of((text(), text()).prop_map(|(kind, name)| Arc::new(Workload { kind, name }))).boxed()
}

fn endpoint() -> BoxedStrategy<Endpoint> {
    let names = (
        proptest::option::of(text()),
        proptest::option::of(text()),
        workload(),
        proptest::option::of(text()),
    );
    (any::<IpAddr>(), any::<Option<u16>>(), names)
        .prop_map(|(address, port, (namespace, pod, workload, node))| Endpoint {
            address,
            port,
            namespace,
            pod,
            workload,
            node,
        })
        .boxed()
}

fn verdict() -> impl Strategy<Value = Verdict> {
    any::<bool>().prop_map(|allows| if allows { Verdict::Allow } else { Verdict::Deny })
}

fn reason() -> BoxedStrategy<std::borrow::Cow<'static, str>> {
    text().prop_map(|text| text.to_string().into()).boxed()
}

fn outcome() -> BoxedStrategy<Outcome> {
    (verdict(), reason(), proptest::option::of(policy_ref()), any::<Option<u32>>())
        .prop_map(|(verdict, reason, policy, rule)| Outcome {
            verdict,
            reason,
            policy,
            rule: rule.map(|rule| rule as usize),
        })
        .boxed()
}

fn miss() -> BoxedStrategy<NearestMiss> {
    (policy_ref(), any::<u32>(), any::<bool>())
        .prop_map(|(policy, rule, is_port)| NearestMiss {
            policy,
            rule: rule as usize,
            miss: if is_port { Miss::Port } else { Miss::Peer },
        })
        .boxed()
}

fn connection() -> BoxedStrategy<Connection> {
    let packet = (
        any::<Option<u8>>(),
        any::<[Option<u8>; 3]>(),
        any::<Option<[u8; 4]>>(),
        proptest::option::of(endpoint()),
        proptest::option::of(endpoint()),
    );
    let tier = proptest::option::of(proptest::sample::select(Tier::ALL.to_vec()));
    let decided = (
        tier,
        any::<Option<u16>>(),
        proptest::option::of(policy_ref()),
        any::<Option<u32>>(),
        proptest::option::of(text()),
    );
    let sides = (
        outcome(),
        outcome(),
        proptest::collection::vec(policy_ref(), 0..3),
        0..3_usize,
        proptest::option::of(miss()),
    );
    let by = proptest::sample::select(vec![FoldedBy::Flow, FoldedBy::Port, FoldedBy::Origin]);
    let measured = (
        any::<Option<u64>>(),
        any::<Option<u64>>(),
        any::<bool>(),
        any::<Option<u64>>(),
        proptest::option::of(moment()),
        proptest::option::of(moment()),
        proptest::option::of(by),
    );
    ((verdict(), reason(), any::<bool>(), any::<u64>()), packet, decided, sides, measured)
        .prop_map(|((verdict, reason, is_ingress, generation), packet, decided, sides, measured)| {
            let (protocol, [icmp_type, icmp_code, flags], ends, source, destination) = packet;
            let (tier, priority, policy, rule, rule_name) = decided;
            let (egress, ingress, isolated_by, isolated_by_more, nearest_miss) = sides;
            let (nanoseconds, held_ms, cached, count, first, last, folded_by) = measured;
            Connection {
                verdict,
                reason,
                direction: if is_ingress { Direction::Ingress } else { Direction::Egress },
                generation: Generation(generation),
                protocol: protocol.map(Protocol),
                icmp_type,
                icmp_code,
                tcp_flags: flags.map(TcpFlags),
                community_id: ends.and_then(|[a, b, c, d]| {
                    CommunityId::of(&Packet::new([a, b, 0, 0].into(), [c, d, 0, 0].into(), Protocol(46)))
                }),
                source,
                destination,
                tier,
                priority,
                policy,
                rule: rule.map(|rule| rule as usize),
                rule_name,
                egress,
                ingress,
                isolated_by,
                isolated_by_more,
                nearest_miss,
                nanoseconds,
                held_ms,
                cached,
                count,
                first,
                last,
                folded_by,
            }
        })
        .boxed()
}

fn pod_labels() -> BoxedStrategy<Labels> {
    let known = proptest::collection::btree_map(text(), text(), 0..3);
    proptest::option::of(known)
        .prop_map(|labels| labels.map_or(Labels::unknown(), |labels| labels.into_iter().collect()))
        .boxed()
}

fn seen_pod() -> BoxedStrategy<SeenPod> {
    let ports = proptest::collection::vec((text(), any::<u8>(), any::<u16>()), 0..3);
    let place =
        (workload(), proptest::option::of(text()), proptest::collection::vec(any::<IpAddr>(), 0..3), ports);
    (text(), text(), pod_labels(), pod_labels(), place)
        .prop_map(|(namespace, pod, labels, namespace_labels, (workload, node_name, addresses, ports))| {
            SeenPod {
                namespace,
                pod,
                labels,
                namespace_labels,
                workload,
                node_name,
                addresses,
                ports: ports
                    .into_iter()
                    .map(|(name, protocol, port)| PodPort { name, protocol: Protocol(protocol), port })
                    .collect(),
            }
        })
        .boxed()
}

fn dropped() -> BoxedStrategy<Dropped> {
    let sender = (proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(text()));
    let packet = (any::<Option<u8>>(), proptest::option::of(endpoint()), proptest::option::of(endpoint()));
    (reason(), sender, any::<u64>(), any::<Option<u16>>(), packet)
        .prop_map(
            |(reason, (interface, namespace, pod), packets, ether_type, (protocol, source, destination))| {
                Dropped {
                    reason,
                    interface,
                    namespace,
                    pod,
                    packets,
                    ether_type: ether_type.map(|kind| format!("{kind:#06x}")),
                    mac: ether_type.map(|_| "02:00:00:00:00:01".to_owned()),
                    protocol: protocol.map(Protocol),
                    source,
                    destination,
                }
            },
        )
        .boxed()
}

fn applied() -> BoxedStrategy<AppliedPolicy> {
    (any::<bool>(), policy_ref())
        .prop_map(|(is_applied, policy)| AppliedPolicy {
            change: if is_applied { PolicyChange::Applied } else { PolicyChange::Deleted },
            policy,
        })
        .boxed()
}

fn event() -> BoxedStrategy<Event> {
    let lost = proptest::sample::select(vec![
        LostReason::QueueFull,
        LostReason::NotReceived,
        LostReason::WriteFailed,
        LostReason::PartialLine,
    ]);
    let bypass = (reason(), moment(), moment(), text(), proptest::option::of(text()), any::<Option<u32>>())
        .prop_map(|(reason, from, to, change, program, pid)| Bypass {
            reason,
            from,
            to,
            change: change.to_string(),
            program: program.map(|program| program.to_string()),
            pid,
        });
    prop_oneof![
        connection().prop_map(|connection| Event::Connection(Box::new(connection))),
        connection().prop_map(|connection| Event::Revoked(Box::new(connection))),
        connection().prop_map(|connection| Event::Restored(Box::new(connection))),
        (any::<u64>(), any::<[Option<u64>; 2]>(), lost).prop_map(|(count, [from_seq, to_seq], reason)| {
            Event::Lost(Lost { count, from_seq, to_seq, reason })
        }),
        bypass.prop_map(|bypass| Event::Bypass(Box::new(bypass))),
        dropped().prop_map(|dropped| Event::Dropped(Box::new(dropped))),
        (any::<u64>(), proptest::collection::vec(applied(), 0..3)).prop_map(|(generation, policies)| {
            Event::Policy(Box::new(PolicyUpdate { generation: Generation(generation), policies }))
        }),
        seen_pod().prop_map(|pod| Event::Pod(Box::new(pod))),
        any::<u64>().prop_map(|lines| Event::Repeated(Repeated { lines })),
        (reason(), any::<u32>()).prop_map(|(version, pid)| Event::Start(Start { version, pid })),
        any::<[u64; 2]>().prop_map(|[recorded, lost]| Event::Stop(Stop { recorded, lost })),
    ]
    .boxed()
}

fn any_instance() -> impl Strategy<Value = Instance> {
    (text(), text(), proptest::option::of(text())).prop_map(|(id, node, cluster)| Instance {
        id,
        node,
        cluster,
    })
}

proptest! {
    /// The fast writer's form, serde's form, the schema and the type are one.
    #[test]
    fn what_is_written_reads_back_equal(instance in any_instance(), time in moment(), event in event(), earlier in 0..1_000_u64) {
        let mut lines = LineBuffer::new(instance.clone(), 0);
        lines.head.numbers().store(earlier, std::sync::atomic::Ordering::Relaxed);
        match &event {
            Event::Connection(connection) => lines.push_connection(time, ConnectionEvent::Connection, connection),
            Event::Revoked(connection) => lines.push_connection(time, ConnectionEvent::Revoked, connection),
            Event::Restored(connection) => lines.push_connection(time, ConnectionEvent::Restored, connection),
            _ => lines.push(time, event.clone()),
        }
        prop_assert_eq!(lines.head.next_seq(), earlier + 1);
        let read: Record = serde_json::from_str(&checked(lines)).expect("reads");
        let Instance { id, node, cluster } = instance;
        prop_assert_eq!(read, Record { schema: 1, seq: earlier, instance: id, node, cluster, time, event });
    }
}
