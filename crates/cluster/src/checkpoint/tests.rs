//! Scenarios of state folders: what an agent leaves, what happens to the file, and what the next agent reads.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use policy::{Change, Labels, Namespace, Node, Pod, PodName, PodUid};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::convert::{Kind, convert};
use crate::key::Key;

const SOURCE: &str = "kubernetes";

fn state_dir(dir: &TempDir) -> StateDir {
    StateDir { path: dir.path().join("state"), node: "n".into() }
}

fn read(dir: &TempDir) -> (Option<Restored>, StateStatus) {
    let (restored, writer) = state_dir(dir).open(SOURCE, &Interner::new());
    (restored, writer.status().clone())
}

/// Writes a checkpoint as an agent with a write permit that then ends.
fn write(dir: &TempDir, checkpoint: Checkpoint) {
    let (_, writer) = state_dir(dir).open(SOURCE, &Interner::new());
    writer.permit().set(true);
    writer.offer(checkpoint, ChangeClass::Policy);
    drop(writer);
}

fn wait(fits: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !fits() {
        assert!(Instant::now() < end, "too late");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn objects(changes: Vec<Change>) -> Checkpoint {
    let objects = changes.into_iter().map(|change| (Key::of(&change), change)).collect();
    Checkpoint::Kubernetes { objects, finished: vec![PodName::new("web", "job")] }
}

fn pod(name: &str, address: &str) -> Pod {
    Pod {
        name: PodName::new("web", name),
        labels: [("app", "a")].into_iter().collect(),
        addresses: vec![address.parse().expect("address")],
        ports: vec![policy::NamedPort { name: "http".into(), protocol: policy::Protocol::TCP, number: 80 }],
        node: Some("n".into()),
        host_network: false,
        reported: 7,
        created: 3,
        uid: PodUid::of("0f2c4b6a-7d1e-4c55-9a40-1f2e3d4c5b6a"),
        workload: Some(std::sync::Arc::new(policy::Workload { kind: "Deployment".into(), name: "a".into() })),
    }
}

/// One object of each kind, with every form of rule.
fn every_kind() -> Vec<Change> {
    let spec = json!({
        "podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x", "y"]}, {"key": "b", "operator": "Exists"}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]},
            {"from": [{"services": {}}], "ports": [{"port": "http"}, {"port": 80, "endPort": 90}, {"protocol": "UDP"}, {"port": -1}]},
        ],
        "egress": [{}],
    });
    let policy = json!({"metadata": {"name": "p", "namespace": "web"}, "spec": spec});
    let policy = convert(Kind::NetworkPolicy, &policy, &[], &Interner::new()).expect("a policy").change;
    let node = Node {
        name: "n".into(),
        labels: [("pool", "edge")].into_iter().collect(),
        addresses: vec!["192.168.0.1".parse().expect("address")],
        pod_cidrs: vec!["10.244.1.0/24".parse().expect("CIDR"), "fd00::/64".parse().expect("CIDR")],
        has_all_addresses: false,
        reported_addresses: Vec::new(),
    };
    vec![
        Change::Namespace(Namespace { name: "web".into(), labels: [("team", "a")].into_iter().collect() }),
        Change::Namespace(Namespace { name: "db".into(), labels: Labels::unknown() }),
        Change::Node(node),
        Change::Pod(pod("a", "10.244.1.2")),
        policy,
    ]
}

fn changes(restored: Option<Restored>) -> Vec<Change> {
    match restored.expect("a state").checkpoint {
        Checkpoint::Kubernetes { objects, .. } => objects.values().cloned().collect(),
        Checkpoint::Folder(_) => panic!("the state of a folder"),
    }
}

#[test]
fn what_is_written_is_read_again_by_the_next_agent() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(
        matches!(read(&dir), (None, status) if status.now() == Shown::default()),
        "a missing state is not an error"
    );
    write(&dir, objects(every_kind()));
    let (restored, status) = read(&dir);
    assert!(status.now().saved.is_some() && status.now().error.is_none(), "{status:?}");
    let mut expected = every_kind();
    expected.sort_by_key(Key::of);
    assert_eq!(changes(restored), expected);
    let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    let folder = state_dir(&dir).path;
    assert_eq!((mode(&folder), mode(&folder.join(file::NAME))), (0o700, 0o600));
    let names: Vec<_> =
        fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a file").file_name()).collect();
    assert_eq!(names, [file::NAME], "nothing else is left");
}

