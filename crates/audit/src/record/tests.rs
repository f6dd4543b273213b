//! Records of a small cluster, in which only web/a and an office network may reach db.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use policy::{
    Action, Change, Compiler, Decision, Directions, IpBlock, Labels, Namespace, NamespaceMatch, Peer, Pod,
    PolicySpec, PortMatch, PortNumbers, Requirement, RuleSpec, Scope, Selector, Subject, Tier,
};

use super::*;

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
        workload: None,
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
    packet
}

fn line(packet: Option<Packet>) -> String {
    let record = Record::new(&Arc::from("node-a"), &evaluation(&snapshot(), packet));
    let line = serde_json::to_string(&record).expect("writes");
    let again: Record = serde_json::from_str(&line).expect("reads");
    assert_eq!(serde_json::to_string(&again).expect("writes"), line, "read and written again");
    assert_eq!(again.packet(), packet, "the packet can be evaluated again");
    line
}

#[test]
fn an_allowed_connection_names_the_rule() {
    assert_eq!(
        line(Some(from_to("10.0.0.1", "10.0.1.2", 5432))),
        concat!(
            r#"{"time":"2026-01-02T03:04:05.678901Z","node":"node-a","generation":1,"verdict":"allow","reason":"rule","#,
            r#""direction":"ingress","protocol":"TCP","#,
            r#""source":{"address":"10.0.0.1","port":40000,"namespace":"web","pod":"a"},"#,
            r#""destination":{"address":"10.0.1.2","port":5432,"namespace":"db","pod":"db"},"#,
            r#""policy":"db/allow-web","rule":1,"#,
            r#""egress":{"verdict":"allow","reason":"not-isolated","policy":null,"rule":null},"#,
            r#""ingress":{"verdict":"allow","reason":"rule","policy":"db/allow-web","rule":1},"nanoseconds":123}"#,
        )
    );
}

#[test]
fn a_record_of_a_cached_verdict_is_marked_as_cached() {
    let packet = Some(from_to("10.0.0.1", "10.0.1.2", 5432));
    let evaluation = Evaluation { cached: true, elapsed: Duration::ZERO, ..evaluation(&snapshot(), packet) };
    let record = Record::new(&Arc::from("node-a"), &evaluation);
    let text = serde_json::to_string(&record).expect("writes");
    assert!(text.ends_with(r#""nanoseconds":0,"cached":true}"#), "{text}");
    assert!(serde_json::from_str::<Record>(&text).expect("reads").cached);
}

#[test]
fn a_default_deny_names_the_isolating_policies_and_the_nearest_miss() {
    assert_eq!(
        line(Some(from_to("10.0.0.1", "10.0.1.2", 80))),
        concat!(
            r#"{"time":"2026-01-02T03:04:05.678901Z","node":"node-a","generation":1,"verdict":"deny","#,
            r#""reason":"default-deny","direction":"ingress","protocol":"TCP","#,
            r#""source":{"address":"10.0.0.1","port":40000,"namespace":"web","pod":"a"},"#,
            r#""destination":{"address":"10.0.1.2","port":80,"namespace":"db","pod":"db"},"#,
            r#""policy":"db/allow-web","rule":null,"#,
            r#""egress":{"verdict":"allow","reason":"not-isolated","policy":null,"rule":null},"#,
            r#""ingress":{"verdict":"deny","reason":"default-deny","policy":"db/allow-web","rule":null},"#,
            r#""isolated_by":["db/allow-web"],"#,
            r#""nearest_miss":{"policy":"db/allow-web","rule":1,"miss":"port"},"nanoseconds":123}"#,
        )
    );
}

#[test]
fn a_verdict_of_a_cluster_wide_policy_has_tier_priority_and_rule_name() {
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
        name: PolicyName {
            kind: policy::PolicyKind::ClusterNetworkPolicy,
            namespace: "".into(),
            name: "guard".into(),
        },
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
    let record = |port| {
        let packet = Some(from_to("10.0.0.1", "10.0.1.2", port));
        let record = Record::new(&Arc::from("node-a"), &evaluation(&snapshot, packet));
        let line = serde_json::to_string(&record).expect("writes");
        let again: Record = serde_json::from_str(&line).expect("reads");
        assert_eq!(serde_json::to_string(&again).expect("writes"), line, "read and written again");
        line
    };
    let line = record(22);
    let fields = r#""policy":"guard","tier":"Admin","priority":10,"rule":0,"rule_name":"no-ssh","egress""#;
    assert!(line.contains(fields), "{line}");
    let line = record(80);
    assert!(!line.contains("tier") && !line.contains("priority"), "no policy decided: {line}");
}

#[test]
fn a_record_of_a_held_packet_has_the_time_it_was_held() {
    let evaluation = Evaluation {
        held: Some(Duration::from_micros(312_900)),
        ..evaluation(&snapshot(), Some(from_to("10.0.0.1", "10.0.1.2", 5432)))
    };
    let line = serde_json::to_string(&Record::new(&Arc::from("node-a"), &evaluation)).expect("writes");
    assert!(line.ends_with(r#""nanoseconds":123,"held_ms":312}"#), "{line}");
    let again: Record = serde_json::from_str(&line).expect("reads");
    assert_eq!(again.held_ms, Some(312));
}

#[test]
fn an_external_address_has_no_pod_and_icmp_has_no_port() {
    let mut ping = Packet::new(address("2001:db8::1"), address("10.0.0.1"), Protocol::ICMP);
    ping.icmp_type = Some(8);
    let line = line(Some(ping));
    let source = r#""protocol":"ICMP","icmp_type":8,"source":{"address":"2001:db8::1","port":null,"namespace":null,"pod":null}"#;
    assert!(line.contains(source), "{line}");
}

#[test]
fn an_unparsable_packet_is_denied_and_has_no_endpoints() {
    let line = line(None);
    let parts = [
        r#""verdict":"deny","reason":"unparsable","direction":"egress","protocol":null,"source":null,"destination":null,"#,
        r#""policy":null,"rule":null,"#,
    ];
    for part in parts {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn the_deciding_direction_is_the_one_that_denies_or_else_the_one_with_the_stronger_reason() {
    use Direction::{Egress, Ingress};
    let rule = Reason::Rule(policy::RuleId(0));
    let cases = [
        (Outcome::deny(Reason::DefaultDeny), Outcome::allow(rule), Egress),
        (Outcome::allow(rule), Outcome::deny(Reason::DefaultDeny), Ingress),
        (Outcome::deny(rule), Outcome::deny(Reason::DefaultDeny), Egress),
        (Outcome::allow(rule), Outcome::allow(Reason::NotIsolated), Egress),
        (Outcome::allow(rule), Outcome::allow(rule), Ingress),
        (Outcome::allow(Reason::NotIsolated), Outcome::allow(Reason::NotAPod), Egress),
        (Outcome::allow(Reason::OtherNode), Outcome::allow(Reason::NotIsolated), Ingress),
    ];
    for (egress, ingress, direction) in cases {
        assert_eq!(deciding(egress, ingress), direction, "{egress:?} {ingress:?}");
    }
}
