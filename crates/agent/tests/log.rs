//! `kube-verdict log` over logs of the example shop, over damaged logs, and over a log that is being written.

#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use audit::policy_versions::PolicyVersions;
use audit::record::{FoldedBy, SCHEMA, SeenPod, Start, Stop};
use audit::{AppliedPolicy, Connection, Event, PolicyChange, PolicyRef, PolicyUpdate, Record};
use jiff::{SignedDuration, Timestamp};
use policy::{Compiler, Directions, Evaluation, Labels, Packet, PolicyName, Protocol, Scope, Snapshot};
use support::{Ran, run, run_in_columns, run_with, text};

const SHOP: &str = "10.244.1.2";
const BLOG: &str = "10.244.1.3";
const PROMETHEUS: &str = "10.244.1.4";
const ORDERS: &str = "10.244.2.2";
const BACKUP: &str = "10.244.2.3";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shop() -> Arc<Snapshot> {
    let folder = root().join("manifests/examples/shop");
    let (_, update) = cluster::Folder::read(folder, policy::Budget::default()).expect("the example");
    assert!(update.problems.is_empty(), "{:#?}", update.problems);
    Compiler::new(Scope::Cluster).apply(update.changes).snapshot
}

/// 2026-01-02T03:04:05.678901234Z and some seconds.
fn at(seconds: i64) -> Timestamp {
    let begin: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().expect("time");
    begin + SignedDuration::from_secs(seconds)
}

/// The record of a TCP connection in the shop.
fn connection(snapshot: &Arc<Snapshot>, from: &str, to: &str, port: u16) -> Connection {
    let address = |text: &str| text.parse().expect("address");
    let mut packet = Packet::new(address(from), address(to), Protocol::TCP).to_port(port);
    packet.source_port = Some(40_000);
    let decision = snapshot.evaluate(&packet, Directions::Both);
    let evaluation = Evaluation {
        at: at(0).into(),
        packet: Some(packet),
        decision,
        elapsed: Duration::from_nanos(123),
        held: None,
        snapshot: Arc::clone(snapshot),
        cached: false,
    };
    Connection::new(&evaluation, &PolicyVersions::default())
}

/// The lines of an agent, whose events happened at these seconds.
fn lines(events: impl IntoIterator<Item = (i64, Event)>) -> Vec<String> {
    let line = |(seq, (seconds, event))| {
        let record = Record {
            schema: SCHEMA,
            seq,
            instance: "0d0a8f5c-2f4e-4a53-9c5e-0e6a4d3c1b2a".into(),
            node: "node-b".into(),
            cluster: None,
            time: at(seconds),
            event,
        };
        serde_json::to_string(&record).expect("writes")
    };
    (1..).zip(events).map(line).collect()
}

/// What an agent of the shop records within two minutes.
fn shop_log() -> Vec<String> {
    let snapshot = shop();
    let event = |from, to, port| Event::Connection(Box::new(connection(&snapshot, from, to, port)));
    let mut folded = connection(&snapshot, BLOG, ORDERS, 5432);
    (folded.count, folded.folded_by, folded.nanoseconds) = (Some(6), Some(FoldedBy::Flow), None);
    (folded.first, folded.last) = (Some(at(4)), Some(at(11)));
    let applied = ["allow-metrics", "allow-shop", "backup"].map(|name| AppliedPolicy {
        change: PolicyChange::Applied,
        policy: PolicyRef { name: Arc::new(PolicyName::network_policy("db", name)), version: None },
    });
    let update = PolicyUpdate { generation: snapshot.generation(), policies: applied.to_vec() };
    let pod = SeenPod {
        namespace: "db".into(),
        pod: "orders".into(),
        labels: [("app", "postgres")].into_iter().collect(),
        namespace_labels: Labels::unknown(),
        workload: None,
        node_name: Some("node-b".into()),
        addresses: vec![ORDERS.parse().expect("address")],
        ports: Vec::new(),
    };
    lines([
        (0, Event::Start(Start { version: "0.3.0".into(), pid: 1 })),
        (0, Event::Policy(Box::new(update))),
        (2, Event::Pod(Box::new(pod))),
        (2, event(SHOP, ORDERS, 5432)),
        (3, event(BLOG, ORDERS, 5432)),
        (11, Event::Connection(Box::new(folded))),
        (12, event(PROMETHEUS, ORDERS, 9187)),
        (15, event(PROMETHEUS, ORDERS, 5432)),
        (60, event(BACKUP, "198.51.100.7", 443)),
        (61, event(BACKUP, "198.51.100.200", 443)),
        (119, Event::Stop(Stop { recorded: 12, lost: 0 })),
    ])
}

