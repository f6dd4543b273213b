//! The thread that watches a folder with inotify.
//!
//! Each subfolder has its own watch, which starts before its entries are first read, so nothing that happens
//! in a new subfolder is missed. inotify events are only hints: each file is checked to find out what it
//! holds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::error::FolderError;
use super::pending::{FileEvent, Pending};
use super::read::Read;
use super::reader::{LARGE, Reader, Ticket};
use super::scan::{is_hidden, is_manifest, scan};
use super::{Folder, Look, Trust};
use crate::problem::{Problem, ProblemLocation, Update};

/// How often to check that the path of the folder still leads to the watched folder.
const CHECK_ROOT: Duration = Duration::from_secs(1);
/// The longest time that objects of removed files stay in force while other files are being read.
const LONGEST_READING: Duration = Duration::from_secs(2);
/// How often the whole folder is walked without any event. A large folder is walked less often, so that at
/// most one part in `WALK_SHARE` of the time goes into it.
const WALK: Duration = Duration::from_secs(10);
const WALK_SHARE: u32 = 1000;

/// A folder that is being watched. Dropping it stops the watch.
#[derive(Debug)]
pub struct FolderWatch {
    sender: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

enum Message {
    Event(notify::Result<notify::Event>),
    Read(PathBuf, Ticket, Read),
    Stop,
}

impl Folder {
    /// Watches the folder on a separate thread and calls `publish` there with each update. No update is
    /// empty. Stops when the [`FolderWatch`] is dropped.
    pub fn watch(self, publish: impl FnMut(Update) + Send + 'static) -> Result<FolderWatch, FolderError> {
        FolderWatch::start(self, publish)
    }
}

impl FolderWatch {
    /// Starts the watch.
    pub(super) fn start(
        mut folder: Folder,
        mut publish: impl FnMut(Update) + Send + 'static,
    ) -> Result<Self, FolderError> {
        folder.read_inline = LARGE;
        let path = folder.root.clone();
        let (sender, receiver) = mpsc::channel();
        let events = sender.clone();
        let inotify = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, is_of_interest) {
                // The receiver is dropped only when the watch ends.
                let _ = events.send(Message::Event(event));
            }
        });
        let inotify = inotify.map_err(|error| FolderError::Watch { path: path.clone(), error })?;
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let readings = sender.clone();
        let reader = Reader::start(Arc::clone(&folder.interner), move |path, ticket, read| {
            let _ = readings.send(Message::Read(path, ticket, read));
        });
        let reader = reader.map_err(|error| FolderError::Thread { path: path.clone(), error })?;
        let (watched, pending) = (HashMap::new(), Pending::default());
        let is_starting = true;
        let postponed = HashMap::new();
        let mut watcher =
            Watcher { folder, inotify, absolute, watched, pending, reader, postponed, is_starting };
        // This walk also finds what changed since the folder was read.
        if let Some(error) = watcher.walk(Instant::now()) {
            return Err(FolderError::Watch { path, error });
        }
        watcher.is_starting = false;
        let run = move || watcher.run(&receiver, &mut publish);
        let thread = thread::Builder::new().name("folder".into()).spawn(run);
        let thread = thread.map_err(|error| FolderError::Thread { path, error })?;
        Ok(Self { sender, thread: Some(thread) })
    }
}

