//! A regular file that is rotated, by this or another program.
//!
//! Invariant: a write is all or nothing, so a full disk leaves no partial line. Agents that share the file
//! during a takeover lock it for each write, and each removes only what it wrote itself. A partial line that
//! a killed agent left is repaired when the file is opened. A write reports whether the path still named the
//! file when the write ended: a program that moved the file may have read it before.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::batch::{Batch, Begin, FileStart, Found, Written};
use super::closed::{COMPRESSED, ClosedFiles, UNFINISHED, name};
use super::folder::Folder;
use super::repair::{Repair, is_torn, repair};
use super::settings::FileSettings;
use super::upkeep::{Task, Upkeep};

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

/// See the module.
#[derive(Debug)]
pub(super) struct LogFile {
    settings: FileSettings,
    upkeep: Arc<Upkeep>,
    file: File,
    /// When the file was created, or else opened.
    created: Timestamp,
    /// Where the last write ended. The file is longer if another agent has written since, and shorter only if
    /// a program truncated it.
    end: u64,
    /// What was cut off and is not reported in the log yet.
    start: FileStart,
    /// Whether this agent has written to the file.
    has_started: bool,
    /// The last write waited for the lock without success.
    lock_timed_out: bool,
    /// Whether a file was closed since [`Self::take_closed`].
    has_closed: bool,
}

impl LogFile {
    /// Takes over an open regular file, and repairs its last line.
    pub(super) fn new(settings: FileSettings, upkeep: Arc<Upkeep>, file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        // Some file systems don't have the time of creation.
        let created = metadata.created().ok().and_then(|time| Timestamp::try_from(time).ok());
        let mut log = Self {
            settings,
            upkeep,
            file,
            created: created.unwrap_or_else(Timestamp::now),
            end: metadata.len(),
            start: FileStart::default(),
            has_started: false,
            lock_timed_out: false,
            has_closed: false,
        };
        log.repair()?;
        Ok(log)
    }

    /// Repairs the last line, unless another agent holds the lock: it may be writing that line.
    fn repair(&mut self) -> io::Result<()> {
        if !is_torn(&self.file, self.end)? {
            return Ok(());
        }
        self.lock();
        if self.lock_timed_out {
            return Ok(());
        }
        // A full disk may have no space for a line end. The next write begins a new line then.
        let repaired = repair(&mut self.file).ok().flatten();
        self.end = self.file.metadata()?.len();
        let _ = self.file.unlock();
        let path = self.settings.path.display();
        match repaired {
            Some(Repair::Completed) => tracing::info!(%path, "completed the last line of the audit log"),
            Some(Repair::Cut(bytes)) => {
                tracing::warn!(
                    %path,
                    bytes,
                    "removed a partial line at the end of the audit log: an agent, or the node, ended while \
                     it was written, and its record is lost"
                );
                self.start = FileStart { cut_lines: 1, cut_bytes: bytes };
            }
            None => {}
        }
        Ok(())
    }

    /// Writes the batch, and the lines that begin a file if it is the first one.
    pub(super) fn write(&mut self, batch: &Batch<'_>, begin: &mut Begin<'_>) -> io::Result<Written> {
        self.lock();
        let written = self.append(batch, begin);
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
        while matches!(self.file.try_lock(), Err(TryLockError::WouldBlock)) {
            if Instant::now() >= end {
                self.lock_timed_out = true;
                return;
            }
            thread::sleep(LOCK_RETRY);
        }
        self.lock_timed_out = false;
    }

    /// Rotates the file if it is old, or if the lines would make it too long, and appends all of them or
    /// none.
    fn append(&mut self, batch: &Batch<'_>, begin: &mut Begin<'_>) -> io::Result<()> {
        let mut length = self.file.metadata()?.len();
        let is_full = length + batch.lines.len() as u64 > self.settings.max_bytes;
        // Another agent may have just rotated it.
        if length > 0 && (is_full || self.is_old(batch.time)) && self.is_in_place()? {
            self.rotate(batch.time)?;
            self.lock();
            length = self.file.metadata()?.len();
        }
        let mut first = Vec::new();
        if is_torn(&self.file, length)? {
            first.push(b'\n');
        }
        if !self.has_started {
            begin(&self.start, &mut first);
        }
        let mut added = 0;
        match self.add(&first, &mut added).and_then(|()| self.add(batch.lines, &mut added)) {
            Ok(()) => {
                self.end = length + added;
                (self.has_started, self.start) = (true, FileStart::default());
                Ok(())
            }
            Err(error) => {
                if self.file.metadata().is_ok_and(|file| file.len() == length + added) {
                    // If this fails, the next write begins a new line.
                    let _ = self.file.set_len(length);
                }
                Err(error)
            }
        }
    }

