//! Queries find the records that serde and a naive filter find, and count what is no record.

use std::net::IpAddr;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use policy::{Direction, Protocol, Verdict};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::*;
use crate::record::{Endpoint, Event, PolicyRef, Record};

const NAMES: [&str; 4] = ["web", "db", "a", "deny"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "fd00::1", "192.0.2.7"];
const REASONS: [&str; 4] = ["rule", "default-deny", "not-isolated", "odd \"reason\"\u{1b}"];
const PORTS: [u16; 4] = [53, 443, 5432, 54];
const PROTOCOLS: [u8; 3] = [1, 6, 17];

/// 2026-01-02T03:04:05Z and some seconds.
fn time(seconds: i64) -> Timestamp {
    let base: Timestamp = "2026-01-02T03:04:05Z".parse().expect("time");
    base + SignedDuration::from_secs(seconds)
}

fn end() -> impl Strategy<Value = Value> {
    let workload = (select(&["Deployment", "DaemonSet"][..]), select(&NAMES[..]));
    let pod = (select(&NAMES[..]), select(&NAMES[..]), prop::option::of(workload));
    let port = prop::option::of(select(&PORTS[..]));
    (select(&ADDRESSES[..]), port, prop::option::of(pod)).prop_map(|(address, port, pod)| {
        let mut end = json!({"address": address});
        if let Some(port) = port {
            end["port"] = port.into();
        }
        if let Some((namespace, pod, workload)) = pod {
            end["namespace"] = namespace.into();
            end["pod"] = pod.into();
            if let Some((kind, name)) = workload {
                end["workload"] = json!({"kind": kind, "name": name});
            }
        }
        end
    })
}

fn policy() -> impl Strategy<Value = Value> {
    (prop::option::of(select(&NAMES[..])), select(&NAMES[..])).prop_map(|(namespace, name)| match namespace {
        Some(namespace) => json!({"kind": "NetworkPolicy", "namespace": namespace, "name": name}),
        None => json!({"kind": "ClusterNetworkPolicy", "name": name}),
    })
}

/// The fields of an event about a connection.
fn connection() -> impl Strategy<Value = Value> {
    let of_packet =
        (prop::option::of(end()), prop::option::of(end()), prop::option::of(select(&PROTOCOLS[..])));
    let decision = (
        select(&["allow", "deny"][..]),
        select(&REASONS[..]),
        select(&["ingress", "egress"][..]),
        prop::option::of(policy()),
        prop::collection::vec(policy(), 0..3),
    );
    let name = select(&["connection", "connection", "revoked", "restored"][..]);
    (name, of_packet, decision, prop::option::of(1..100_u64)).prop_map(
        |(
            event,
            (source, destination, protocol),
            (verdict, reason, direction, policy, isolated_by),
            count,
        )| {
            let side = json!({"verdict": verdict, "reason": reason, "policy": policy, "rule": null});
            let mut fields = json!({
                "event": event, "verdict": verdict, "reason": reason, "direction": direction, "generation": 1,
                "policy": policy, "rule": null, "egress": side, "ingress": side,
            });
            let optional = [
                ("source", source),
                ("destination", destination),
                ("protocol", protocol.map(|number| Protocol(number).to_string().into())),
                ("isolated_by", Some(isolated_by.into()).filter(|list: &Value| *list != json!([]))),
                ("count", count.map(Into::into)),
            ];
            for (name, value) in optional {
                value.into_iter().for_each(|value| fields[name] = value);
            }
            fields
        },
    )
}

/// The fields of any other event.
fn other_event() -> impl Strategy<Value = Value> {
    prop_oneof![
        (select(&NAMES[..]), select(&NAMES[..]), select(&ADDRESSES[..])).prop_map(
            |(namespace, pod, address)| {
                json!({"event": "pod", "namespace": namespace, "pod": pod, "labels": {"schema": "x"},
                "workload": {"kind": "Deployment", "name": pod}, "addresses": [address]})
            }
        ),
        (end(), select(&NAMES[..]), 1..9_u64).prop_map(|(source, pod, packets)| {
            json!({"event": "dropped", "reason": "rule", "namespace": "web", "pod": pod, "packets": packets,
                "source": source, "protocol": "TCP"})
        }),
        policy().prop_map(|mut policy| {
            policy["change"] = "applied".into();
            json!({"event": "policy", "generation": 1, "policies": [policy]})
        }),
        Just(json!({"event": "start", "version": "1.0.0", "pid": 1})),
        Just(json!({"event": "stop", "recorded": 3, "lost": 0})),
        (1..9_u64).prop_map(|count| json!({"event": "lost", "count": count, "reason": "queue-full"})),
    ]
}

