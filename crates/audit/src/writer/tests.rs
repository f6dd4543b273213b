use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};

use policy::{Change, Compiler, Generation, Labels, Pod, PodName, PolicyName, Scope, Snapshot};

use super::*;
use crate::destination::{Destination, FileSettings};
use crate::policy_versions::PolicyVersion;
use crate::reader::read;
use crate::record::tests::{evaluation, from_to, instance, snapshot};
use crate::record::{LostReason, Record};
use crate::recorder::{self, Recorder};
use crate::writer::{Audit, AuditConfig, AuditCounters, AuditMonitor, Reopener, SLOW_WRITE};

fn config(path: &Path, ring: usize) -> AuditConfig {
    let settings = FileSettings::new(path);
    let destination = Destination::File(FileSettings { max_bytes: 1 << 30, allow_special: true, ..settings });
    AuditConfig { instance: instance(), destination, ring, fold: Duration::ZERO }
}

/// A writer without a thread, with one recorder.
fn writer(path: &Path, ring: usize) -> (Writer<impl FnMut(&Evaluation)>, Recorder) {
    writer_of(config(path, ring), mpsc::channel().1)
}

fn writer_of(
    config: AuditConfig,
    messages: mpsc::Receiver<Message>,
) -> (Writer<impl FnMut(&Evaluation)>, Recorder) {
    let (new_rings, received) = mpsc::channel();
    let (recorder, ring) = recorder::ring(config.ring);
    new_rings.send(ring).expect("registers");
    let sink = Sink::open(config.destination).expect("opens");
    let lines = LineBuffer::new(config.instance, 0);
    let fold = Fold::new(config.fold);
    (Writer::new(lines, sink, (received, messages), Arc::default(), fold, |_: &Evaluation| {}), recorder)
}

fn connection(snapshot: &Arc<Snapshot>, port: u16) -> Evaluation {
    evaluation(snapshot, Some(from_to("10.0.0.1", "10.0.1.2", port)))
}

fn time() -> Timestamp {
    "2026-01-02T03:04:06Z".parse().expect("time")
}

fn records(path: &Path) -> Vec<Record> {
    read(path).expect("opens").map(|record| record.expect("reads")).collect()
}

/// What a record is about, in a word: `lost N` or the destination port.
fn word(record: &Record) -> String {
    match &record.event {
        Event::Lost(lost) => format!("lost {}", lost.count),
        Event::Repeated(repeated) => format!("repeated {}", repeated.lines),
        Event::Dropped(dropped) => format!("dropped {}", dropped.packets),
        Event::Bypass(bypass) => format!("bypass {}", bypass.reason),
        Event::Connection(connection) => {
            let port = connection.destination.as_ref().and_then(|end| end.port).unwrap_or_default();
            connection.count.map_or(port.to_string(), |count| format!("{port} x{count}"))
        }
        Event::Revoked(connection) => format!("revoked: {}", connection.reason),
        Event::Restored(connection) => format!("restored: {}", connection.reason),
        Event::Policy(update) => format!("policies of {}", update.generation),
        Event::Pod(pod) => format!("pod {}/{}", pod.namespace, pod.pod),
        Event::Start(_) => "start".to_owned(),
        Event::Stop(stop) => format!("stop after {}, lost {}", stop.recorded, stop.lost),
    }
}

fn losses(path: &Path) -> Vec<crate::record::Lost> {
    let lost = |record: Record| match record.event {
        Event::Lost(lost) => Some(lost),
        _ => None,
    };
    records(path).into_iter().filter_map(lost).collect()
}

fn words(path: &Path) -> Vec<String> {
    records(path).iter().map(word).collect()
}

/// As [`words`], without pods, start and stop.
fn summary(path: &Path) -> Vec<String> {
    let is_other =
        |record: &&Record| !matches!(record.event, Event::Pod(_) | Event::Start(_) | Event::Stop(_));
    records(path).iter().filter(is_other).map(word).collect()
}

