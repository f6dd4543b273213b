//! The audit log while other programs rotate it, while its disk is full, and while the agent receives
//! signals.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use audit::{Audit, AuditConfig, Bypass, Destination, FileSettings, Instance};
use integration::disk::Disk;
use integration::wait::{read_until, wait_until};
use integration::web_to_db::ALLOWED;
use integration::{
    Agent, ClusterSpec, Direction, Family, Launch, Load, ProbeTarget, Scenario, Testbed, agent, allowed,
    denied,
};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::Value;

/// How long a connection under load may take.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How long the agent's status may take to follow a change.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

fn cluster() -> ClusterSpec {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"])
        .pod("other/x", "node-a", &[], &["80"])
}

/// `web` may reach `db`, but `other` may not. Every connection has its own record.
fn scenario(audit_log: Option<&Path>) -> Scenario {
    let mut scenario = Scenario::new(cluster());
    scenario.policy("db/allow-web", ALLOWED);
    let launch = Launch { flags: &["--verdict-cache-ttl=off"], audit_log, ..Launch::default() };
    let mut agent = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    agent.wait_ready().unwrap();
    scenario.put_agent(agent);
    scenario
}

/// Replaces the scenario's agent by one with these flags.
fn restart(scenario: &mut Scenario, log: &Path, flags: &[&str], wrapper: &[&str]) {
    let flags = [&["--verdict-cache-ttl=off"], flags].concat();
    let launch = Launch { flags: &flags, audit_log: Some(log), wrapper, ..Launch::default() };
    let mut agent = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    agent.wait_ready().unwrap();
    scenario.put_agent(agent);
}

/// The texts of a log's closed files, oldest first, and of the log itself.
fn all_files(log: &Path) -> Vec<String> {
    let name = log.file_name().unwrap();
    let entries = fs::read_dir(log.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut closed: Vec<_> =
        entries.filter(|path| audit::is_closed_file(path.file_name().unwrap(), name)).collect();
    closed.sort();
    let text = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let bytes = match path.extension().is_some_and(|end| end == "zst") {
            true => zstd::decode_all(&*bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            false => bytes,
        };
        String::from_utf8(bytes).unwrap()
    };
    closed.iter().map(|path| text(path)).chain([text(log)]).collect()
}

fn port() -> ProbeTarget {
    "5432".parse().unwrap()
}

fn load(scenario: &Scenario, clients: usize) -> Load {
    Load::start(&scenario.testbed, ("web/a", "db/s"), port(), Family::V4, clients, TIMEOUT).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// How many records a line reports as lost.
fn lost_in(line: &Value) -> u64 {
    if line["event"] == "lost" { line["count"].as_u64().unwrap() } else { 0 }
}

/// The records of log files, oldest first, and the number of records that the files report as lost. Lines
/// that a file repeats from the file before are skipped.
fn records(files: &[String]) -> (Vec<String>, u64) {
    let (mut records, mut lost) = (Vec::new(), 0);
    let mut before: HashSet<&str> = HashSet::new();
    for file in files {
        let mut repeated = 0;
        let mut here = HashSet::new();
        for line in file.lines() {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            here.insert(line);
            if value["event"] == "repeated" {
                repeated = value["lines"].as_u64().unwrap();
                continue;
            }
            let is_known = repeated > 0 && before.contains(line);
            repeated = repeated.saturating_sub(1);
            lost += lost_in(&value);
            if value["event"] == "connection" && !is_known {
                records.push(line.to_owned());
            }
        }
        before = here;
    }
    (records, lost)
}

#[test]
fn signals_that_daemons_get_do_not_end_the_agent_and_hangup_reopens_the_log() {
    let mut scenario = scenario(None);
    let log = scenario.agent("node-a").audit_log().to_owned();
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPIPE, Signal::SIGXFSZ] {
        scenario.agent("node-a").signal(signal).unwrap();
        sleep(Duration::from_millis(100));
        scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    }
    let moved = log.with_extension("moved");
    fs::rename(&log, &moved).unwrap();
    scenario.agent("node-a").signal(Signal::SIGHUP).unwrap();
    scenario.agent("node-a").wait_log("audit log reopened").unwrap();
    let before = fs::read_to_string(&moved).unwrap();
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
    assert_eq!(fs::read_to_string(&moved).unwrap(), before);
    assert!(lines(&fs::read_to_string(&log).unwrap()).iter().any(|line| line["verdict"] == "deny"));

    let mut agent = scenario.take_agent("node-a");
    agent.signal(Signal::SIGQUIT).unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0), "SIGQUIT terminates it: {}", agent.log());
}

