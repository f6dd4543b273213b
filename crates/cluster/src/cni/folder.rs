//! The files of the CNI result cache: which exist, which changed, and inotify events about them.
//!
//! A file is complete when it is closed. One that is read too early is not understood, and is read again.
//! Changes that inotify does not report, such as a folder that was created, are found by a walk every
//! [`WALK`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::cached_result::CachedResult;
use crate::error_chain::chain;
use crate::stamp::Stamp;

/// How often the folder is walked without any event.
pub(crate) const WALK: Duration = Duration::from_secs(10);

/// The folder of results in libcni's cache folder.
const RESULTS: &str = "results";

/// The largest file that is read, in bytes. A usual file has some two thousand.
const LARGEST: u64 = 1 << 20;

/// What to check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Hint {
    /// This file may have changed.
    File(OsString),
    /// Anything may have changed.
    All,
}

/// The cache in one folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// The files by name. A file that was not understood has no result.
    files: BTreeMap<OsString, File>,
    /// `None` while there is nothing to watch, or it can't be watched.
    watch: Option<Watched>,
    /// The problem with the folder at the last walk, logged once.
    problem: Option<String>,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    written: SystemTime,
    result: Option<CachedResult>,
}

#[derive(Debug)]
struct Watched {
    /// Stops when dropped.
    _inotify: RecommendedWatcher,
    /// The identity of the folder of results when the watch began.
    identity: Option<Stamp>,
}

impl Cache {
    /// An empty cache. [`Cache::walk`] reads the folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), files: BTreeMap::new(), watch: None, problem: None }
    }

    /// All results, oldest first.
    pub(crate) fn results(&self) -> Vec<&CachedResult> {
        let mut results: Vec<_> = self
            .files
            .iter()
            .filter_map(|(name, file)| Some((file.written, name, file.result.as_ref()?)))
            .collect();
        results.sort_by_key(|(written, name, _)| (*written, *name));
        results.into_iter().map(|(_, _, result)| result).collect()
    }

    /// Checks what may have changed. Returns whether any result changed.
    pub(crate) fn check(&mut self, hint: Hint, send: &(impl Fn(Hint) + Send + Clone + 'static)) -> bool {
        match hint {
            Hint::File(name) => self.check_file(name),
            Hint::All => self.walk(send),
        }
    }

    /// Checks the whole folder, and starts to watch it if that was not possible before. `send` is called on
    /// inotify's thread. Returns whether any result changed.
    pub(crate) fn walk(&mut self, send: &(impl Fn(Hint) + Send + Clone + 'static)) -> bool {
        let results = self.folder.join(RESULTS);
        self.watch(&results, send);
        let names: io::Result<Vec<OsString>> =
            fs::read_dir(&results).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        let names = match names {
            Ok(names) => {
                self.problem = None;
                names
            }
            // No pod has been started yet, or the cache is elsewhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.log_problem(format!("the CNI cache {} can't be read: {error}", results.display()));
                return false;
            }
        };
        let gone: Vec<OsString> = self.files.keys().filter(|name| !names.contains(name)).cloned().collect();
        let mut changed = false;
        for name in gone.into_iter().chain(names) {
            changed |= self.check_file(name);
        }
        changed
    }

    /// Checks one file. Returns whether its result changed.
    fn check_file(&mut self, name: OsString) -> bool {
        let path = self.folder.join(RESULTS).join(&name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= LARGEST => metadata,
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(file = %path.display(), %error, "CNI cache file unreadable");
                return false;
            }
            _ => return self.files.remove(&name).is_some_and(|file| file.result.is_some()),
        };
        let stamp = Stamp::of(&metadata);
        if self.files.get(&name).is_some_and(|known| known.stamp == stamp && known.result.is_some()) {
            return false;
        }
        let result = match fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| CachedResult::read(&bytes).map_err(|error| chain(&error)))
        {
            Ok(result) => result,
            Err(error) => {
                let file = path.display();
                tracing::debug!(%file, error, "CNI cache file not understood; it may be incomplete");
                None
            }
        };
        let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let old = self.files.insert(name.clone(), File { stamp, written, result });
        old.and_then(|old| old.result) != self.files.get(&name).and_then(|file| file.result.clone())
    }

    /// Watches the folder of results, or its parent while it does not exist.
    fn watch(&mut self, results: &Path, send: &(impl Fn(Hint) + Send + Clone + 'static)) {
        let identity = fs::metadata(results).ok().map(|metadata| Stamp::identity(&metadata));
        if self.watch.as_ref().is_some_and(|watched| watched.identity == identity) {
            return;
        }
        let folder = if identity.is_some() { results } else { &self.folder };
        if identity.is_none() && !folder.is_dir() {
            self.watch = None;
            return;
        }
        let (send, is_results) = (send.clone(), identity.is_some());
        let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            hints(event, is_results).into_iter().for_each(&send);
        });
        let watched = watched.and_then(|mut inotify| {
            inotify.watch(folder, RecursiveMode::NonRecursive)?;
            Ok(inotify)
        });
        match watched {
            Ok(inotify) => {
                tracing::info!(folder = %folder.display(), "watching the CNI cache");
                self.watch = Some(Watched { _inotify: inotify, identity });
            }
            Err(error) => {
                self.watch = None;
                self.log_problem(format!(
                    "the CNI cache {} can't be watched: {error}; if a limit is reached, raise the sysctls \
                     fs.inotify.max_user_watches and fs.inotify.max_user_instances",
                    folder.display()
                ));
            }
        }
    }

    fn log_problem(&mut self, what: String) {
        if self.problem.as_ref() != Some(&what) {
            tracing::warn!(
                error = what,
                "new pods are known only once the API server reports their addresses"
            );
            self.problem = Some(what);
        }
    }
}

/// What to check after an event of inotify.
fn hints(event: notify::Result<notify::Event>, is_results: bool) -> Vec<Hint> {
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        _ => return vec![Hint::All],
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(_)
        | EventKind::Remove(_) => {}
        // A file that was just created is empty. A folder may have content.
        EventKind::Create(_) if is_results => return Vec::new(),
        EventKind::Create(_) => {}
        _ => return Vec::new(),
    }
    if !is_results {
        return vec![Hint::All];
    }
    event.paths.iter().filter_map(|path| path.file_name()).map(|name| Hint::File(name.to_owned())).collect()
}
