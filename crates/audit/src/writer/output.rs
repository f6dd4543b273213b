//! Where the writer's lines go, and what is wrong with that.
//!
//! From: whole lines. To: the [`Sink`]. Invariant: lines that were written are in the file that the path names when the write is over, or
//! the status says why not.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{BATCH, Shared, append};
use crate::destination::{Found, Sink, Written};
use crate::record::Repeated;

/// How often trouble is logged, at most.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// How often a path that can't be opened is tried again.
const LOOK_AFTER_EVERY: Duration = Duration::from_secs(1);

/// For how long nothing may fail until the log is said to be written again: on a full disk short lines fit where long ones don't.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// How often lines are written again, at most, because another program moves the file at each write.
const PLACINGS: usize = 4;

/// See the module.
pub(super) struct Output {
    node: Arc<str>,
    pub(super) sink: Sink,
    shared: Arc<Shared>,
    complained: Option<Instant>,
    looked_after: Option<Instant>,
    /// Why the file is not where it should be; `None` if it is.
    misplaced: Option<String>,
    /// Why records could not be written, and when that was found last.
    unwritable: Option<(String, Instant)>,
}

impl Output {
    pub(super) fn new(node: Arc<str>, sink: Sink, shared: Arc<Shared>) -> Self {
        Self { node, sink, shared, complained: None, looked_after: None, misplaced: None, unwritable: None }
    }

    /// Whether lines are wanted at all.
    pub(super) fn is_off(&self) -> bool {
        self.sink.is_off()
    }

    /// Writes whole lines, `records` of which are records: all or none.
    pub(super) fn write(
        &mut self,
        lines: &[u8],
        records: u64,
        (now, time): (Instant, Timestamp),
    ) -> io::Result<()> {
        self.look_after(now, true);
        let placed = self.place(lines, (now, time));
        match &placed {
            Ok(()) => {
                let settled = |(_, at): &(String, Instant)| now.duration_since(*at) >= SETTLED_AFTER;
                // A line about losses is shorter than a record: that it fits says nothing.
                if records > 0 && self.unwritable.as_ref().is_some_and(settled) {
                    self.unwritable = None;
                    self.publish_failing();
                }
            }
            Err(error) => {
                self.unwritable = Some((error.to_string(), now));
                self.failed(now, error);
            }
        }
        placed
    }

    /// Opens the file again if that is asked for, or if another program moved it; `lines` says whether there are any to write.
    pub(super) fn look_after(&mut self, now: Instant, lines: bool) {
        let reopen = self.shared.reopen.swap(false, Relaxed);
        let paused = self.looked_after.is_some_and(|last| now.duration_since(last) < LOOK_AFTER_EVERY);
        if self.misplaced.is_some() && paused && !reopen {
            return;
        }
        self.looked_after = Some(now);
        let found = match reopen {
            true => self.reopen(),
            false => self.sink.look_after(lines),
        };
        match found {
            Ok(found) => {
                match found {
                    Found::Unchanged => {}
                    Found::Moved => {
                        tracing::info!("another program moved the audit log: a new file is begun")
                    }
                    Found::CutShort => tracing::warn!(
                        "another program cut the audit log short: records that were written after it was copied are lost, and \
                         nothing says how many; rotate by rename, or leave that to --audit-max-size"
                    ),
                }
                if self.misplaced.take().is_some() {
                    self.publish_failing();
                }
            }
            // Lines still go to the file that was moved or removed, where a reader may never find them.
            Err(error) => {
                self.misplaced = Some(error.to_string());
                self.failed(now, &error);
            }
        }
    }

    /// Whether trouble may be told to the program's log now; asked once each time.
    pub(super) fn may_complain(&mut self, now: Instant) -> bool {
        let may = self.complained.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY);
        if may {
            self.complained = Some(now);
        }
        may
    }

    /// Writes the lines to the file that the path names when that is done, if there is a way to one.
    pub(super) fn place(&mut self, lines: &[u8], (now, time): (Instant, Timestamp)) -> io::Result<()> {
        if self.sink.write(lines)? == Written::InPlace {
            return Ok(());
        }
        let number = lines.iter().filter(|byte| **byte == b'\n').count();
        for _ in 1..PLACINGS {
            self.look_after(now, true);
            if self.misplaced.is_some() {
                // They are in the file that was moved, and the status says so.
                return Ok(());
            }
            let mut again = Vec::with_capacity(lines.len() + (BATCH >> 8));
            let repeated = Repeated { repeated: number as u64, time, node: Arc::clone(&self.node) };
            append(&mut again, &repeated);
            again.extend_from_slice(lines);
            if self.sink.write(&again)? == Written::InPlace {
                return Ok(());
            }
        }
        Err(io::Error::other(
            "the file was moved during each of several writes: let no program rename it all the time, and keep it on a file system \
             that gives a file one inode number",
        ))
    }

    fn reopen(&mut self) -> io::Result<Found> {
        match self.sink.reopen()? {
            Some(path) => tracing::info!(path = %path.display(), "audit log reopened"),
            None => tracing::info!("nothing to reopen: the audit log is no file"),
        }
        Ok(Found::Unchanged)
    }

    /// The agent goes on whatever becomes of the log: verdicts matter more than their records.
    fn failed(&mut self, now: Instant, error: &io::Error) {
        self.shared.write_errors.fetch_add(1, Relaxed);
        self.publish_failing();
        if self.may_complain(now) {
            tracing::error!(%error, "the audit log cannot be written: its records are lost until it can");
        }
    }

    fn publish_failing(&mut self) {
        let unwritable = self.unwritable.as_ref().map(|(why, _)| why);
        let failing = unwritable.or(self.misplaced.as_ref()).cloned();
        let mut cell = self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.is_none() && cell.is_some() {
            tracing::info!("the audit log can be written again");
            self.complained = None;
        }
        *cell = failing;
    }
}