    fn is_old(&self, time: Timestamp) -> bool {
        let age = Duration::try_from(time.duration_since(self.created));
        // A clock that was set back makes no file old.
        self.settings.max_age.is_some_and(|max| age.is_ok_and(|age| age >= max))
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

    /// Closes the file under the name of this time, opens a new one, and removes the oldest closed files.
    fn rotate(&mut self, time: Timestamp) -> io::Result<()> {
        let (folder, log) = Folder::of(&self.settings.path)?;
        if self.settings.keep == 0 {
            folder.remove(&log)?;
        } else {
            let at = ClosedFiles::list(&folder, &log)?.next(time)?;
            folder.rename_to_new(&log, &name(&log, at, ""))?;
        }
        let file = folder.open_or_create(&log, self.settings.group, false)?;
        let mut new = Self::new(self.settings.clone(), Arc::clone(&self.upkeep), file)?;
        new.continue_from(self);
        *self = new;
        (self.created, self.has_closed) = (time, true);
        remove_excess(&self.settings, &self.upkeep);
        Ok(())
    }

    /// What other programs have done to the file; nothing is changed. `None` if it must be opened again, now
    /// or once there are lines.
    pub(super) fn follow(&mut self) -> io::Result<Option<Found>> {
        if !self.is_in_place()? {
            return Ok(None);
        }
        let length = self.file.metadata()?.len();
        if length >= self.end {
            return Ok(Some(Found::Unchanged));
        }
        self.end = length;
        Ok(Some(Found::Truncated))
    }

    /// Whether lines were cut off that are not reported in the log yet.
    pub(super) fn has_news(&self) -> bool {
        self.start.cut_lines > 0
    }

    /// Whether a write closed a file since the last call.
    pub(super) fn take_closed(&mut self) -> bool {
        std::mem::take(&mut self.has_closed)
    }

    fn is_in_place(&self) -> io::Result<bool> {
        is_in_place(&self.file, &self.settings.path)
    }

    /// Takes over what is not reported yet from the file that was open before. It may be the same one.
    pub(super) fn continue_from(&mut self, before: &Self) {
        let same = |one: &File, other: &File| -> io::Result<bool> {
            let (one, other) = (one.metadata()?, other.metadata()?);
            Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
        };
        self.has_started = before.has_started && same(&self.file, &before.file).unwrap_or(false);
        self.start.cut_lines += before.start.cut_lines;
        self.start.cut_bytes += before.start.cut_bytes;
        // The start of a file that has begun would not be requested again.
        self.has_started &= !self.has_news();
    }
}

/// Whether the path names the file that is open.
pub(super) fn is_in_place(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    let (folder, name) = match Folder::of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        folder => folder?,
    };
    Ok(folder.identity(&name)? == Some((ours.dev(), ours.ino())))
}

/// Gives a program that moved the file the time to create a new one, if it has not yet.
pub(super) fn wait_for_other_program(path: &Path) {
    if path.symlink_metadata().is_err() {
        thread::sleep(CREATE_DELAY);
    }
}

/// Removes the oldest closed files that are too many or too large. Records continue if this fails, and the
/// status shows the problem.
pub(super) fn remove_excess(settings: &FileSettings, upkeep: &Upkeep) {
    let removed = try_remove_excess(settings, upkeep);
    upkeep.set_problem(Task::Remove, removed.err().map(|error| error.to_string()));
}

fn try_remove_excess(settings: &FileSettings, upkeep: &Upkeep) -> io::Result<()> {
    let (folder, log) = Folder::of(&settings.path)?;
    let closed = ClosedFiles::list(&folder, &log)?;
    // The current file may still grow to its limit.
    let limit = settings.total_bytes.saturating_sub(settings.max_bytes);
    let excess = closed.excess(settings.keep, limit);
    for at in excess.by_count.iter().chain(&excess.by_size) {
        for end in ["", COMPRESSED, UNFINISHED] {
            folder.remove(&closed.name(*at, end))?;
        }
    }
    upkeep.count_removed(excess.by_count.len(), excess.by_size.len());
    Ok(())
}
