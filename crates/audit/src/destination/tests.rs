use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use jiff::Timestamp;

use super::*;

fn settings(path: &Path, max_bytes: u64, keep: u32) -> FileSettings {
    FileSettings { max_bytes, keep, compress: false, ..FileSettings::new(path) }
}

fn log(path: &Path, max_bytes: u64, keep: u32) -> Sink {
    Sink::open(Destination::File(settings(path, max_bytes, keep))).expect("opens")
}

/// Why a destination can't be opened.
fn refusal(settings: FileSettings) -> String {
    Sink::open(Destination::File(settings)).expect_err("refused").source.to_string()
}

fn time(text: &str) -> Timestamp {
    text.parse().expect("time")
}

impl Sink {
    /// Writes lines at 03:04:05, 2 January 2026.
    fn put(&mut self, lines: &[u8]) -> io::Result<Written> {
        self.put_at(lines, time("2026-01-02T03:04:05Z"))
    }

    fn put_at(&mut self, lines: &[u8], time: Timestamp) -> io::Result<Written> {
        self.write(&Batch { lines, records: 1, time }, &mut |_, _| {})
    }
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn rotates_before_the_limit_and_keeps_the_configured_number_of_files() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 20, 2);
    for line in
        ["one 45678\n", "two 45678\n", "three 678\n", "four 5678\n", "five 5678\n", "six 45678\n", "seven\n"]
    {
        sink.put(line.as_bytes()).expect("writes");
    }
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert_eq!(text("audit.log"), "seven\n");
    assert_eq!(text("audit.log.20260102T030405.002Z"), "five 5678\nsix 45678\n");
    assert_eq!(text("audit.log.20260102T030405.001Z"), "three 678\nfour 5678\n");
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 3, "the oldest is gone");
    assert_eq!(sink.upkeep().removed(), 1);
}

#[test]
fn a_rotation_that_keeps_no_files_truncates_the_log() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 8, 0);
    sink.put(b"first 6\n").expect("writes");
    sink.put(b"second\n").expect("writes");
    assert_eq!(fs::read_to_string(&path).expect("log"), "second\n");
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1);
}

#[test]
fn appends_to_an_existing_file_and_starts_a_new_line_after_a_partial_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    fs::write(&path, "whole\nhal").expect("file");
    let mut sink = log(&path, 1 << 20, 1);
    // Another agent is killed in the middle of a line while this one runs.
    fs::write(&path, "whole\nhal").expect("file");
    sink.put(b"next\n").expect("writes");
    assert_eq!(fs::read_to_string(&path).expect("log"), "whole\nhal\nnext\n");
}

#[test]
fn a_new_file_is_created_after_another_program_moved_the_log() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 1 << 20, 1);
    sink.put(b"old\n").expect("writes");
    fs::rename(&path, folder.path().join("moved")).expect("renames");
    sink.follow(true).expect("reopens");
    sink.put(b"new\n").expect("writes");
    assert_eq!(fs::read_to_string(&path).expect("log"), "new\n");
    assert_eq!(fs::read_to_string(folder.path().join("moved")).expect("log"), "old\n");
}

#[test]
fn a_write_reports_a_moved_or_removed_file_and_follow_reports_a_truncated_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 1 << 20, 1);
    assert_eq!(sink.put(b"one\n").expect("writes"), Written::InPlace);
    assert_eq!(sink.follow(true).expect("looks"), Found::Unchanged);
    fs::rename(&path, folder.path().join("moved")).expect("renames");
    assert_eq!(sink.put(b"two\n").expect("writes"), Written::Displaced);
    assert_eq!(sink.follow(false).expect("looks"), Found::Unchanged, "there is nothing to write");
    assert!(!path.exists());
    assert_eq!(sink.follow(true).expect("looks"), Found::Moved);
    assert_eq!(sink.put(b"two\n").expect("writes"), Written::InPlace);
    fs::remove_file(&path).expect("removes");
    assert_eq!(sink.put(b"three\n").expect("writes"), Written::Displaced);
    // logrotate creates the new file itself.
    fs::write(&path, "").expect("creates");
    assert_eq!(sink.put(b"three\n").expect("writes"), Written::Displaced);
    assert_eq!(sink.follow(true).expect("looks"), Found::Moved);
    assert_eq!(sink.put(b"three\n").expect("writes"), Written::InPlace);
    File::options().write(true).open(&path).expect("opens").set_len(0).expect("cuts");
    assert_eq!(sink.follow(true).expect("looks"), Found::Truncated);
    assert_eq!(sink.follow(true).expect("looks"), Found::Unchanged);
    assert_eq!(sink.reopen().expect("opens"), Some(&*path));
}

