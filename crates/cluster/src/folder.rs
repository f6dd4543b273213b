//! A folder of manifests as a source: read once, then watched.
//!
//! ```text
//!   inotify -> [ pending ] -> [ scan ] -> manifest::read -> [ files ] -> Update
//!              when to look   where to    what a file       whose word    what differs
//!                             look        holds             counts
//! ```
//!
//! Files whose names end in `.yaml`, `.yml` or `.json` count, in subfolders too; hidden ones don't. Other files are counted, but not read.
//! Symbolic links are followed. A change is published within 50 ms of the last write: `pending` says how that and an editor's habits go
//! together. What inotify doesn't see (a file behind a symbolic link that leads out of the folder) is seen within some
//! ten seconds, when the folder is walked through in any case.
//!
//! Large files are read on a thread of their own (`reader`), so that changes of others don't wait for them.
//!
//! A file that breaks keeps its last good objects in force; a folder that can't be read keeps all of its files'. Only a
//! file that is really gone takes its objects with it, or one that was emptied and stays so. With a state on disk all of that holds
//! across restarts, too.

mod files;
mod pending;
mod reader;
mod scan;
#[cfg(test)]
mod tests;
mod watch;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use policy::Budget;

pub use self::watch::Watch;

use self::files::Files;
use self::scan::{Found, scan};
use crate::checkpoint::{Checkpoint, News, Restored, StateDir, StateStatus, WritePermit, Writer};
use crate::interner::Interner;
use crate::manifest::{self, Reading};
use crate::problem::{Origin, Problem, Update};
use crate::stamp::Stamp;

/// The largest manifest that is read, in bytes: 10,000 large pods fit into it.
const LARGEST: u64 = 256 << 20;

/// A folder of manifests, read.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    interner: Arc<Interner>,
    files: Files,
    /// Larger files are for the reader, in bytes; all files are read at once before there is one.
    at_once: u64,
    /// Writes the state on disk.
    writer: Option<Writer>,
}

