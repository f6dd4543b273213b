//! Where audit lines are written, and how the file is rotated.
//!
//! ```text
//!  lines -> [ Sink ] -+-> [ LogFile ] -> [ Folder ] -> PATH -> PATH.TIME -- [ Compressor ] -> PATH.TIME.zst
//!                     +-> [ Stream ] -> standard output, a FIFO or a device
//! ```
//!
//! Invariant: a symbolic link is never followed, neither at the path nor on the way to it. A write to a file
//! is all or nothing, and one to a stream never waits for the reader.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod batch;
mod closed;
mod compressor;
mod folder;
mod log_file;
mod remedy;
mod repair;
mod settings;
mod stream;
mod upkeep;

pub(crate) use self::batch::{Batch, Begin, FileStart, Found, Written};
pub use self::closed::is_closed_file;
pub(crate) use self::remedy::remedy;
pub use self::settings::{Destination, FileSettings};
pub(crate) use self::upkeep::Upkeep;

use self::compressor::Compressor;
use self::folder::Folder;
use self::log_file::LogFile;
use self::stream::Stream;

/// An audit log that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {} for writing; its folder must exist and be writable", path.display())]
pub struct DestinationError {
    /// The file's path.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

/// An open destination.
#[derive(Debug)]
pub(crate) struct Sink {
    destination: Destination,
    target: Target,
    upkeep: Arc<Upkeep>,
    compressor: Option<Compressor>,
    /// Accepted records that were lost in a stream that was replaced; `None` if no batch was.
    lost: Option<u64>,
}

#[derive(Debug)]
enum Target {
    Off,
    Stream(Stream),
    File(LogFile),
}

impl Target {
    fn open(destination: &Destination, upkeep: &Arc<Upkeep>) -> io::Result<Self> {
        let settings = match destination {
            Destination::Off => return Ok(Self::Off),
            Destination::Stdout => return Ok(Self::Stream(Stream::stdout()?)),
            Destination::File(settings) => settings,
        };
        let (folder, name) = Folder::of(&settings.path)?;
        let file = folder.open_or_create(&name, settings.group, settings.allow_special)?;
        Ok(match file.metadata()?.is_file() {
            true => Self::File(LogFile::new(settings.clone(), Arc::clone(upkeep), file)?),
            false => Self::Stream(Stream::new(file)),
        })
    }
}

impl Sink {
    /// Opens the destination. Removes what an agent that was killed while it compressed has left, and starts
    /// to compress closed files.
    pub(crate) fn open(destination: Destination) -> Result<Self, DestinationError> {
        let upkeep = Arc::new(Upkeep::default());
        let opened = Target::open(&destination, &upkeep).and_then(|target| {
            let compressor = match (&destination, &target) {
                (Destination::File(settings), Target::File(_)) => {
                    compressor::remove_leftovers(&settings.path, &upkeep);
                    log_file::remove_excess(settings, &upkeep);
                    let start = || Compressor::start(settings.path.clone(), Arc::clone(&upkeep));
                    settings.compress.then(start).transpose()?
                }
                _ => None,
            };
            Ok((target, compressor))
        });
        match opened {
            Ok((target, compressor)) => Ok(Self { destination, target, upkeep, compressor, lost: None }),
            Err(source) => {
                let path = match destination {
                    Destination::File(settings) => settings.path,
                    Destination::Off | Destination::Stdout => PathBuf::from("/dev/stdout"),
                };
                Err(DestinationError { path, source })
            }
        }
    }

    /// The state of the closed files.
    pub(crate) fn upkeep(&self) -> &Arc<Upkeep> {
        &self.upkeep
    }

    /// Where lines are to be written.
    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Whether lines are discarded.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self.target, Target::Off)
    }

    /// Writes whole lines: all of them or, if the destination is a regular file, none. `begin` adds the lines
    /// that come before the first ones of this agent in a file.
    pub(crate) fn write(&mut self, batch: &Batch<'_>, begin: &mut Begin<'_>) -> io::Result<Written> {
        match &mut self.target {
            Target::Off => {}
            Target::Stream(stream) => stream.write(batch, begin)?,
            Target::File(file) => {
                let written = file.write(batch, begin);
                if file.take_closed() {
                    self.compressor.iter().for_each(Compressor::wake);
                }
                return written;
            }
        }
        Ok(Written::InPlace)
    }

    /// Whether a write is due even without lines, because what precedes them is itself to be reported.
    pub(crate) fn has_news(&self) -> bool {
        matches!(&self.target, Target::File(file) if file.has_news())
    }

    /// Writes accepted lines for which a stream had no space. Call this periodically.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Stream(stream) => stream.flush(),
            Target::Off | Target::File(_) => Ok(()),
        }
    }

    /// Whether accepted lines are not written yet.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(&self.target, Target::Stream(stream) if stream.is_pending())
    }

    /// Gives up accepted lines that are not written yet, at the end.
    pub(crate) fn lose_pending(&mut self) {
        if let Target::Stream(stream) = &mut self.target {
            stream.lose_pending();
        }
    }

    /// How many records of an accepted batch were lost since the last call; `None` if no batch was.
    pub(crate) fn take_lost(&mut self) -> Option<u64> {
        let in_stream = match &mut self.target {
            Target::Stream(stream) => stream.take_lost(),
            Target::Off | Target::File(_) => None,
        };
        self.lost.take().or(in_stream)
    }

    /// Opens the file at the path if another program moved or removed the open one. Call this periodically
    /// and before each write. A missing file is created only if `has_lines`, so that a file that was removed
    /// for good stays removed.
    pub(crate) fn follow(&mut self, has_lines: bool) -> io::Result<Found> {
        let Destination::File(settings) = &self.destination else { return Ok(Found::Unchanged) };
        let path = &settings.path;
        let found = match &mut self.target {
            Target::Off => Some(Found::Unchanged),
            Target::File(file) => file.follow()?,
            Target::Stream(stream) => log_file::is_in_place(stream.file(), path)?.then_some(Found::Unchanged),
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if path.symlink_metadata().is_err() && !has_lines {
            return Ok(Found::Unchanged);
        }
        log_file::wait_for_other_program(path);
        self.reopen()?;
        Ok(Found::Moved)
    }

    /// Whether there is no file at the path: another program moved or removed it.
    pub(crate) fn is_missing(&self) -> bool {
        let Destination::File(settings) = &self.destination else { return false };
        let is_gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        settings.path.symlink_metadata().is_err_and(is_gone)
    }

    /// Opens the file at the path again, whether or not it was moved. Returns the path; `None` if the
    /// destination is not a file.
    pub(crate) fn reopen(&mut self) -> io::Result<Option<&Path>> {
        if !matches!(self.destination, Destination::File(_)) {
            return Ok(None);
        }
        let mut target = Target::open(&self.destination, &self.upkeep)?;
        if let (Target::File(new), Target::File(old)) = (&mut target, &self.target) {
            new.continue_from(old);
        }
        self.lose_pending();
        self.lost = self.take_lost();
        self.target = target;
        Ok(match &self.destination {
            Destination::File(settings) => Some(&settings.path),
            Destination::Off | Destination::Stdout => None,
        })
    }
}

#[cfg(test)]
mod tests;