#[test]
fn only_owner_and_group_can_read_a_new_file_and_a_rotated_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 8, 1);
    sink.put(b"first 6\n").expect("writes");
    sink.put(b"second\n").expect("writes");
    for name in ["audit.log", "audit.log.20260102T030405.000Z"] {
        let mode = fs::metadata(folder.path().join(name)).expect("a file").mode();
        assert_eq!(mode & 0o137, 0, "{name}: {mode:o}");
        assert_eq!(mode & 0o600, 0o600, "{name}: {mode:o}");
    }
}

#[test]
fn a_symbolic_link_is_not_followed_at_first_or_after_the_file_was_moved() {
    let folder = tempfile::tempdir().expect("folder");
    let (path, other) = (folder.path().join("audit.log"), folder.path().join("other"));
    fs::write(&other, "kept\n").expect("file");
    symlink(&other, &path).expect("link");
    let error = refusal(settings(&path, 1 << 20, 1));
    assert!(error.contains("symbolic link"), "{error}");

    fs::remove_file(&path).expect("removed");
    let mut sink = log(&path, 1 << 20, 1);
    fs::rename(&path, folder.path().join("moved")).expect("renames");
    symlink(&other, &path).expect("link");
    let error = sink.follow(true).expect_err("a link in its place").to_string();
    assert!(error.contains("symbolic link"), "{error}");
    sink.put(b"record\n").expect("writes");
    assert_eq!(fs::read_to_string(&other).expect("file"), "kept\n");
    assert_eq!(fs::read_to_string(folder.path().join("moved")).expect("file"), "record\n");
}

#[test]
fn an_error_names_the_folder_that_does_not_exist() {
    let destination = Destination::File(settings(Path::new("/nowhere/audit.log"), 1, 1));
    let error = Sink::open(destination).expect_err("no such folder");
    assert!(
        error.to_string().starts_with("cannot open the audit log /nowhere/audit.log for writing"),
        "{error}"
    );
}

#[test]
fn a_rotation_that_fails_is_an_error_and_removes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 8, 2);
    sink.put(b"first 6\n").expect("writes");
    sink.put(b"second\n").expect("rotates");
    let closed = "audit.log.20260102T030405.000Z";
    fs::create_dir(folder.path().join("audit.log.20260102T030405.001Z"))
        .expect("where the next file would be");
    sink.put(b"third\n").expect_err("audit.log can't be renamed");
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a file");
    assert_eq!((text("audit.log"), text(closed)), ("second\n".to_owned(), "first 6\n".to_owned()));
}

#[test]
fn a_path_that_leads_through_a_file_is_an_error_and_no_file_that_was_moved() {
    let folder = tempfile::tempdir().expect("folder");
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).expect("folder");
    let mut sink = log(&logs.join("audit.log"), 1 << 20, 1);
    fs::rename(&logs, folder.path().join("moved")).expect("renames");
    fs::write(&logs, "").expect("a file where the folder was");
    let error = sink.follow(false).expect_err("the path can't be looked up");
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
}

