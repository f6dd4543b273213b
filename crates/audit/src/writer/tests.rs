use std::fs;
use std::path::Path;

use policy::Snapshot;

use super::*;
use crate::reader::{Line, read};
use crate::record::tests::{evaluation, from_to, snapshot};

fn config(path: &Path, ring: usize) -> AuditConfig {
    let destination = Destination::File { path: path.to_owned(), max_bytes: 1 << 30, keep: 1 };
    AuditConfig { node: "node-a".into(), destination, ring }
}

/// A writer without a thread, with one recorder.
fn writer(path: &Path, ring: usize) -> (Writer<impl FnMut(&Evaluation)>, Recorder) {
    let destination = config(path, ring).destination;
    let (register, registered) = mpsc::channel();
    let (recorder, ring) = recorder::ring(ring);
    register.send(ring).expect("registers");
    let sink = Sink::open(destination).expect("opens");
    (
        Writer::new(
            "node-a".into(),
            sink,
            (registered, mpsc::channel().1),
            Arc::default(),
            |_: &Evaluation| {},
        ),
        recorder,
    )
}

fn connection(snapshot: &Arc<Snapshot>, port: u16) -> Evaluation {
    evaluation(snapshot, Some(from_to("10.0.0.1", "10.0.1.2", port)))
}

fn time() -> Timestamp {
    "2026-01-02T03:04:06Z".parse().expect("time")
}

/// `lost N` or the destination port.
fn summary(path: &Path) -> Vec<String> {
    read(path)
        .expect("opens")
        .map(|line| match line.expect("reads") {
            Line::Lost(lost) => format!("lost {}", lost.lost),
            Line::Repeated(repeated) => format!("repeated {}", repeated.repeated),
            Line::Dropped(dropped) => format!("dropped {}", dropped.packets),
            Line::Bypass(bypass) => format!("bypass {}", bypass.reason),
            Line::Record(record) => {
                record.destination.and_then(|end| end.port).map_or_else(String::new, |port| port.to_string())
            }
        })
        .collect()
}

#[test]
fn a_stop_writes_all_that_was_recorded() {
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
            thread::spawn(move || (1..=1000).for_each(|port| recorder.record(connection(&snapshot, port))))
        })
        .collect();
    for worker in workers {
        worker.join().expect("records");
    }
    let monitor = audit.monitor();
    let counters = audit.stop();
    assert_eq!(counters, Counters { written: 2000, ..Counters::default() });
    assert_eq!(seen.load(Relaxed), 2000);
    assert_eq!(summary(&path).len(), 2000);
    let policy = Arc::new(policy::PolicyName::network_policy("db", "allow-web"));
    assert_eq!(monitor.tallies().of(&policy, policy::Verdict::Deny), 2000, "none to 5432");
    assert_eq!(monitor.tallies().of(&policy, policy::Verdict::Allow), 0);
    monitor.tallies().forget(&policy);
    assert_eq!(monitor.tallies().all(), []);
}

#[test]
fn what_finds_the_ring_full_is_counted_and_the_log_says_so_before_anything_newer() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 2);
    let (snapshot, now) = (snapshot(), Instant::now());
    for port in 1..=5 {
        recorder.record(connection(&snapshot, port));
    }
    writer.round(now, time());
    recorder.record(connection(&snapshot, 6));
    writer.round(now, time());
    assert_eq!(summary(&path), ["lost 3", "1", "2", "6"]);
    let text = fs::read_to_string(&path).expect("log");
    assert_eq!(
        text.lines().next(),
        Some(r#"{"lost":3,"time":"2026-01-02T03:04:06.000000Z","node":"node-a"}"#)
    );
    assert_eq!(writer.shared.lost.load(Relaxed), 3);
}

