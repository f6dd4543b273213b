use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const CLOSED: &str = "audit.log.20260102T030406.123Z";

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn text(path: &Path) -> Vec<u8> {
    zstd::decode_all(File::open(path).expect("file")).expect("complete")
}

/// The nice values of this process's threads of a name.
fn priorities(name: &str) -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").expect("threads");
    let stats = tasks.filter_map(|task| fs::read_to_string(task.expect("entry").path().join("stat")).ok());
    let named: Vec<i32> = stats
        .filter_map(|stat| stat.split_once(&format!(" ({name}) ")).map(|(_, rest)| rest.to_owned()))
        // proc(5): the state is field 3, nice is field 19.
        .map(|rest| rest.split(' ').nth(16).expect("nice").parse().expect("a number"))
        .collect();
    assert!(!named.is_empty(), "no thread {name}");
    named
}

#[test]
fn closed_files_are_compressed_with_their_permissions_and_nothing_else_is() {
    let folder = tempfile::tempdir().expect("folder");
    let lines = "{\"verdict\":\"deny\"}\n".repeat(100_000);
    fs::write(folder.path().join(CLOSED), &lines).expect("file");
    fs::set_permissions(folder.path().join(CLOSED), fs::Permissions::from_mode(0o640)).expect("mode");
    for name in ["audit.log", "audit.log.1"] {
        fs::write(folder.path().join(name), "{}\n").expect("file");
    }
    compress_all(&folder.path().join("audit.log"), &AtomicBool::new(false)).expect("compresses");
    let compressed = format!("{CLOSED}.zst");
    assert_eq!(names(folder.path()), ["audit.log", "audit.log.1", &compressed]);
    assert_eq!(text(&folder.path().join(&compressed)), lines.as_bytes());
    let mode = fs::metadata(folder.path().join(&compressed)).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_thread_compresses_what_is_closed_and_ends_with_its_owner() {
    let folder = tempfile::tempdir().expect("folder");
    let compressor = Compressor::start(folder.path().join("audit.log"), Arc::default()).expect("starts");
    fs::write(folder.path().join(CLOSED), "{}\n").expect("file");
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while names(folder.path()) != [format!("{CLOSED}.zst")] {
        assert!(std::time::Instant::now() < end, "{:?}", names(folder.path()));
        compressor.wake();
        thread::sleep(Duration::from_millis(5));
    }
    assert!(priorities("audit-compress").iter().all(|nice| *nice == NICE));
    drop(compressor);
}

/// What an agent leaves that is killed before each of its steps, and what the next one makes of it.
#[test]
fn an_agent_that_is_killed_at_any_step_leaves_each_line_in_exactly_one_file() {
    let [unfinished, compressed] = [UNFINISHED, COMPRESSED].map(|end| format!("{CLOSED}{end}"));
    let whole = zstd::encode_all(&b"{}\n"[..], LEVEL).expect("compresses");
    let (plain, half) = (b"{}\n".as_slice(), &whole[..whole.len() / 2]);
    let steps: [&[(&str, &[u8])]; 5] = [
        &[(CLOSED, plain)],
        &[(CLOSED, plain), (&unfinished, half)],
        &[(CLOSED, plain), (&unfinished, &whole)],
        &[(CLOSED, plain), (&compressed, &whole)],
        &[(&compressed, &whole)],
    ];
    for (step, files) in steps.iter().enumerate() {
        let folder = tempfile::tempdir().expect("folder");
        for (name, content) in *files {
            fs::write(folder.path().join(name), content).expect("file");
        }
        let path = folder.path().join("audit.log");
        try_remove_leftovers(&path).expect("removes");
        let is_compressed = step >= 3;
        assert_eq!(names(folder.path()), [if is_compressed { &*compressed } else { CLOSED }], "step {step}");
        compress_all(&path, &AtomicBool::new(false)).expect("compresses");
        assert_eq!(names(folder.path()), [&*compressed], "step {step}");
        assert_eq!(text(&folder.path().join(&compressed)), plain, "step {step}");
    }
}

#[test]
fn a_file_that_another_agent_compresses_is_left_to_it() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join(CLOSED), "{}\n").expect("file");
    let unfinished = format!("{CLOSED}{UNFINISHED}");
    let other = File::create(folder.path().join(&unfinished)).expect("file");
    other.lock().expect("locks");
    let path = folder.path().join("audit.log");
    try_remove_leftovers(&path).expect("looks");
    compress_all(&path, &AtomicBool::new(false)).expect("looks");
    assert_eq!(names(folder.path()), [CLOSED, &unfinished]);
    drop(other);
    compress_all(&path, &AtomicBool::new(false)).expect("compresses");
    assert_eq!(names(folder.path()), [format!("{CLOSED}.zst")]);
}

#[test]
fn an_agent_that_ends_leaves_the_file_as_it_was() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join(CLOSED), "{}\n").expect("file");
    let (opened, log) = Folder::of(&folder.path().join("audit.log")).expect("opens");
    let closed = ClosedFiles::list(&opened, &log).expect("lists");
    let (at, _) = closed.files.first_key_value().expect("a file");
    compress(&opened, &closed, *at, &AtomicBool::new(true)).expect("stops");
    assert_eq!(names(folder.path()), [CLOSED]);
}

#[test]
fn a_symbolic_link_in_place_of_the_unfinished_file_is_not_written_through() {
    let folder = tempfile::tempdir().expect("folder");
    let other = folder.path().join("other");
    fs::write(&other, "kept\n").expect("file");
    fs::write(folder.path().join(CLOSED), "{}\n").expect("file");
    std::os::unix::fs::symlink(&other, folder.path().join(format!("{CLOSED}{UNFINISHED}"))).expect("link");
    compress_all(&folder.path().join("audit.log"), &AtomicBool::new(false)).expect_err("a link");
    assert_eq!(fs::read_to_string(&other).expect("file"), "kept\n");
    assert!(folder.path().join(CLOSED).exists(), "nothing is lost");
}