#[test]
fn a_file_is_closed_before_the_first_line_after_its_maximum_age() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let now = Timestamp::now();
    let after = |hours: u64| now + Duration::from_secs(hours * 3600);
    let mut sink = log(&path, 1 << 20, 5);
    for (line, hours) in [("1\n", 0), ("2\n", 23), ("3\n", 25), ("4\n", 48), ("5\n", 50), ("6\n", 49)] {
        sink.put_at(line.as_bytes(), after(hours)).expect("writes");
    }
    let texts: Vec<_> = names(folder.path())
        .iter()
        .map(|name| fs::read_to_string(folder.path().join(name)).expect("a file"))
        .collect();
    assert_eq!(texts, ["5\n6\n", "1\n2\n", "3\n4\n"], "the current one, and closed ones, oldest first");
    drop(sink);
    let never = FileSettings { max_age: None, ..settings(&path, 1 << 20, 5) };
    let mut sink = Sink::open(Destination::File(never)).expect("opens");
    sink.put_at(b"7\n", after(1000)).expect("writes");
    assert_eq!(names(folder.path()).len(), 3);
}

#[test]
fn closed_files_and_the_current_one_stay_within_the_total_size_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let settings = FileSettings { total_bytes: 400, ..settings(&path, 100, 100) };
    let mut sink = Sink::open(Destination::File(settings.clone())).expect("opens");
    let size = || -> u64 {
        let sizes = names(folder.path()).into_iter().map(|name| fs::metadata(folder.path().join(name)));
        sizes.map(|file| file.expect("a file").len()).sum()
    };
    for line in 0..200 {
        sink.put(format!("{line:9}\n").as_bytes()).expect("writes");
        assert!(size() <= 400, "{:?}", names(folder.path()));
    }
    assert_eq!((names(folder.path()).len(), size()), (4, 400), "as much as is allowed");
    assert_eq!(sink.upkeep().removed(), 16, "20 files were begun");
    drop(sink);
    let less = FileSettings { total_bytes: 200, ..settings };
    let sink = Sink::open(Destination::File(less)).expect("opens");
    assert_eq!((size(), sink.upkeep().removed()), (200, 2));
    assert_eq!(sink.upkeep().problem(), None);
}

#[test]
fn a_folder_behind_a_symbolic_link_is_refused_at_first_and_later() {
    let folder = tempfile::tempdir().expect("folder");
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    fs::create_dir(&real).expect("folder");
    symlink(&real, &link).expect("link");
    let error = refusal(settings(&link.join("audit.log"), 1 << 20, 1));
    assert!(error.contains("/link is a symbolic link: give the path"), "{error}");
    assert_eq!(names(&real), [""; 0]);

    // An attacker replaces the folder while the agent runs.
    let (logs, elsewhere) = (folder.path().join("logs"), folder.path().join("elsewhere"));
    fs::create_dir(&logs).expect("folder");
    let mut sink = log(&logs.join("audit.log"), 12, 3);
    sink.put(b"one\n").expect("writes");
    fs::rename(&logs, &elsewhere).expect("renames");
    symlink(&real, &logs).expect("link");
    let error = sink.follow(true).expect_err("a link in its place").to_string();
    assert!(error.contains("/logs is a symbolic link"), "{error}");
    sink.put(b"two 67890 2\n").expect_err("the file is full and can't be closed");
    sink.put(b"three\n").expect("the open file has space");
    assert_eq!(names(&real), [""; 0], "nothing is written through the link");
    assert_eq!(fs::read_to_string(elsewhere.join("audit.log")).expect("log"), "one\nthree\n");
}

#[test]
fn a_fifo_or_device_is_written_only_if_that_is_allowed() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("FIFO");
    let device = Path::new("/dev/null");
    for (path, kind) in [(&*path, "a FIFO"), (device, "a device")] {
        let error = refusal(settings(path, 1 << 20, 1));
        assert!(error.contains(kind) && error.contains("--audit-special-file"), "{error}");
        let allowed = FileSettings { allow_special: true, ..settings(path, 1 << 20, 1) };
        let mut sink = Sink::open(Destination::File(allowed)).expect("opens");
        assert_eq!(sink.put(b"{}\n").expect("writes, without a reader"), Written::InPlace);
        assert_eq!(sink.follow(true).expect("looks"), Found::Unchanged);
    }
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
    let error = refusal(FileSettings { allow_special: true, ..settings(&socket, 1, 1) });
    assert!(error.contains("a socket"), "{error}");
}