/// Checks that every number up to the last one has a record or is in the range of a loss, and only once.
/// Repeated lines count once.
fn check_numbers(files: &[&Path]) {
    let mut records: Vec<Record> = files.iter().flat_map(|file| self::records(file)).collect();
    records.sort_by_key(|record| record.seq);
    records.dedup();
    let lost = |record: &Record| match &record.event {
        Event::Lost(lost) => Some(lost.from_seq?..=lost.to_seq?),
        _ => None,
    };
    let mut numbers: Vec<u64> = records.iter().filter_map(lost).flatten().collect();
    numbers.extend(records.iter().map(|record| record.seq));
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_log_that_was_removed_is_not_created_again_by_the_agents_end() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let audit = Audit::start(config(&path, 16), |_| {}).expect("starts");
    let deadline = Instant::now() + Duration::from_secs(10);
    while words(&path).is_empty() {
        assert!(Instant::now() < deadline, "the start is not recorded");
        thread::sleep(POLL);
    }
    fs::remove_file(&path).expect("removed");
    audit.stop();
    assert!(!path.exists());
}

#[test]
fn stop_writes_all_recorded_evaluations() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let seen = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&seen);
    let audit = Audit::start(config(&path, 4096), move |_| {
        counted.fetch_add(1, Relaxed);
    })
    .expect("starts");
    let snapshot = snapshot();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (mut recorder, snapshot) = (audit.recorder(), Arc::clone(&snapshot));
            thread::spawn(move || {
                (1..1000).for_each(|port| recorder.record(connection(&snapshot, port)));
                recorder.record(connection(&snapshot, 5432));
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("records");
    }
    let monitor = audit.monitor();
    let counters = audit.stop();
    assert_eq!(counters, AuditCounters { written: 2000, ..AuditCounters::default() });
    assert_eq!(seen.load(Relaxed), 2000);
    assert_eq!(summary(&path).len(), 2000);
    let words = words(&path);
    assert_eq!((words[0].as_str(), words[2001 + 2].as_str()), ("start", "stop after 2000, lost 0"));
    check_numbers(&[&path]);
    let policy = Arc::new(policy::PolicyName::network_policy("db", "allow-web"));
    assert_eq!(monitor.policy_verdicts().of(&policy, policy::Verdict::Deny), 0, "no rule decided");
    assert_eq!(monitor.policy_verdicts().of(&policy, policy::Verdict::Allow), 2);
    let default_denies = monitor.policy_verdicts().default_denies();
    assert_eq!(default_denies, [("db".into(), policy::Direction::Ingress, 1998)]);
    monitor.policy_verdicts().remove(&policy);
    assert_eq!(monitor.policy_verdicts().all(), []);
}

#[test]
fn records_lost_in_a_full_ring_are_counted_and_reported_before_newer_records() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 2);
    let (snapshot, now) = (snapshot(), Instant::now());
    for port in 1..=5 {
        recorder.record(connection(&snapshot, port));
    }
    writer.poll(now, time());
    recorder.record(connection(&snapshot, 6));
    writer.poll(now, time());
    assert_eq!(summary(&path), ["lost 3", "1", "2", "6"]);
    let text = fs::read_to_string(&path).expect("log");
    assert_eq!(
        text.lines().next(),
        Some(concat!(
            r#"{"schema":1,"seq":4,"instance":"i-1","node":"node-a","time":"2026-01-02T03:04:06.000000000Z","#,
            r#""event":"lost","count":3,"from_seq":1,"to_seq":3,"reason":"queue-full"}"#
        ))
    );
    check_numbers(&[&path]);
    assert_eq!(writer.shared.lost.load(Relaxed), 3);
}

