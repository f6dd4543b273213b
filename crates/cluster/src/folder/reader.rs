//! The thread that reads large files, one after the other.
//!
//! From: paths. To: what each file holds, in the same order. Invariant: a result is used only if it
//! answers the latest request for its file.

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
    /// By file: the latest unanswered request.
    awaited: HashMap<PathBuf, Ticket>,
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

    /// Has a file read.
    pub(super) fn request(&mut self, path: &Path) {
        self.next += 1;
        self.awaited.insert(path.to_owned(), self.next);
        // The thread ends before this only if it panics: that has been printed, and the next walk asks again.
        let _ = self.requests.send((path.to_owned(), self.next));
    }

    /// Whether a reading is that of the last request. It is taken in once.
    pub(super) fn takes(&mut self, path: &Path, ticket: Ticket) -> bool {
        let is_last = self.awaited.get(path) == Some(&ticket);
        if is_last {
            self.awaited.remove(path);
        }
        is_last
    }

    /// Something else was found out about a file: it is gone, for example.
    pub(super) fn forget(&mut self, path: &Path) {
        self.awaited.remove(path);
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
    fn only_the_last_request_for_a_file_counts() {
        let (done, readings) = mpsc::channel();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "kind: Pod").expect("a file");
        let tell = move |path, ticket, read| drop(done.send((path, ticket, read)));
        let mut reader = Reader::start(Arc::new(Interner::new()), tell).expect("a thread");
        reader.request(&path);
        reader.request(&path);
        let next = || readings.recv().expect("a reading");
        let ((_, first, _), (_, second, read)) = (next(), next());
        assert!(matches!(read, Read::Whole(..)), "{read:?}");
        assert!(!reader.takes(&path, first) && reader.awaits(&path));
        assert!(reader.takes(&path, second) && !reader.takes(&path, second));
        reader.request(&path);
        reader.forget(&path);
        let (_, third, _) = next();
        assert!(!reader.takes(&path, third));
    }
}
