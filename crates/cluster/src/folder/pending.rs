//! Decides when to read a file. Collects inotify events and waits until they stop, but never for long.
//!
//! - A file that was written and closed, or renamed into place, is read [`QUIET`] after its last event.
//! - However many events there are, what can be read is read [`LONGEST`] after its first event.
//! - A file that is **in doubt** is checked [`DOUBT`] after its last event: a file that is new, that vanished
//!   or that became empty. An editor may be between two steps of saving it, and its objects must not
//!   disappear for a moment.
//! - A file that was written to and is not closed is in doubt as well, and checked [`OPEN`] after its last
//!   event: on a busy node, the process that emptied it may have to wait for the processor before it can fill
//!   it.
//! - A file in doubt waits for at most [`LONGEST_DOUBT`], however often it is written.
//!
//! The caller passes the clock and gets what is due: no thread, no sleep, no disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a closed file must be without events.
pub(super) const QUIET: Duration = Duration::from_millis(10);
/// How long a file in doubt must be without events.
pub(super) const DOUBT: Duration = Duration::from_millis(30);
/// How long a file that is open for writing must be without events.
pub(super) const OPEN: Duration = Duration::from_millis(250);
/// The longest wait for a file that was closed.
pub(super) const LONGEST: Duration = Duration::from_millis(40);
/// The longest wait for a file in doubt.
pub(super) const LONGEST_DOUBT: Duration = Duration::from_millis(400);

/// What happened to a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileEvent {
    /// It was created. A link is complete then, and a file is still empty.
    Created,
    /// It was written to, or emptied, and is open.
    Written,
    /// It was closed after writing, or renamed to this name.
    Complete,
    /// Something else about it changed, for example its permissions.
    Other,
    /// It was removed, or renamed to another name.
    Vanished,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    files: BTreeMap<PathBuf, Wait>,
    scan: Option<Wait>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    first: Instant,
    last: Instant,
    state: State,
}

/// The state of a waiting file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Its writer has finished.
    Settled,
    /// Its writer may be between two steps.
    Doubt,
    /// Its writer may be between two steps and has it open.
    Open,
}

/// What is due.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Due {
    /// Files to check, and whether each was in doubt for long enough to be accepted as it is.
    pub files: Vec<(PathBuf, bool)>,
    /// Whether to walk through the whole folder.
    pub scan: bool,
}

impl Pending {
    /// Records an event.
    pub(super) fn event(&mut self, path: &Path, event: FileEvent, now: Instant) {
        let wait = match self.files.get_mut(path) {
            Some(wait) => wait,
            None => self.files.entry(path.to_owned()).or_insert(Wait {
                first: now,
                last: now,
                state: State::Settled,
            }),
        };
        wait.last = now;
        wait.state = match event {
            FileEvent::Created | FileEvent::Vanished => State::Doubt,
            FileEvent::Written => State::Open,
            FileEvent::Complete => State::Settled,
            FileEvent::Other => wait.state,
        };
    }

    /// Records that a file was checked and is in doubt, so it must be checked again later.
    pub(super) fn doubt(&mut self, path: &Path, now: Instant) {
        self.event(path, FileEvent::Vanished, now);
    }

    /// Records an event that does not concern a single file.
    pub(super) fn scan(&mut self, now: Instant) {
        self.scan.get_or_insert(Wait { first: now, last: now, state: State::Settled }).last = now;
    }

    /// Whether this file waits.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// When something will be due, if there are no further events.
    ///
    /// Everything that waits is taken together, so that a file and its new name are in one update. The time
    /// is the last of those at which each is ready, but not after the longest wait, and not before anything
    /// is ready.
    pub(super) fn due(&self) -> Option<Instant> {
        let earliest = self.waits().map(|wait| wait.ready()).min()?;
        let latest = self.waits().map(|wait| wait.ready()).max()?;
        let limit = self.waits().map(|wait| wait.first).min()? + LONGEST;
        Some(earliest.max(latest.min(limit)))
    }

    /// Takes out what is due. Empty if nothing is.
    pub(super) fn take(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        if self.due().is_none_or(|at| at > now) {
            return due;
        }
        self.files.retain(|path, wait| {
            let (ready, doubt) = (wait.ready() <= now, wait.state != State::Settled);
            if ready || !doubt {
                due.files.push((path.clone(), doubt));
            }
            doubt && !ready
        });
        due.scan = self.scan.take().is_some();
        due
    }

