//! A folder of manifests as a source: read once, then watched.
//!
//! ```text
//!   inotify -> [ pending ] -> [ scan ] -> manifest::read -> [ files ] -> Update
//!              when to look   where to    objects of        precedence    delta
//!                             look        a file            of files
//! ```
//!
//! Files whose names end in `.yaml`, `.yml` or `.json` are read, in subfolders too; hidden ones are not.
//! Other files are counted, but not read. Symbolic links are followed. A change is published within 50 ms of
//! the last write: `pending` describes how that works together with the habits of editors. Changes that
//! inotify does not report (to a file behind a symbolic link that leads out of the folder) are found within
//! some ten seconds, by a regular walk through the folder.
//!
//! Large files are read on a separate thread (`reader`), so that changes of other files do not wait for them.
//!
//! If a file breaks, its last good objects stay in force. If a folder can't be read, those of all its files
//! do. Only a file that is really gone, or that is empty and stays so, takes its objects with it. With a
//! state on disk, all of that holds across restarts too.

mod error;
mod files;
mod pending;
mod read;
mod reader;
mod scan;
#[cfg(test)]
mod tests;
mod watch;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use policy::Budget;

pub use self::error::FolderError;
pub(crate) use self::files::is_of_missing_namespaces;
pub use self::watch::FolderWatch;

use self::files::Files;
pub(crate) use self::read::contents;
use self::read::{LARGEST, Read, read};
use self::scan::{Found, scan};
use crate::checkpoint::{ChangeClass, Checkpoint, Restored, StateDir, StateStatus, WritePermit, Writer};
use crate::interner::Interner;
use crate::manifest::FileContent;
use crate::problem::{Problem, ProblemLocation, Update};

/// A folder of manifests that was read.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    interner: Arc<Interner>,
    files: Files,
    /// The size in bytes beyond which files are read by the reader. Without a reader, all files are read
    /// immediately.
    read_inline: u64,
    /// Writes the state on disk.
    writer: Option<Writer>,
}

impl Folder {
    /// Reads the folder for the first time. The update has everything in it, except for the rules of policies
    /// beyond the budget.
    pub fn read(path: impl AsRef<Path>, budget: Budget) -> Result<(Self, Update), FolderError> {
        Self::open(path, budget, None)
    }

    /// Reads the folder like [`Folder::read`], on top of the state on disk. Files that are broken or
    /// unreadable now have the objects that they had.
    pub(crate) fn open(
        path: impl AsRef<Path>,
        budget: Budget,
        state_dir: Option<&StateDir>,
    ) -> Result<(Self, Update), FolderError> {
        let path = path.as_ref();
        let interner = Arc::new(Interner::new());
        let files = Files::new(budget, Arc::clone(&interner));
        let mut folder = Self { root: path.to_owned(), interner, files, read_inline: LARGEST, writer: None };
        if let Some(state_dir) = state_dir {
            folder.restore(state_dir);
        }
        // Something that is not a folder is an error now. Later it is a problem, and the last good objects
        // stay in force.
        if !folder.files.is_restored() {
            fs::read_dir(path).map_err(|error| FolderError::Read { path: path.to_owned(), error })?;
        }
        let found = scan(&folder.root, |_, _| {});
        folder.doubt_unseen(&found);
        for path in found.manifests.keys() {
            // A file that is being written is complete in a moment. One that never settles is reported.
            const TRIES: usize = 5;
            let mut tries = 0;
            let is_known = folder.files.is_known(path);
            let trust = if is_known { Trust::Doubt } else { Trust::AsItIs };
            while folder.look(path, trust) == Look::Doubtful {
                tries += 1;
                // If the file is known, its last good objects stay, and the watch looks again.
                if tries == TRIES && is_known {
                    break;
                }
                if tries == TRIES {
                    folder.unread(path, "the file changes while it is read".into());
                    break;
                }
                std::thread::sleep(pending::QUIET);
            }
        }
        folder.beside(&found, Vec::new());
        // Rules that the state on disk lacks and that fit the budget.
        folder.files.settle_rules();
        for path in folder.files.take_wanted() {
            folder.look(&path, Trust::AsItIs);
        }
        let update = folder.files.update(&folder.root);
        // The update of an empty folder says only that it is empty.
        let update =
            update.unwrap_or_else(|| Update { read: folder.files.count(&folder.root), ..Update::default() });
        Ok((folder, update))
    }

    /// The paths of the manifests in a folder, sorted.
    pub(crate) fn manifests(path: &Path) -> Vec<PathBuf> {
        scan(path, |_, _| {}).manifests.into_keys().collect()
    }