#[test]
fn losses_of_a_recorder_that_is_gone_stay_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 1);
    let snapshot = snapshot();
    recorder.record(connection(&snapshot, 1));
    recorder.record(connection(&snapshot, 2));
    recorder.lose(5);
    drop(recorder);
    for _ in 0..3 {
        writer.round(Instant::now(), time());
    }
    assert!(writer.rings.is_empty(), "the ring is given back");
    assert_eq!(summary(&path), ["lost 6", "1"], "said once");
    assert_eq!(writer.shared.lost.load(Relaxed), 6);
}

#[test]
fn a_full_disk_loses_records_and_the_log_says_so_once_there_is_room() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(Path::new("/dev/full"), 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    recorder.record(connection(&snapshot, 1));
    recorder.record(connection(&snapshot, 2));
    writer.round(now, time());
    recorder.record(connection(&snapshot, 3));
    writer.round(now, time());
    assert_eq!(writer.shared.write_errors.load(Relaxed), 2);
    let failing = writer.shared.failing.lock().expect("lock").clone().expect("failing");
    assert!(failing.contains("No space left"), "{failing}");

    writer.output.sink = Sink::open(config(&path, 8).destination).expect("room again");
    recorder.record(connection(&snapshot, 4));
    writer.round(now + Duration::from_secs(1), time());
    assert_eq!(summary(&path), ["lost 3", "4"]);
    assert_eq!(writer.shared.failing.lock().expect("lock").clone(), None, "healthy again");
    assert_eq!((writer.shared.written.load(Relaxed), writer.shared.lost.load(Relaxed)), (1, 3));
}

#[test]
fn a_file_that_cannot_be_opened_again_after_it_was_moved_is_a_failure_until_it_can() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    writer.round(now, time());
    fs::remove_file(&path).expect("removes");
    fs::create_dir(&path).expect("a folder in its place");
    recorder.record(connection(&snapshot, 1));
    writer.round(now + Duration::from_secs(1), time());
    let failing = writer.shared.failing.lock().expect("lock").clone().expect("failing");
    assert!(failing.contains("directory"), "{failing}, though what is removed can still be written");

    fs::remove_dir(&path).expect("removes");
    recorder.record(connection(&snapshot, 2));
    writer.round(now + 2 * Duration::from_secs(1), time());
    assert_eq!(writer.shared.failing.lock().expect("lock").clone(), None);
    assert_eq!(summary(&path), ["2"]);
}

#[test]
fn a_file_that_is_moved_before_a_write_gets_nothing_more() {
    let folder = tempfile::tempdir().expect("folder");
    let (path, moved) = (folder.path().join("audit.log"), folder.path().join("moved"));
    let (mut writer, mut recorder) = writer(&path, 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    recorder.record(connection(&snapshot, 1));
    writer.round(now, time());
    fs::rename(&path, &moved).expect("renames");
    writer.round(now, time());
    assert!(!path.exists(), "what is removed for good stays removed while nothing is to be written");
    recorder.record(connection(&snapshot, 2));
    writer.round(now, time());
    assert_eq!((summary(&moved), summary(&path)), (vec!["1".to_owned()], vec!["2".to_owned()]));
}

#[test]
fn lines_in_a_file_that_is_moved_while_they_are_written_are_written_again_and_said_to_be_repeated() {
    let folder = tempfile::tempdir().expect("folder");
    let (path, moved) = (folder.path().join("audit.log"), folder.path().join("moved"));
    let (mut writer, mut recorder) = writer(&path, 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    (1..=2).for_each(|port| recorder.record(connection(&snapshot, port)));
    writer.round(now, time());
    let lines = fs::read(&path).expect("log");
    fs::write(&path, "").expect("empties");
    writer.round(now, time());
    // After the file was looked after, and before it is written to.
    fs::rename(&path, &moved).expect("renames");
    writer.output.place(&lines, (now, time())).expect("writes");
    assert_eq!(summary(&moved), ["1", "2"], "a copy that was made before lacks them");
    assert_eq!(summary(&path), ["repeated 2", "1", "2"]);
    let text = fs::read(&path).expect("log");
    assert!(text.ends_with(&lines), "byte by byte, so that a reader can tell");
}

#[test]
fn a_file_that_is_moved_at_every_write_is_given_up_and_its_records_are_counted_as_lost() {
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
        writer.round(now, time());
    }
    stop.store(true, Relaxed);
    mover.join().expect("joins");
    let (written, lost) = (writer.shared.written.load(Relaxed), writer.shared.lost.load(Relaxed));
    assert_eq!(written + lost, recorded);
}

#[test]
fn the_file_is_opened_again_when_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(&path, 8);
    let (snapshot, now) = (snapshot(), Instant::now());
    let reopener = Reopener { shared: Arc::clone(&writer.shared) };
    fs::remove_file(&path).expect("removes");
    reopener.reopen();
    writer.round(now, time());
    assert!(path.exists(), "also while nothing is written");
    recorder.record(connection(&snapshot, 1));
    reopener.reopen();
    writer.round(now, time());
    assert_eq!(summary(&path), ["1"]);
}