#[test]
fn losses_of_a_dropped_recorder_stay_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 1);
    let snapshot = snapshot();
    recorder.record(connection(&snapshot, 1));
    recorder.record(connection(&snapshot, 2));
    recorder.lose(5);
    drop(recorder);
    for _ in 0..3 {
        writer.poll(Instant::now(), time());
    }
    assert!(writer.rings.is_empty(), "the ring is freed");
    assert_eq!(summary(&path), ["lost 1", "lost 5", "1"], "reported once");
    let reasons: Vec<LostReason> = losses(&path).iter().map(|lost| lost.reason).collect();
    assert_eq!(reasons, [LostReason::QueueFull, LostReason::NotReceived]);
    check_numbers(&[&path]);
    assert_eq!(writer.shared.lost.load(Relaxed), 6);
}

#[test]
fn records_lost_on_a_full_disk_are_reported_once_there_is_room() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(Path::new("/dev/full"), 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    recorder.record(connection(&snapshot, 1));
    recorder.record(connection(&snapshot, 2));
    writer.poll(now, time());
    recorder.record(connection(&snapshot, 3));
    writer.poll(now, time());
    assert_eq!(writer.shared.write_errors.load(Relaxed), 2);
    let failure = writer.shared.failing().clone().expect("failing");
    let failing = failure.why;
    assert!(failing.contains("No space left"), "{failing}");
    assert!(failure.remedy.contains("free space"), "{}", failure.remedy);

    writer.output.sink = Sink::open(config(&path, 8).destination).expect("room again");
    recorder.record(connection(&snapshot, 4));
    writer.poll(now + Duration::from_secs(1), time());
    assert_eq!(summary(&path), ["lost 3", "4"]);
    assert_eq!(losses(&path)[0].reason, LostReason::WriteFailed);
    assert_eq!(
        words(&path),
        ["lost 3", "pod web/a", "pod db/db", "4"],
        "the lost records of pods are repeated"
    );
    check_numbers(&[&path]);
    assert_eq!(writer.shared.failing().clone(), None, "healthy again");
    assert_eq!((writer.shared.written.load(Relaxed), writer.shared.lost.load(Relaxed)), (1, 3));
}

#[test]
fn a_moved_file_that_cannot_be_opened_again_is_a_failure_until_it_can() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    writer.poll(now, time());
    fs::remove_file(&path).expect("removes");
    fs::create_dir(&path).expect("a folder in its place");
    recorder.record(connection(&snapshot, 1));
    writer.poll(now + Duration::from_secs(1), time());
    let failing = writer.shared.failing().clone().expect("failing").why;
    assert!(failing.contains("directory"), "{failing}, though the removed file can still be written");

    fs::remove_dir(&path).expect("removes");
    recorder.record(connection(&snapshot, 2));
    writer.poll(now + 2 * Duration::from_secs(1), time());
    assert_eq!(writer.shared.failing().clone(), None);
    assert_eq!(summary(&path), ["2"]);
}

