//! Detects whether a file changed since it was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Device, inode, size and the times of the last change of content and of inode, in ns since 1970. A file
/// that was written, replaced, or put behind the same symbolic link gets another stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: i128,
    changed: i128,
}

impl Stamp {
    /// The stamp of a file.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// A stamp that distinguishes two folders at the same path and ignores their contents.
    pub(crate) fn identity(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), size: 0, modified: 0, changed: 0 }
    }

    /// The stamp, unless the file changed so shortly before `now` that one more write could leave the same
    /// stamp. The kernel's file times advance in steps of up to 10 ms.
    pub(crate) fn unless_fresh(self, now: SystemTime) -> Option<Self> {
        const STEP: Duration = Duration::from_millis(50);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
        (self.changed.max(self.modified) + nanoseconds(STEP) < nanoseconds(now)).then_some(self)
    }
}