/// A record, as the agent's line of it.
fn record() -> impl Strategy<Value = Record> {
    let event = prop_oneof![3 => connection().boxed(), 1 => other_event().boxed()];
    (event, 0..100_i64, prop::option::of(select(&NAMES[..]))).prop_map(|(fields, seconds, cluster)| {
        let mut line =
            json!({"schema": 1, "seq": 1, "instance": "i-1", "node": "n", "time": time(seconds).to_string()});
        let object: &mut Map<String, Value> = line.as_object_mut().expect("an object");
        cluster.into_iter().for_each(|cluster| _ = object.insert("cluster".to_owned(), cluster.into()));
        object.extend(fields.as_object().expect("an object").clone());
        serde_json::from_value(line.clone()).unwrap_or_else(|error| panic!("{error}: {line}"))
    })
}

fn name_pattern() -> impl Strategy<Value = NamePattern> {
    (prop::option::of(select(&NAMES[..])), select(&NAMES[..])).prop_map(|(namespace, name)| NamePattern {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    })
}

/// None, or up to two.
fn few<S: Strategy + 'static>(strategy: S) -> BoxedStrategy<Vec<S::Value>>
where
    S::Value: Clone + 'static,
{
    let some = prop::collection::vec(strategy, 1..3);
    prop_oneof![6 => Just(Vec::new()).boxed(), 1 => some.boxed()].boxed()
}

fn end_filter() -> impl Strategy<Value = EndFilter> {
    let workload = (name_pattern(), prop::option::of(select(&["deployment", "DaemonSet"][..])));
    let workload = workload.prop_map(|(NamePattern { namespace, name }, kind)| WorkloadPattern {
        namespace,
        kind: kind.map(str::to_owned),
        name,
    });
    let block = select(&["10.0.0.1/32", "10.0.0.0/8", "fd00::1/128", "192.0.2.0/24"][..]);
    let block = block.prop_map(|block| block.parse().expect("block"));
    (few(select(&NAMES[..])), few(name_pattern()), few(workload), few(block)).prop_map(
        |(namespaces, pods, workloads, addresses)| EndFilter {
            namespaces: namespaces.into_iter().map(str::to_owned).collect(),
            pods,
            workloads,
            addresses,
        },
    )
}

fn filter() -> impl Strategy<Value = Filter> {
    let ends = (end_filter(), end_filter(), end_filter());
    let decision = (
        few(name_pattern()),
        few(select(&[Verdict::Allow, Verdict::Deny][..])),
        few(select(&REASONS[..])),
        few(select(&[Direction::Ingress, Direction::Egress][..])),
    );
    let ports = prop_oneof![select(&PORTS[..]).prop_map(|port| port..=port), Just(0..=443)];
    let of_packet = (few(select(&PROTOCOLS[..]).prop_map(Protocol)), few(ports));
    let moment = || prop::option::weighted(0.2, (0..100_i64).prop_map(time));
    let events = few(select(&EventKind::ALL[..]));
    (ends, decision, of_packet, (moment(), moment()), events).prop_map(
        |(
            (either, from, to),
            (policies, verdicts, reasons, directions),
            (protocols, ports),
            times,
            events,
        )| {
            let reasons = reasons.into_iter().map(str::to_owned).collect();
            let (since, until) = times;
            Filter {
                events,
                either,
                from,
                to,
                policies,
                verdicts,
                reasons,
                directions,
                protocols,
                ports,
                since,
                until,
            }
        },
    )
}

/// One end, as a naive filter sees it.
#[derive(Default)]
struct End {
    addresses: Vec<IpAddr>,
    namespace: Option<String>,
    pod: Option<String>,
    workload: Option<(String, String)>,
}

impl End {
    fn of(end: &Endpoint) -> Self {
        Self {
            addresses: vec![end.address],
            namespace: end.namespace.as_deref().map(str::to_owned),
            pod: end.pod.as_deref().map(str::to_owned),
            workload: end
                .workload
                .as_ref()
                .map(|workload| (workload.kind.to_string(), workload.name.to_string())),
        }
    }