#[test]
fn a_moved_file_receives_no_more_lines() {
    let folder = tempfile::tempdir().expect("folder");
    let (path, moved) = (folder.path().join("audit.log"), folder.path().join("moved"));
    let (mut writer, mut recorder) = writer(&path, 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    recorder.record(connection(&snapshot, 1));
    writer.poll(now, time());
    fs::rename(&path, &moved).expect("renames");
    writer.poll(now, time());
    assert!(!path.exists(), "a removed file stays removed until there is a line to write");
    recorder.record(connection(&snapshot, 2));
    writer.poll(now, time());
    assert_eq!((summary(&moved), summary(&path)), (vec!["1".to_owned()], vec!["2".to_owned()]));
}

#[test]
fn lines_written_while_the_file_is_moved_are_repeated_in_the_new_file() {
    let folder = tempfile::tempdir().expect("folder");
    let (path, moved) = (folder.path().join("audit.log"), folder.path().join("moved"));
    let (mut writer, mut recorder) = writer(&path, 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    (1..=2).for_each(|port| recorder.record(connection(&snapshot, port)));
    writer.poll(now, time());
    let lines = fs::read(&path).expect("log");
    fs::write(&path, "").expect("empties");
    writer.poll(now, time());
    // The move happens after the check and before the write.
    fs::rename(&path, &moved).expect("renames");
    let batch = Batch { lines: &lines, records: 2, time: time() };
    writer.output.write_in_place(&batch, now, &mut |_, _| {}).expect("writes");
    assert_eq!(summary(&moved), ["1", "2"], "a copy made earlier would lack them");
    assert_eq!(summary(&path), ["repeated 4", "1", "2"]);
    let text = fs::read(&path).expect("log");
    assert!(text.ends_with(&lines), "byte for byte, so that a reader can detect the duplicates");
}

#[test]
fn records_are_counted_as_lost_if_the_file_is_moved_during_every_write() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 8);
    let elsewhere = folder.path().join("elsewhere.log");
    let (snapshot, now) = (snapshot(), Instant::now());
    let stop = Arc::new(AtomicBool::new(false));
    let mover = thread::spawn({
        let (path, stop) = (path.clone(), Arc::clone(&stop));
        move || {
            while !stop.load(Relaxed) {
                let _ = fs::rename(&path, &elsewhere);
            }
        }
    });
    let mut recorded = 0;
    for port in 1..=20 {
        recorder.record(connection(&snapshot, port));
        recorded += 1;
        writer.poll(now, time());
    }
    stop.store(true, Relaxed);
    mover.join().expect("joins");
    let (written, lost) = (writer.shared.written.load(Relaxed), writer.shared.lost.load(Relaxed));
    assert_eq!(written + lost, recorded);
}

#[test]
fn a_reopener_makes_the_writer_open_the_file_again() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    let reopener = Reopener { shared: Arc::clone(&writer.shared) };
    fs::remove_file(&path).expect("removes");
    reopener.reopen();
    writer.poll(now, time());
    assert!(path.exists(), "even if there is nothing to write");
    recorder.record(connection(&snapshot, 1));
    reopener.reopen();
    writer.poll(now, time());
    assert_eq!(summary(&path), ["1"]);
}

#[test]
fn writing_a_short_line_to_a_full_disk_is_no_recovery() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(Path::new("/dev/full"), 8);
    let (snapshot, mut now) = (snapshot(), Instant::now());
    let failing = |writer: &Writer<_>| writer.shared.failing().is_some();
    recorder.record(connection(&snapshot, 1));
    writer.poll(now, time());
    assert!(failing(&writer));
    writer.output.sink = Sink::open(config(&path, 8).destination).expect("room again");
    now += 2 * Duration::from_secs(1);
    writer.poll(now, time());
    assert_eq!(summary(&path), ["lost 1"]);
    assert!(failing(&writer), "no record has been written");
    // If a short record fits and the next batch does not, that is no recovery either.
    writer.output.sink = Sink::open(self::config(Path::new("/dev/full"), 8).destination).expect("full");
    recorder.record(connection(&snapshot, 2));
    writer.poll(now, time());
    writer.output.sink = Sink::open(config(&path, 8).destination).expect("room again");
    now += Duration::from_millis(20);
    recorder.record(connection(&snapshot, 3));
    writer.poll(now, time());
    assert!(failing(&writer), "a write failed just before");
    now += Duration::from_secs(1);
    recorder.record(connection(&snapshot, 4));
    writer.poll(now, time());
    assert!(!failing(&writer));
    assert_eq!(summary(&path), ["lost 1", "lost 1", "3", "4"]);
}

#[test]
fn a_disabled_log_writes_nothing_and_still_counts_verdicts() {
    let config = AuditConfig { destination: Destination::Off, ..config(Path::new(""), 8) };
    let audit = Audit::start(config, |_| {}).expect("starts");
    let mut recorder = audit.recorder();
    recorder.record(connection(&snapshot(), 5432));
    let monitor = audit.monitor();
    assert_eq!(audit.stop(), AuditCounters::default());
    let policy = Arc::new(policy::PolicyName::network_policy("db", "allow-web"));
    assert_eq!(monitor.policy_verdicts().of(&policy, policy::Verdict::Allow), 1);
}

