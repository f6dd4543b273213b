use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};

use policy::Snapshot;

use super::*;
use crate::destination::FileSettings;
use crate::reader::{Line, read};
use crate::record::tests::{evaluation, from_to, snapshot};

fn config(path: &Path, ring: usize) -> AuditConfig {
    let settings = FileSettings::new(path);
    let destination = Destination::File(FileSettings { max_bytes: 1 << 30, allow_special: true, ..settings });
    AuditConfig { node: "node-a".into(), destination, ring }
}

/// A writer without a thread, with one recorder.
fn writer(path: &Path, ring: usize) -> (Writer<impl FnMut(&Evaluation)>, Recorder) {
    let destination = config(path, ring).destination;
    let (new_rings, received) = mpsc::channel();
    let (recorder, ring) = recorder::ring(ring);
    new_rings.send(ring).expect("registers");
    let sink = Sink::open(destination).expect("opens");
    (
        Writer::new(
            "node-a".into(),
            sink,
            (received, mpsc::channel().1),
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
            thread::spawn(move || (1..=1000).for_each(|port| recorder.record(connection(&snapshot, port))))
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
    let policy = Arc::new(policy::PolicyName::network_policy("db", "allow-web"));
    assert_eq!(monitor.policy_verdicts().of(&policy, policy::Verdict::Deny), 2000, "none to 5432");
    assert_eq!(monitor.policy_verdicts().of(&policy, policy::Verdict::Allow), 0);
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
        Some(r#"{"lost":3,"time":"2026-01-02T03:04:06.000000Z","node":"node-a"}"#)
    );
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
    assert_eq!(summary(&path), ["lost 6", "1"], "reported once");
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
    assert_eq!(summary(&path), ["repeated 2", "1", "2"]);
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
    writer.output.sink = Sink::open(config(Path::new("/dev/full"), 8).destination).expect("full");
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
    let config = AuditConfig { node: "node-a".into(), destination: Destination::Off, ring: 8 };
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
    fs::write(&path, "\n{\"lost\":2,\"time\":\"2026-01-02T03:04:06Z\",\"node\":\"n\"}\n{\"time\":\n{}\n")
        .expect("file");
    let lines: Vec<_> = read(&path).expect("opens").collect();
    assert!(matches!(&lines[0], Ok(Line::Lost(lost)) if lost.lost == 2));
    let text = |line: usize| {
        let error = lines[line].as_ref().expect_err("no record");
        format!("{error}: {}", std::error::Error::source(error).expect("a cause"))
    };
    let error = text(1);
    assert!(error.contains("audit.log: line 3 is no audit record: "), "{error}");
    let error = text(2);
    assert!(error.contains("line 4") && error.contains("missing field `time`"), "{error}");
    assert_eq!(lines.len(), 3);
    assert!(read(folder.path().join("none")).is_err());
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
            match lines.next().expect("more").expect("whole lines") {
                Line::Lost(line) => lost += line.lost,
                Line::Record(record)
                    if record.destination.as_ref().is_some_and(|end| end.port == Some(60000)) =>
                {
                    return (read, lost);
                }
                _ => read += 1,
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
    for (cut, expected) in [(1, vec!["1", "2"]), (2, vec!["lost 1", "2"]), (whole.len(), vec!["2"])] {
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
