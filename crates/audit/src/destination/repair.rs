//! Repairs the last line of a file whose writer was killed in the middle of it.
//!
//! Invariant: whole lines are never changed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use serde::de::IgnoredAny;

/// How far back from a file's end the start of its last line is looked for. A longer line is none of this
/// program's.
const LONGEST_LINE: u64 = 1 << 20;

/// What was done about a partial last line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repair {
    /// Only the line end was missing; it was added.
    Completed,
    /// This many bytes, the whole partial line, were removed.
    Cut(u64),
}

/// Whether the file's last line lacks its end.
pub(super) fn is_torn(file: &File, length: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if let Some(position) = length.checked_sub(1) {
        file.read_at(&mut last, position)?;
    }
    Ok(last != *b"\n")
}

/// Completes or cuts the file's last line, if it lacks its end. The caller holds the file's lock. `None` if
/// the line is whole, or too long to be one of this program's.
pub(super) fn repair(file: &mut File) -> io::Result<Option<Repair>> {
    let length = file.metadata()?.len();
    if !is_torn(file, length)? {
        return Ok(None);
    }
    let from = length.saturating_sub(LONGEST_LINE);
    let mut end = vec![0; usize::try_from(length - from).map_err(io::Error::other)?];
    file.read_exact_at(&mut end, from)?;
    let start = match end.iter().rposition(|byte| *byte == b'\n') {
        Some(line_end) => line_end + 1,
        None if from == 0 => 0,
        None => return Ok(None),
    };
    let line = &end[start..];
    if line.first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(line).is_ok() {
        file.write_all(b"\n")?;
        return Ok(Some(Repair::Completed));
    }
    let cut = line.len() as u64;
    file.set_len(length - cut)?;
    Ok(Some(Repair::Cut(cut)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;

    #[test]
    fn a_line_that_is_cut_at_any_byte_is_removed_and_a_whole_one_gets_its_end() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        let (first, last) = ("{\"a\":1}\n", "{\"verdict\":\"deny\",\"note\":\"}\\u007d\"}");
        for length in 0..=last.len() {
            fs::write(&path, format!("{first}{}", &last[..length])).expect("file");
            let mut file = OpenOptions::new().read(true).append(true).open(&path).expect("opens");
            let repaired = repair(&mut file).expect("repairs");
            let text = fs::read_to_string(&path).expect("file");
            if length == last.len() {
                assert_eq!((repaired, text), (Some(Repair::Completed), format!("{first}{last}\n")));
            } else {
                let expected = (length > 0).then_some(Repair::Cut(length as u64));
                assert_eq!((repaired, &*text), (expected, first), "{length} bytes");
            }
        }
    }

    #[test]
    fn bytes_that_a_power_cut_leaves_are_cut_and_a_file_without_line_ends_is_left_alone_if_it_is_long() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        fs::write(&path, b"{}\n\0\0\0\0").expect("file");
        let mut file = OpenOptions::new().read(true).append(true).open(&path).expect("opens");
        assert_eq!(repair(&mut file).expect("repairs"), Some(Repair::Cut(4)));
        assert_eq!(fs::read(&path).expect("file"), b"{}\n");
        let long = vec![b'x'; (LONGEST_LINE + 1) as usize];
        fs::write(&path, &long).expect("file");
        assert_eq!(repair(&mut file).expect("reads"), None);
        assert_eq!(fs::read(&path).expect("file").len(), long.len(), "not a log of this program");
    }
}