#[test]
fn an_unparsable_line_is_reported_and_the_next_one_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let start = r#"{"schema":1,"seq":1,"instance":"i","node":"n","time":"2026-01-02T03:04:06Z","event":"start","version":"1","pid":7}"#;
    let long = "x".repeat(crate::reader::LONGEST_LINE + 1);
    fs::write(&path, format!("\n{start}\n{{\"time\":\n{{}}\n{long}\n{start}\n{long}")).expect("file");
    let lines: Vec<_> = read(&path).expect("opens").collect();
    assert!(matches!(&lines[0], Ok(record) if matches!(record.event, Event::Start(_))));
    let text = |line: usize| {
        let error = lines[line].as_ref().expect_err("no record");
        format!("{error}: {}", std::error::Error::source(error).map(ToString::to_string).unwrap_or_default())
    };
    let error = text(1);
    assert!(error.contains("audit.log: line 3 is no audit record: "), "{error}");
    let error = text(2);
    assert!(error.contains("line 4") && error.contains("missing field `event`"), "{error}");
    assert!(text(3).contains("line 5 has more than 1048576 bytes"), "{}", text(3));
    assert!(lines[4].is_ok());
    assert!(text(5).contains("line 7 has more than"), "{}", text(5));
    assert_eq!(lines.len(), 6);
    assert!(read(folder.path().join("none")).is_err());
}

#[test]
fn each_file_describes_the_pods_of_its_records() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let settings = FileSettings { max_bytes: 3_000, compress: false, ..FileSettings::new(&path) };
    let (messages, received) = mpsc::channel();
    let config = AuditConfig { destination: Destination::File(settings), ..config(&path, 64) };
    let (mut writer, mut recorder) = writer_of(config, received);
    let labels: Labels = [("team", "front")].into_iter().collect();
    messages.send(Message::Namespace("web".into(), Some(labels.clone()))).expect("sends");
    let (snapshot, now) = (snapshot(), Instant::now());
    // Closed files are named after the time.
    let mut poll = |writer: &mut Writer<_>, port: u16| {
        recorder.record(connection(&snapshot, port));
        writer.poll(now, time() + Duration::from_secs(port.into()));
    };
    poll(&mut writer, 1);
    poll(&mut writer, 2);
    assert_eq!(words(&path), ["pod web/a", "pod db/db", "1", "2"]);
    let Event::Pod(pod) = &records(&path)[0].event else { panic!("no pod") };
    assert_eq!((pod.namespace_labels.clone(), pod.labels.value("app")), (labels, Some("a")));
    assert_eq!(pod.workload.as_ref().map(|workload| &*workload.name), Some("front"));

    (3..=5).for_each(|port| poll(&mut writer, port));
    let mut files: Vec<_> =
        fs::read_dir(folder.path()).expect("folder").map(|file| file.expect("file").path()).collect();
    // The current file has the shortest name.
    files.sort_by_key(|file| (*file == path, file.clone()));
    assert_eq!(files.iter().flat_map(|file| summary(file)).collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    assert!(files.len() > 1, "rotated");
    for file in &files {
        let mut begin = words(file);
        begin[..2].sort();
        assert_eq!(begin[..2], ["pod db/db", "pod web/a"], "{}", file.display());
        assert_eq!(begin.len(), 2 + summary(file).len(), "each once");
    }
    check_numbers(&files.iter().map(|file| file.as_path()).collect::<Vec<_>>());
}

