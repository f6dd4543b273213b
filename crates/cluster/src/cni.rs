//! The CNI result cache as a second source. It has a pod's address before the pod's first container starts.
//!
//! ```text
//!   inotify -> [ folder ] -> [ cached_result ] -> CachedResult --+
//!              which files    parses a file                      +-> [ resolution ] -> the addresses of this
//!   Kubernetes API -> LocalPod ----------------------------------+                     node's pods
//! ```
//!
//! The API server knows a pod's address about a second after the pod has it. The library with which
//! containerd and CRI-O call the CNI plugins (libcni) writes each result to a file when the plugin returns,
//! and removes the file when the sandbox is removed.
//!
//! Invariant: a cached address counts only for a pod that, according to the API server, is on this node,
//! runs, and has the UID in the file. Only the newest file of a UID counts. So a file that a dead sandbox
//! left behind has no effect once there is a newer sandbox.

mod cached_result;
mod folder;
mod resolution;

use std::path::{Path, PathBuf};

pub use cached_result::{CachedResult, CachedResultError};
pub(crate) use folder::{Cache, Hint, WALK};
pub(crate) use resolution::{LocalPod, LocalPods};

/// The cache folder of containerd and CRI-O.
pub const DEFAULT_FOLDER: &str = "/var/lib/cni";

/// Which CNI result cache to use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CniCache {
    /// The cache in [`DEFAULT_FOLDER`], if it exists.
    #[default]
    Auto,
    /// The cache in this folder.
    Folder(PathBuf),
    /// No cache.
    Off,
}

impl CniCache {
    /// The folder, whether or not it exists.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Auto => Some(Path::new(DEFAULT_FOLDER)),
            Self::Folder(folder) => Some(folder),
            Self::Off => None,
        }
    }
}
