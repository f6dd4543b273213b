//! Reads a log line by line, in constant memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::record::Record;

/// The longest line that is read. No record is longer.
pub const LONGEST_LINE: usize = 1 << 20;

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

/// The records of the log at `path`, oldest first. Empty lines are skipped.
pub fn read(path: impl AsRef<Path>) -> Result<Lines<BufReader<File>>, ReadError> {
    let path = path.as_ref();
    match File::open(path) {
        Ok(file) => Ok(Lines::new(path, BufReader::with_capacity(1 << 16, file))),
        Err(source) => Err(ReadError::File { path: path.to_owned(), source }),
    }
}

/// See [`read`].
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    path: PathBuf,
    line: u64,
    buffer: Vec<u8>,
    /// Whether the input failed: then the iterator ends.
    failed: bool,
}

impl<R: BufRead> Lines<R> {
    /// The records of any input; errors call it `path`.
    pub fn new(path: impl Into<PathBuf>, input: R) -> Self {
        Self { input, path: path.into(), line: 0, buffer: Vec::new(), failed: false }
    }

    /// Reads the next line into the buffer. Returns whether it is whole; a longer one is skipped. `None` at
    /// the end.
    fn read_line(&mut self) -> io::Result<Option<bool>> {
        let limit = LONGEST_LINE as u64 + 1;
        if (&mut self.input).take(limit).read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        self.line += 1;
        let is_whole = self.buffer.len() <= LONGEST_LINE;
        if !is_whole && self.buffer.last() != Some(&b'\n') {
            self.input.skip_until(b'\n')?;
        }
        Ok(Some(is_whole))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            self.buffer.clear();
            match self.read_line() {
                Ok(None) => return None,
                Ok(Some(true)) => {}
                Ok(Some(false)) => {
                    return Some(Err(ReadError::LongLine { path: self.path.clone(), line: self.line }));
                }
                Err(source) => {
                    self.failed = true;
                    return Some(Err(ReadError::File { path: self.path.clone(), source }));
                }
            }
            if !self.buffer.trim_ascii().is_empty() {
                let record = serde_json::from_slice(&self.buffer);
                return Some(record.map_err(|source| ReadError::Line {
                    path: self.path.clone(),
                    line: self.line,
                    source,
                }));
            }
        }
        None
    }
}