#[test]
fn a_pod_is_described_again_when_its_labels_or_those_of_its_namespace_change() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (messages, received) = mpsc::channel();
    let (mut writer, mut recorder) = writer_of(config(&path, 64), received);
    let pod = |app: &str, reported: u64| {
        Change::Pod(Pod {
            name: PodName::new("web", "a"),
            labels: [("app", app)].into_iter().collect(),
            addresses: vec!["10.0.0.1".parse().expect("address")],
            ports: Vec::new(),
            node: None,
            host_network: false,
            reported,
            created: 0,
            uid: Default::default(),
            workload: None,
        })
    };
    let mut compiler = Compiler::new(Scope::Cluster);
    let mut record = |app: &str, reported: u64, port: u16| {
        let snapshot = compiler.apply([pod(app, reported)]).snapshot;
        recorder.record(evaluation(&snapshot, Some(from_to("10.0.0.1", "192.0.2.1", port))));
        writer.poll(Instant::now(), time());
    };
    record("x", 1, 1);
    record("x", 2, 2);
    record("y", 3, 3);
    messages.send(Message::Namespace("web".into(), Some(Labels::none()))).expect("sends");
    record("y", 3, 4);
    record("y", 3, 5);
    assert_eq!(words(&path), ["pod web/a", "1", "2", "pod web/a", "3", "pod web/a", "4", "5"]);
}

#[test]
fn repeated_denials_are_folded_and_recorded_by_the_stop_at_last() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let fold = Duration::from_secs(10);
    let (mut writer, mut recorder) = writer_of(AuditConfig { fold, ..config(&path, 64) }, mpsc::channel().1);
    let (snapshot, now) = (snapshot(), Instant::now());
    for _ in 0..3 {
        recorder.record(connection(&snapshot, 80));
        recorder.record(connection(&snapshot, 5432));
    }
    writer.poll(now, time());
    assert_eq!(summary(&path), ["80", "5432", "5432", "5432"], "what is allowed is not folded");
    writer.poll(now + fold, time());
    assert_eq!(summary(&path)[4..], ["80 x2"]);
    recorder.record(connection(&snapshot, 80));
    writer.poll(now + fold, time());
    assert_eq!((summary(&path).len(), writer.shared.written.load(Relaxed)), (5, 6));
    writer.stop(now + fold, time());
    assert_eq!(words(&path)[7..], ["80 x1", "stop after 7, lost 0"]);
    check_numbers(&[&path]);
}

#[test]
fn a_folded_record_that_is_lost_counts_all_its_denials() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let fold = Duration::from_secs(10);
    let config = AuditConfig { fold, ..config(&path, 64) };
    let (mut writer, mut recorder) = writer_of(config, mpsc::channel().1);
    let (snapshot, now) = (snapshot(), Instant::now());
    (0..8).for_each(|_| recorder.record(connection(&snapshot, 80)));
    writer.poll(now, time());
    let sink = std::mem::replace(
        &mut writer.output.sink,
        Sink::open(self::config(Path::new("/dev/full"), 8).destination).expect("full"),
    );
    writer.poll(now + fold, time());
    writer.output.sink = sink;
    writer.poll(now + fold, time());
    assert_eq!(summary(&path), ["80", "lost 7"]);
    assert_eq!((writer.shared.written.load(Relaxed), writer.shared.lost.load(Relaxed)), (1, 7));
    check_numbers(&[&path]);
}

