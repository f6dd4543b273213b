//! The events of the audit log, as a reader sees them: connections that a change cuts and brings back, the
//! policies that were applied, the pods of the records, and repeated denials.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use audit::{Connection, Event, PolicyChange, Record};
use integration::Scenario;
use integration::web_to_db::{self, ALLOWED, FORBIDDEN, POLICY};

/// How long a record may take: the sweep, and the writer's poll, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// All whole records of a log.
fn records(log: &Path) -> Vec<Record> {
    let text = fs::read_to_string(log).unwrap();
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Waits for this many records of a kind.
fn wait_for<T>(log: &Path, number: usize, of_kind: impl Fn(Record) -> Option<T>) -> Vec<T> {
    let end = Instant::now() + TIMEOUT;
    loop {
        let found: Vec<T> = records(log).into_iter().filter_map(&of_kind).collect();
        if found.len() >= number {
            return found;
        }
        assert!(Instant::now() < end, "{} of {number}: {:#?}", found.len(), records(log));
        sleep(Duration::from_millis(20));
    }
}

fn revoked(record: Record) -> Option<Connection> {
    match record.event {
        Event::Revoked(connection) => Some(*connection),
        _ => None,
    }
}

fn restored(record: Record) -> Option<Connection> {
    match record.event {
        Event::Restored(connection) => Some(*connection),
        _ => None,
    }
}

/// Checks that each number up to the last has a record or is in the range of a loss, once.
fn check_numbers(records: &[Record]) {
    let mut numbers: Vec<u64> = records.iter().map(|record| record.seq).collect();
    for record in records {
        if let Event::Lost(lost) = &record.event
            && let Some((from, to)) = lost.from_seq.zip(lost.to_seq)
        {
            numbers.extend(from..=to);
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn connections_that_a_change_cuts_and_brings_back_are_recorded_with_policies_and_pods() {
    let mut scenario = Scenario::new(web_to_db::cluster());
    scenario.policy(POLICY, ALLOWED);
    scenario.start_agents(&[]);
    let log = scenario.agent("node-a").audit_log().to_owned();
    // TCP and UDP, in both families.
    let streams = web_to_db::open_streams(&scenario.testbed).unwrap();
    streams.iter().for_each(|stream| stream.wait_progress(5).unwrap());

    scenario.policy(POLICY, FORBIDDEN);
    let cut = wait_for(&log, streams.len(), revoked);
    assert_eq!(cut.len(), streams.len(), "each once: {cut:#?}");
    for connection in &cut {
        assert_eq!(
            (&*connection.reason, connection.policy.as_ref()),
            ("default-deny", None),
            "{connection:#?}"
        );
        assert_eq!(connection.isolated_by[0].name.to_string(), POLICY);
        let pod = |end: &Option<audit::Endpoint>| end.as_ref().and_then(audit::Endpoint::pod_name).unwrap();
        assert_eq!(pod(&connection.source).to_string(), "web/a");
        assert_eq!(pod(&connection.destination).to_string(), "db/s");
    }
    scenario.policy(POLICY, ALLOWED);
    let back = wait_for(&log, streams.len(), restored);
    assert_eq!(back.len(), streams.len(), "each once: {back:#?}");
    assert!(back.iter().all(|connection| connection.rule == Some(0)), "{back:#?}");
    let flow = |connection: &Connection| (connection.community_id, connection.packet());
    let sorted = |connections: &[Connection]| {
        let mut flows: Vec<String> = connections.iter().map(|one| format!("{:?}", flow(one))).collect();
        flows.sort();
        flows
    };
    assert_eq!(sorted(&cut), sorted(&back));

    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    let records = records(&log);
    check_numbers(&records);
    assert!(matches!(records[0].event, Event::Start(_)), "{:?}", records[0]);
    assert!(matches!(records.last().unwrap().event, Event::Stop(_)), "{:?}", records.last());
    let applied = records.iter().filter_map(|record| match &record.event {
        Event::Policy(update) => Some(update),
        _ => None,
    });
    let applied = applied
        .flat_map(|update| &update.policies)
        .filter(|applied| applied.policy.name.to_string() == POLICY);
    assert!(applied.clone().all(|applied| applied.change == PolicyChange::Applied));
    assert!(applied.count() >= 3, "as it was found, and two changes");
    let pods: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Pod(pod) => {
                Some((format!("{}/{}", pod.namespace, pod.pod), pod.labels.value("app").map(str::to_owned)))
            }
            _ => None,
        })
        .collect();
    for (pod, app) in [("web/a", "a"), ("db/s", "s")] {
        assert!(pods.contains(&(pod.to_owned(), Some(app.to_owned()))), "{pods:?}");
    }
}

#[test]
fn one_refused_connect_is_one_record_and_a_count() {
    let mut scenario = Scenario::new(web_to_db::cluster());
    scenario.policy(POLICY, FORBIDDEN);
    // The kernel drops retransmitted packets of a cached flow itself, and logs few of them.
    scenario.start_agents(&["--audit-fold=10s", "--verdict-cache-ttl=off"]);
    let log = scenario.agent("node-a").audit_log().to_owned();
    let [address, _] = scenario.testbed.addresses("db/s").unwrap();
    let client = scenario.testbed.namespace("web/a").unwrap();
    // SYNs after 0, 1 and at most 3 s (RFC 6298).
    let connected = client
        .run(|| TcpStream::connect_timeout(&SocketAddr::new(address, 5432), Duration::from_millis(3_500)))
        .unwrap();
    assert!(connected.is_err(), "policy denies it");
    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    let records = records(&log);
    check_numbers(&records);
    let denials = records.iter().filter_map(|record| match &record.event {
        Event::Connection(connection) if connection.verdict == policy::Verdict::Deny => Some(&**connection),
        _ => None,
    });
    let of_client =
        |denial: &&Connection| denial.source.as_ref().is_some_and(|end| end.pod.as_deref() == Some("a"));
    let denials: Vec<&Connection> = denials.filter(of_client).collect();
    let [first, others] = denials.as_slice() else { panic!("not two records: {denials:#?}") };
    assert!(first.count.is_none() && others.count >= Some(2), "{denials:#?}");
    assert!(denials.iter().all(|denial| denial.packet() == denials[0].packet()), "{denials:#?}");
}
