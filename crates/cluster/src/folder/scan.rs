//! Walks through the folder: which manifests are there now, in which folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::problem::ReadCounts;
use crate::stamp::Stamp;

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Manifests, by path.
    pub manifests: BTreeMap<PathBuf, Stamp>,
    /// Folders that could not be read, and why. Nothing is known about what is in them.
    pub unreadable: Vec<(PathBuf, io::Error)>,
    /// Other files, and broken links. Hidden ones are left out.
    pub unread: Unread,
}

/// Files whose names don't end like those of manifests, and broken links.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Unread {
    pub count: u64,
    /// The first by path, at most [`ReadCounts::NAMED`].
    pub first: BTreeSet<PathBuf>,
}

impl Unread {
    fn add(&mut self, path: PathBuf) {
        self.count += 1;
        self.first.insert(path);
        if self.first.len() > ReadCounts::NAMED {
            self.first.pop_last();
        }
    }
}

/// Walks through `root` and its subfolders. Symbolic links are followed, hidden entries are not looked at.
///
/// `enter` is called for each folder before its entries are read: who starts to watch the folder there misses nothing.
pub(super) fn scan(root: &Path, mut enter: impl FnMut(&Path, &Metadata)) -> Found {
    let mut found = Found::default();
    let walk = WalkDir::new(root).follow_links(true).follow_root_links(true).into_iter();
    for entry in walk.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.path())) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().unwrap_or(root).to_owned();
                let depth = error.depth();
                let error = match error.into_io_error() {
                    Some(error) => error,
                    // A symbolic link back to a folder above: what is behind it has been seen.
                    None => continue,
                };
                // What vanished during the walk, or is a link to nothing, is not there.
                if error.kind() != io::ErrorKind::NotFound || depth == 0 {
                    found.unreadable.push((path, error));
                } else if path.is_symlink() && !is_hidden(&path) {
                    found.unread.add(path);
                }
                continue;
            }
        };
        // Follows the link, if it is one.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            enter(entry.path(), &metadata);
        } else if is_manifest(entry.path()) {
            found.manifests.insert(entry.into_path(), Stamp::of(&metadata));
        } else {
            found.unread.add(entry.into_path());
        }
    }
    found
}

/// Whether the name is one of a manifest.
pub(super) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden(path)
        && extension
            .is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// Whether the name begins with a dot: files of editors, `.git`, and the `..data` of a mounted ConfigMap, behind which
/// the files are that its visible symbolic links name.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
