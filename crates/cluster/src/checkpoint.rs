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

mod contents;
mod file;
mod object;
mod status;
mod tables;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use self::contents::{Checkpoint, Restored};
pub use self::file::files_in;
pub use self::status::{Shown, StateStatus};
pub use self::writer::WritePermit;
pub(crate) use self::writer::{ChangeClass, Writer};

use self::file::{Header, Read};
use crate::error_chain::chain;
use crate::interner::Interner;

/// The folder for the state of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateDir {
    /// The folder. It is created if it does not exist.
    pub path: PathBuf,
    /// The node whose agent uses it.
    pub node: Arc<str>,
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
