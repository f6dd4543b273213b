use super::*;

fn log(path: &Path, max_bytes: u64, keep: u32) -> Sink {
    Sink::open(Destination::File { path: path.to_owned(), max_bytes, keep }).expect("opens")
}

#[test]
fn rotates_before_the_limit_and_keeps_the_configured_number_of_files() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 20, 2);
    for line in
        ["one 45678\n", "two 45678\n", "three 678\n", "four 5678\n", "five 5678\n", "six 45678\n", "seven\n"]
    {
        sink.write(line.as_bytes(), &mut |_| {}).expect("writes");
    }
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert_eq!(text("audit.log"), "seven\n");
    assert_eq!(text("audit.log.1"), "five 5678\nsix 45678\n");
    assert_eq!(text("audit.log.2"), "three 678\nfour 5678\n");
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 3, "the oldest is gone");
}

#[test]
fn a_rotation_that_keeps_no_files_truncates_the_log() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 8, 0);
    sink.write(b"first 6\n", &mut |_| {}).expect("writes");
    sink.write(b"second\n", &mut |_| {}).expect("writes");
    assert_eq!(fs::read_to_string(&path).expect("log"), "second\n");
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1);
}

#[test]
fn appends_to_an_existing_file_and_starts_a_new_line_after_a_partial_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    fs::write(&path, "whole\nhal").expect("file");
    log(&path, 1 << 20, 1).write(b"next\n", &mut |_| {}).expect("writes");
    assert_eq!(fs::read_to_string(&path).expect("log"), "whole\nhal\nnext\n");
}

#[test]
fn a_new_file_is_created_after_another_program_moved_the_log() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 1 << 20, 1);
    sink.write(b"old\n", &mut |_| {}).expect("writes");
    fs::rename(&path, folder.path().join("moved")).expect("renames");
    sink.follow(true).expect("reopens");
    sink.write(b"new\n", &mut |_| {}).expect("writes");
    assert_eq!(fs::read_to_string(&path).expect("log"), "new\n");
    assert_eq!(fs::read_to_string(folder.path().join("moved")).expect("log"), "old\n");
}

#[test]
fn a_write_reports_a_moved_or_removed_file_and_follow_reports_a_truncated_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log");
    let mut sink = log(&path, 1 << 20, 1);
    assert_eq!(sink.write(b"one\n", &mut |_| {}).expect("writes"), Written::InPlace);
    assert_eq!(sink.follow(true).expect("looks"), Found::Unchanged);
    fs::rename(&path, folder.path().join("moved")).expect("renames");
    assert_eq!(sink.write(b"two\n", &mut |_| {}).expect("writes"), Written::Displaced);
    assert_eq!(sink.follow(false).expect("looks"), Found::Unchanged, "there is nothing to write");
    assert!(!path.exists());
    assert_eq!(sink.follow(true).expect("looks"), Found::Moved);
    assert_eq!(sink.write(b"two\n", &mut |_| {}).expect("writes"), Written::InPlace);
    fs::remove_file(&path).expect("removes");
    assert_eq!(sink.write(b"three\n", &mut |_| {}).expect("writes"), Written::Displaced);
    // logrotate creates the new file itself.
    fs::write(&path, "").expect("creates");
    assert_eq!(sink.write(b"three\n", &mut |_| {}).expect("writes"), Written::Displaced);
    assert_eq!(sink.follow(true).expect("looks"), Found::Moved);
    assert_eq!(sink.write(b"three\n", &mut |_| {}).expect("writes"), Written::InPlace);
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
    sink.write(b"first 6\n", &mut |_| {}).expect("writes");
    sink.write(b"second\n", &mut |_| {}).expect("writes");
    for name in ["audit.log", "audit.log.1"] {
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
    std::os::unix::fs::symlink(&other, &path).expect("link");
    let destination = Destination::File { path: path.clone(), max_bytes: 1 << 20, keep: 1 };
    let error = Sink::open(destination).expect_err("a link").source.to_string();
    assert!(error.contains("symbolic link"), "{error}");

    fs::remove_file(&path).expect("removed");
    let mut sink = log(&path, 1 << 20, 1);
    fs::rename(&path, folder.path().join("moved")).expect("renames");
    std::os::unix::fs::symlink(&other, &path).expect("link");
    let error = sink.follow(true).expect_err("a link in its place").to_string();
    assert!(error.contains("symbolic link"), "{error}");
    sink.write(b"record\n", &mut |_| {}).expect("writes");
    assert_eq!(fs::read_to_string(&other).expect("file"), "kept\n");
    assert_eq!(fs::read_to_string(folder.path().join("moved")).expect("file"), "record\n");
}

#[test]
fn an_error_names_the_folder_that_does_not_exist() {
    let destination = Destination::File { path: "/nowhere/audit.log".into(), max_bytes: 1, keep: 1 };
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
    sink.write(b"first 6\n", &mut |_| {}).expect("writes");
    sink.write(b"second\n", &mut |_| {}).expect("rotates");
    fs::create_dir(folder.path().join("audit.log.2")).expect("a folder where the next file would be");
    sink.write(b"third\n", &mut |_| {}).expect_err("audit.log.1 can't be renamed");
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a file");
    assert_eq!((text("audit.log"), text("audit.log.1")), ("second\n".to_owned(), "first 6\n".to_owned()));
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