    fn matches(&self, filter: &EndFilter) -> bool {
        let is_in = |namespace: &Option<String>| namespace.is_none() || *namespace == self.namespace;
        let EndFilter { namespaces, pods, workloads, addresses } = filter;
        (namespaces.is_empty() || namespaces.iter().any(|name| self.namespace.as_ref() == Some(name)))
            && (pods.is_empty()
                || pods.iter().any(|pod| is_in(&pod.namespace) && self.pod.as_ref() == Some(&pod.name)))
            && (workloads.is_empty()
                || workloads.iter().any(|wanted| {
                    self.workload.as_ref().is_some_and(|(kind, name)| {
                        let is_kind = wanted.kind.as_ref().is_none_or(|of| of.eq_ignore_ascii_case(kind));
                        is_in(&wanted.namespace) && is_kind && *name == wanted.name
                    })
                }))
            && (addresses.is_empty()
                || addresses.iter().any(|block| self.addresses.iter().any(|at| block.contains(at))))
    }
}

/// Whether a record matches, from its typed fields.
fn naive(filter: &Filter, record: &Record) -> bool {
    let (mut source, mut destination, mut own) = (None, None, None);
    let (mut policies, mut verdict, mut reason, mut direction) = (Vec::new(), None, None, None);
    let (mut protocol, mut port) = (None, None);
    let kind = match &record.event {
        Event::Connection(of) | Event::Revoked(of) | Event::Restored(of) => {
            source = of.source.as_ref().map(End::of);
            destination = of.destination.as_ref().map(End::of);
            port = of.destination.as_ref().and_then(|end| end.port);
            let decided = [&of.policy, &of.egress.policy, &of.ingress.policy].into_iter().flatten();
            policies.extend(decided.chain(&of.isolated_by).cloned());
            (verdict, direction) = (Some(of.verdict), Some(of.direction));
            reason = Some(of.reason.to_string());
            protocol = of.protocol;
            match &record.event {
                Event::Connection(_) => EventKind::Connection,
                Event::Revoked(_) => EventKind::Revoked,
                _ => EventKind::Restored,
            }
        }
        Event::Dropped(of) => {
            source = of.source.as_ref().map(End::of);
            destination = of.destination.as_ref().map(End::of);
            reason = Some(of.reason.to_string());
            protocol = of.protocol;
            let [namespace, pod] = [&of.namespace, &of.pod].map(|name| name.as_deref().map(str::to_owned));
            own = Some(End { namespace, pod, ..End::default() });
            EventKind::Dropped
        }
        Event::Pod(of) => {
            let workload = of.workload.as_ref().map(|of| (of.kind.to_string(), of.name.to_string()));
            own = Some(End {
                addresses: of.addresses.clone(),
                namespace: Some(of.namespace.to_string()),
                pod: Some(of.pod.to_string()),
                workload,
            });
            EventKind::Pod
        }
        Event::Policy(of) => {
            policies.extend(of.policies.iter().map(|applied| applied.policy.clone()));
            EventKind::Policy
        }
        Event::Lost(_) => {
            reason = Some("queue-full".to_owned());
            EventKind::Lost
        }
        Event::Start(_) => EventKind::Start,
        Event::Stop(_) => EventKind::Stop,
        Event::Bypass(_) | Event::Repeated(_) => unreachable!("not generated"),
    };
    let is_policy = |policy: &PolicyRef| {
        filter.policies.iter().any(|pattern| {
            let namespace = pattern.namespace.as_ref().is_none_or(|of| **of == *policy.name.namespace);
            namespace && *pattern.name == *policy.name.name
        })
    };
    let is_event = match &*filter.events {
        [] => kind != EventKind::Pod,
        events => events.contains(&kind),
    };
    let of = |filter: &EndFilter, end: &Option<End>| match end {
        Some(end) => end.matches(filter),
        None => *filter == EndFilter::default(),
    };
    let none = |is_empty: bool, found: bool| is_empty || found;
    is_event
        && none(filter.policies.is_empty(), policies.iter().any(is_policy))
        && none(filter.verdicts.is_empty(), verdict.is_some_and(|of| filter.verdicts.contains(&of)))
        && none(filter.reasons.is_empty(), reason.is_some_and(|of| filter.reasons.contains(&of)))
        && none(filter.directions.is_empty(), direction.is_some_and(|of| filter.directions.contains(&of)))
        && none(filter.protocols.is_empty(), protocol.is_some_and(|of| filter.protocols.contains(&of)))
        && none(
            filter.ports.is_empty(),
            port.is_some_and(|of| filter.ports.iter().any(|range| range.contains(&of))),
        )
        && filter.since.is_none_or(|since| since <= record.time)
        && filter.until.is_none_or(|until| record.time < until)
        && of(&filter.from, &source)
        && of(&filter.to, &destination)
        && [&source, &destination, &own].into_iter().any(|end| of(&filter.either, end))
}

