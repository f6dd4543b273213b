//! Files of logs, and logs that are being written.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::*;

/// The name of the log's file that was closed in this second.
fn closed(second: u32) -> String {
    format!("audit.log.20260102T0304{second:02}.000Z")
}

fn compressed(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 0).expect("compresses")
}

/// The lines of some files as text.
fn lines(files: &LogFiles) -> Vec<String> {
    let read = |file: &LogFile| {
        let mut text = String::new();
        file.open().expect("opens").read_to_string(&mut text).expect("text");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    files.files.iter().flat_map(read).collect()
}

#[test]
fn the_files_of_a_log_are_read_in_the_order_in_which_they_were_written() {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("file");
    write("audit.log", b"4\n");
    write(&closed(7), b"3\n");
    write(&format!("{}.zst", closed(6)), &compressed("2\n"));
    // Its compression has ended, and the plain file is not removed yet.
    write(&closed(5), b"1\n");
    write(&format!("{}.zst", closed(5)), &compressed("1\n"));
    write(&format!("{}.zst.tmp", closed(7)), b"(not finished");
    write("other.jsonl.zst", &compressed("5\n"));
    write("notes.txt", b"");
    fs::create_dir(folder.path().join("folder.log")).expect("folder");

    let found = LogFiles::in_folder(folder.path()).expect("lists");
    assert_eq!(lines(&found), ["1", "2", "3", "4", "5"]);
    let others = [format!("{}.zst.tmp", closed(7)), "notes.txt".to_owned()];
    assert_eq!(found.others, others.map(|name| folder.path().join(name)));
    let found = LogFiles::of_log(&folder.path().join("audit.log")).expect("lists");
    assert_eq!(lines(&found), ["1", "2", "3", "4"], "the other log is not part of it");
    fs::remove_file(folder.path().join("audit.log")).expect("removes");
    let found = LogFiles::of_log(&folder.path().join("audit.log")).expect("lists");
    assert_eq!(lines(&found), ["1", "2", "3"]);
}

#[test]
fn a_file_that_is_compressed_after_it_was_listed_is_read_compressed() {
    let folder = tempfile::tempdir().expect("folder");
    let plain = folder.path().join(closed(5));
    fs::write(&plain, "1\n").expect("file");
    let found = LogFiles::in_folder(folder.path()).expect("lists");
    fs::write(folder.path().join(format!("{}.zst", closed(5))), compressed("1\n")).expect("file");
    fs::remove_file(plain).expect("removes");
    assert_eq!(lines(&found), ["1"]);
}

#[test]
fn a_line_has_a_number_and_a_bound_wherever_buffers_end() {
    let long = "x".repeat(LONGEST_LINE);
    let text = format!("one\n\n{long}\n{long}x\nlast");
    for capacity in [1, 7, 1 << 10, 1 << 21] {
        let mut lines = RawLines::new(BufReader::with_capacity(capacity, text.as_bytes()));
        let mut next = || {
            let line = lines.next_line().expect("reads")?;
            Some((line.number, line.text.map(<[u8]>::len), line.is_finished))
        };
        assert_eq!(next(), Some((1, Some(3), true)));
        assert_eq!(next(), Some((2, Some(0), true)));
        assert_eq!(next(), Some((3, Some(LONGEST_LINE), true)), "with buffers of {capacity} bytes");
        assert_eq!(next(), Some((4, None, true)));
        assert_eq!(next(), Some((5, Some(4), false)));
        assert_eq!(next(), Some((5, Some(4), false)), "and again, since nothing was added");
    }
    let mut lines = RawLines::new(&b""[..]);
    assert_eq!(lines.next_line().expect("reads"), None);
}

#[test]
fn a_truncated_compressed_file_is_an_error_after_its_whole_lines() {
    let text: String = (0..100_000).map(|line| format!("{line}\n")).collect();
    let bytes = compressed(&text);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log.zst");
    fs::write(&path, &bytes[..bytes.len() - 100]).expect("file");
    let mut read = 0;
    let mut lines = RawLines::new(open(&path).expect("opens"));
    let error = loop {
        match lines.next_line() {
            Ok(Some(line)) if line.is_finished => read += 1,
            Ok(end) => panic!("{end:?} after {read} lines"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
}

/// All lines that can be read now, with the names of their files.
fn followed(follow: &mut Follow) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    loop {
        let found = follow.next_line(&mut line).expect("reads");
        let text = String::from_utf8_lossy(&line).into_owned();
        match found {
            Followed::Line => lines.push(text),
            Followed::Torn => lines.push(format!("{text} (torn)")),
            Followed::TooLong => lines.push("(too long)".to_owned()),
            Followed::Nothing => return lines,
        }
    }
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("opens");
    file.write_all(text.as_bytes()).expect("writes");
}

#[test]
fn a_log_is_followed_across_any_number_of_rotations() {
    let folder = tempfile::tempdir().expect("folder");
    let log = folder.path().join("audit.log");
    let rotate = |second| fs::rename(&log, folder.path().join(closed(second))).expect("renames");
    let compress = |second| {
        let path = folder.path().join(closed(second));
        let text = fs::read_to_string(&path).expect("text");
        fs::write(format!("{}.zst", path.display()), compressed(&text)).expect("file");
        fs::remove_file(path).expect("removes");
    };
    let mut follow = Follow::from_end(&log).expect("follows");
    assert!(followed(&mut follow).is_empty(), "the log does not exist yet");
    append(&log, "1\n2");
    assert_eq!(followed(&mut follow), ["1"], "the second line is being written");
    append(&log, "a\n3\n");
    assert_eq!(followed(&mut follow), ["2a", "3"]);

    // Once, with lines before and after.
    append(&log, "4\n");
    rotate(1);
    append(&log, "5\n");
    assert_eq!(followed(&mut follow), ["4", "5"]);
    // Twice between two polls, and the first of the files is compressed at once.
    append(&log, "6\n");
    rotate(2);
    append(&log, "7\n");
    rotate(3);
    append(&log, "8\n");
    compress(2);
    assert_eq!(followed(&mut follow), ["6", "7", "8"]);
    // All of them are compressed, and no new file exists.
    append(&log, "9\n");
    rotate(4);
    append(&log, "10\n");
    rotate(5);
    (3..=5).for_each(compress);
    assert_eq!(followed(&mut follow), ["9", "10"]);
    append(&log, "11\n");
    assert_eq!(followed(&mut follow), ["11"]);
    // An agent was killed while it wrote a line, and another program moved the file.
    append(&log, "12\n13");
    fs::rename(&log, folder.path().join("audit.log.old")).expect("renames");
    append(&log, "14\n");
    assert_eq!(followed(&mut follow), ["12", "13 (torn)", "14"]);
    // Another program copied and truncated it.
    fs::write(&log, "").expect("truncates");
    assert!(followed(&mut follow).is_empty());
    append(&log, "15\n");
    assert_eq!(followed(&mut follow), ["15"]);
    assert_eq!(follow.position(), (log.as_path(), 2));

    let mut follow = Follow::from_start(&log).expect("follows");
    let all = ["1", "2a", "3", "4", "5", "6", "7", "8", "9", "10", "15"];
    assert_eq!(followed(&mut follow), all, "from the oldest closed file");
    append(&log, "16\n17");
    assert_eq!(followed(&mut follow), ["16"]);
    let mut follow = Follow::from_end(&log).expect("follows");
    append(&log, "\n18\n");
    assert_eq!(followed(&mut follow), ["18"], "a line that had begun before is not shown in part");
}

#[test]
fn records_are_read_from_compressed_files() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.log.zst");
    fs::write(&path, compressed("{}\n")).expect("file");
    let errors: Vec<_> = read(&path).expect("opens").collect();
    assert!(matches!(&*errors, [Err(ReadError::Line { line: 1, .. })]), "{errors:?}");
    let mut text = String::new();
    open(&path).expect("opens").read_line(&mut text).expect("reads");
    assert_eq!(text, "{}\n");
}
