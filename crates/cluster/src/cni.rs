//! The CNI's own cache as a second source: it names a pod's address before the pod's first container starts.
//!
//! ```text
//!   inotify -> [ folder ] -> [ entry ] -> Claim --+
//!              which files    what a file says    +-> [ claims ] -> the addresses of this node's pods
//!   Kubernetes API -> LocalPod -------------------+   whose word counts
//! ```
//!
//! The API server learns a pod's address about a second after the pod has it. The library by which containerd and CRI-O call the
//! CNI plugins writes each result to a file when the plugin returns, and removes the file when the sandbox is taken down.
//!
//! Invariant: an address is given only to a pod that the API server says is on this node and runs, and whose UID is the one in the
//! file, by the newest file of that UID. So a file that a dead sandbox left behind gives none once there is a newer sandbox.

mod claims;
mod entry;
mod folder;

use std::path::{Path, PathBuf};

pub(crate) use claims::{LocalPod, LocalPods};
pub use entry::{Claim, EntryError};
pub(crate) use folder::{Cache, Hint, WALK};

/// Where containerd and CRI-O have it.
pub const DEFAULT_FOLDER: &str = "/var/lib/cni";

/// Which cache is looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CniCache {
    /// The one in [`DEFAULT_FOLDER`], if there is one.
    #[default]
    Auto,
    /// The one in this folder.
    Folder(PathBuf),
    /// None.
    Off,
}

impl CniCache {
    /// The folder, whether or not it is there.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Auto => Some(Path::new(DEFAULT_FOLDER)),
            Self::Folder(folder) => Some(folder),
            Self::Off => None,
        }
    }
}
