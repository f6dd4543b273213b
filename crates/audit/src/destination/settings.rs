//! Where audit lines go, as the command line names it.

use std::path::PathBuf;
use std::time::Duration;

/// Where audit records go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Nothing is written: verdicts are only counted.
    Off,
    /// Standard output. A reader that doesn't read costs records, but never time.
    Stdout,
    /// A file, appended to.
    File(FileSettings),
}

/// A log file, and how it is rotated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSettings {
    /// Its path. Closed files are beside it, named after the time at which they were closed:
    /// `PATH.20260102T030406.123Z`, and with `.zst` once they are compressed.
    pub path: PathBuf,
    /// The file is closed before it would exceed this many bytes. A batch of lines is never split, so a file
    /// may still grow to [`BATCH`](crate::writer::BATCH) if this is smaller.
    pub max_bytes: u64,
    /// The file is closed before the first line after it has existed for this long; `None` for any time.
    pub max_age: Option<Duration>,
    /// How many closed files are kept; 0 keeps none.
    pub keep: u32,
    /// The oldest closed files are removed so that these and the current one stay within this many bytes. A
    /// file that is being compressed takes some more until it is done.
    pub total_bytes: u64,
    /// Whether closed files are compressed with zstd.
    pub compress: bool,
    /// The group of new files; `None` for the one that the system gives them.
    pub group: Option<u32>,
    /// Whether the path may be a FIFO or a device.
    pub allow_special: bool,
}

impl FileSettings {
    /// A file at this path with the defaults of `kube-verdict run`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        const MAX_BYTES: u64 = 100 << 20;
        Self {
            path: path.into(),
            max_bytes: MAX_BYTES,
            max_age: Some(Duration::from_secs(24 * 3600)),
            keep: 100,
            total_bytes: 10 * MAX_BYTES,
            compress: true,
            group: None,
            allow_special: false,
        }
    }
}
