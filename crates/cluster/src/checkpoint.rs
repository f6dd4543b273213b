//! The last known objects on disk. An agent enforces them if it starts while its source, or a part of it,
//! can't be read.
//!
//! ```text
//!   source -> Checkpoint -> [ writer ] -> [ file ] -> state.json
//!                           when          header, checksum, replaced as a whole
//!   state.json -> [ file ] -> Checkpoint -> source, before its first update
//! ```
//!
//! From: a source, after each update. To: the same source of the next agent on this node. Invariants: a file
//! that can't be read, or that belongs to another source or node, is ignored and reported. Objects that are
//! read are as valid as those that are converted.

mod file;
mod object;
mod tables;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use policy::{Change, PodName};

use crate::error_chain::chain;
use crate::interner::Interner;
use crate::key::Key;
use crate::manifest::ManifestObject;

pub use self::file::files_in;
use self::file::{Header, Read};
pub use self::writer::WritePermit;
pub(crate) use self::writer::{ChangeClass, Writer};

/// The folder for the state of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateDir {
    /// The folder. It is created if it does not exist.
    pub path: PathBuf,
    /// The node whose agent uses it.
    pub node: Arc<str>,
}

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

/// The status of the state on disk, shared between the source and its consumer.
#[derive(Clone, Debug)]
pub struct StateStatus {
    shared: Arc<Mutex<Shown>>,
}

/// A snapshot of the status of the state on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// When the state was last written; `None` if there is none.
    pub saved: Option<SystemTime>,
    /// Why it can't be read or written, and what to do.
    pub error: Option<String>,
}

impl StateStatus {
    /// The current status.
    pub fn now(&self) -> Shown {
        self.lock().clone()
    }

    pub(crate) fn saved(&self, at: SystemTime) {
        let mut shown = self.lock();
        shown.saved = Some(at);
        if shown.error.take().is_some() {
            tracing::info!("state on disk is current again");
        }
    }

    pub(crate) fn failed(&self, error: String) {
        let mut shown = self.lock();
        if shown.error.as_ref() != Some(&error) {
            tracing::warn!(
                error,
                "state on disk is not current; an agent that starts without its source lacks recent changes"
            );
            shown.error = Some(error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateDir {
    /// Reads the state that an earlier agent has left for `source`, and starts the writer.
    pub(crate) fn open(&self, source: &str, interner: &Interner) -> (Option<Restored>, Writer) {
        let status = StateStatus { shared: Arc::default() };
        let (restored, term) = match file::read(&self.path, source, &self.node, interner) {
            Ok(Read::Whole(restored, term)) => {
                status.lock().saved = Some(restored.saved);
                (Some(restored), term)
            }
            Ok(Read::Nothing) => (None, 0),
            Err(error) => {
                status.failed(format!("{}; it is written again once policy is in force", chain(&error)));
                // Continue from the term of a rejected file, so that this agent's writes count as newer.
                (None, file::header_in(&self.path).map_or(0, |header| header.term))
            }
        };
        // A damaged header can have any number.
        let header = Header::new(source, &self.node, term.saturating_add(1));
        (restored, Writer::start(self.path.clone(), header, status))
    }
}

#[cfg(test)]
mod tests;
