//! What the writer passes to a sink, and what it gets back.

use jiff::Timestamp;

/// Whole lines to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    /// The lines, each with its line end.
    pub(crate) lines: &'a [u8],
    /// How many of them are records. The others are not counted if they are lost.
    pub(crate) records: u64,
    /// The time of the write, which names a file that is closed before it.
    pub(crate) time: Timestamp,
}

/// A file, or stream, in which this agent writes its first line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FileStart {
    /// How many partial lines were cut off since the last start, each at most one record: at the end of this
    /// file, or of one that was closed before a line could be written to it.
    pub(crate) cut_lines: u64,
    /// How many bytes these lines had.
    pub(crate) cut_bytes: u64,
}

/// Adds the lines that come before this agent's first batch in a file, so that the file can be read without
/// the files before it. They are written with the batch or not at all. After a failed write they are
/// requested again.
pub(crate) type Begin<'a> = dyn FnMut(&FileStart, &mut Vec<u8>) + 'a;

/// Where written lines are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    /// In the file that the path names. A program that moves the file later moves these lines with it.
    InPlace,
    /// In a file that was moved or removed before the write ended. The program that moved it may have read it
    /// before the write.
    Displaced,
}

/// What following the path found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The file is as the last write left it.
    Unchanged,
    /// Another program had moved or removed the file; a new one is open.
    Moved,
    /// Another program has truncated the file, as logrotate's `copytruncate` does. Lines written between its
    /// copy and the truncation are lost.
    Truncated,
}
