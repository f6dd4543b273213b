//! The contents of the state on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use policy::{Change, PodName};

use crate::key::Key;
use crate::manifest::ManifestObject;

/// The known objects of a source. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Checkpoint {
    /// The objects of the Kubernetes API.
    Kubernetes {
        /// By kind and name.
        objects: imbl::OrdMap<Key, Change>,
        /// Pods of this node that have finished. They get no address from the CNI cache.
        finished: Vec<PodName>,
    },
    /// The last good objects of each file of a folder, by the file's path below the folder.
    Folder(Vec<(PathBuf, Arc<Vec<ManifestObject>>)>),
}

/// A checkpoint that was read.
#[derive(Debug)]
pub(crate) struct Restored {
    pub checkpoint: Checkpoint,
    /// When it was written.
    pub saved: SystemTime,
}
