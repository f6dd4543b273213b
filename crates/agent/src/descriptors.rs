//! How many files, sockets among them, the agent may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What the agent needs apart from HTTP: netlink sockets (four for each worker on a node of 64 cores), manifests, the CNI's cache, and
/// connections to the API server.
const RESERVE: u64 = 512;

/// The limit on open files (`RLIMIT_NOFILE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFiles(pub u64);

impl OpenFiles {
    /// Raises the soft limit to the hard one, which needs no right. The soft one is 1,024 on most systems, for the sake of select(2),
    /// which nothing here calls.
    pub fn raise() -> Self {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Self(RESERVE) };
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => Self(hard),
            Err(error) => {
                tracing::warn!(%error, soft, hard, "cannot raise the limit on open files: the soft limit stays");
                Self(soft)
            }
        }
    }

    /// How many of them aren't reserved.
    pub fn beyond_reserve(self) -> u64 {
        self.0.saturating_sub(RESERVE)
    }
}