#[test]
fn a_flood_of_denials_from_one_pod_stays_small_and_leaves_other_records_complete() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let config = AuditConfig { fold: Duration::from_secs(10), ..config(&path, 1 << 14) };
    let (mut writer, mut recorder) = writer_of(config, mpsc::channel().1);
    let (snapshot, start) = (snapshot(), Instant::now());
    // 1,000,000 in 10 s of the writer's clock: source ports first, destination ports then.
    let (polls, in_poll) = (500, 2_000_u32);
    for poll in 0..polls {
        for number in 0..in_poll {
            let port = (poll * in_poll + number) as u16;
            let mut packet = from_to("10.0.0.3", "10.0.1.2", if poll < polls / 2 { 80 } else { port });
            packet.source_port = Some(port);
            recorder.record(evaluation(&snapshot, Some(packet)));
        }
        // One allowed connection, and one denied one, of another pod.
        recorder.record(connection(&snapshot, 5432));
        let mut denied = from_to("10.0.0.1", "10.0.1.2", 81);
        denied.source_port = Some(u16::try_from(poll).expect("fits"));
        recorder.record(evaluation(&snapshot, Some(denied)));
        writer.poll(start + Duration::from_millis(20) * poll, time());
    }
    writer.stop(start + Duration::from_secs(10), time());
    let bytes = fs::metadata(&path).expect("log").len();
    assert!(bytes < 10_000_000, "{bytes} bytes");
    let (mut all, mut others) = (0, [0, 0]);
    for record in records(&path) {
        let Event::Connection(connection) = record.event else { continue };
        all += connection.evaluations();
        let is_other = connection.source.as_ref().is_some_and(|end| end.pod.as_deref() == Some("a"));
        if is_other && connection.count.is_none() {
            others[usize::from(connection.verdict == Verdict::Deny)] += 1;
        }
    }
    assert_eq!(writer.shared.lost.load(Relaxed), 0);
    assert_eq!(all, u64::from(polls * in_poll + 2 * polls));
    assert_eq!(others, [polls, polls]);
    check_numbers(&[&path]);
}

#[test]
fn connections_that_were_cut_and_restored_have_events_of_their_own() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let fold = Duration::from_secs(10);
    let (mut writer, mut recorder) = writer_of(AuditConfig { fold, ..config(&path, 64) }, mpsc::channel().1);
    let snapshot = snapshot();
    for _ in 0..2 {
        recorder.record_revoked(connection(&snapshot, 80), RevokedBy::Policy);
    }
    recorder.record_revoked(connection(&snapshot, 5432), RevokedBy::Overlay);
    recorder.record_restored(connection(&snapshot, 5432));
    writer.poll(Instant::now(), time());
    assert_eq!(
        summary(&path),
        ["revoked: default-deny", "revoked: default-deny", "revoked: overlay", "restored: rule"],
        "never folded"
    );
    for record in records(&path) {
        if let Event::Revoked(connection) = record.event {
            assert_eq!((connection.verdict, connection.nanoseconds), (Verdict::Deny, None));
        }
    }
    assert_eq!(writer.shared.written.load(Relaxed), 4);
    let policy = PolicyName::network_policy("db", "allow-web");
    let verdicts = &writer.shared.policy_verdicts;
    assert_eq!(verdicts.of(&Arc::new(policy), Verdict::Allow), 0, "no packet had a verdict");
}

#[test]
fn a_record_names_the_version_that_its_generation_compiled() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (messages, received) = mpsc::channel();
    let (mut writer, mut recorder) = writer_of(config(&path, 64), received);
    let snapshot = snapshot();
    let name = Arc::new(PolicyName::network_policy("db", "allow-web"));
    let version = |text: &str| {
        Some(Arc::new(PolicyVersion { uid: Some("u".into()), resource_version: Some(text.into()) }))
    };
    for (generation, version) in [(1, version("10")), (2, version("11"))] {
        messages
            .send(Message::PolicyVersion(Arc::clone(&name), Generation(generation), version))
            .expect("sends");
    }
    recorder.record(connection(&snapshot, 5432));
    writer.poll(Instant::now(), time());
    let found = records(&path).into_iter().find_map(|record| match record.event {
        Event::Connection(connection) => connection.policy,
        _ => None,
    });
    assert_eq!(found.expect("a policy").version, version("10"), "generation 1");
}

