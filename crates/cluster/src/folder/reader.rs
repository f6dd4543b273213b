//! The thread that reads large files, one after the other.
//!
//! From: paths. To: what each file holds, in the same order. Invariant: a file has one request at a
//! time, and a result is used only if it answers that.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use super::Read;
use crate::interner::Interner;

/// Files that are larger than this are read here, in bytes. To read this much takes some 5 ms.
pub(super) const LARGE: u64 = 64 << 10;

/// Which request for a file.
pub(super) type Ticket = u64;

/// See the module. The thread ends, after the file that it reads, when this is dropped.
pub(super) struct Reader {
    requests: Sender<(PathBuf, Ticket)>,
    next: Ticket,
    /// By file: the unanswered request, and whether the file is to be read again after it.
    awaited: HashMap<PathBuf, (Ticket, bool)>,
}

impl Reader {
    /// Starts the thread, on which `done` is called with each reading.
    pub(super) fn start(
        interner: Arc<Interner>,
        mut done: impl FnMut(PathBuf, Ticket, Read) + Send + 'static,
    ) -> io::Result<Self> {
        let (requests, paths) = mpsc::channel::<(PathBuf, Ticket)>();
        thread::Builder::new().name("folder-reader".into()).spawn(move || {
            for (path, ticket) in paths {
                let read = super::read(&path, &interner);
                done(path, ticket, read);
            }
        })?;
        Ok(Self { requests, next: 0, awaited: HashMap::new() })
    }

    /// Has a file read: again after the reading that is yet to come, if one is. So a file that changes all the time is taken in all the
    /// same, and has one request at a time.
    pub(super) fn request(&mut self, path: &Path) {
        if let Some((_, again)) = self.awaited.get_mut(path) {
            *again = true;
            return;
        }
        self.next += 1;
        self.awaited.insert(path.to_owned(), (self.next, false));
        // The thread ends before this only if it panics: that has been printed, and the next walk asks again.
        let _ = self.requests.send((path.to_owned(), self.next));
    }

    /// Whether a reading answers the request for its file. It is taken in once.
    pub(super) fn takes(&mut self, path: &Path, ticket: Ticket) -> bool {
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

    /// Something else was found out about a file: it is gone, for example.
    pub(super) fn forget(&mut self, path: &Path) {
        self.awaited.remove(path);
    }

    /// Whether a reading of ANY file is yet to come.
    pub(super) fn is_busy(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Whether a reading of this file is yet to come.
    pub(super) fn awaits(&self, path: &Path) -> bool {
        self.awaited.contains_key(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_while_it_is_read_is_taken_in_and_read_again() {
        let (done, readings) = mpsc::channel();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "kind: Pod").expect("a file");
        let tell = move |path, ticket, read| drop(done.send((path, ticket, read)));
        let mut reader = Reader::start(Arc::new(Interner::new()), tell).expect("a thread");
        let next = || readings.recv().expect("a reading");
        (0..3).for_each(|_| reader.request(&path));
        let (_, first, read) = next();
        assert!(matches!(read, Read::Whole(..)), "{read:?}");
        assert!(reader.takes(&path, first) && !reader.takes(&path, first) && reader.awaits(&path));
        let (_, second, _) = next();
        assert!(reader.takes(&path, second) && !reader.awaits(&path));
        // Of a file that is gone meanwhile, and comes back, the reading before that is not taken in.
        reader.request(&path);
        reader.forget(&path);
        reader.request(&path);
        let ((_, third, _), (_, fourth, _)) = (next(), next());
        assert!(!reader.takes(&path, third) && reader.takes(&path, fourth));
    }
}