#[test]
fn a_file_that_is_damaged_or_of_another_agent_is_ignored_and_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    write(&dir, objects(every_kind()));
    let path = state_dir(&dir).path.join(file::NAME);
    let whole = fs::read_to_string(&path).expect("the state");
    let cases = [
        ("cut off", whole[..whole.len() - 9].to_owned(), "damaged"),
        ("a bit turned over", whole.replace("10.244.1.2", "10.244.1.3"), "damaged"),
        ("longer", format!("{whole} "), "damaged"),
        ("empty", String::new(), "first line"),
        ("no state", "hello\n".to_owned(), "first line"),
        ("a later version", whole.replace("\"version\":2", "\"version\":3"), "version 3"),
        ("the version before", whole.replace("\"version\":2", "\"version\":1"), "version 1"),
        ("another node", whole.replace("\"node\":\"n\"", "\"node\":\"m\""), "node m"),
        (
            "another source",
            whole.replace("\"source\":\"kubernetes\"", "\"source\":\"folder /x\""),
            "folder /x",
        ),
    ];
    for (scenario, text, said) in cases {
        fs::write(&path, text).expect("written");
        let (restored, status) = read(&dir);
        let error = status.now().error.unwrap_or_default();
        assert!(
            restored.is_none() && error.contains(said) && error.contains(file::NAME),
            "{scenario}: {error}"
        );
    }
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("a folder in its place");
    let (restored, status) = read(&dir);
    assert!(restored.is_none() && status.now().error.is_some());
}

#[test]
fn a_file_that_is_not_used_is_written_again_by_the_agent_that_found_it() {
    let kinds = [
        ("damaged", "10.244.1.2", "10.244.1.3"),
        ("of a later version", "\"version\":2", "\"version\":3"),
        ("of another node", "\"node\":\"n\"", "\"node\":\"m\""),
        ("of another source", "\"source\":\"kubernetes\"", "\"source\":\"folder /x\""),
        (
            "of an impossible term",
            "\"node\":\"n\",\"term\":3",
            "\"node\":\"m\",\"term\":18446744073709551615",
        ),
        ("without a header", "{\"format\"", "\"format\""),
    ];
    for (scenario, from, to) in kinds {
        let dir = tempfile::tempdir().expect("a folder");
        for _ in 0..3 {
            write(&dir, objects(every_kind()));
        }
        let path = state_dir(&dir).path.join(file::NAME);
        let whole = fs::read_to_string(&path).expect("the state");
        assert!(whole.contains(from) && whole.contains("\"term\":3"), "{scenario}: {whole}");
        fs::write(&path, whole.replacen(from, to, 1)).expect("written");
        let (restored, writer) = state_dir(&dir).open(SOURCE, &Interner::new());
        let status = writer.status().clone();
        assert!(restored.is_none() && status.now().error.is_some(), "{scenario}");
        writer.permit().set(true);
        writer.offer(objects(vec![]), ChangeClass::Policy);
        drop(writer);
        assert!(status.now().error.is_none() && status.now().saved.is_some(), "{scenario}: {status:?}");
        assert_eq!(changes(read(&dir).0), [], "{scenario}");
    }
}

#[test]
fn agents_that_share_a_folder_report_it_and_only_the_newest_writes() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = |source: &str, node: &str| {
        let (_, writer) = StateDir { node: node.into(), ..state_dir(&dir) }.open(source, &Interner::new());
        writer.permit().set(true);
        writer
    };
    for (source, node) in [(SOURCE, "m"), ("folder /x", "n")] {
        let first = open(SOURCE, "n");
        first.offer(objects(vec![]), ChangeClass::Policy);
        wait(|| first.status().now().saved.is_some());
        let second = open(source, node);
        let said = second.status().now().error.expect("the folder is another agent's");
        assert!(said.contains("a folder of its own"), "{said}");
        second.offer(objects(every_kind()), ChangeClass::Policy);
        wait(|| second.status().now().error.is_none());
        first.offer(objects(vec![]), ChangeClass::Policy);
        wait(|| first.status().now().error.is_some());
        let said = first.status().now().error.unwrap_or_default();
        let expected = format!("an agent of node {node} and source {source} writes it, too");
        assert!(said.contains(&expected) && said.contains("a folder of its own"), "{said}");
        let header = file::header_in(&state_dir(&dir).path).expect("a header");
        drop(first);
        assert_eq!(file::header_in(&state_dir(&dir).path), Some(header), "only the newest writes");
    }
}