/// Why a folder is no source.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It can't be read at all.
    #[error("the folder {} can't be read: {error}; name one that is there and that this user may read", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It can't be watched.
    #[error(
        "the folder {} can't be watched: {error}; if a limit is reached, raise the sysctls \
         fs.inotify.max_user_watches and fs.inotify.max_user_instances",
        path.display()
    )]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why not.
        error: notify::Error,
    },
    /// No thread for watching it could be started.
    #[error("no thread could be started to watch the folder {}: {error}", path.display())]
    Thread {
        /// The folder.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl Folder {
    /// Reads the folder for the first time. The update holds everything that is in it, but for the rules of policies beyond the budget.
    pub fn read(path: impl AsRef<Path>, budget: Budget) -> Result<(Self, Update), FolderError> {
        Self::open(path, budget, None)
    }

    /// The same, and goes on from the state on disk: files that are broken now, or that can't be read, have the objects that they had.
    pub(crate) fn open(
        path: impl AsRef<Path>,
        budget: Budget,
        state_dir: Option<&StateDir>,
    ) -> Result<(Self, Update), FolderError> {
        let path = path.as_ref();
        let interner = Arc::new(Interner::new());
        let files = Files::new(budget, Arc::clone(&interner));
        let mut folder = Self { root: path.to_owned(), interner, files, at_once: LARGEST, writer: None };
        if let Some(state_dir) = state_dir {
            folder.restore(state_dir);
        }
        // What is no folder is an error now; later it is a problem, and the last good objects stay in force.
        if !folder.files.is_restored() {
            fs::read_dir(path).map_err(|error| FolderError::Read { path: path.to_owned(), error })?;
        }
        let found = scan(&folder.root, |_, _| {});
        folder.doubt_unseen(&found);
        for path in found.manifests.keys() {
            // A file that is being written to is there in a moment; one that always is, is named.
            const TRIES: usize = 5;
            let mut tries = 0;
            let is_known = folder.files.is_known(path);
            let trust = if is_known { Trust::Doubt } else { Trust::AsItIs };
            while folder.look(path, trust) == Look::Doubtful {
                tries += 1;
                // Of one that is known the last good objects stand: who watches looks again.
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
        // Rules that the state on disk lacks, and that there is room for.
        folder.files.settle_rules();
        for path in folder.files.take_wanted() {
            folder.look(&path, Trust::AsItIs);
        }
        let update = folder.files.update(&folder.root);
        // Of an empty folder that it is empty is all there is to say.
        let update =
            update.unwrap_or_else(|| Update { read: folder.files.count(&folder.root), ..Update::default() });
        Ok((folder, update))
    }

    /// Watches the folder on a thread of its own and calls `publish` there with each update, none of them empty. Ends
    /// when the [`Watch`] is dropped.
    pub fn watch(self, publish: impl FnMut(Update) + Send + 'static) -> Result<Watch, FolderError> {
        Watch::start(self, publish)
    }

    /// Takes in the state on disk.
    fn restore(&mut self, state_dir: &StateDir) {
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let (restored, writer) = state_dir.open(&format!("folder {}", root.display()), &self.interner);
        self.writer = Some(writer);
        if let Some(Restored { checkpoint: Checkpoint::Folder(files), saved }) = restored {
            let files = files.into_iter().map(|(path, objects)| (self.root.join(path), objects));
            self.files.restore(files, saved);
        }
    }

    /// Has what is known now written to disk.
    fn save(&self) {
        if let Some(writer) = &self.writer {
            writer.offer(Checkpoint::Folder(self.files.good(&self.root)), News::Policy);
        }
    }

    /// How the state on disk is, and the permission to write it; `None` without one.
    pub(crate) fn state_dir(&self) -> Option<(StateStatus, WritePermit)> {
        let writer = self.writer.as_ref()?;
        Some((writer.status().clone(), writer.permit()))
    }

    /// The interner of the objects that were read.
    pub fn interner(&self) -> &Arc<Interner> {
        &self.interner
    }

    /// Looks at one file and takes in what it holds now.
    fn look(&mut self, path: &Path, trust: Trust) -> Look {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                if trust == Trust::Doubt && self.files.is_known(path) {
                    return Look::Doubtful;
                }
                // If the whole folder is not there, nobody removed a manifest: all stays in force.
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
            // A pipe would block the reader, a device might never end.
            return self.unread(path, "this is not an ordinary file".into());
        }
        if trust == Trust::Doubt && metadata.len() == 0 && self.files.holds_objects(path) {
            return Look::Doubtful;
        }
        if metadata.len() > self.at_once {
            return Look::Large;
        }
        let read = read(path, &self.interner);
        self.take_in(path, read)
    }

    /// Takes in what reading a file has come to.
    fn take_in(&mut self, path: &Path, read: Read) -> Look {
        match read {
            Read::Whole(reading, stamp) => {
                self.files.read(path, stamp.unless_fresh(SystemTime::now()), reading);
                Look::Done
            }
            Read::Doubtful => Look::Doubtful,
            Read::Unreadable(what) => self.unread(path, what),
        }
    }

    /// A file that is there and can't be read is a broken file. It has no stamp: each walk tries it again.
    fn unread(&mut self, path: &Path, what: String) -> Look {
        let failure = Problem {
            origin: Origin::whole_file(path),
            object: None,
            what,
            effect: "nothing of it is in force: if it holds a NetworkPolicy, pods that it was to isolate may be open".into(),
        };
        self.files.read(path, None, Reading { failures: vec![failure], ..Reading::default() });
        Look::Done
    }

    /// The known files that a walk did not find, in folders that can be read.
    fn unseen(&self, found: &Found) -> impl Iterator<Item = &Path> {
        let is_unseen = |path: &&Path| {
            !found.manifests.contains_key(*path)
                && !found.unreadable.iter().any(|(folder, _)| path.starts_with(folder))
        };
        self.files.below(&self.root).filter(is_unseen)
    }

    /// Takes note of which known files may be gone, and which are there.
    fn doubt_unseen(&mut self, found: &Found) {
        let unseen: Vec<PathBuf> = self.unseen(found).map(Path::to_owned).collect();
        unseen.iter().for_each(|path| self.files.doubt(path, true));
        found.manifests.keys().for_each(|path| self.files.doubt(path, false));
    }

    /// Records what a walk found besides manifests: folders that can't be read or watched, and other files.
    fn beside(&mut self, found: &Found, unwatched: Vec<Problem>) {
        let problem = |(path, error): &(PathBuf, io::Error)| Problem {
            origin: Origin::whole_file(path),
            object: None,
            what: format!("the folder can't be read: {error}"),
            effect: "the last good objects of its files stay in force".into(),
        };
        self.files.unread(&found.unread);
        self.files.folders(found.unreadable.iter().map(problem).chain(unwatched).collect());
    }
}

/// Whether a file that vanished or turned empty is taken at its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trust {
    /// It may be between two steps of being saved.
    Doubt,
    /// It is as it is.
    AsItIs,
}

/// What came of looking at a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// It was taken in.
    Done,
    /// It should be looked at again a little later; what was known of it stands.
    Doubtful,
    /// It is a folder.
    Folder,
    /// It is for the reader.
    Large,
}

/// What reading a file has come to.
#[derive(Debug)]
enum Read {
    /// What it holds, and which version of it that is.
    Whole(Reading, Stamp),
    /// It changed or vanished while it was read.
    Doubtful,
    /// Why it can't be read.
    Unreadable(String),
}

/// Reads a file and understands it.
fn read(path: &Path, interner: &Interner) -> Read {
    match read_whole(path) {
        Ok(Content::Whole(bytes, stamp)) => Read::Whole(manifest::read(path, &bytes, interner), stamp),
        Ok(Content::Torn) => Read::Doubtful,
        Ok(Content::TooLarge) => {
            Read::Unreadable(format!("the file is larger than {} MiB: split it", LARGEST >> 20))
        }
        // It vanished after we looked.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Read::Doubtful,
        Err(error) => Read::Unreadable(format!("the file can't be read: {error}")),
    }
}

/// What a file holds.
enum Content {
    Whole(Vec<u8>, Stamp),
    /// It changed while it was read.
    Torn,
    TooLarge,
}

/// Reads a file, and makes sure that none wrote to it meanwhile.
fn read_whole(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    if before.len() > LARGEST {
        return Ok(Content::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0) + 1);
    (&mut file).take(LARGEST + 1).read_to_end(&mut bytes)?;
    let (before, after) = (Stamp::of(&before), Stamp::of(&file.metadata()?));
    Ok(if before == after { Content::Whole(bytes, after) } else { Content::Torn })
}