    /// Restores the state on disk.
    fn restore(&mut self, state_dir: &StateDir) {
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let (restored, writer) = state_dir.open(&format!("folder {}", root.display()), &self.interner);
        self.writer = Some(writer);
        if let Some(Restored { checkpoint: Checkpoint::Folder(files), saved }) = restored {
            let files = files.into_iter().map(|(path, objects)| (self.root.join(path), objects));
            self.files.restore(files, saved);
        }
    }

    /// Offers the current objects to the writer of the state on disk.
    fn save(&self) {
        if let Some(writer) = &self.writer {
            writer.offer(Checkpoint::Folder(self.files.good(&self.root)), ChangeClass::Policy);
        }
    }

    /// The status of the state on disk and the permit to write it; `None` without a state folder.
    pub(crate) fn state_dir(&self) -> Option<(StateStatus, WritePermit)> {
        let writer = self.writer.as_ref()?;
        Some((writer.status().clone(), writer.permit()))
    }

    /// The interner of the folder's objects.
    pub fn interner(&self) -> &Arc<Interner> {
        &self.interner
    }

    /// Reads one file and applies what it holds now.
    fn look(&mut self, path: &Path, trust: Trust) -> Look {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                if trust == Trust::Doubt && self.files.is_known(path) {
                    return Look::Doubtful;
                }
                // If the whole folder does not exist, no single manifest was removed, so everything stays in
                // force.
                if fs::read_dir(&self.root).is_err() {
                    return Look::Done;
                }
                self.files.gone(path);
                return Look::Done;
            }
            Err(error) => return self.unread(path, format!("the file can't be read: {error}")),
        };
        if metadata.is_dir() {
            self.files.gone(path);
            return Look::Folder;
        }
        if !metadata.is_file() {
            // Reading a pipe could block, and reading a device might never end.
            return self.unread(path, "this is not a regular file".into());
        }
        if trust == Trust::Doubt && metadata.len() == 0 && self.files.holds_objects(path) {
            return Look::Doubtful;
        }
        if metadata.len() > self.read_inline {
            return Look::Large;
        }
        let read = read(path, &self.interner);
        self.apply(path, read)
    }

    /// Applies the result of reading a file.
    fn apply(&mut self, path: &Path, read: Read) -> Look {
        match read {
            Read::Whole(reading, stamp) => {
                self.files.read(path, stamp.unless_fresh(SystemTime::now()), reading);
                Look::Done
            }
            Read::Doubtful => Look::Doubtful,
            Read::Unreadable(what) => self.unread(path, what),
        }
    }

    /// A file that exists and can't be read is a broken file. It gets no stamp, so each walk tries it again.
    fn unread(&mut self, path: &Path, what: String) -> Look {
        let failure = Problem {
            location: ProblemLocation::whole_file(path),
            object: None,
            what,
            effect:
                "nothing of it is in force: if it holds a NetworkPolicy, pods that it should isolate may \
                     be open"
                    .into(),
        };
        self.files.read(path, None, FileContent { failures: vec![failure], ..FileContent::default() });
        Look::Done
    }

    /// The known files that a walk did not find, in readable folders.
    fn unseen(&self, found: &Found) -> impl Iterator<Item = &Path> {
        let is_unseen = |path: &&Path| {
            !found.manifests.contains_key(*path)
                && !found.unreadable.iter().any(|(folder, _)| path.starts_with(folder))
        };
        self.files.below(&self.root).filter(is_unseen)
    }

    /// Records which known files may be gone, and which exist.
    fn doubt_unseen(&mut self, found: &Found) {
        let unseen: Vec<PathBuf> = self.unseen(found).map(Path::to_owned).collect();
        unseen.iter().for_each(|path| self.files.doubt(path, true));
        found.manifests.keys().for_each(|path| self.files.doubt(path, false));
    }

    /// Records what a walk found besides manifests: folders that can't be read or watched, and other files.
    fn beside(&mut self, found: &Found, unwatched: Vec<Problem>) {
        let problem = |(path, error): &(PathBuf, io::Error)| Problem {
            location: ProblemLocation::whole_file(path),
            object: None,
            what: format!("the folder can't be read: {error}"),
            effect: "the last good objects of its files stay in force".into(),
        };
        self.files.unread(&found.unread);
        self.files.folders(found.unreadable.iter().map(problem).chain(unwatched).collect());
    }
}

/// Whether a file that vanished or became empty is accepted as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trust {
    /// An editor may be between two steps of saving it.
    Doubt,
    /// It is accepted as it is.
    AsItIs,
}

/// The result of checking a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// Its content was applied.
    Done,
    /// It should be checked again a little later. Its known objects stay.
    Doubtful,
    /// It is a folder.
    Folder,
    /// It is large, so the reader must read it.
    Large,
}
