//! Follows a log that is being written, across rotation.
//!
//! Invariant: a renamed file is read to its end before the next one, and files that the agent closed between
//! two polls are read in order. So no line is missed unless its file was removed before.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::{BUFFER, COMPRESSED, LogFile, LogInput, closed_files, split};
use super::raw_lines::RawLines;

/// A log that is being written.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    open: Option<Open>,
    /// Closed files to read before the current one, oldest first.
    missed: VecDeque<LogFile>,
    /// All closed files that have been read, are in `missed`, or are older than the first line. Paths without
    /// the end of compressed files.
    known: BTreeSet<PathBuf>,
    /// The position of the last line.
    last: (PathBuf, u64),
}

/// What [`Follow::next_line`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Followed {
    /// A line.
    Line,
    /// A line that is longer than any record.
    TooLong,
    /// A file has ended with a line without a line end.
    Torn,
    /// There is no line at this time.
    Nothing,
}

/// The file that is being read.
struct Open {
    path: PathBuf,
    lines: RawLines<LogInput>,
    /// `None` if it is a closed file, which does not grow.
    current: Option<Current>,
}

/// The current file of the log.
#[derive(Debug)]
struct Current {
    /// Shares its position with the lines.
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// Whether the path was found to name another file. Lines that were written before that are read first.
    is_moved: bool,
    /// Whether the next line is the end of one that began before the first line.
    is_in_line: bool,
}

impl Follow {
    /// Follows the log at `path`, which need not exist yet. Begins with lines that are written from now on.
    pub fn from_end(path: impl Into<PathBuf>) -> io::Result<Self> {
        let mut follow = Self::new(path.into())?;
        follow.known = stems(&follow.missed);
        follow.missed.clear();
        follow.open = Open::current(&follow.path)?;
        if let Some(Open { current: Some(current), .. }) = &mut follow.open {
            let length = current.file.metadata()?.len();
            if length > 0 {
                // If the last byte is a line end, it is read as an empty line.
                current.file.seek(SeekFrom::Start(length - 1))?;
                current.is_in_line = true;
            }
        }
        Ok(follow)
    }

    /// Follows the log at `path`, which need not exist yet. Begins with the oldest line of the oldest closed
    /// file.
    pub fn from_start(path: impl Into<PathBuf>) -> io::Result<Self> {
        let mut follow = Self::new(path.into())?;
        follow.known = stems(&follow.missed);
        Ok(follow)
    }

    fn new(path: PathBuf) -> io::Result<Self> {
        let last = (path.clone(), 0);
        let mut follow = Self { path, open: None, missed: VecDeque::new(), known: BTreeSet::new(), last };
        follow.missed = follow.closed()?.into();
        Ok(follow)
    }

    /// The file and the number of the last line.
    pub fn position(&self) -> (&Path, u64) {
        (&self.last.0, self.last.1)
    }

    /// Reads the next line into `line`, without its line end. If there is none now, call this again after a
    /// pause.
    pub fn next_line(&mut self, line: &mut Vec<u8>) -> io::Result<Followed> {
        loop {
            line.clear();
            let Some(open) = &mut self.open else {
                if let Some(file) = self.missed.pop_front() {
                    self.open = Open::closed(&file)?;
                    continue;
                }
                if !self.open_current()? {
                    return Ok(Followed::Nothing);
                }
                continue;
            };
            let mut is_torn = false;
            if let Some(raw) = open.lines.next_line()? {
                if self.last.0 != open.path {
                    self.last.0.clone_from(&open.path);
                }
                self.last.1 = raw.number;
                let found = match raw.text {
                    Some(text) => {
                        line.extend_from_slice(text);
                        Followed::Line
                    }
                    None => Followed::TooLong,
                };
                is_torn = !raw.is_finished;
                let is_tail = open.current.as_mut().is_some_and(|current| {
                    if is_torn { current.is_in_line } else { std::mem::take(&mut current.is_in_line) }
                });
                match (is_torn, is_tail) {
                    (false, false) => return Ok(found),
                    (false, true) => continue,
                    (true, is_tail) => is_torn = !is_tail,
                }
            }
            if let Some(current) = &mut open.current {
                if identity(&self.path)? == Some(current.identity) {
                    current.continue_if_truncated()?;
                    return Ok(Followed::Nothing);
                }
                if !std::mem::replace(&mut current.is_moved, true) {
                    continue;
                }
                let moved = current.identity;
                self.find_missed(Some(moved))?;
            }
            self.open = None;
            if is_torn {
                return Ok(Followed::Torn);
            }
        }
    }

    /// Opens the current file. Returns whether there was something to open.
    fn open_current(&mut self) -> io::Result<bool> {
        let open = Open::current(&self.path)?;
        // If it was closed before this, the closed file is read instead.
        self.find_missed(None)?;
        if self.missed.is_empty() {
            self.open = open;
        }
        Ok(self.open.is_some() || !self.missed.is_empty())
    }

    /// Adds files that were closed since the last call, other than the one of identity `read`, which has been
    /// read.
    fn find_missed(&mut self, read: Option<(u64, u64)>) -> io::Result<()> {
        let mut new = self.closed()?;
        new.retain(|file| self.known.insert(stem(&file.path)));
        if let (Some(read), Some(first)) = (read, new.first()) {
            // The file that was current is the oldest of them, unless another program moved it. Once it is
            // compressed, its identity is a new one.
            let is_compressed = first.path.as_os_str().as_bytes().ends_with(COMPRESSED);
            if is_compressed || identity(&first.path)?.is_none_or(|first| first == read) {
                new.remove(0);
            }
        }
        self.missed.extend(new);
        Ok(())
    }

    /// The closed files; none if the folder does not exist yet.
    fn closed(&self) -> io::Result<Vec<LogFile>> {
        let (folder, log) = split(&self.path)?;
        match closed_files(folder, log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            closed => closed,
        }
    }
}

impl Open {
    /// The current file of the log; `None` if it does not exist.
    fn current(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        let lines: LogInput = Box::new(BufReader::with_capacity(BUFFER, file.try_clone()?));
        let current = Current { file, identity, is_moved: false, is_in_line: false };
        Ok(Some(Self { path: path.to_owned(), lines: RawLines::new(lines), current: Some(current) }))
    }

    /// A closed file; `None` if it was removed.
    fn closed(file: &LogFile) -> io::Result<Option<Self>> {
        let input = match file.open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            input => input?,
        };
        Ok(Some(Self { path: file.path.clone(), lines: RawLines::new(input), current: None }))
    }
}

impl Current {
    /// Continues from the beginning if another program has copied and truncated the file. Call it at the
    /// file's end only.
    fn continue_if_truncated(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.file.stream_position()? {
            self.file.rewind()?;
        }
        Ok(())
    }
}

/// Device and inode of the file that a path names; `None` if there is none.
fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn stems<'a>(files: impl IntoIterator<Item = &'a LogFile>) -> BTreeSet<PathBuf> {
    files.into_iter().map(|file| stem(&file.path)).collect()
}

/// The path without the end of a compressed file.
fn stem(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes.strip_suffix(COMPRESSED).unwrap_or(bytes)))
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("path", &self.path).finish_non_exhaustive()
    }
}