#[test]
fn a_state_that_is_read_is_made_valid() {
    let dir = tempfile::tempdir().expect("a folder");
    let odd = Pod {
        addresses: vec!["::ffff:10.0.0.2".parse().expect("address")],
        ports: [pod("a", "10.0.0.2").ports, pod("a", "10.0.0.2").ports].concat(),
        ..pod("a", "10.0.0.2")
    };
    write(&dir, objects(vec![Change::Pod(odd)]));
    assert_eq!(changes(read(&dir).0), [Change::Pod(pod("a", "10.0.0.2"))]);
}

/// 2,000 pods of one template, as large as the API server accepts.
fn pods_of_a_large_template() -> Checkpoint {
    let key = |number| format!("{number:0>253}/{number:0>63}");
    let labels: Labels = (0..256).map(|number: u32| (key(number), format!("{number:0>63}"))).collect();
    let port = |number: u16| policy::NamedPort {
        name: format!("{number:0>15}").into(),
        protocol: policy::Protocol::TCP,
        number,
    };
    let ports: Vec<_> = (0..256).map(port).collect();
    let pod = |number: u16| {
        let [_, _, high, low] = u32::from(number).to_be_bytes();
        let address = format!("10.0.{high}.{low}");
        // Like the pods of a StatefulSet, each with its own label.
        let own = [("index".to_owned(), number.to_string())];
        let shared = || labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = if number < 10 { shared().chain(own).collect() } else { labels.clone() };
        Pod { labels, ports: ports.clone(), ..pod(&number.to_string(), &address) }
    };
    objects((0..2_000).map(|number| Change::Pod(pod(number))).collect())
}

#[test]
fn values_shared_by_pods_of_one_template_are_written_once_and_shared_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let checkpoint = pods_of_a_large_template();
    let header = Header::new(SOURCE, "n", 1);
    let bytes = file::write(&state_dir(&dir).path, &header, &checkpoint, SystemTime::now()).expect("written");
    assert!(bytes < 2 << 20, "{bytes}");
    let read = changes(read(&dir).0);
    let Checkpoint::Kubernetes { objects, .. } = checkpoint else { panic!("no folder") };
    assert!(read.iter().eq(objects.values()));
    let addresses: std::collections::BTreeSet<_> = read
        .iter()
        .map(|change| match change {
            Change::Pod(pod) => pod.labels.address(),
            _ => None,
        })
        .collect();
    assert_eq!(addresses.len(), 11);
}

#[test]
fn a_state_that_is_too_large_is_reported_and_not_retried_immediately() {
    let dir = tempfile::tempdir().expect("a folder");
    let texts = (0..300).map(|number: u32| (number.to_string(), "x".repeat(300_000)));
    let large = Pod { labels: texts.collect(), ..pod("a", "10.0.0.2") };
    let (_, writer) = state_dir(&dir).open(SOURCE, &Interner::new());
    writer.permit().set(true);
    writer.offer(objects(every_kind()), ChangeClass::Policy);
    wait(|| writer.status().now().saved.is_some());
    writer.offer(objects(vec![Change::Pod(large)]), ChangeClass::Policy);
    wait(|| writer.status().now().error.is_some_and(|error| error.contains("each minute")));
    // There is no retry before that.
    writer.offer(objects(vec![]), ChangeClass::Policy);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(writer.status().now().error.is_some());
    assert_eq!(changes(read(&dir).0).len(), every_kind().len(), "the last one is kept");
    drop(writer);
    assert_eq!(changes(read(&dir).0), [], "it retries when it ends");
    let header = Header::new(SOURCE, "n", 9);
    fs::File::options()
        .write(true)
        .open(state_dir(&dir).path.join(file::NAME))
        .and_then(|file| file.set_len(100 << 20))
        .expect("a file that is too large");
    let said = read(&dir).1.now().error.expect("it is not read");
    assert!(said.contains("at most"), "{said}");
    file::write(&state_dir(&dir).path, &header, &objects(vec![]), SystemTime::now()).expect("written");
}

