//! Closed files of a log: their names, and which are removed.
//!
//! A closed file is named after the time at which it was closed: `audit.log.20260102T030406.123Z`, and with
//! `.zst` once it is compressed. So names never change, and their order is that of the files.
//!
//! Invariant: only files with such names are renamed, compressed or removed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::folder::Folder;

/// The form of a closed file's time, in UTC.
const STAMP: &str = "%Y%m%dT%H%M%S.%3fZ";

/// The length of such a time.
const STAMP_LENGTH: usize = "20260102T030406.123Z".len();

/// The end of a compressed file's name.
pub(super) const COMPRESSED: &str = ".zst";

/// The end of the name of a file that is being compressed.
pub(super) const UNFINISHED: &str = ".zst.tmp";

/// The time in a closed file's name: milliseconds since 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ClosedAt(Timestamp);

/// A closed file, in each form that exists of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Forms {
    /// As it was written.
    pub(super) plain: bool,
    /// Compressed.
    pub(super) compressed: bool,
    /// Being compressed, or left by an agent that was killed while it compressed.
    pub(super) unfinished: bool,
    /// The size of all forms.
    pub(super) bytes: u64,
}

/// The closed files of a log, oldest first.
#[derive(Debug)]
pub(super) struct ClosedFiles<'a> {
    log: &'a OsStr,
    pub(super) files: BTreeMap<ClosedAt, Forms>,
}

impl<'a> ClosedFiles<'a> {
    /// The closed files of the log of this name.
    pub(super) fn list(folder: &Folder, log: &'a OsStr) -> io::Result<Self> {
        let mut files: BTreeMap<ClosedAt, Forms> = BTreeMap::new();
        for entry in folder.files(log)? {
            let Some((at, end)) = parse(&entry.name, log) else { continue };
            let forms = files.entry(at).or_default();
            forms.bytes = forms.bytes.saturating_add(entry.bytes);
            match end {
                b"" => forms.plain = true,
                end if end == COMPRESSED.as_bytes() => forms.compressed = true,
                _ => forms.unfinished = true,
            }
        }
        Ok(Self { log, files })
    }

    /// When a file that is closed now counts as closed: later than all others, also if the clock was set
    /// back.
    pub(super) fn next(&self, time: Timestamp) -> io::Result<ClosedAt> {
        let Some((last, _)) = self.files.last_key_value() else { return Ok(ClosedAt(time)) };
        let after_last = last.0.checked_add(SignedDuration::from_millis(1)).map_err(io::Error::other)?;
        Ok(ClosedAt(time.max(after_last)))
    }

    /// The oldest files that exceed `keep` files or `limit` bytes.
    pub(super) fn excess(&self, keep: u32, limit: u64) -> Excess {
        let mut bytes: u64 = self.files.values().map(|forms| forms.bytes).sum();
        let mut count = self.files.len() as u64;
        let mut excess = Excess::default();
        for (at, forms) in &self.files {
            match (count > u64::from(keep), bytes > limit) {
                (false, false) => break,
                (_, true) => excess.by_size.push(*at),
                (true, false) => excess.by_count.push(*at),
            }
            bytes -= forms.bytes;
            count -= 1;
        }
        excess
    }

    /// The name of one form of a closed file.
    pub(super) fn name(&self, at: ClosedAt, end: &str) -> OsString {
        name(self.log, at, end)
    }
}

/// Closed files to remove, by the reason.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Excess {
    /// There are more files than are kept.
    pub(super) by_count: Vec<ClosedAt>,
    /// The files are larger than is allowed.
    pub(super) by_size: Vec<ClosedAt>,
}

/// The name of a closed file of a log, with this end.
pub(super) fn name(log: &OsStr, at: ClosedAt, end: &str) -> OsString {
    let stamp = at.0.strftime(STAMP);
    OsString::from_vec([log.as_bytes(), format!(".{stamp}{end}").as_bytes()].concat())
}