/// The line as another program might write it: with all letters of its texts as escapes.
fn escaped(line: &str) -> String {
    fn escape(value: &Value) -> String {
        let text = |text: &str| {
            let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
            format!("\"{}\"", units.collect::<String>())
        };
        match value {
            Value::String(value) => text(value),
            Value::Array(list) => format!("[{}]", list.iter().map(escape).collect::<Vec<_>>().join(" , ")),
            Value::Object(object) => {
                let fields = object.iter().map(|(name, value)| format!("{}: {}", text(name), escape(value)));
                format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
            }
            other => other.to_string(),
        }
    }
    escape(&serde_json::from_str(line).expect("JSON"))
}

fn position(line: u64) -> Position<'static> {
    Position { path: Path::new("audit.log"), line }
}

/// Whether a query finds the line. The line must be a record.
fn finds(filter: &Filter, line: &str) -> bool {
    let mut scan = Scan::new(filter.clone());
    let found = scan.line(position(1), line.as_bytes()).is_some();
    assert!(!scan.findings().has_unreadable_lines(), "{line}: {:?}", scan.findings());
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_query_finds_what_a_naive_filter_over_records_finds(record in record(), filter in filter()) {
        let line = serde_json::to_string(&record).expect("writes");
        let expected = naive(&filter, &record);
        prop_assert_eq!(finds(&filter, &line), expected, "{}", line);
        let sorted = serde_json::from_str::<Value>(&line).expect("JSON").to_string();
        prop_assert_eq!(finds(&filter, &sorted), expected, "{}", sorted);
        let escaped = escaped(&line);
        prop_assert_eq!(finds(&filter, &escaped), expected, "{}", escaped);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..400_usize) {
        let mut scan = Scan::new(Filter::default());
        let _ = scan.line(position(1), &bytes);
        let line = line(1, "i-1", 0, r#""event":"start","version":"1","pid":1"#);
        let cut = &line.as_bytes()[..cut.min(line.len())];
        let found = scan.line(position(2), cut).is_some();
        prop_assert_eq!(found, cut.len() == line.len());
        let glued = [cut, line.as_bytes()].concat();
        prop_assert_eq!(scan.line(position(3), &glued).is_some(), cut.is_empty(), "a torn line spoils the next one");
    }
}

#[test]
fn the_naive_filter_and_the_strategies_reach_both_answers() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = (record(), filter());
    let found = (0..1_000)
        .filter(|_| {
            let (record, filter) = strategy.new_tree(&mut runner).expect("a value").current();
            naive(&filter, &record)
        })
        .count();
    assert!((50..950).contains(&found), "{found} of 1000");
}

