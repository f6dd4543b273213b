//! The thread that reads large files, one after the other.
//!
//! From: paths. To: the content of each file, in the same order. Invariant: there is one request per file at
//! a time, and a reading is used only if it answers that request.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use super::read::{Read, read};
use crate::interner::Interner;

/// Larger files than this are read here, in bytes. Reading this much takes some 5 ms.
pub(super) const LARGE: u64 = 64 << 10;

/// The number of a request.
pub(super) type Ticket = u64;

/// The handle of the reader's thread. When it is dropped, the thread ends after its current file.
pub(super) struct Reader {
    requests: Sender<(PathBuf, Ticket)>,
    next: Ticket,
    /// By file: the request in flight, and whether the file must be read again after it.
    awaited: HashMap<PathBuf, (Ticket, bool)>,
}

impl Reader {
    /// Starts the thread, which calls `done` with each reading.
    pub(super) fn start(
        interner: Arc<Interner>,
        mut done: impl FnMut(PathBuf, Ticket, Read) + Send + 'static,
    ) -> io::Result<Self> {
        let (requests, paths) = mpsc::channel::<(PathBuf, Ticket)>();
        thread::Builder::new().name("folder-reader".into()).spawn(move || {
            for (path, ticket) in paths {
                let read = read(&path, &interner);
                done(path, ticket, read);
            }
        })?;
        Ok(Self { requests, next: 0, awaited: HashMap::new() })
    }

    /// Requests a file. If a reading is still in flight, the file is read again after it. So a file that
    /// changes all the time is still applied, and has one request at a time.
    pub(super) fn request(&mut self, path: &Path) {
        if let Some((_, again)) = self.awaited.get_mut(path) {
            *again = true;
            return;
        }
        self.next += 1;
        self.awaited.insert(path.to_owned(), (self.next, false));
        // The thread has ended only if it panicked. That was printed, and the next walk requests the file
        // again.
        let _ = self.requests.send((path.to_owned(), self.next));
    }

    /// Accepts a reading if it answers the request for its file. Each reading is accepted once.
    pub(super) fn accept(&mut self, path: &Path, ticket: Ticket) -> bool {
        let Some((awaited, again)) = self.awaited.get(path).copied() else { return false };
        if awaited != ticket {
            return false;
        }
        self.awaited.remove(path);
        if again {
            self.request(path);
        }
        true
    }

    /// Cancels the request for a file whose state is known otherwise, for example because it is gone.
    pub(super) fn cancel(&mut self, path: &Path) {
        self.awaited.remove(path);
    }

    /// Whether a request for ANY file is in flight.
    pub(super) fn is_busy(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Whether a request for this file is in flight.
    pub(super) fn awaits(&self, path: &Path) -> bool {
        self.awaited.contains_key(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_while_it_is_read_is_applied_and_read_again() {
        let (done, readings) = mpsc::channel();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "kind: Pod").expect("a file");
        let send = move |path, ticket, read| drop(done.send((path, ticket, read)));
        let mut reader = Reader::start(Arc::new(Interner::new()), send).expect("a thread");
        let next = || readings.recv().expect("a reading");
        (0..3).for_each(|_| reader.request(&path));
        let (_, first, read) = next();
        assert!(matches!(read, Read::Whole(..)), "{read:?}");
        assert!(reader.accept(&path, first) && !reader.accept(&path, first) && reader.awaits(&path));
        let (_, second, _) = next();
        assert!(reader.accept(&path, second) && !reader.awaits(&path));
        // If a file goes away and is created again, the earlier reading is not accepted.
        reader.request(&path);
        reader.cancel(&path);
        reader.request(&path);
        let ((_, third, _), (_, fourth, _)) = (next(), next());
        assert!(!reader.accept(&path, third) && reader.accept(&path, fourth));
    }
}
