//! Where audit lines are written, and how the file is rotated.
//!
//! Invariant: a write is all or nothing, so a full disk leaves no partial line. Agents that share the file
//! during a takeover lock it for each write, and each removes only what it wrote itself. A symbolic link at
//! the path is never followed. A write reports whether the path still named the file when the write ended: a
//! program that moved the file may have read it before.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a missing file is left to the program that moved it. A program that rotates by rename creates the
/// new file right after that, with an owner and a mode of its choice. If two programs create the file, they
/// conflict.
const CREATE_DELAY: Duration = Duration::from_millis(10);

/// How long a write waits for another agent's lock. An agent that is stopped in the middle of a write keeps
/// its lock. After this time, lines are written without the lock, and a partial line of the other agent stays
/// a separate line.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// The mode of a new file. The log shows which pods communicate, so it is not world-readable. A log shipper
/// that isn't root can read it as a member of the file's group, which a directory with the set-group-ID bit
/// determines.
const MODE: u32 = 0o640;

/// Where audit records go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Nothing is written: verdicts are only counted.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File {
        /// Its path. Rotated files are beside it, from `PATH.1` (the newest) to `PATH.<keep>`.
        path: PathBuf,
        /// The file is rotated before it would exceed this many bytes. A batch of lines is never split, so a
        /// file may still grow to [`BATCH`](crate::writer::BATCH) if this is smaller.
        max_bytes: u64,
        /// How many rotated files are kept; 0 keeps none.
        keep: u32,
    },
}

/// An audit log that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {} for writing; its folder must exist and be writable", path.display())]
pub struct DestinationError {
    /// The file's path.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

/// Adds the lines that come before this agent's first lines in a file, so that the file can be read without
/// the files before it. They are written with those lines or not at all. After a failed write they are
/// requested again.
pub(crate) type Begin<'a> = dyn FnMut(&mut Vec<u8>) + 'a;

/// Where written lines are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    /// In the file that the path names. A program that moves the file later moves these lines with it.
    InPlace,
    /// In a file that was moved or removed before the write ended. The program that moved it may have read it
    /// before the write.
    Displaced,
}

/// What [`Sink::follow`] found.
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

/// An open destination.
#[derive(Debug)]
pub(crate) enum Sink {
    Off,
    /// And whether lines have been written to it.
    Stdout(io::Stdout, bool),
    File(LogFile),
}

impl Sink {
    pub(crate) fn open(destination: Destination) -> Result<Self, DestinationError> {
        Ok(match destination {
            Destination::Off => Self::Off,
            Destination::Stdout => Self::Stdout(io::stdout(), false),
            Destination::File { path, max_bytes, keep } => match LogFile::open(&path, max_bytes, keep) {
                Ok(file) => Self::File(file),
                Err(source) => return Err(DestinationError { path, source }),
            },
        })
    }

    /// Whether lines are discarded.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }

    /// Writes whole lines: all of them or, if the destination is a regular file, none.
    /// `begin` adds the lines that come first in a file.
    pub(crate) fn write(&mut self, lines: &[u8], begin: &mut Begin<'_>) -> io::Result<Written> {
        match self {
            Self::Off => {}
            Self::Stdout(stdout, has_begun) => {
                let first = first_lines(*has_begun, begin);
                let mut stdout = stdout.lock();
                stdout.write_all(&first)?;
                stdout.write_all(lines)?;
                stdout.flush()?;
                *has_begun = true;
            }
            Self::File(file) => return file.write(lines, begin),
        }
        Ok(Written::InPlace)
    }

    /// Opens the file at the path if another program moved or removed the open one. Call this periodically
    /// and before each write. A missing file is created only if `has_lines`, so that a file that was removed
    /// for good stays removed.
    pub(crate) fn follow(&mut self, has_lines: bool) -> io::Result<Found> {
        match self {
            Self::Off | Self::Stdout(..) => Ok(Found::Unchanged),
            Self::File(file) => file.follow(has_lines),
        }
    }

    /// Opens the file at the path again, whether or not it was moved. Returns the path; `None` if the
    /// destination is not a file.
    pub(crate) fn reopen(&mut self) -> io::Result<Option<&Path>> {
        match self {
            Self::Off | Self::Stdout(..) => Ok(None),
            Self::File(file) => {
                file.reopen()?;
                Ok(Some(&file.path))
            }
        }
    }
}

/// A log file that rotates.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: File,
    /// Whether this is a regular file. Other files are not locked, not rotated, and not truncated after a
    /// failed write.
    regular: bool,
    /// Where the last write ended. The file is longer if another agent has written since, and shorter only if
    /// a program truncated it.
    end: u64,
    /// Whether the last write to a file that isn't regular ended in the middle of a line.
    is_partial: bool,
    /// The last write waited for the lock without success.
    lock_timed_out: bool,
    /// Whether this agent has written lines to the file.
    has_begun: bool,
}