    fn waits(&self) -> impl Iterator<Item = &Wait> {
        self.files.values().chain(&self.scan)
    }
}

impl Wait {
    fn ready(&self) -> Instant {
        let (quiet, longest) = match self.state {
            State::Settled => (QUIET, LONGEST),
            State::Doubt => (DOUBT, LONGEST_DOUBT),
            State::Open => (OPEN, LONGEST_DOUBT),
        };
        (self.last + quiet).min(self.first + longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs events at given milliseconds. Returns what is due at which millisecond.
    fn scenario(events: &[(u64, &str, FileEvent)]) -> Vec<(u64, Vec<(String, bool)>)> {
        let start = Instant::now();
        let mut pending = Pending::default();
        let mut taken = Vec::new();
        for ms in 0..2000 {
            let now = start + Duration::from_millis(ms);
            for (_, path, event) in events.iter().filter(|(at, _, _)| *at == ms) {
                pending.event(Path::new(path), *event, now);
            }
            let due = pending.take(now);
            if !due.files.is_empty() {
                let files = due.files.into_iter().map(|(path, doubt)| (path.display().to_string(), doubt));
                taken.push((ms, files.collect()));
            }
        }
        assert_eq!(pending.due(), None, "nothing is forgotten");
        taken
    }

    fn one(at: u64, path: &str, doubt: bool) -> (u64, Vec<(String, bool)>) {
        (at, vec![(path.to_owned(), doubt)])
    }

    use FileEvent::{Complete, Created, Vanished, Written};

    #[test]
    fn a_file_that_was_closed_is_read_when_it_is_quiet() {
        assert_eq!(
            scenario(&[(0, "a", Written), (1, "a", Written), (2, "a", Complete)]),
            [one(12, "a", false)]
        );
    }

    #[test]
    fn a_file_that_stays_open_is_read_a_little_later() {
        assert_eq!(scenario(&[(0, "a", Written), (5, "a", Written)]), [one(255, "a", true)]);
    }

    #[test]
    fn a_file_that_is_emptied_and_filled_only_after_a_while_was_never_empty() {
        let (empty, full) = ((0, "a", Written), (200, "a", Written));
        assert_eq!(scenario(&[empty, full, (200, "a", Complete)]), [one(200, "a", false)]);
    }

    #[test]
    fn a_link_is_read_a_little_after_it_was_made() {
        assert_eq!(scenario(&[(0, "a", Created)]), [one(30, "a", true)]);
    }

    #[test]
    fn a_file_that_is_rewritten_all_the_time_is_read_all_the_time() {
        let events: Vec<_> = (0..200).step_by(5).map(|ms| (ms, "a", Complete)).collect();
        let times: Vec<u64> = scenario(&events).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [40, 85, 130, 175, 205]);
    }

    #[test]
    fn a_file_that_is_written_all_the_time_and_never_closed_is_read_now_and_then() {
        let events: Vec<_> = (0..1000).step_by(5).map(|ms| (ms, "a", Written)).collect();
        let times: Vec<u64> = scenario(&events).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [400, 805, 1210]);
    }

    #[test]
    fn a_file_in_doubt_does_not_hold_up_the_others_for_long() {
        let mut events: Vec<_> = (0..100).step_by(5).map(|ms| (ms, "open", Written)).collect();
        events.push((3, "ready", Complete));
        assert_eq!(scenario(&events), [one(40, "ready", false), one(345, "open", true)]);
    }

    #[test]
    fn a_file_and_its_new_name_are_taken_together() {
        let both = vec![("new".to_owned(), false), ("old".to_owned(), true)];
        assert_eq!(scenario(&[(0, "old", Vanished), (0, "new", Complete)]), [(30, both)]);
    }

    #[test]
    fn a_file_that_vanishes_and_is_written_again_was_never_gone() {
        assert_eq!(
            scenario(&[(0, "a", Vanished), (8, "a", Written), (9, "a", Complete)]),
            [one(19, "a", false)],
            "an editor moved it away and saved it"
        );
    }
}
