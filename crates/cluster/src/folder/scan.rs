//! Walks through the folder and finds its manifests.

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
    /// Folders that could not be read, and why. Their content is unknown.
    pub unreadable: Vec<(PathBuf, io::Error)>,
    /// Other files and broken links, without hidden ones.
    pub unread: Unread,
}

/// Files without a manifest's file name extension, and broken links.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Unread {
    pub count: u64,
    /// The first of them by path, at most [`ReadCounts::NAMED`].
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

/// Walks through `root` and its subfolders. Symbolic links are followed, hidden entries are skipped.
///
/// `enter` is called for each folder before its entries are read, so a caller that starts a watch there
/// misses nothing.
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
                    // A symbolic link to a parent folder. What is behind it has been seen.
                    None => continue,
                };
                // An entry that vanished during the walk, or that is a broken link, does not exist.
                if error.kind() != io::ErrorKind::NotFound || depth == 0 {
                    found.unreadable.push((path, error));
                } else if path.is_symlink() && !is_hidden(&path) {
                    found.unread.add(path);
                }
                continue;
            }
        };
        // Follows symbolic links.
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

/// Whether the file has a manifest's name.
pub(super) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden(path)
        && extension
            .is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// Whether the name begins with a dot. That is the case for files of editors, `.git`, and the `..data` of a
/// mounted ConfigMap, which holds the files that the visible symbolic links name.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
