//! Where the lines go, and the file's rotation.
//!
//! Invariant: a write is whole or not at all, so a full disk leaves no partial line. Agents that share the file during a takeover lock
//! it for each write, and each removes only what it wrote itself. The file is where its path says and not behind a symbolic link there.
//! A write says whether the path still named the file when it was over: the program that moved the file may have read it before.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A program that rotates by rename creates the new file itself, with an owner and a mode of its choice, right after that. It has this
/// long before the file is created here: two programs that create it would get in each other's way.
const CREATE_AFTER: Duration = Duration::from_millis(10);

/// How long a write waits for another agent's. An agent that is stopped in the middle of a write keeps its lock; after this time lines
/// are written without one, and a partial line that the other agent leaves becomes a line of its own.
const LOCK_TIMEOUT: Duration = Duration::from_millis(50);

/// Of a new file. Who talks to whom is not for everybody; a shipper that isn't root reads it as a member of the file's group, which a
/// folder with the set-group-ID bit gives to it.
const MODE: u32 = 0o640;

/// Where audit records go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Nowhere: verdicts are only counted.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File {
        /// Its path. Older files are beside it, as `PATH.1` (the newest of them) to `PATH.<keep>`.
        path: PathBuf,
        /// Rotated before it would grow past so many bytes. (One batch of lines is never split, so a limit below
        /// [`BATCH`](crate::writer::BATCH) holds only as well as that.)
        max_bytes: u64,
        /// How many older files are kept; 0 keeps none.
        keep: u32,
    },
}

/// An audit log that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {} for writing: {error}; its folder must exist and be writable", path.display())]
pub struct DestinationError {
    /// Which file.
    pub path: PathBuf,
    /// What the system says.
    pub error: io::Error,
}

/// Where lines are that were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    /// Where the destination says. A program that moves the file from now on moves them along.
    InPlace,
    /// In a file that was moved or removed before the write was over: its new owner may have read it before.
    Displaced,
}

/// What [`Sink::look_after`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// All as it was left.
    Unchanged,
    /// Another program had moved or removed the file; a new one is open.
    Moved,
    /// Another program has cut the file short: what was written after it was copied is lost.
    CutShort,
}

/// An open destination.
#[derive(Debug)]
pub(crate) enum Sink {
    Off,
    Stdout(io::Stdout),
    File(LogFile),
}

impl Sink {
    pub(crate) fn open(destination: Destination) -> Result<Self, DestinationError> {
        Ok(match destination {
            Destination::Off => Self::Off,
            Destination::Stdout => Self::Stdout(io::stdout()),
            Destination::File { path, max_bytes, keep } => match LogFile::open(&path, max_bytes, keep) {
                Ok(file) => Self::File(file),
                Err(error) => return Err(DestinationError { path, error }),
            },
        })
    }

    /// Whether lines are wanted at all.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }

    /// Writes whole lines: all of them or, where the destination can be cut back, none.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<Written> {
        match self {
            Self::Off => {}
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(lines)?;
                stdout.flush()?;
            }
            Self::File(file) => return file.write(lines),
        }
        Ok(Written::InPlace)
    }

    /// Follows the file if another program moved it. To be called before lines are written, and now and then; only if there are `lines`
    /// to write a file is created where none is, so that one that was removed for good stays removed.
    pub(crate) fn look_after(&mut self, lines: bool) -> io::Result<Found> {
        match self {
            Self::Off | Self::Stdout(_) => Ok(Found::Unchanged),
            Self::File(file) => file.look_after(lines),
        }
    }

    /// Opens the file at the path again, whether or not it was moved. Returns the path; `None` if there is no file.
    pub(crate) fn reopen(&mut self) -> io::Result<Option<&Path>> {
        match self {
            Self::Off | Self::Stdout(_) => Ok(None),
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
    /// Only files of this kind are locked, rotated, and cut after a write that failed.
    regular: bool,
    /// Where the last write ended. The file is longer if another agent has written since, and shorter only if a program cut it.
    end: u64,
    /// The last write to something other than a regular file ended in the middle of a line.
    is_partial: bool,
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
        Ok(Self { path: path.to_owned(), max_bytes, keep, file, regular, end, is_partial: false })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<Written> {
        self.lock();
        let written = self.append(lines);
        // This fails only for a file that has no lock.
        let _ = self.file.unlock();
        written?;
        // An answer that fails proves nothing: better twice than not at all.
        Ok(if self.is_in_place().unwrap_or(false) { Written::InPlace } else { Written::Displaced })
    }

    /// Locks the file against other agents for at most [`LOCK_TIMEOUT`], where it can be locked.
    fn lock(&self) {
        let end = Instant::now() + LOCK_TIMEOUT;
        while self.regular
            && matches!(self.file.try_lock(), Err(TryLockError::WouldBlock))
            && Instant::now() < end
        {
            thread::sleep(LOCK_TIMEOUT / 50);
        }
    }

    /// Rotates the file if the lines would make it too long, and adds them, all or none.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut length = self.file.metadata()?.len();
        let is_full = self.regular && length > 0 && length + lines.len() as u64 > self.max_bytes;
        // Another agent may have rotated it just now.
        if is_full && self.is_in_place()? {
            self.rotate()?;
            self.lock();
            length = self.file.metadata()?.len();
        }
        let newline: &[u8] = if self.ends_in_partial_line(length)? { b"\n" } else { b"" };
        let mut added = 0;
        match self.add(newline, &mut added).and_then(|()| self.add(lines, &mut added)) {
            Ok(()) => {
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

    /// Writes all bytes; `added` grows by each that was written, also if a later one was not.
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

    /// A writer that was killed may have left a partial line, which must not become part of the next one.
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

    /// `PATH.1` becomes `PATH.2` and so on, the last goes, `PATH` becomes `PATH.1`, and a new `PATH` begins.
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

    fn look_after(&mut self, lines: bool) -> io::Result<Found> {
        if !self.is_in_place()? {
            if fs::symlink_metadata(&self.path).is_err() {
                if !lines {
                    return Ok(Found::Unchanged);
                }
                thread::sleep(CREATE_AFTER);
            }
            self.reopen()?;
            return Ok(Found::Moved);
        }
        let length = self.file.metadata()?.len();
        if !self.regular || length >= self.end {
            return Ok(Found::Unchanged);
        }
        self.end = length;
        Ok(Found::CutShort)
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
