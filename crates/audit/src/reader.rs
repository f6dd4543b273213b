//! Reads a log line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::record::{Bypass, Dropped, Lost, Record, Repeated};

/// One line of a log.
#[derive(Clone, PartialEq, Debug)]
pub enum Line {
    /// A verdict.
    Record(Box<Record>),
    /// Records are missing here.
    Lost(Lost),
    /// The lines after this one may also be in the previous file.
    Repeated(Repeated),
    /// Packets that nftables rules dropped without a verdict.
    Dropped(Box<Dropped>),
    /// A period in which packets could pass unevaluated.
    Bypass(Box<Bypass>),
}

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
}

/// The lines of the log at `path`, oldest first. Empty lines are skipped.
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
    /// The lines of any input; errors call it `path`.
    pub fn new(path: impl Into<PathBuf>, input: R) -> Self {
        Self { input, path: path.into(), line: 0, buffer: Vec::new(), failed: false }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Line, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            self.buffer.clear();
            match self.input.read_until(b'\n', &mut self.buffer) {
                Ok(0) => return None,
                Ok(_) => self.line += 1,
                Err(source) => {
                    self.failed = true;
                    return Some(Err(ReadError::File { path: self.path.clone(), source }));
                }
            }
            if !self.buffer.trim_ascii().is_empty() {
                let line = parse(&self.buffer);
                return Some(line.map_err(|source| ReadError::Line {
                    path: self.path.clone(),
                    line: self.line,
                    source,
                }));
            }
        }
        None
    }
}

/// Tries each kind of line in turn: their fields tell them apart. The error is that of a record, since nearly
/// every line is one.
fn parse(line: &[u8]) -> Result<Line, serde_json::Error> {
    match serde_json::from_slice(line) {
        Ok(record) => Ok(Line::Record(Box::new(record))),
        Err(error) => serde_json::from_slice(line)
            .map(Line::Lost)
            .or_else(|_| serde_json::from_slice(line).map(Line::Repeated))
            .or_else(|_| serde_json::from_slice(line).map(|dropped| Line::Dropped(Box::new(dropped))))
            .or_else(|_| serde_json::from_slice(line).map(|bypass| Line::Bypass(Box::new(bypass))))
            .map_err(|_| error),
    }
}
