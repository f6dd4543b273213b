//! Reads logs line by line, in constant memory: closed and compressed files, standard input, and a log that
//! is being written.
//!
//! ```text
//!  paths -> [ LogFiles ] -> [ open ] -+-> [ RawLines ] -+-> [ Lines ] -> Record
//!                         [ Follow ] -+                 +-> [ Scan ] -> RecordView
//! ```

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use crate::record::Record;

mod files;
mod follow;
mod raw_lines;
#[cfg(test)]
mod tests;

pub use files::{LogFile, LogFiles, LogInput, open, open_input};
pub use follow::{Follow, Followed};
pub use raw_lines::{LONGEST_LINE, RawLine, RawLines};

/// A log, or a line of it, that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file can't be read.
    #[error("cannot read the audit log {}", path.display())]
    File {
        /// The file's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A line is not a record. The lines after it can still be read.
    #[error("{}: line {line} is no audit record", path.display())]
    Line {
        /// The file's path.
        path: PathBuf,
        /// The line's number, from 1.
        line: u64,
        /// Why the line can't be parsed.
        source: serde_json::Error,
    },
    /// A line is longer than any record. The lines after it can still be read.
    #[error("{}: line {line} has more than {LONGEST_LINE} bytes, so it is no audit record", path.display())]
    LongLine {
        /// The file's path.
        path: PathBuf,
        /// The line's number, from 1.
        line: u64,
    },
}

/// The records of the log at `path`, compressed or not, oldest first. Empty lines are skipped.
pub fn read(path: impl AsRef<Path>) -> Result<Lines<LogInput>, ReadError> {
    let path = path.as_ref();
    match open(path) {
        Ok(input) => Ok(Lines::new(path, input)),
        Err(source) => Err(ReadError::File { path: path.to_owned(), source }),
    }
}

/// See [`read`].
#[derive(Debug)]
pub struct Lines<R> {
    lines: RawLines<R>,
    path: PathBuf,
    /// Whether the input ended or failed: then the iterator ends.
    has_ended: bool,
}

impl<R: BufRead> Lines<R> {
    /// The records of any input; errors call it `path`.
    pub fn new(path: impl Into<PathBuf>, input: R) -> Self {
        Self { lines: RawLines::new(input), path: path.into(), has_ended: false }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.has_ended {
            let raw = match self.lines.next_line() {
                Ok(None) => return None,
                Ok(Some(raw)) => raw,
                Err(source) => {
                    self.has_ended = true;
                    return Some(Err(ReadError::File { path: self.path.clone(), source }));
                }
            };
            self.has_ended = !raw.is_finished;
            let Some(text) = raw.text else {
                return Some(Err(ReadError::LongLine { path: self.path.clone(), line: raw.number }));
            };
            if !text.trim_ascii().is_empty() {
                let record = serde_json::from_slice(text);
                return Some(record.map_err(|source| ReadError::Line {
                    path: self.path.clone(),
                    line: raw.number,
                    source,
                }));
            }
        }
        None
    }
}