/// A folder with the shop's log.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    write(&folder.path().join("audit.log"), &shop_log());
    folder
}

fn write(path: &Path, lines: &[String]) {
    fs::write(path, whole(lines)).expect("file");
}

fn whole(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Runs `log` on lines.
fn log(lines: &[String], arguments: &[&str]) -> Ran {
    run_with(&[&["log", "-"], arguments].concat(), whole(lines).as_bytes())
}

/// Commands in a page, each with its output.
fn examples(page: &str) -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    let mut is_open = false;
    for line in page.lines() {
        match line.strip_prefix("    ").or(line.is_empty().then_some("")) {
            None => is_open = false,
            Some(line) => match (line.strip_prefix("$ kube-verdict "), examples.last_mut()) {
                (Some(command), _) => {
                    examples.push((command.to_owned(), String::new()));
                    is_open = true;
                }
                (None, Some((_, output))) if is_open => *output += &format!("{line}\n"),
                (None, _) => {}
            },
        }
    }
    examples
}

#[test]
fn the_documentation_quotes_what_is_printed() {
    let folder = folder();
    let page = fs::read_to_string(root().join("docs/audit.md")).expect("the page");
    let examples = examples(&page);
    assert!(examples.len() >= 4, "{examples:?}");
    for (command, output) in examples {
        let arguments: Vec<&str> = command.split(' ').collect();
        let mut program = Command::new(env!("CARGO_BIN_EXE_kube-verdict"));
        program.args(&arguments).env_remove("COLUMNS").current_dir(folder.path());
        let ran = program.output().expect("runs");
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        let printed = String::from_utf8(ran.stdout).expect("text");
        assert_eq!(printed.trim_end(), output.trim_end(), "{command}");
    }
}