#[test]
fn a_reader_that_stops_costs_records_but_no_time_and_each_is_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("FIFO");
    let (mut writer, mut recorder) = writer(&path, 4096);
    let (snapshot, mut now) = (snapshot(), Instant::now());
    let recorded: u64 = 3000;
    for port in 1..=recorded {
        recorder.record(connection(&snapshot, u16::try_from(port).expect("a port")));
        if port % 100 == 0 {
            now += Duration::from_millis(20);
            writer.poll(now, time());
        }
    }
    let lost = writer.shared.lost.load(Relaxed);
    assert!(lost > 0, "a pipe has 64 KiB");
    let failure = writer.shared.failing().clone().expect("failing");
    assert!(failure.why.contains("does not read"), "{}", failure.why);
    assert!(failure.remedy.contains("pipe"), "{}", failure.remedy);

    // The reader continues: it gets each accepted line, and the number of the others.
    let reader = fs::File::open(&path).expect("opens");
    let lines = thread::spawn(move || {
        let mut lines = crate::reader::Lines::new("pipe", std::io::BufReader::new(reader));
        let (mut read, mut lost) = (0, 0);
        loop {
            match lines.next().expect("more").expect("whole lines").event {
                Event::Lost(line) => lost += line.count,
                Event::Connection(connection)
                    if connection.destination.as_ref().is_some_and(|end| end.port == Some(60000)) =>
                {
                    return (read, lost);
                }
                Event::Connection(_) => read += 1,
                _ => {}
            }
        }
    });
    let end = Instant::now() + Duration::from_secs(30);
    recorder.record(connection(&snapshot, 50000));
    while writer.shared.failing().is_some() {
        assert!(Instant::now() < end, "the reader reads");
        thread::sleep(Duration::from_millis(2));
        now += Duration::from_millis(500);
        recorder.record(connection(&snapshot, 50000));
        writer.poll(now, time());
    }
    recorder.record(connection(&snapshot, 60000));
    writer.poll(now, time());
    while writer.output.sink.is_pending() {
        writer.poll(now, time());
    }
    let (written, lost) = (writer.shared.written.load(Relaxed), writer.shared.lost.load(Relaxed));
    assert_eq!(lines.join().expect("reads"), (written - 1, lost));
}

#[test]
fn a_reader_that_never_reads_does_not_hold_up_the_end_and_its_records_are_lost() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("FIFO");
    let audit = Audit::start(config(&path, 4096), |_| {}).expect("starts");
    let (mut recorder, snapshot) = (audit.recorder(), snapshot());
    for port in 1..=2000 {
        recorder.record(connection(&snapshot, port));
    }
    let counters = audit.stop();
    assert_eq!(counters.written + counters.lost, 2000);
    assert!(counters.lost > 0 && counters.failing.is_some() == (counters.write_errors > 0), "{counters:?}");
}

#[test]
fn a_partial_line_that_a_killed_agent_left_is_reported_as_a_lost_record() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let whole = {
        let (mut writer, mut recorder) = writer(&path, 8);
        recorder.record(connection(&snapshot(), 1));
        writer.poll(Instant::now(), time());
        fs::read(&path).expect("log")
    };
    let connection_bytes =
        whole.len() - whole.trim_ascii_end().iter().rposition(|byte| *byte == b'\n').expect("pods") - 1;
    for (cut, expected) in [(1, vec!["1", "2"]), (2, vec!["lost 1", "2"]), (connection_bytes, vec!["2"])] {
        fs::write(&path, &whole[..whole.len() - cut]).expect("file");
        let (mut writer, mut recorder) = writer(&path, 8);
        writer.poll(Instant::now(), time());
        assert_eq!(summary(&path), expected[..expected.len() - 1], "reported before there is a record");
        recorder.record(connection(&snapshot(), 2));
        writer.poll(Instant::now(), time());
        assert_eq!(summary(&path), expected, "without the last {cut} bytes");
    }
}

#[test]
fn a_write_that_does_not_end_is_a_failure_while_it_lasts() {
    let shared = Arc::<Shared>::default();
    let monitor = AuditMonitor { shared: Arc::clone(&shared) };
    shared.set_writing(true);
    assert_eq!(monitor.counters().failing, None);
    thread::sleep(SLOW_WRITE + Duration::from_millis(20));
    let counters = monitor.counters();
    assert!(counters.failing.is_some_and(|why| why.contains("has not ended")), "a hung disk");
    assert!(counters.remedy.is_some_and(|todo| todo.contains("disk")));
    shared.set_writing(false);
    assert_eq!(monitor.counters().failing, None);
}