/// The lines that come first in a file, if it has not begun.
fn first_lines(has_begun: bool, begin: &mut Begin<'_>) -> Vec<u8> {
    let mut first = Vec::new();
    if !has_begun {
        begin(&mut first);
    }
    first
}

impl LogFile {
    fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => io::Error::other("it is a symbolic link: name the file itself"),
            _ => error,
        })?;
        let metadata = file.metadata()?;
        let (regular, end) = (metadata.is_file(), metadata.len());
        Ok(Self {
            path: path.to_owned(),
            max_bytes,
            keep,
            file,
            regular,
            end,
            is_partial: false,
            lock_timed_out: false,
            has_begun: false,
        })
    }

    fn write(&mut self, lines: &[u8], begin: &mut Begin<'_>) -> io::Result<Written> {
        self.lock();
        let written = self.append(lines, begin);
        // This fails only for a file that can't be locked.
        let _ = self.file.unlock();
        written?;
        // If this fails, the file may have been moved: lines written twice are better than lost lines.
        Ok(if self.is_in_place().unwrap_or(false) { Written::InPlace } else { Written::Displaced })
    }

    /// Locks the file against other agents, where it can be locked. Waits at most [`LOCK_TIMEOUT`], and not
    /// at all while another agent still holds the lock that an earlier write waited for.
    fn lock(&mut self) {
        let end = Instant::now() + if self.lock_timed_out { Duration::ZERO } else { LOCK_TIMEOUT };
        while self.regular && matches!(self.file.try_lock(), Err(TryLockError::WouldBlock)) {
            if Instant::now() >= end {
                self.lock_timed_out = true;
                return;
            }
            thread::sleep(LOCK_RETRY);
        }
        self.lock_timed_out = false;
    }

    /// Rotates the file if the lines would make it too long, and appends all of them or none.
    fn append(&mut self, lines: &[u8], begin: &mut Begin<'_>) -> io::Result<()> {
        let mut length = self.file.metadata()?.len();
        let is_full = self.regular && length > 0 && length + lines.len() as u64 > self.max_bytes;
        // Another agent may have just rotated it.
        if is_full && self.is_in_place()? {
            self.rotate()?;
            self.lock();
            length = self.file.metadata()?.len();
        }
        let newline: &[u8] = if self.ends_in_partial_line(length)? { b"\n" } else { b"" };
        let first = first_lines(self.has_begun, begin);
        let mut added = 0;
        let parts = [newline, &first, lines];
        match parts.into_iter().try_for_each(|part| self.add(part, &mut added)) {
            Ok(()) => {
                self.has_begun = true;
                self.end = length + added;
                self.is_partial = false;
                Ok(())
            }
            Err(error) => {
                self.is_partial = added > 0;
                if self.regular && self.file.metadata().is_ok_and(|file| file.len() == length + added) {
                    // If this fails, the next write begins a new line.
                    let _ = self.file.set_len(length);
                }
                Err(error)
            }
        }
    }

    /// Writes all bytes. Adds the number of written bytes to `added`, also after an error.
    fn add(&mut self, mut bytes: &[u8], added: &mut u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    *added += written as u64;
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the file ends in a partial line, as a writer that was killed may leave it. It must not become
    /// part of the next line.
    fn ends_in_partial_line(&self, length: u64) -> io::Result<bool> {
        if !self.regular {
            return Ok(self.is_partial);
        }
        let mut last = [b'\n'];
        if let Some(position) = length.checked_sub(1) {
            self.file.read_at(&mut last, position)?;
        }
        Ok(last != *b"\n")
    }

    /// Renames `PATH.1` to `PATH.2` and so on, overwriting the last, renames `PATH` to `PATH.1`, and creates
    /// a new `PATH`.
    fn rotate(&mut self) -> io::Result<()> {
        if self.keep == 0 {
            fs::remove_file(&self.path)?;
        } else {
            for number in (1..self.keep).rev() {
                match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, self.numbered(1))?;
        }
        self.reopen()
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }

    fn follow(&mut self, has_lines: bool) -> io::Result<Found> {
        if !self.is_in_place()? {
            if fs::symlink_metadata(&self.path).is_err() {
                if !has_lines {
                    return Ok(Found::Unchanged);
                }
                thread::sleep(CREATE_DELAY);
            }
            self.reopen()?;
            return Ok(Found::Moved);
        }
        let length = self.file.metadata()?.len();
        if !self.regular || length >= self.end {
            return Ok(Found::Unchanged);
        }
        self.end = length;
        self.has_begun = false;
        Ok(Found::Truncated)
    }

    /// Whether the path names the file that is open.
    fn is_in_place(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::symlink_metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path, self.max_bytes, self.keep)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
