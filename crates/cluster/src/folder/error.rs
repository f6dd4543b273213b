//! Why a folder can't be used as a source.

use std::io;
use std::path::PathBuf;

/// Why a folder can't be used as a source.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It can't be read.
    #[error("the folder {} can't be read; name an existing folder that this user may read", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// It can't be watched.
    #[error(
        "the folder {} can't be watched; if a limit is reached, raise the sysctls \
         fs.inotify.max_user_watches and fs.inotify.max_user_instances",
        path.display()
    )]
    Watch {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        error: notify::Error,
    },
    /// No thread for watching it could be started.
    #[error("no thread could be started to watch the folder {}", path.display())]
    Thread {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
}