#[test]
fn json_is_the_lines_of_the_log_byte_for_byte() {
    let log_lines = shop_log();
    let shown = |arguments: &[&str]| {
        let ran = log(&log_lines, &[arguments, &["--output", "json"]].concat());
        assert_eq!((ran.code, &*ran.err), (0, ""), "{arguments:?}");
        let numbers = ran.out.lines().map(|line| log_lines.iter().position(|of| of == line).expect("a line"));
        numbers.collect::<Vec<_>>()
    };
    let cases: [(&[&str], &[usize]); 16] = [
        (&["--event", "all"], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (&[], &[0, 1, 3, 4, 5, 6, 7, 8, 9, 10]),
        (&["--verdict", "deny"], &[4, 5, 7, 9]),
        (&["--namespace", "web"], &[3, 4, 5]),
        (&["--from-pod", "db/backup"], &[8, 9]),
        (&["--to-pod", "orders", "--port", "9000-9999"], &[6]),
        (&["--pod", "web/blog,monitoring/prometheus", "--port", "5432"], &[4, 5, 7]),
        (&["--address", "198.51.100.128/25"], &[9]),
        (&["--to-address", "198.51.100.7"], &[8]),
        (&["--policy", "db/allow-metrics"], &[1, 4, 5, 6, 7]),
        (&["--reason", "default-deny", "--direction", "egress"], &[9]),
        (&["--event", "start,stop"], &[0, 10]),
        (&["--since", "2026-01-02T03:04:10Z", "--until", "2026-01-02T03:05:00Z"], &[5, 6, 7]),
        (&["--protocol", "udp"], &[]),
        (&["--limit", "2"], &[0, 1]),
        (&["--event", "pod", "--namespace", "db"], &[2]),
    ];
    for (arguments, expected) in cases {
        // Which policies a record names depends on the example.
        assert_eq!(shown(arguments), expected, "{arguments:?}");
    }
}

#[test]
fn closed_and_compressed_files_of_a_folder_are_read_in_order() {
    let folder = tempfile::tempdir().expect("folder");
    let log_lines = shop_log();
    let path = |name: &str| folder.path().join(name);
    write(&path("audit.log"), &log_lines[8..]);
    write(&path("audit.log.20260102T030416.000Z"), &log_lines[6..8]);
    let first = zstd::encode_all(whole(&log_lines[..6]).as_bytes(), 0).expect("compresses");
    fs::write(path("audit.log.20260102T030410.000Z.zst"), &first).expect("file");
    let all = whole(&log_lines);
    let json = ["--event", "all", "--output", "json"];
    let ran = run(&[&["log", text(folder.path())], &json[..]].concat());
    assert_eq!((ran.code, ran.out.as_str(), &*ran.err), (0, all.as_str(), ""));
    let ran = run(&[&["log", "--audit-log", text(&path("audit.log"))], &json[..]].concat());
    assert_eq!((ran.code, ran.out.as_str(), &*ran.err), (0, all.as_str(), ""));
    let ran = run_with(&[&["log", "-"], &json[..]].concat(), &first);
    assert_eq!((ran.code, ran.out.as_str()), (0, whole(&log_lines[..6]).as_str()), "standard input, too");

    fs::write(path("notes.txt"), "").expect("file");
    let ran = run(&[&["log", text(folder.path())], &json[..]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (0, all.as_str()));
    assert!(
        ran.err.contains("not read, because their names are not those of logs: notes.txt"),
        "{}",
        ran.err
    );

    fs::write(path("audit.log.20260102T030410.000Z.zst"), &first[..first.len() - 9]).expect("file");
    let ran = run(&[&["log", text(folder.path())], &json[..]].concat());
    assert_eq!(ran.code, 1, "the answer is incomplete");
    assert!(ran.out.ends_with(&whole(&log_lines[6..])), "the other files are read: {}", ran.out);
    assert!(ran.err.contains("cannot read ") && ran.err.contains("030410.000Z.zst"), "{}", ran.err);
}

#[test]
fn counts_are_sorted_and_a_folded_record_counts_all_its_denials() {
    let log_lines = shop_log();
    let ran = log(&log_lines, &["--verdict", "deny", "--count-by", "from,to,port", "--output", "json"]);
    let expected = [
        r#"{"count":7,"from":"web/blog","port":"5432","to":"db/orders"}"#,
        r#"{"count":1,"from":"db/backup","port":"443","to":"198.51.100.200"}"#,
        r#"{"count":1,"from":"monitoring/prometheus","port":"5432","to":"db/orders"}"#,
    ];
    assert_eq!((ran.code, ran.out.as_str()), (0, format!("{}\n", expected.join("\n")).as_str()));
    let ran = log(&log_lines, &["--count-by", "verdict", "--limit", "1", "--event", "connection"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "COUNT  VERDICT\n9      deny\n"));
    let ran = log(&log_lines, &["--count-by", "colour"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("is no field: use from, to, "), "{}", ran.err);
}

#[test]
fn a_table_fits_the_terminal_and_a_wide_one_shortens_nothing() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    for columns in [70, 80, 100, 200] {
        let ran = run_in_columns(&["log", text(&path)], Some(&columns.to_string()));
        assert_eq!(ran.code, 0, "{}", ran.err);
        let widest = ran.out.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|widest| widest <= columns), "{widest:?} of {columns}:\n{}", ran.out);
        assert_eq!(ran.out.lines().count(), 11, "one line for each record: {}", ran.out);
    }
    let ran = run_in_columns(&["log", text(&path), "--output", "wide"], Some("40"));
    for part in
        ["2026-01-02T03:04:08.678901234Z", "10.244.1.3:40000", "10.244.2.2:5432", "default-deny ingress by "]
    {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains('…'), "{}", ran.out);
}

