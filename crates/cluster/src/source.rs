//! The one type through which an agent uses its source, a folder or an API server.

use std::path::PathBuf;

use policy::Budget;

use crate::checkpoint::{StateDir, StateStatus, WritePermit};
use crate::folder::{self, Folder, FolderError};
use crate::kubernetes::{Kubernetes, KubernetesError, RefusedPolicy, Watching};
use crate::problem::Update;
use crate::watch_status::WatchStatuses;

/// A source that can be opened and watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A folder of manifests.
    Folder {
        /// The folder's path.
        path: PathBuf,
        /// The limits up to which the rules of policies are kept in memory.
        budget: Budget,
    },
    /// The Kubernetes API.
    Kubernetes(Kubernetes),
}

/// Why a source can't be opened. A later attempt may succeed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder can't be read or watched.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The Kubernetes API can't be used.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}

/// A source that is being watched. Dropping it stops the watch.
#[derive(Debug)]
pub struct Watch {
    watch_statuses: Option<WatchStatuses>,
    state_dir: Option<(StateStatus, WritePermit)>,
    /// Stops when dropped.
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Folder { _watch: folder::FolderWatch },
    Kubernetes(Watching),
}

impl Source {
    /// Watches the source and calls `publish` with each update, on a separate thread. The first update has
    /// everything in the source and is sent as soon as all of it is known. Later updates have deltas.
    ///
    /// With a state folder, the source starts from the state on disk. Kinds that are not listed yet, and
    /// files that are broken now, keep the objects of the time when the state was written.
    pub fn watch(
        &self,
        state_dir: Option<&StateDir>,
        mut publish: impl FnMut(Update) + Send + 'static,
    ) -> Result<Watch, SourceError> {
        match self {
            Self::Folder { path, budget } => {
                let (folder, first) = Folder::open(path, *budget, state_dir)?;
                let state_dir = folder.state_dir();
                publish(first);
                let watch = folder.watch(publish)?;
                Ok(Watch { watch_statuses: None, state_dir, handle: Handle::Folder { _watch: watch } })
            }
            Self::Kubernetes(kubernetes) => {
                let watching = kubernetes.watch(state_dir, publish)?;
                let state_dir = watching.state_dir().cloned();
                let watch_statuses = Some(watching.watch_statuses().clone());
                Ok(Watch { watch_statuses, state_dir, handle: Handle::Kubernetes(watching) })
            }
        }
    }
}

impl Watch {
    /// Reports to a policy's author that the policy is refused, if the source has a channel for it.
    pub fn refuse(&self, policy: RefusedPolicy) {
        match &self.handle {
            Handle::Kubernetes(watching) => watching.refuse(policy),
            // The log and the status name it.
            Handle::Folder { .. } => {}
        }
    }

    /// The status of the state on disk; `None` without a state folder.
    pub fn state(&self) -> Option<&StateStatus> {
        self.state_dir.as_ref().map(|(status, _)| status)
    }

    /// Sets whether the state may be written. It may be while its agent enforces.
    pub fn permit_state(&self, is_permitted: bool) {
        if let Some((_, permit)) = &self.state_dir {
            permit.set(is_permitted);
        }
    }

    /// The status of each kind's watch; `None` for a folder.
    pub fn watch_statuses(&self) -> Option<&WatchStatuses> {
        self.watch_statuses.as_ref()
    }
}