impl Drop for FolderWatch {
    fn drop(&mut self) {
        // The thread may have ended already, and a thread can't join itself.
        let _ = self.sender.send(Message::Stop);
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

struct Watcher {
    folder: Folder,
    inotify: RecommendedWatcher,
    /// The folder's path as inotify events have it. Everywhere else, the path is used as it was given.
    absolute: PathBuf,
    /// The watched folders by path, each with device and inode of what the path led to.
    watched: HashMap<PathBuf, (u64, u64)>,
    pending: Pending,
    reader: Reader,
    /// Files that are gone, and since when their removal waits for the reader.
    postponed: HashMap<PathBuf, Instant>,
    /// Whether this is the first walk.
    is_starting: bool,
}

impl Watcher {
    fn run(mut self, receiver: &Receiver<Message>, publish: &mut dyn FnMut(Update)) {
        // The first update has been published already.
        self.folder.save();
        let now = Instant::now();
        let (mut next_check, mut next_walk) = (now + CHECK_ROOT, now + WALK);
        loop {
            self.publish(publish);
            let until = self.pending.due().map_or(next_check, |due| due.min(next_check));
            match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Event(event)) => self.absorb(event, Instant::now()),
                Ok(Message::Read(path, ticket, read)) => self.apply(&path, ticket, read),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Handles what has arrived already, up to a limit.
            const AT_ONCE: usize = 4096;
            for message in receiver.try_iter().take(AT_ONCE) {
                match message {
                    Message::Event(event) => self.absorb(event, Instant::now()),
                    Message::Read(path, ticket, read) => self.apply(&path, ticket, read),
                    Message::Stop => return,
                }
            }
            let now = Instant::now();
            if now >= next_check {
                next_check = now + CHECK_ROOT;
                if self.root_is_elsewhere() {
                    self.pending.scan(now);
                }
                if now >= next_walk {
                    // All watches are set up again, to restore any that inotify has lost.
                    self.watched.clear();
                    let _ = self.walk(now);
                    next_walk = Instant::now() + WALK.max(now.elapsed() * WALK_SHARE);
                }
            }
            self.look(now);
        }
    }

    fn publish(&mut self, publish: &mut dyn FnMut(Update)) {
        // Rules that fit because other files changed are published together with those changes, unless their
        // file is large.
        self.folder.files.settle_rules();
        for path in self.folder.files.take_wanted() {
            self.look_at(&path, Trust::Doubt);
        }
        if let Some(update) = self.folder.files.update(&self.folder.root) {
            self.folder.save();
            publish(update);
        }
        for path in self.folder.files.take_wanted() {
            self.look_at(&path, Trust::Doubt);
        }
    }

    /// Checks the files that are due.
    fn look(&mut self, now: Instant) {
        let due = self.pending.take(now);
        let mut walk = due.scan;
        // A file that replaces a removed one is read first.
        let is_gone = |(path, settled): &(PathBuf, bool)| *settled && fs::metadata(path).is_err();
        let (gone, there): (Vec<_>, Vec<_>) = due.files.into_iter().partition(is_gone);
        for (path, settled) in there {
            let trust = if settled { Trust::AsItIs } else { Trust::Doubt };
            walk |= self.look_at(&path, trust) == Look::Folder;
        }
        if walk {
            let _ = self.walk(now);
        }
        for (path, _) in gone {
            if self.is_postponed(&path, now) {
                self.pending.doubt(&path, now);
            } else {
                self.look_at(&path, Trust::AsItIs);
            }
        }
    }

    /// Whether the objects of a removed file stay in force for now. A file that is being read may replace it,
    /// and without either its pods would be open.
    fn is_postponed(&mut self, path: &Path, now: Instant) -> bool {
        if !self.reader.is_busy() {
            self.postponed.clear();
            return false;
        }
        let since = *self.postponed.entry(path.to_owned()).or_insert(now);
        let is_postponed = now.duration_since(since) < LONGEST_READING;
        if !is_postponed {
            self.postponed.remove(path);
        }
        is_postponed
    }

    /// Checks one file, here or on the reader's thread.
    fn look_at(&mut self, path: &Path, trust: Trust) -> Look {
        let look = self.folder.look(path, trust);
        match look {
            Look::Done | Look::Folder => self.reader.cancel(path),
            // It is not known yet whether a process has the file open for writing.
            Look::Doubtful if self.is_starting => {
                self.pending.event(path, FileEvent::Written, Instant::now())
            }
            Look::Doubtful => self.pending.doubt(path, Instant::now()),
            Look::Large => self.reader.request(path),
        }
        look
    }

    /// Applies a reading of the reader.
    fn apply(&mut self, path: &Path, ticket: Ticket, read: Read) {
        if self.reader.accept(path, ticket) && self.folder.apply(path, read) == Look::Doubtful {
            self.pending.doubt(path, Instant::now());
        }
    }

    /// Handles an inotify event.
    fn absorb(&mut self, event: notify::Result<notify::Event>, now: Instant) {
        let event = match event {
            Ok(event) if event.need_rescan() => {
                let folder = self.folder.root.display();
                tracing::info!(%folder, "too many changes at once; walking through the whole folder");
                return self.pending.scan(now);
            }
            Ok(event) => event,
            Err(error) => {
                let folder = self.folder.root.display();
                tracing::warn!(%folder, %error, "watching the folder failed in part");
                return self.pending.scan(now);
            }
        };
        let path = event.paths.first().and_then(|path| path.strip_prefix(&self.absolute).ok());
        let Some(path) = path.map(|path| self.folder.root.join(path)) else { return self.pending.scan(now) };
        let path = path.as_path();
        let vanished = matches!(event.kind, EventKind::Remove(_))
            || matches!(event.kind, EventKind::Modify(ModifyKind::Name(RenameMode::From)));
        if vanished {
            // Everything below goes with it, and the folder's inotify watch too.
            let below: Vec<PathBuf> = self.folder.files.below(path).map(Path::to_owned).collect();
            for file in &below {
                self.folder.files.doubt(file, true);
                self.pending.event(file, FileEvent::Vanished, now);
            }
            if self.watched.remove(path).is_some() || below.len() > 1 {
                self.pending.scan(now);
            }
        }
        if self.watched.contains_key(path) || path == self.folder.root {
            // An event about a folder itself, for example about its permissions.
            return self.pending.scan(now);
        }
        if is_hidden(path) {
            // `..data` of a mounted ConfigMap leads to another folder now. Other hidden entries do not
            // matter.
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"..")) {
                self.pending.scan(now);
            }
            return;
        }
        if !is_manifest(path) {
            let came = matches!(
                event.kind,
                EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To))
            );
            if came && path.is_dir() {
                self.pending.scan(now);
            }
            return;
        }
        let what = match event.kind {
            _ if vanished => FileEvent::Vanished,
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(_)) => FileEvent::Complete,
            // A symbolic link is complete when it exists, and is never open for writing.
            EventKind::Create(_) if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) => {
                FileEvent::Complete
            }
            EventKind::Create(CreateKind::Folder) => return self.pending.scan(now),
            EventKind::Create(_) => FileEvent::Created,
            EventKind::Modify(ModifyKind::Data(_)) => FileEvent::Written,
            _ => FileEvent::Other,
        };
        self.pending.event(path, what, now);
    }

    /// Walks through the folder, watches subfolders that are not watched yet, and checks every file that
    /// changed. Returns why the folder itself can't be watched.
    fn walk(&mut self, now: Instant) -> Option<notify::Error> {
        let root = self.folder.root.clone();
        let (watched, inotify) = (&mut self.watched, &mut self.inotify);
        let mut seen: HashMap<PathBuf, (u64, u64)> = HashMap::new();
        let mut unwatched = Vec::new();
        let mut root_error = None;
        let found = scan(&root, |path, metadata| {
            let identity = identity(metadata);
            match watched.entry(path.to_owned()) {
                Entry::Occupied(known) if *known.get() == identity => {}
                known => {
                    if let Entry::Occupied(other) = &known {
                        // The folder that the path led to before. If it is gone, so is its watch.
                        let _ = inotify.unwatch(other.key());
                    }
                    if let Err(error) = inotify.watch(path, RecursiveMode::NonRecursive) {
                        unwatched.push(not_watched(path, &error));
                        if *path == root {
                            root_error = Some(error);
                        }
                        return;
                    }
                }
            }
            seen.insert(path.to_owned(), identity);
        });
        for gone in watched.keys().filter(|path| !seen.contains_key(*path)) {
            let _ = inotify.unwatch(gone);
        }
        *watched = seen;
        self.folder.doubt_unseen(&found);
        for (path, stamp) in &found.manifests {
            if self.folder.files.stamp(path) != Some(*stamp)
                && !self.pending.has(path)
                && !self.reader.awaits(path)
            {
                self.look_at(path, Trust::Doubt);
            }
        }
        for path in self.folder.unseen(&found) {
            if !self.pending.has(path) {
                self.pending.doubt(path, now);
            }
        }
        self.folder.beside(&found, unwatched);
        root_error
    }

    /// Whether the folder's path leads to a folder other than the watched one, or to none.
    fn root_is_elsewhere(&self) -> bool {
        let now = fs::metadata(&self.folder.root).ok().map(|metadata| identity(&metadata));
        now.is_none() || self.watched.get(&self.folder.root).copied() != now
    }
}

/// Device and inode of what a path leads to.
fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Whether the event can mean a change. Each read of a file is an event too.
fn is_of_interest(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        // Follows the two events that it combines.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => false,
        _ => true,
    }
}

fn not_watched(path: &Path, error: &notify::Error) -> Problem {
    Problem {
        location: ProblemLocation::whole_file(path),
        object: None,
        what: format!("the folder can't be watched: {error}: raise the sysctl fs.inotify.max_user_watches"),
        effect: format!("changes in it take effect only after up to {} s", WALK.as_secs()),
    }
}