#[test]
fn damaged_logs_are_read_as_far_as_possible_and_the_damage_is_counted() {
    let log_lines = shop_log();
    let mut bytes = whole(&log_lines[..4]).into_bytes();
    bytes.extend_from_slice(&log_lines[4].as_bytes()[..99]);
    bytes.extend_from_slice(b"\n\xff\xfe\n\n{}\n[1]\n\"text\"\n");
    bytes.extend(whole(&[log_lines[5].replacen(r#""schema":1"#, r#""schema":7"#, 1)]).into_bytes());
    bytes.extend(vec![b'x'; (1 << 20) + 1]);
    bytes.extend_from_slice(b"\n");
    bytes.extend(whole(&log_lines[6..]).into_bytes());
    bytes.extend_from_slice(b"{\"schema\":1,\"seq");
    let ran = run_with(&["log", "-", "--output", "json"], &bytes);
    assert_eq!(ran.out.lines().count(), 3 + 5, "{}", ran.out);
    assert_eq!(ran.code, 1, "the answer may be incomplete");
    for part in [
        "warning: 5 lines are no audit records; the first: standard input, line 5: EOF",
        "warning: 1 record has another schema, which this version does not read: standard input, line 11, schema 7",
        "warning: 1 line is longer than any record: standard input, line 12",
        "warning: 1 line at the end of a file is incomplete: standard input, line 18",
    ] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    let ran = run_with(&["log", "-"], &bytes[..bytes.len() - 20]);
    assert_eq!(ran.code, 1);
    let ran = run_with(&["log", "-"], whole(&log_lines).trim_end().as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "only the last line end is missing");
    let ran = run_with(&["log", "-"], b"");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""), "an empty log has no records");
}

#[test]
fn names_never_control_the_terminal() {
    let hostile = "\u{1b}[2J\u{9b}31m\r\n\u{202e}";
    let json_text = serde_json::to_string(hostile).expect("JSON");
    let log_lines: Vec<String> =
        shop_log().iter().map(|line| line.replace(r#""blog""#, &json_text)).collect();
    for arguments in [&["--output", "wide"][..], &["--count-by", "from,policy"], &["--from-namespace", "web"]]
    {
        let ran = log(&log_lines, arguments);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let is_plain = |letter: char| letter == '\n' || letter == '\\' || letter.escape_debug().len() == 1;
        assert!(ran.out.chars().all(is_plain), "{arguments:?}: {:?}", ran.out);
        assert!(ran.out.contains("web/\\u{1b}[2J"), "{}", ran.out);
    }
    let ran = run_with(&["log", "-"], b"{\"\x1b[2J\x9b\xc2\x9b\": 1}\n");
    assert!(ran.err.chars().all(|letter| letter == '\n' || !letter.is_control()), "{:?}", ran.err);
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let folder = folder();
    let log = folder.path().join("audit.log");
    let empty = tempfile::tempdir().expect("folder");
    let cases: [(&[&str], &str); 12] = [
        (&["/nowhere/audit.log"], "cannot read /nowhere/audit.log: No such file"),
        (
            &["--audit-log", "/nowhere/audit.log"],
            "there is no such log: give the path of the agent's --audit-log",
        ),
        (&[text(empty.path())], "has no log: names of logs end in .log"),
        (&[text(&log), "--follow"], "--follow"),
        (&["--follow", "--count-by", "from"], "--count-by"),
        (&[text(&log), "--pod", "a/b/c"], "write NAME, or NAMESPACE/NAME such as web/a"),
        (&[text(&log), "--address", "web"], "write an address or a CIDR, such as 192.0.2.7"),
        (&[text(&log), "--port", "http"], "write a port from 0 to 65535, or a range"),
        (&[text(&log), "--event", "fire"], "write one of connection, revoked, restored, "),
        (&[text(&log), "--protocol", "tpc"], "use TCP, UDP, SCTP"),
        (&[text(&log), "--since", "yesterday"], "write a duration before now, such as 90s"),
        (&[text(&log), "--since", "1h", "--until", "2h"], "no record can match both"),
    ];
    for (arguments, part) in cases {
        let ran = run(&[&["log"], arguments].concat());
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{arguments:?}: {}", ran.err);
    }
}

/// A running `log --follow`.
struct Following {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
}

impl Following {
    fn start(log: &Path, arguments: &[&str]) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_kube-verdict"));
        program.args(["log", "--follow", "--audit-log", text(log), "--output", "json"]).args(arguments);
        let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let out = BufReader::new(child.stdout.take().expect("output"));
        let err = BufReader::new(child.stderr.take().expect("errors"));
        Self { child, out, err }
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    fn next_error(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).expect("text");
        line
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_is_followed_from_before_its_first_line_across_rotation() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let log_lines = shop_log();
    let append = |lines: &[String]| {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).expect("opens");
        file.write_all(whole(lines).as_bytes()).expect("writes");
    };
    let mut following = Following::start(&path, &["--verdict", "deny", "--limit", "4"]);
    assert!(following.next_error().contains("no agent has written it yet"));
    append(&log_lines[..5]);
    assert_eq!(following.next(), log_lines[4]);
    append(&log_lines[5..7]);
    fs::rename(&path, folder.path().join("audit.log.20260102T030416.000Z")).expect("renames");
    append(&log_lines[7..9]);
    assert_eq!([following.next(), following.next()], [log_lines[5].clone(), log_lines[7].clone()]);
    append(&["no record".to_owned(), log_lines[9].clone()]);
    assert_eq!(following.next(), log_lines[9]);
    assert!(following.child.wait().expect("ends").success(), "four records were shown");
    assert!(following.next_error().contains("1 line is no audit record: "));

    let mut following = Following::start(&path, &["--since", "2026-01-02T00:00:00Z", "--limit", "1"]);
    assert_eq!(following.next(), log_lines[0], "with --since, closed files are read first");
}
