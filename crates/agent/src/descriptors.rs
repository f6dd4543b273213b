//! The limit on the agent's open files, which include sockets.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for purposes other than HTTP: netlink sockets (four for each worker on a node of 64 cores),
/// manifests, the CNI's cache, and connections to the API server.
const RESERVE: u64 = 512;

/// The limit on open files (`RLIMIT_NOFILE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpenFiles(pub u64);

impl OpenFiles {
    /// Raises the soft limit to the hard limit, which needs no privilege. The soft limit is 1,024 on most
    /// systems because of select(2), which nothing here calls.
    pub(crate) fn raise() -> Self {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Self(RESERVE) };
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => Self(hard),
            Err(error) => {
                tracing::warn!(%error, soft, hard, "cannot raise the limit on open files");
                Self(soft)
            }
        }
    }

    /// How many open files are not reserved.
    pub(crate) fn beyond_reserve(self) -> u64 {
        self.0.saturating_sub(RESERVE)
    }
}