#[test]
fn a_fifo_that_replaces_the_file_is_not_written() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 1 << 20, 1);
    fs::remove_file(&path).expect("removes");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("FIFO");
    let error = sink.follow(true).expect_err("a FIFO in its place").to_string();
    assert!(error.contains("a FIFO"), "{error}");
}

#[test]
fn new_files_have_the_group_that_is_given() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    // The tests of this crate also run without root: any user may give a file to the own group.
    let group = match rustix::process::geteuid().is_root() {
        true => 12345,
        false => rustix::process::getegid().as_raw(),
    };
    let settings = FileSettings { group: Some(group), ..settings(&path, 8, 1) };
    let mut sink = Sink::open(Destination::File(settings)).expect("opens");
    for line in ["first 6\n", "second\n"] {
        sink.put(line.as_bytes()).expect("writes");
    }
    for name in names(folder.path()) {
        let file = fs::metadata(folder.path().join(&name)).expect("a file");
        assert_eq!((file.gid(), file.mode() & 0o777), (group, 0o640), "{name}");
    }
}

#[test]
fn the_lines_that_begin_a_file_come_first_in_each_and_once() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 30, 5);
    let mut starts = Vec::new();
    let mut put = |sink: &mut Sink, line: &str| {
        let batch = Batch { lines: line.as_bytes(), records: 1, time: time("2026-01-02T03:04:05Z") };
        let mut begin = |start: &FileStart, lines: &mut Vec<u8>| {
            starts.push((start.cut_lines, start.cut_bytes));
            lines.extend_from_slice(b"begin\n");
        };
        sink.write(&batch, &mut begin).expect("writes");
    };
    for line in ["one 45678\n", "two 45678\n", "three 678\n"] {
        put(&mut sink, line);
    }
    // The same file opened again is no new one.
    sink.reopen().expect("opens");
    put(&mut sink, "four\n");
    fs::rename(&path, folder.path().join("moved")).expect("renames");
    assert_eq!(sink.follow(true).expect("looks"), Found::Moved);
    put(&mut sink, "five\n");
    drop(sink);
    fs::write(&path, "five\n{\"a").expect("a partial line");
    let mut sink = log(&path, 1 << 20, 5);
    put(&mut sink, "six\n");
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a file");
    assert_eq!(text("audit.log.20260102T030405.000Z"), "begin\none 45678\ntwo 45678\n");
    assert_eq!(text("moved"), "begin\nthree 678\nfour\n");
    assert_eq!(text("audit.log"), "five\nbegin\nsix\n", "a restarted agent begins, too");
    drop(sink);
    // The file is full before the agent can report what was cut off.
    fs::write(&path, format!("{}\n{{\"ab", "x".repeat(27))).expect("a partial line");
    let mut sink = log(&path, 30, 5);
    put(&mut sink, "seven\n");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "begin\nseven\n");
    assert_eq!(starts, [(0, 0), (0, 0), (0, 0), (1, 3), (1, 4)]);
}

#[test]
fn a_closed_file_is_compressed_while_lines_are_written() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let settings = FileSettings { compress: true, ..settings(&path, 1000, 100) };
    let mut sink = Sink::open(Destination::File(settings)).expect("opens");
    let lines: Vec<String> = (0..1000).map(|line| format!("{line:9}\n")).collect();
    for line in &lines {
        sink.put(line.as_bytes()).expect("writes");
    }
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while names(folder.path()).iter().filter(|name| name.ends_with("Z.zst")).count() < 9 {
        assert!(std::time::Instant::now() < end, "{:?}, {:?}", names(folder.path()), sink.upkeep().problem());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(sink);
    let closed = names(folder.path()).into_iter().filter(|name| name != "audit.log");
    let mut text: Vec<u8> = closed
        .flat_map(|name| {
            zstd::decode_all(File::open(folder.path().join(name)).expect("file")).expect("whole")
        })
        .collect();
    text.extend(fs::read(&path).expect("file"));
    assert_eq!(String::from_utf8(text).expect("text"), lines.concat());
}