#[test]
fn an_agent_whose_standard_error_is_closed_continues() {
    let scenario = Scenario::new(cluster());
    let wrapper = ["bash", "-c", "exec \"$@\" 2> >(exec true)", "bash"];
    let launch = Launch { wrapper: &wrapper, flags: &["--log-level=trace"], ..Launch::default() };
    let mut agent = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    agent.wait_ready().unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    sleep(Duration::from_millis(300));
    assert_eq!(agent.readiness().unwrap().status, 200);
    assert_eq!(agent.terminate().unwrap().code(), Some(0));
}

#[test]
fn a_log_that_is_renamed_compressed_and_removed_at_once_loses_no_record_uncounted() {
    let mut scenario = scenario(None);
    let log = scenario.agent("node-a").audit_log().to_owned();
    let load = load(&scenario, 3);
    let mut files = Vec::new();
    for number in 0..300 {
        sleep(Duration::from_millis(8));
        let moved = log.with_extension(format!("rotated-{number}"));
        fs::rename(&log, &moved).unwrap_or_else(|error| panic!("rotation {number}: {error}"));
        // As a compressor does, reads the file once to its end and removes it.
        files.push(fs::read_to_string(&moved).unwrap());
        fs::remove_file(&moved).unwrap();
        let end = Instant::now() + Duration::from_secs(3);
        while !log.exists() && Instant::now() < end {
            sleep(Duration::from_millis(1));
        }
    }
    let report = load.finish().unwrap();
    assert!(report.timed_out == 0 && report.failed.is_empty(), "{report:?}");
    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    files.push(fs::read_to_string(&log).unwrap());
    let (records, lost) = records(&files);
    let unique: HashSet<&String> = records.iter().collect();
    let repeated: usize = files.iter().map(|file| file.matches("\"event\":\"repeated\"").count()).sum();
    eprintln!(
        "{} connections, {} records, {lost} lost, {} files, lines were repeated {repeated} times",
        report.reached,
        records.len(),
        files.len()
    );
    assert_eq!(unique.len(), records.len(), "a record occurs twice without being reported as repeated");
    assert_eq!(records.len() as u64 + lost, report.reached);
    assert_eq!(lost, 0, "this machine is fast enough: {}", agent.log());
}

#[test]
fn a_full_disk_is_a_failure_until_records_fit_again_and_recovery_is_logged_once() {
    let disk = Disk::mount(128 << 10).unwrap();
    let log = disk.file("audit.log");
    let mut scenario = scenario(Some(&log));
    let failing = |scenario: &mut Scenario| {
        let status = scenario.agent("node-a").status().unwrap();
        status["audit"]["failing"].as_str().map(str::to_owned)
    };
    let ballast = disk.file("ballast");
    fs::write(&ballast, vec![0; 100 << 10]).unwrap();
    let load = load(&scenario, 2);
    let end = Instant::now() + Duration::from_secs(5);
    while failing(&mut scenario).is_none() {
        assert!(Instant::now() < end, "the disk is full");
        sleep(Duration::from_millis(5));
    }
    let mut seen = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        seen.push(failing(&mut scenario));
        sleep(Duration::from_millis(2));
    }
    let well = seen.iter().filter(|failing| failing.is_none()).count();
    assert_eq!(well, 0, "{well} of {} status reports did not show the full disk", seen.len());
    assert!(seen[0].as_ref().unwrap().contains("No space left"), "{:?}", seen[0]);
    let node = scenario.testbed.namespace("node-a").unwrap();
    for command in ["status", "doctor"] {
        let (code, output, error) = agent::command(node, &[command]).unwrap();
        assert_eq!(code, 1, "{command}: {output}{error}");
        let output = output.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.contains("-> free space on the disk of"), "{command} names a remedy: {output}");
    }
    let recovered = "the audit log can be written again";
    assert!(!scenario.agent("node-a").log().contains(recovered), "{}", scenario.agent("node-a").log());

    // With a little space and no connections, a line about losses fits. That is not a recovery.
    load.finish().unwrap();
    fs::remove_file(&ballast).unwrap();
    sleep(Duration::from_millis(1500));
    assert!(failing(&mut scenario).is_some(), "no record can have been written yet");
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    wait_until("the audit log can be written again", STATUS_TIMEOUT, || failing(&mut scenario).is_none());
    let output = scenario.agent("node-a").log();
    assert_eq!(output.matches(recovered).count(), 1, "{output}");
    let agent = scenario.agent("node-a");
    let read = || {
        let text = fs::read_to_string(&log).unwrap();
        let reported: u64 = lines(&text).iter().map(lost_in).sum();
        (reported, agent.status().unwrap()["audit"]["lost"].as_u64().unwrap())
    };
    let (reported, lost) = read_until(STATUS_TIMEOUT, read, |(reported, lost)| reported == lost);
    assert!(lost > 0);
    assert_eq!(reported, lost, "the log itself reports each loss");
}

