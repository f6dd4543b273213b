//! The files of the cache: which are there, which changed, and inotify's word that one did.
//!
//! A file is whole when it is closed; one that is read too early is not understood, and read again. What inotify doesn't tell,
//! such as a folder that came into being, is found by a walk each [`WALK`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::entry::Claim;
use crate::stamp::Stamp;

/// How often the folder is walked through without any reason.
pub(crate) const WALK: Duration = Duration::from_secs(10);

/// Where libcni keeps results, below its folder.
const RESULTS: &str = "results";

/// The largest file that is read, in bytes; they have some two thousand.
const LARGEST: u64 = 1 << 20;

/// What to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Hint {
    /// This file may have changed.
    File(OsString),
    /// Anything may have.
    All,
}

/// The cache in one folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// By name. A file that was not understood stays without a claim.
    files: BTreeMap<OsString, File>,
    /// `None` while there is nothing to watch, or it can't be watched.
    watch: Option<Watched>,
    /// What was wrong with the folder at the last walk; told once.
    trouble: Option<String>,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    written: SystemTime,
    claim: Option<Claim>,
}

#[derive(Debug)]
struct Watched {
    /// Ends when dropped.
    _inotify: RecommendedWatcher,
    /// What the folder of results was when it began to be watched.
    identity: Option<Stamp>,
}

impl Cache {
    /// Nothing is known of it before [`Cache::walk`].
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), files: BTreeMap::new(), watch: None, trouble: None }
    }

    /// All claims, the oldest first.
    pub fn claims(&self) -> Vec<&Claim> {
        let mut claims: Vec<_> = self
            .files
            .iter()
            .filter_map(|(name, file)| Some((file.written, name, file.claim.as_ref()?)))
            .collect();
        claims.sort_by_key(|(written, name, _)| (*written, *name));
        claims.into_iter().map(|(_, _, claim)| claim).collect()
    }

    /// Looks at what may have changed. Whether any claim did.
    pub fn look(&mut self, hint: Hint, tell: &(impl Fn(Hint) + Send + Clone + 'static)) -> bool {
        match hint {
            Hint::File(name) => self.look_at(name),
            Hint::All => self.walk(tell),
        }
    }

    /// Looks at all of it, and begins to watch it if that is possible only now. `tell` is called on inotify's thread.
    pub fn walk(&mut self, tell: &(impl Fn(Hint) + Send + Clone + 'static)) -> bool {
        let results = self.folder.join(RESULTS);
        self.watch(&results, tell);
        let names: io::Result<Vec<OsString>> =
            fs::read_dir(&results).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        let names = match names {
            Ok(names) => {
                self.trouble = None;
                names
            }
            // No pod has been started yet, or the cache is elsewhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.troubled(format!("the CNI cache {} can't be read: {error}", results.display()));
                return false;
            }
        };
        let gone: Vec<OsString> = self.files.keys().filter(|name| !names.contains(name)).cloned().collect();
        let mut changed = false;
        for name in gone.into_iter().chain(names) {
            changed |= self.look_at(name);
        }
        changed
    }

    /// Looks at one file. Whether its claim is another one now.
    fn look_at(&mut self, name: OsString) -> bool {
        let path = self.folder.join(RESULTS).join(&name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= LARGEST => metadata,
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(file = %path.display(), %error, "a file of the CNI cache can't be read");
                return false;
            }
            _ => return self.files.remove(&name).is_some_and(|file| file.claim.is_some()),
        };
        let stamp = Stamp::of(&metadata);
        if self.files.get(&name).is_some_and(|known| known.stamp == stamp && known.claim.is_some()) {
            return false;
        }
        let claim = match fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| Claim::read(&bytes).map_err(|error| error.to_string()))
        {
            Ok(claim) => claim,
            Err(error) => {
                tracing::debug!(file = %path.display(), error, "a file of the CNI cache is not understood (yet)");
                None
            }
        };
        let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let old = self.files.insert(name.clone(), File { stamp, written, claim });
        old.and_then(|old| old.claim) != self.files.get(&name).and_then(|file| file.claim.clone())
    }

    /// Watches the folder of results; while it is not there, the one that it will come into.
    fn watch(&mut self, results: &Path, tell: &(impl Fn(Hint) + Send + Clone + 'static)) {
        let identity = fs::metadata(results).ok().map(|metadata| Stamp::identity(&metadata));
        if self.watch.as_ref().is_some_and(|watched| watched.identity == identity) {
            return;
        }
        let folder = if identity.is_some() { results } else { &self.folder };
        if identity.is_none() && !folder.is_dir() {
            self.watch = None;
            return;
        }
        let (tell, of_results) = (tell.clone(), identity.is_some());
        let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            hints(event, of_results).into_iter().for_each(&tell);
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
                self.troubled(format!(
                    "the CNI cache {} can't be watched: {error}; if a limit is reached, raise the sysctls \
                     fs.inotify.max_user_watches and fs.inotify.max_user_instances",
                    folder.display()
                ));
            }
        }
    }

    fn troubled(&mut self, what: String) {
        if self.trouble.as_ref() != Some(&what) {
            tracing::warn!(error = what, "new pods are known only when the API server knows their addresses");
            self.trouble = Some(what);
        }
    }
}

/// What an event of inotify asks to look at.
fn hints(event: notify::Result<notify::Event>, of_results: bool) -> Vec<Hint> {
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        _ => return vec![Hint::All],
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(_)
        | EventKind::Remove(_) => {}
        // A file that has come into being is empty. A folder is not.
        EventKind::Create(_) if of_results => return Vec::new(),
        EventKind::Create(_) => {}
        _ => return Vec::new(),
    }
    if !of_results {
        return vec![Hint::All];
    }
    event.paths.iter().filter_map(|path| path.file_name()).map(|name| Hint::File(name.to_owned())).collect()
}
