use std::time::Duration;

use audit::{Audit, AuditConfig, Destination};
use dataplane::drops::DropReason;
use dataplane::workers::{FamilyClass, PacketClass, ProtocolClass};
use policy::Reason;

use super::*;
use crate::durations::observe;
use crate::status::origins::{ConflictStatus, PortStatus};
use crate::status::{
    ConnectionStatus, ConntrackStatus, DefaultDenies, HoldStatus, NewPorts, OriginsStatus, PacketCount,
    Packets, ProblemStatus, Protection, QueueStatus, SourceStatus, TableStatus,
};

fn audit_off() -> AuditConfig {
    let instance = audit::Instance { id: "i".into(), node: "n".into(), cluster: None };
    AuditConfig { instance, destination: Destination::Off, ring: 1, fold: Duration::ZERO }
}

#[test]
fn the_text_has_the_values_of_the_status() {
    let audit = Audit::start(audit_off(), |_| {}).expect("starts");
    let health = Health::new("n", audit.monitor(), Durations::default());
    observe(&health.durations().sweep, Duration::from_millis(3));
    {
        let mut state = health.state();
        state.status.packets.by_outcome = vec![PacketCount {
            verdict: "deny".to_owned(),
            direction: "ingress".to_owned(),
            reason: "default-deny".to_owned(),
            protocol: "TCP".to_owned(),
            family: "IPv6".to_owned(),
            packets: 7,
        }];
        state.status.applied_generation = 3;
        state.status.table = Some(TableStatus {
            form: "target".to_owned(),
            queues: "100-101".to_owned(),
            fail_mode: "closed".to_owned(),
        });
        let problem = ProblemStatus { kind: "Pod".to_owned(), text: "a".to_owned() };
        state.status.problems = vec![problem.clone(), problem];
    }
    let text = text(&registry(&health)).expect("text");
    for line in [
        "kube_verdict_packets_total{verdict=\"deny\",direction=\"ingress\",reason=\"default-deny\",\
         protocol=\"TCP\",family=\"IPv6\"} 7",
        "kube_verdict_applied_generation 3",
        "kube_verdict_ready 0",
        "kube_verdict_problems{kind=\"Pod\"} 2",
        "kube_verdict_problems{kind=\"NetworkPolicy\"} 0",
        "kube_verdict_problems{kind=\"other\"} 0",
        "kube_verdict_problems{kind=\"file\"} 0",
        "kube_verdict_objects{kind=\"NetworkPolicy\"} 0",
        "kube_verdict_table_info{form=\"target\",queues=\"100-101\",fail_mode=\"closed\"} 1",
        "kube_verdict_sweep_duration_seconds_count 1",
        "kube_verdict_audit_records_lost_total 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[test]
fn process_metrics_have_no_prefix() {
    let audit = Audit::start(audit_off(), |_| {}).expect("starts");
    let text = text(&registry(&Health::new("n", audit.monitor(), Durations::default()))).expect("text");
    let names = [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ];
    for name in names {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|value| value >= 0.0), "{name} in {text}");
    }
}

/// The metrics of this status.
fn text_of(status: Status) -> String {
    #[derive(Debug)]
    struct Fixed(Status);
    impl Collector for Fixed {
        fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
            encode_status(&self.0, encoder)
        }
    }
    let mut registry = Registry::default();
    registry.sub_registry_with_prefix("kube_verdict").register_collector(Box::new(Fixed(status)));
    text(&registry).expect("text")
}