/// During a takeover, both agents write to the node's log for a moment.
#[test]
fn two_agents_that_share_a_full_disk_leave_whole_lines_and_count_each_loss() {
    // More than all records of the test take, also on a busy machine: at the end there is room again.
    let disk = Disk::mount(512 << 20).unwrap();
    let path = disk.file("audit.log");
    let is_over = AtomicBool::new(false);
    let start = |node: &str| {
        let settings = FileSettings { max_bytes: 1 << 30, compress: false, ..FileSettings::new(&path) };
        let destination = Destination::File(settings);
        let instance = Instance::new(node.into(), None);
        let config = AuditConfig { instance, destination, ring: 1, fold: Duration::ZERO };
        Audit::start(config, |_| {}).unwrap()
    };
    let write = |node: &'static str| {
        let audit = start(node);
        let record = |change: &str| {
            let now = Timestamp::now();
            let change = change.to_owned();
            let reason = "rules-changed".into();
            audit.record_bypass(now, Bypass { reason, from: now, to: now, change, program: None, pid: None });
        };
        while !is_over.load(Relaxed) {
            record(&"x".repeat(fastrand::usize(..10_000)));
            sleep(Duration::from_millis(1));
        }
        // The disk has space again, so the next record is preceded by the number of lost ones.
        sleep(Duration::from_millis(100));
        record("last");
        audit.stop()
    };
    thread::scope(|scope| {
        // More than two, so that their writes often coincide.
        let nodes = ["node-a", "node-b", "node-c", "node-d", "node-e", "node-f", "node-g", "node-h"];
        let writers = nodes.map(|node| (node, scope.spawn(move || write(node))));
        for _ in 0..100 {
            sleep(Duration::from_millis(fastrand::u64(5..20)));
            disk.fill().unwrap();
            sleep(Duration::from_millis(fastrand::u64(5..40)));
            disk.free().unwrap();
        }
        is_over.store(true, Relaxed);
        let counters = writers.map(|(node, writer)| (node, writer.join().unwrap()));
        let lines = lines(&fs::read_to_string(&path).unwrap());
        for (node, counters) in counters {
            let mut of_node = lines.iter().filter(|line| line["node"] == node);
            let written = of_node.clone().filter(|line| line["event"] == "bypass").count();
            let lost: u64 = of_node.by_ref().map(lost_in).sum();
            assert!(counters.lost > 0, "{node}: the disk was full");
            assert_eq!((written as u64, lost), (counters.written, counters.lost), "{node}");
        }
    });
}

/// Each kill comes while lines are written, files are closed and closed files are compressed.
#[test]
fn an_agent_that_is_killed_while_it_writes_and_compresses_leaves_whole_lines_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let flags = ["--audit-max-size=32KiB", "--audit-keep=100000", "--audit-total-size=1GiB"];
    let mut scenario = scenario(Some(&folder.path().join("first.log")));
    drop(scenario.take_agent("node-a"));
    restart(&mut scenario, &log, &flags, &[]);
    let load = load(&scenario, 4);
    let mut cut = 0;
    for number in 0..8 {
        sleep(Duration::from_millis(fastrand::u64(50..600)));
        let mut agent = scenario.take_agent("node-a");
        agent.kill().unwrap();
        let text = fs::read_to_string(&log).unwrap();
        if number % 2 == 0 && text.ends_with("}\n") && text.lines().last().unwrap().contains("\"verdict\"") {
            // What a power cut, or a kill in the middle of the system call, leaves of a record.
            let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
            file.set_len(text.len() as u64 - fastrand::u64(2..40)).unwrap();
            cut += 1;
        }
        drop(agent);
        restart(&mut scenario, &log, &flags, &[]);
    }
    let report = load.finish().unwrap();
    let compressed = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut closed = names.filter(|name| audit::is_closed_file(name, "audit.log".as_ref())).peekable();
        closed.peek().is_some() && closed.all(|name| name.to_str().unwrap().ends_with("Z.zst"))
    };
    wait_until("all closed files are compressed", Duration::from_secs(60), compressed);
    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    let files = all_files(&log);
    let (records, lost) = records(&files);
    let unique: HashSet<&String> = records.iter().collect();
    assert_eq!(unique.len(), records.len(), "no record is in two files");
    assert!(lost >= cut, "{cut} partial lines were cut, and {lost} records are reported as lost");
    assert!(cut > 0, "the agent had written nothing");
    assert!(files.len() > 3 && records.len() > 100, "{} files, {report:?}", files.len());
    assert!(records.len() as u64 <= report.reached + report.timed_out, "{report:?}");
}