/// The time of a closed file of this log, and the end of its name; `None` for any other name.
fn parse<'a>(file: &'a OsStr, log: &OsStr) -> Option<(ClosedAt, &'a [u8])> {
    let rest = file.as_bytes().strip_prefix(log.as_bytes())?.strip_prefix(b".")?;
    let (stamp, end) = rest.split_at_checked(STAMP_LENGTH)?;
    if !end.is_empty() && ![COMPRESSED, UNFINISHED].map(str::as_bytes).contains(&end) {
        return None;
    }
    let stamp = std::str::from_utf8(stamp).ok()?;
    let at = DateTime::strptime("%Y%m%dT%H%M%S%.fZ", stamp).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    // Only the one form that `name` writes.
    (at.strftime(STAMP).to_string() == stamp).then_some((ClosedAt(at), end))
}

/// Whether a file is a closed file of the log of this name, compressed or not. Both are names without a
/// folder.
pub fn is_closed_file(file: &OsStr, log: &OsStr) -> bool {
    parse(file, log).is_some()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LOG: &str = "audit.log";

    fn at(text: &str) -> ClosedAt {
        ClosedAt(text.parse().expect("time"))
    }

    fn listed(files: &[(&str, usize)]) -> (tempfile::TempDir, Folder) {
        let folder = tempfile::tempdir().expect("folder");
        for (name, bytes) in files {
            fs::write(folder.path().join(name), vec![0; *bytes]).expect("file");
        }
        let (opened, _) = Folder::of(&folder.path().join(LOG)).expect("opens");
        (folder, opened)
    }

    #[test]
    fn only_names_of_the_exact_form_are_closed_files() {
        let is_closed = |name: &str| is_closed_file(name.as_ref(), LOG.as_ref());
        for name in ["audit.log.20260102T030406.123Z", "audit.log.20260102T030406.000Z.zst"] {
            assert!(is_closed(name), "{name}");
        }
        for name in [
            "audit.log",
            "audit.log.1",
            "audit.log.20260102",
            "audit.log.20260102T030406.123Z.gz",
            "audit.log.20260102T030406.123Z.zst.1",
            "audit.log.20261302T030406.123Z",
            "audit.log.20260102T030406.12 Z",
            "audit.log-20260102T030406.123Z",
            "other.log.20260102T030406.123Z",
            "audit.log.20260102T0304é6.123",
        ] {
            assert!(!is_closed(name), "{name}");
        }
        let time = at("2026-01-02T03:04:06.007Z");
        assert_eq!(name(LOG.as_ref(), time, COMPRESSED), "audit.log.20260102T030406.007Z.zst");
    }

    #[test]
    fn a_closed_file_is_newer_than_all_others_also_after_the_clock_was_set_back() {
        let (_files, folder) = listed(&[("audit.log.20300102T030405.999Z.zst", 1)]);
        let closed = ClosedFiles::list(&folder, LOG.as_ref()).expect("lists");
        let next = |time: &str| closed.next(time.parse().expect("time")).expect("a time");
        assert_eq!(next("2026-01-02T03:04:06Z"), at("2030-01-02T03:04:06Z"), "a millisecond later");
        assert_eq!(next("2031-01-02T03:04:06Z"), at("2031-01-02T03:04:06Z"));
    }

    #[test]
    fn the_oldest_files_exceed_number_and_size_and_all_forms_of_a_file_count() {
        let (_files, folder) = listed(&[
            ("audit.log", 1000),
            ("audit.log.20260101T000000.000Z.zst", 10),
            ("audit.log.20260102T000000.000Z", 100),
            ("audit.log.20260102T000000.000Z.zst.tmp", 5),
            ("audit.log.20260103T000000.000Z", 100),
            ("audit.log.1", 1000),
        ]);
        let closed = ClosedFiles::list(&folder, LOG.as_ref()).expect("lists");
        let [first, second, third] = ["01", "02", "03"].map(|day| at(&format!("2026-01-{day}T00:00:00Z")));
        let excess = |keep, limit| {
            let Excess { by_count, by_size } = closed.excess(keep, limit);
            (by_count, by_size)
        };
        assert_eq!(excess(3, 215), (vec![], vec![]));
        assert_eq!(excess(3, 214), (vec![], vec![first]));
        assert_eq!(excess(3, 204), (vec![], vec![first, second]));
        assert_eq!(excess(2, 215), (vec![first], vec![]));
        assert_eq!(excess(0, 215), (vec![first, second, third], vec![]));
        assert_eq!(excess(1, 205), (vec![second], vec![first]));
    }
}