/// A line with this number, instance, and time in seconds.
fn line(seq: u64, instance: &str, seconds: i64, event: &str) -> String {
    let time = time(seconds);
    format!(r#"{{"schema":1,"seq":{seq},"instance":"{instance}","node":"n","time":"{time:.9}",{event}}}"#)
}

const START: &str = r#""event":"start","version":"1","pid":1"#;
const FOLDED: &str = r#""event":"connection","verdict":"deny","reason":"default-deny","direction":"ingress","generation":1,"policy":null,"rule":null,"egress":{"verdict":"allow","reason":"not-a-pod","policy":null,"rule":null},"ingress":{"verdict":"deny","reason":"default-deny","policy":null,"rule":null},"count":9,"folded_by":"flow""#;

/// The findings in these lines, and the numbers of the records that match.
fn scanned(filter: Filter, lines: &[&[u8]]) -> (Findings, Vec<u64>) {
    let mut scan = Scan::new(filter);
    let mut found = Vec::new();
    for (number, line) in (1..).zip(lines) {
        found.extend(scan.line(position(number), line).map(|record| record.seq));
    }
    (scan.findings().clone(), found)
}

#[test]
fn lines_that_are_no_records_are_counted_by_what_they_are() {
    let whole = line(1, "i-1", 0, START);
    let torn = &whole[..40];
    let glued = [torn, &whole].concat();
    let other = whole.replacen(r#""schema":1"#, r#""schema":2"#, 1);
    let invalid = [&whole.as_bytes()[..30], b"\xff\xfe", &whole.as_bytes()[30..]].concat();
    let unknown = whole.replacen("start", "unknown", 1);
    let lines: [&[u8]; 8] = [
        whole.as_bytes(),
        torn.as_bytes(),
        glued.as_bytes(),
        other.as_bytes(),
        &invalid,
        b"",
        b"# text",
        unknown.as_bytes(),
    ];
    let deny = Filter { verdicts: vec![Verdict::Deny], ..Filter::default() };
    let late = Filter { since: Some(time(99)), ..Filter::default() };
    let stop = Filter { events: vec![EventKind::Stop], ..Filter::default() };
    for (filter, matching) in [(Filter::default(), vec![1]), (deny, vec![]), (late, vec![]), (stop, vec![])] {
        let (findings, found) = scanned(filter, &lines);
        assert_eq!(found, matching);
        assert_eq!((findings.foreign.count, findings.other_schema.count), (5, 1), "{findings:?}");
        assert!(findings.foreign.first.starts_with("audit.log, line 2: EOF"), "{findings:?}");
        assert_eq!(findings.other_schema.first, "audit.log, line 4, schema 2");
        assert!(findings.has_unreadable_lines());
        let sentences = findings.sentences();
        assert!(
            sentences[0].starts_with("5 lines are no audit records; the first: audit.log, line 2"),
            "{sentences:?}"
        );
    }

    let mut scan = Scan::new(Filter::default());
    assert!(scan.unfinished_line(position(1), torn.as_bytes()).is_none());
    assert!(scan.unfinished_line(position(1), whole.as_bytes()).is_some(), "only its line end is missing");
    scan.too_long(position(2));
    assert_eq!((scan.findings().unfinished.count, scan.findings().too_long.count), (1, 1));
}

#[test]
fn a_clock_that_is_set_back_is_counted_once_for_each_instance() {
    let lines = [
        line(1, "i-1", 0, START),
        line(2, "i-1", 3_600, START),
        line(1, "i-2", 0, START),
        line(3, "i-1", 3_550, START),
        line(4, "i-1", 10, FOLDED),
        line(5, "i-1", 0, START),
        line(6, "i-1", 5, START),
    ];
    let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
    for filter in [Filter::default(), Filter { reasons: vec!["none".to_owned()], ..Filter::default() }] {
        let (findings, _) = scanned(filter, &lines);
        assert_eq!(findings.clock_set_back.count, 1, "{findings:?}");
        assert_eq!(
            findings.clock_set_back.first,
            "audit.log, line 6: from 2026-01-02T04:04:05Z to 2026-01-02T03:04:05Z"
        );
    }
}

#[test]
fn lines_that_were_repeated_are_shown_once() {
    let repeated = |seq| line(seq, "i-1", 0, r#""event":"repeated","lines":2"#);
    let lost = r#""event":"lost","count":7,"from_seq":6,"to_seq":12,"reason":"queue-full""#;
    let lines = [
        line(1, "i-1", 0, START),
        line(2, "i-1", 0, START),
        // The previous file contains the first line that follows, but not the second one.
        repeated(3),
        line(2, "i-1", 0, START),
        line(4, "i-1", 0, START),
        line(5, "i-1", 0, START),
        line(6, "i-1", 0, lost),
    ];
    let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
    let (findings, found) = scanned(Filter::default(), &lines);
    assert_eq!(found, [1, 2, 4, 5, 6]);
    assert_eq!((findings.repeated.count, findings.lost.count), (1, 7));
    assert_eq!(findings.lost.first, "audit.log, line 7: the log is slower than the verdicts");
    assert!(!findings.has_unreadable_lines(), "the log itself says so");
    let none = Filter { reasons: vec!["none".to_owned()], ..Filter::default() };
    assert_eq!(scanned(none, &lines).0, findings, "whatever is asked for");
}

#[test]
fn each_field_has_a_value_or_a_dash() {
    let lines = [line(1, "i-1", 0, FOLDED), line(1, "i-1", 0, START)];
    for line in lines {
        let record: RecordView<'_> = serde_json::from_str(&line).expect("reads");
        for field in Field::ALL {
            let mut text = String::new();
            field.write(&record, &mut text).expect("writes");
            assert!(!text.is_empty(), "{}", field.name());
            assert_eq!(field.name().parse(), Ok(field));
        }
    }
    let error = "colour".parse::<Field>().expect_err("no field").to_string();
    assert!(error.starts_with(r#""colour" is no field: use from, to, from-namespace"#), "{error}");
}