#[test]
fn a_reader_of_standard_output_that_stops_loses_counted_records_and_delays_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opened for both, it waits for no other end.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let mut scenario = scenario(Some(&folder.path().join("first.log")));
    drop(scenario.take_agent("node-a"));
    let redirect = format!("exec \"$@\" > {}", pipe.display());
    restart(&mut scenario, Path::new("-"), &[], &["bash", "-c", &redirect, "bash"]);
    let audit = |scenario: &mut Scenario| scenario.agent("node-a").status().unwrap()["audit"].clone();
    let load_of = load;
    let load = load(&scenario, 2);
    let end = Instant::now() + Duration::from_secs(60);
    while audit(&mut scenario)["lost"].as_u64().unwrap() < 100 {
        assert!(Instant::now() < end, "the pipe is never full: {}", audit(&mut scenario));
        sleep(Duration::from_millis(50));
    }
    let blocked = audit(&mut scenario);
    assert!(blocked["failing"].as_str().unwrap().contains("does not read"), "{blocked}");
    assert!(blocked["remedy"].as_str().unwrap().contains("standard output"), "{blocked}");
    let node = scenario.testbed.namespace("node-a").unwrap();
    assert_eq!(agent::command(node, &["status"]).unwrap().0, 1);
    let report = load.finish().unwrap();
    assert!(report.timed_out == 0 && report.failed.is_empty(), "verdicts continue: {report:?}");
    let few = |scenario: &Scenario| {
        let load = load_of(scenario, 1);
        sleep(Duration::from_millis(20));
        load.finish().unwrap().reached
    };

    // The reader continues. A few more connections, and the log is complete again.
    let text = Arc::new(std::sync::Mutex::new(Vec::new()));
    let reading = thread::spawn({
        let text = Arc::clone(&text);
        move || {
            let mut reader = reader;
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = std::io::Read::read(&mut reader, &mut bytes) {
                text.lock().unwrap().extend_from_slice(&bytes[..read]);
                if bytes[..read].ends_with(b"end\n") {
                    return;
                }
            }
        }
    });
    let end = Instant::now() + Duration::from_secs(30);
    let mut more = 0;
    while !audit(&mut scenario)["failing"].is_null() {
        assert!(Instant::now() < end, "{}", audit(&mut scenario));
        more += few(&scenario);
        sleep(Duration::from_millis(400));
    }
    let mut agent = scenario.take_agent("node-a");
    assert_eq!(agent.terminate().unwrap().code(), Some(0), "{}", agent.log());
    fs::OpenOptions::new()
        .write(true)
        .open(&pipe)
        .and_then(|mut pipe| std::io::Write::write_all(&mut pipe, b"end\n"))
        .unwrap();
    reading.join().unwrap();
    let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
    let text = text.strip_suffix("end\n").unwrap().to_owned();
    let (records, lost) = records(&[text]);
    assert_eq!(records.len() as u64 + lost, report.reached + more, "{lost} lost");
    let logged = agent.log();
    assert!(!logged.contains("\"verdict\""), "the program's log is apart from the records");
    assert!(logged.contains("the audit log can be written again"), "{logged}");
}

#[test]
fn a_log_whose_total_size_fits_the_disk_never_fills_it_and_the_removal_is_logged_once() {
    let disk = Disk::mount(1 << 20).unwrap();
    let log = disk.file("audit.log");
    let mut scenario = scenario(Some(&disk.file("first.log")));
    drop(scenario.take_agent("node-a"));
    let flags = ["--audit-max-size=100KiB", "--audit-total-size=500KiB", "--audit-compress=off"];
    restart(&mut scenario, &log, &flags, &[]);
    let load = load(&scenario, 4);
    let removed = |scenario: &mut Scenario| {
        let audit = scenario.agent("node-a").status().unwrap()["audit"].clone();
        assert!(audit["failing"].is_null() && audit["lost"] == 0, "{audit}");
        audit["removed_files"].as_u64().unwrap()
    };
    wait_until("old files are removed", Duration::from_secs(120), || removed(&mut scenario) >= 3);
    load.finish().unwrap();
    let sizes = fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap());
    let total: u64 = sizes
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("audit.log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(total <= 500 << 10, "{total}");
    let logged = scenario.agent("node-a").log();
    assert_eq!(logged.matches("the oldest audit files are removed").count(), 1, "{logged}");
}