#[test]
fn an_agent_that_was_stopped_while_writing_does_not_replace_a_newer_agents_state() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = state_dir(&dir).path;
    let write = |term| {
        file::write(&folder, &Header::new(SOURCE, "n", term), &objects(every_kind()), SystemTime::now())
    };
    write(2).expect("the newer agent's");
    let error = write(1).expect_err("the older agent's");
    assert!(error.to_string().contains("another agent of this node has taken over"), "{error}");
    assert_eq!(file::header_in(&folder).map(|header| header.term), Some(2));
}

#[test]
fn nothing_is_written_before_policy_is_in_force_nor_after_another_agent_took_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_, old) = state_dir(&dir).open(SOURCE, &Interner::new());
    old.offer(objects(vec![]), ChangeClass::Policy);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!state_dir(&dir).path.exists(), "it has not been permitted");
    old.permit().set(true);
    wait(|| old.status().now().saved.is_some());
    // A newer agent writes. The old one was stopped meanwhile, resumes, and is unaware of it.
    write(&dir, objects(every_kind()));
    old.offer(objects(vec![]), ChangeClass::Policy);
    wait(|| old.status().now().error.is_some_and(|error| error.contains("another agent")));
    drop(old);
    assert_eq!(changes(read(&dir).0).len(), every_kind().len());
}

#[test]
fn a_folder_that_cannot_be_written_is_reported_and_retried() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = state_dir(&dir).path;
    fs::write(&place, "a file in its place").expect("written");
    let (_, writer) = state_dir(&dir).open(SOURCE, &Interner::new());
    writer.permit().set(true);
    writer.offer(objects(every_kind()), ChangeClass::Policy);
    let end = Instant::now() + Duration::from_secs(10);
    while !writer.status().now().error.is_some_and(|error| error.contains("can't be written")) {
        assert!(Instant::now() < end, "{:?}", writer.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_file(&place).expect("removed");
    while writer.status().now().saved.is_none() {
        assert!(Instant::now() < end, "{:?}", writer.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(writer.status().now().error, None);
}

/// Measures the cost of a state of 10,000 pods. Run it with `cargo test --release -p cluster --lib --
/// --ignored --nocapture state_of_10`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_state_of_10000_pods() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut all = every_kind();
    for number in 0..10_000_u32 {
        let address = IpAddr::from((u32::from_be_bytes([10, 0, 0, 0]) + number).to_be_bytes());
        let name = format!("deployment-{}-5f6d7c8b9-{number:05}", number % 100);
        let labels = [
            ("app".to_owned(), format!("app-{}", number % 100)),
            ("pod-template-hash".to_owned(), "5f6d7c8b9".to_owned()),
        ];
        all.push(Change::Pod(Pod {
            name: PodName::new("web", name),
            addresses: vec![address],
            labels: labels.into_iter().collect(),
            ..pod("a", "10.0.0.1")
        }));
    }
    let checkpoint = objects(all);
    let header = Header::new(SOURCE, "n", 1);
    let (started, folder) = (Instant::now(), state_dir(&dir).path);
    for _ in 0..10 {
        drop(std::hint::black_box(checkpoint.clone()));
    }
    let offered = started.elapsed() / 10;
    for _ in 0..3 {
        let started = Instant::now();
        let bytes = file::write(&folder, &header, &checkpoint, SystemTime::now()).expect("written");
        let written = started.elapsed();
        let started = Instant::now();
        let read = file::read(&folder, SOURCE, "n", &Interner::new()).expect("read");
        assert!(matches!(read, Read::Whole(..)));
        println!(
            "{bytes} bytes; offered in {offered:?}, written in {written:?}, read in {:?}",
            started.elapsed()
        );
    }
}
