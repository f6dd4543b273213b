//! Writes lines to the [`Sink`] and keeps track of its failures.
//!
//! From: whole lines. To: the [`Sink`]. Invariant: when a write has ended, its lines are in the file that the
//! path names, or the status says why they are not. Lines to a stream may still wait for its reader.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::shared::{Failure, Shared};
use crate::destination::{Batch, Begin, Found, Sink, Written, remedy};
use crate::record::{Event, RecordHead, Repeated};

/// Lines are written once they have this many bytes, or when the rings are empty.
pub const BATCH: usize = 1 << 16;

/// Failures are logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How often opening a file that can't be opened is retried.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The log counts as writable again after this time without a failure. On a full disk, short lines may fit
/// when long ones don't.
const RECOVERY_TIME: Duration = Duration::from_secs(1);

/// How often the same lines are written at most, if another program moves the file during each write.
const MOST_WRITES: usize = 4;

/// See the module.
pub(super) struct Output {
    head: RecordHead,
    pub(super) sink: Sink,
    shared: Arc<Shared>,
    /// When a failure was last logged.
    logged_at: Option<Instant>,
    /// When the path was last checked.
    checked_at: Option<Instant>,
    /// Why the file at the path can't be opened; `None` if the open file is the one that the path names.
    open_error: Option<Failure>,
    /// Why records could not be written, and when a write last failed.
    write_error: Option<(Failure, Instant)>,
}

impl Output {
    pub(super) fn new(head: RecordHead, sink: Sink, shared: Arc<Shared>) -> Self {
        Self { head, sink, shared, logged_at: None, checked_at: None, open_error: None, write_error: None }
    }

    /// Whether lines are discarded.
    pub(super) fn is_off(&self) -> bool {
        self.sink.is_off()
    }

    /// Writes all of these whole lines or none. `begin` adds the lines that come first in a file.
    pub(super) fn write(&mut self, batch: &Batch<'_>, now: Instant, begin: &mut Begin<'_>) -> io::Result<()> {
        self.follow(now, true);
        let written = self.write_in_place(batch, now, begin);
        match &written {
            Ok(()) => {
                let has_recovered = |(_, at): &(Failure, Instant)| now.duration_since(*at) >= RECOVERY_TIME;
                // A line about losses is shorter than a record: its success proves nothing.
                if batch.records > 0 && self.write_error.as_ref().is_some_and(has_recovered) {
                    self.write_error = None;
                    self.publish_failing();
                }
            }
            Err(error) => self.write_failed(now, error),
        }
        written
    }

    /// Writes lines that a stream had no space for earlier. Call this periodically.
    pub(super) fn flush(&mut self, now: Instant) {
        if let Err(error) = self.sink.flush() {
            self.write_failed(now, &error);
        }
    }

    /// Opens the file again if a [`Reopener`](super::Reopener) requests it, or if another program moved the
    /// file. `has_lines`: whether there are lines to write.
    pub(super) fn follow(&mut self, now: Instant, has_lines: bool) {
        let reopen = self.shared.reopen.swap(false, Relaxed);
        let paused = self.checked_at.is_some_and(|last| now.duration_since(last) < REOPEN_INTERVAL);
        if self.open_error.is_some() && paused && !reopen {
            return;
        }
        self.checked_at = Some(now);
        let found = match reopen {
            true => self.reopen(),
            false => self.sink.follow(has_lines),
        };
        match found {
            Ok(found) => {
                match found {
                    Found::Unchanged => {}
                    Found::Moved => {
                        tracing::info!("another program moved the audit log: a new file is opened")
                    }
                    Found::Truncated => tracing::warn!(
                        "another program truncated the audit log: records written after it was copied are \
                         lost, and their number is unknown; rotate by rename, or use --audit-max-size"
                    ),
                }
                if self.open_error.take().is_some() {
                    self.publish_failing();
                }
            }
            // Lines still go to the file that was moved or removed, where a reader may never find them.
            Err(error) => {
                self.open_error = Some(self.failure(&error));
                self.failed(now, &error);
            }
        }
    }

    /// Whether a failure may be logged now. If so, the caller must log it: the next one may be logged after
    /// [`LOG_INTERVAL`].
    pub(super) fn may_log(&mut self, now: Instant) -> bool {
        let may = self.logged_at.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if may {
            self.logged_at = Some(now);
        }
        may
    }

    /// Writes the lines to the file that the path names when the write has ended, if it can be opened.
    pub(super) fn write_in_place(
        &mut self,
        batch: &Batch<'_>,
        now: Instant,
        begin: &mut Begin<'_>,
    ) -> io::Result<()> {
        if self.write_once(batch, begin)? == Written::InPlace {
            return Ok(());
        }
        let number = batch.lines.iter().filter(|byte| **byte == b'\n').count();
        for _ in 1..MOST_WRITES {
            self.follow(now, true);
            if self.open_error.is_some() {
                // The lines are in the moved file, and the status says so.
                return Ok(());
            }
            let mut lines = Vec::with_capacity(batch.lines.len() + (BATCH >> 8));
            self.head.push(&mut lines, batch.time, Event::Repeated(Repeated { lines: number as u64 }));
            lines.extend_from_slice(batch.lines);
            if self.write_once(&Batch { lines: &lines, ..*batch }, begin)? == Written::InPlace {
                return Ok(());
            }
        }
        Err(io::Error::other(
            "the file was moved during each of several writes: stop the program that keeps renaming it, and \
             keep it on a file system with stable inode numbers",
        ))
    }

    fn write_once(&mut self, batch: &Batch<'_>, begin: &mut Begin<'_>) -> io::Result<Written> {
        self.shared.set_writing(true);
        let written = self.sink.write(batch, begin);
        self.shared.set_writing(false);
        written
    }

    fn reopen(&mut self) -> io::Result<Found> {
        match self.sink.reopen()? {
            Some(path) => tracing::info!(path = %path.display(), "audit log reopened"),
            None => tracing::info!("nothing to reopen: the audit log is not a file"),
        }
        Ok(Found::Unchanged)
    }

    fn write_failed(&mut self, now: Instant, error: &io::Error) {
        self.write_error = Some((self.failure(error), now));
        self.failed(now, error);
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure { why: error.to_string(), remedy: remedy(error, self.sink.destination()) }
    }

    /// Counts and logs a failure. The agent continues without the log: verdicts matter more than their
    /// records.
    fn failed(&mut self, now: Instant, error: &io::Error) {
        self.shared.write_errors.fetch_add(1, Relaxed);
        self.publish_failing();
        if self.may_log(now) {
            let todo = remedy(error, self.sink.destination());
            tracing::error!(%error, todo, "the audit log cannot be written: records are lost until it can");
        }
    }

    fn publish_failing(&mut self) {
        let write_error = self.write_error.as_ref().map(|(failure, _)| failure);
        let failing = write_error.or(self.open_error.as_ref()).cloned();
        let mut cell = self.shared.failing();
        if failing.is_none() && cell.is_some() {
            tracing::info!("the audit log can be written again");
            self.logged_at = None;
        }
        *cell = failing;
    }
}