#[test]
fn each_drop_reason_and_protection_has_its_series_from_the_start() {
    let text = text_of(Status::default());
    for reason in DropReason::ALL {
        let line = format!("kube_verdict_dropped_packets_total{{reason=\"{reason}\"}} 0");
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    for id in Protection::IDS {
        let line = format!("kube_verdict_protection_in_force{{protection=\"{id}\"}} 0");
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

/// The labels of all series of evaluated packets, in the order verdict, direction, reason, protocol, family.
fn packet_series(text: &str) -> Vec<[&str; 5]> {
    let series = text.lines().filter_map(|line| line.strip_prefix("kube_verdict_packets_total{"));
    let series = series.map(|line| line.split_once('}').expect("labels").0);
    series
        .map(|labels| {
            let values: Vec<_> =
                labels.split(',').map(|label| label.split('"').nth(1).expect("a value")).collect();
            values.try_into().expect("five labels")
        })
        .collect()
}

#[test]
fn each_denial_and_each_provisional_verdict_has_its_series_from_the_start() {
    let text = text_of(Status::default());
    let series = packet_series(&text);
    assert!(
        text.lines()
            .filter(|line| line.starts_with("kube_verdict_packets_total"))
            .all(|line| line.ends_with("} 0"))
    );
    for direction in ["ingress", "egress"] {
        for (protocol, family) in [
            ("TCP", "IPv4"),
            ("TCP", "IPv6"),
            ("UDP", "IPv4"),
            ("UDP", "IPv6"),
            ("SCTP", "IPv4"),
            ("SCTP", "IPv6"),
            ("ICMP", "IPv4"),
            ("ICMPv6", "IPv6"),
            ("other", "IPv4"),
            ("other", "IPv6"),
        ] {
            for (verdict, reason) in [
                ("deny", "rule"),
                ("deny", "default-deny"),
                ("deny", "unproven"),
                ("deny", "unknown-pod"),
                ("deny", "unknown-peer"),
                ("deny", "unknown-labels"),
                ("allow", "unknown-pod"),
                ("allow", "unknown-peer"),
                ("allow", "unknown-labels"),
            ] {
                let labels = [verdict, direction, reason, protocol, family];
                assert!(series.contains(&labels), "{labels:?} in {series:?}");
            }
        }
    }
    assert!(series.contains(&["deny", "egress", "unparsable", "unknown", "unknown"]));
    assert_eq!(series.len(), 2 * 10 * 9 + 1, "and no other");
}

#[test]
fn ports_and_dropped_packets_are_counted() {
    let port = |pod: Option<&str>| PortStatus {
        interface: "veth1".to_owned(),
        pod: pod.map(str::to_owned),
        addresses: Vec::new(),
        exempt: false,
    };
    let protection = |id: &str, in_force| Protection {
        id: id.to_owned(),
        name: String::new(),
        in_force,
        why_not: None,
        off_by_choice: false,
    };
    let origins = OriginsStatus {
        protections: vec![protection("routed-sources", true), protection("bridged-sources", false)],
        ports: vec![port(Some("web/a")), port(None), port(None)],
        conflicts: vec![ConflictStatus {
            address: "10.244.1.2".to_owned(),
            bound_to: Some("veth1".to_owned()),
            claimed_by: "veth2".to_owned(),
        }],
        dropped: [("spoofed-source".to_owned(), 12)].into(),
        new_ports: NewPorts { queued: 9, allowed: 4, denied: 2, expired: 1, over_limit: 3 },
        ..OriginsStatus::default()
    };
    let text = text_of(Status { origins: Some(origins), ..Status::default() });
    for line in [
        "kube_verdict_dropped_packets_total{reason=\"spoofed-source\"} 12",
        "kube_verdict_dropped_packets_total{reason=\"overlay\"} 0",
        "kube_verdict_protection_in_force{protection=\"routed-sources\"} 1",
        "kube_verdict_protection_in_force{protection=\"bridged-sources\"} 0",
        "kube_verdict_ports 3",
        "kube_verdict_ports_without_pod 2",
        "kube_verdict_port_conflicts 1",
        "kube_verdict_new_port_packets_total 9",
        "kube_verdict_new_port_packets_ended_total{by=\"allow\"} 4",
        "kube_verdict_new_port_packets_ended_total{by=\"deny\"} 2",
        "kube_verdict_new_port_packets_ended_total{by=\"timeout\"} 1",
        "kube_verdict_new_port_packets_ended_total{by=\"limit\"} 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[test]
fn metrics_of_queues_kinds_and_policies_have_labels() {
    let status = Status {
        queues: vec![QueueStatus { number: 100, waiting: 2, dropped_full: 5, dropped_by_socket: 1 }],
        conntrack: Some(ConntrackStatus { entries: 10, max: 100 }),
        packets: Packets { cached: 5, cached_denied: 8, cached_untracked: 13, ..Packets::default() },
        hold: HoldStatus { now: 1, held: 9, allowed: 4, denied: 1, expired: 3, over_limit: 6, repeated: 2 },
        policies: vec![
            crate::status::PolicyStatus {
                policy: "db/a".to_owned(),
                kind: "NetworkPolicy".to_owned(),
                allowed: 4,
                denied: 1,
                ..crate::status::PolicyStatus::default()
            },
            crate::status::PolicyStatus {
                policy: "guard".to_owned(),
                kind: "ClusterNetworkPolicy".to_owned(),
                tier: policy::Tier::Admin,
                priority: Some(10),
                denied: 2,
                ..crate::status::PolicyStatus::default()
            },
        ],
        default_denies: vec![DefaultDenies {
            namespace: "db".to_owned(),
            direction: "egress".to_owned(),
            denied: 6,
        }],
        source: Some(SourceStatus {
            server: "https://192.0.2.1".to_owned(),
            connected: false,
            connections: vec![ConnectionStatus {
                kind: "Pod".to_owned(),
                state: "lost".to_owned(),
                since: 1_700_000_000,
                last_error: Some("no route".to_owned()),
                resource_version: Some("12".to_owned()),
                reconnects: 3,
                relists: 1,
                failures: [("unreachable".to_owned(), 2)].into(),
            }],
        }),
        ..Status::default()
    };
    let text = text_of(status);
    for line in [
        "kube_verdict_queue_waiting{queue=\"100\"} 2",
        "kube_verdict_queue_full_drops_total{queue=\"100\"} 5",
        "kube_verdict_conntrack_max 100",
        "kube_verdict_verdict_cache_hits_total{verdict=\"allow\"} 5",
        "kube_verdict_verdict_cache_hits_total{verdict=\"deny\"} 8",
        "kube_verdict_verdict_cache_untracked_hits_total 13",
        "kube_verdict_hold_packets 1",
        "kube_verdict_hold_started_total 9",
        "kube_verdict_hold_ended_total{by=\"allow\"} 4",
        "kube_verdict_hold_ended_total{by=\"deny\"} 1",
        "kube_verdict_hold_ended_total{by=\"timeout\"} 3",
        "kube_verdict_hold_rejected_total 6",
        "kube_verdict_hold_repeated_total 2",
        "kube_verdict_policy_verdicts_total{kind=\"NetworkPolicy\",namespace=\"db\",policy=\"a\",tier=\"NetworkPolicy\",verdict=\"allow\"} 4",
        "kube_verdict_policy_verdicts_total{kind=\"NetworkPolicy\",namespace=\"db\",policy=\"a\",tier=\"NetworkPolicy\",verdict=\"deny\"} 1",
        "kube_verdict_policy_verdicts_total{kind=\"ClusterNetworkPolicy\",namespace=\"\",policy=\"guard\",tier=\"Admin\",verdict=\"deny\"} 2",
        "kube_verdict_default_denies_total{namespace=\"db\",direction=\"egress\"} 6",
        "kube_verdict_source_connected{kind=\"Pod\"} 0",
        "kube_verdict_source_state_change_timestamp_seconds{kind=\"Pod\"} 1700000000",
        "kube_verdict_source_reconnects_total{kind=\"Pod\"} 3",
        "kube_verdict_source_relists_total{kind=\"Pod\"} 1",
        "kube_verdict_source_failures_total{kind=\"Pod\",class=\"unreachable\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

/// The documentation of metrics.
fn page() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    std::fs::read_to_string(page).expect("the page")
}

#[test]
fn the_documentation_names_each_value_of_a_label() {
    let page = page();
    for reason in Reason::ALL {
        let (code, sentence) = (reason.code(), reason.sentence());
        let row = page.lines().find(|line| line.starts_with(&format!("| `{code}` |"))).expect(code);
        assert!(row.to_lowercase().contains(&sentence.to_lowercase()), "{row} without {sentence:?}");
    }
    let protocols = ProtocolClass::ALL.map(ProtocolClass::name);
    let families = FamilyClass::ALL.map(FamilyClass::name);
    for value in protocols.into_iter().chain(families) {
        assert!(page.contains(&format!("`{value}`")), "{value}");
    }
    // Each reason but `unparsable` in two verdicts, two directions, six protocols and two families.
    let most = PacketClass::all().filter(|class| {
        let is_known = class.protocol != ProtocolClass::Unknown && class.family != FamilyClass::Unknown;
        is_known && class.reason != Reason::Unparsable
    });
    // And the one of packets that could not be parsed.
    assert!(page.contains(&format!("at most {} series", most.count() + 1)));
}

#[test]
fn the_documentation_quotes_these_metrics() {
    let count = |verdict: &str, direction: &str, reason: &str, protocol: &str, family: &str, packets| {
        let [verdict, direction, reason, protocol, family] =
            [verdict, direction, reason, protocol, family].map(str::to_owned);
        PacketCount { verdict, direction, reason, protocol, family, packets }
    };
    let by_outcome = vec![
        count("allow", "egress", "not-isolated", "UDP", "IPv4", 12),
        count("allow", "ingress", "rule", "TCP", "IPv4", 340),
        count("deny", "ingress", "default-deny", "TCP", "IPv6", 7),
    ];
    let default_denies =
        vec![DefaultDenies { namespace: "db".to_owned(), direction: "egress".to_owned(), denied: 6 }];
    let packets = Packets { by_outcome, ..Packets::default() };
    let text = text_of(Status { packets, default_denies, ..Status::default() });
    let page = page();
    let quoted: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("    kube_verdict_")).collect();
    assert_eq!(quoted.len(), 4);
    for line in quoted {
        let line = format!("kube_verdict_{line}");
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}