#[test]
fn on_a_full_disk_a_line_about_losses_that_fits_is_no_recovery() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let (mut writer, mut recorder) = writer(Path::new("/dev/full"), 8);
    let (snapshot, mut now) = (snapshot(), Instant::now());
    let failing = |writer: &Writer<_>| writer.shared.failing.lock().expect("lock").is_some();
    recorder.record(connection(&snapshot, 1));
    writer.round(now, time());
    assert!(failing(&writer));
    writer.output.sink = Sink::open(config(&path, 8).destination).expect("room again");
    now += 2 * Duration::from_secs(1);
    writer.round(now, time());
    assert_eq!(summary(&path), ["lost 1"]);
    assert!(failing(&writer), "no record has been written");
    // A short record fits, and the next batch does not: not a recovery either.
    writer.output.sink =
        Sink::open(Destination::File { path: "/dev/full".into(), max_bytes: 1, keep: 0 }).expect("full");
    recorder.record(connection(&snapshot, 2));
    writer.round(now, time());
    writer.output.sink = Sink::open(config(&path, 8).destination).expect("room again");
    now += Duration::from_millis(20);
    recorder.record(connection(&snapshot, 3));
    writer.round(now, time());
    assert!(failing(&writer), "a write failed just before");
    now += Duration::from_secs(1);
    recorder.record(connection(&snapshot, 4));
    writer.round(now, time());
    assert!(!failing(&writer));
    assert_eq!(summary(&path), ["lost 1", "lost 1", "3", "4"]);
}

#[test]
fn switched_off_it_writes_nothing_and_still_counts() {
    let config = AuditConfig { node: "node-a".into(), destination: Destination::Off, ring: 8 };
    let audit = Audit::start(config, |_| {}).expect("starts");
    let mut recorder = audit.recorder();
    recorder.record(connection(&snapshot(), 5432));
    let monitor = audit.monitor();
    assert_eq!(audit.stop(), Counters::default());
    let policy = Arc::new(policy::PolicyName::network_policy("db", "allow-web"));
    assert_eq!(monitor.tallies().of(&policy, policy::Verdict::Allow), 1);
}

#[test]
fn a_line_that_is_no_record_is_named_and_the_next_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    fs::write(&path, "\n{\"lost\":2,\"time\":\"2026-01-02T03:04:06Z\",\"node\":\"n\"}\n{\"time\":\n{}\n")
        .expect("file");
    let lines: Vec<_> = read(&path).expect("opens").collect();
    assert!(matches!(&lines[0], Ok(Line::Lost(lost)) if lost.lost == 2));
    let error = lines[1].as_ref().expect_err("half a line").to_string();
    assert!(error.contains("audit.log: line 3 is no audit record: "), "{error}");
    let error = lines[2].as_ref().expect_err("empty object").to_string();
    assert!(error.contains("line 4") && error.contains("missing field `time`"), "{error}");
    assert_eq!(lines.len(), 3);
    assert!(read(folder.path().join("none")).is_err());
}
