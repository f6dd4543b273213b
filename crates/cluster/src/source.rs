//! Where objects come from: the one type behind which an agent need not know whether it is a folder or an API server.

use std::path::PathBuf;

use policy::Budget;

use crate::checkpoint::{StateDir, StateStatus, WritePermit};
use crate::connection::Connections;
use crate::folder::{self, Folder, FolderError};
use crate::kubernetes::{Kubernetes, KubernetesError, RefusedPolicy, Watching};
use crate::problem::Update;

/// A source that can be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A folder of manifests.
    Folder {
        /// Where it is.
        path: PathBuf,
        /// Which policies' rules are kept in memory.
        budget: Budget,
    },
    /// The Kubernetes API.
    Kubernetes(Kubernetes),
}

/// Why a source can't be opened. Trying again later can help.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The Kubernetes API.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}

/// A source that is being watched. Dropping it ends that.
#[derive(Debug)]
pub struct Watch {
    connections: Option<Connections>,
    state_dir: Option<(StateStatus, WritePermit)>,
    /// Ends when dropped.
    of: Of,
}

#[derive(Debug)]
enum Of {
    Folder { _watch: folder::Watch },
    Kubernetes(Watching),
}

impl Source {
    /// Watches the source and calls `publish` with each update, on a thread of its own: first with all that is in the source, as
    /// soon as all of it is known, then with what differs.
    ///
    /// With a folder for the state on disk it goes on from there: what the source has not said yet, and the files that are broken now,
    /// are as they were when the state was written.
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
                Ok(Watch { connections: None, state_dir, of: Of::Folder { _watch: watch } })
            }
            Self::Kubernetes(kubernetes) => {
                let watching = kubernetes.watch(state_dir, publish)?;
                let state_dir = watching.state_dir().cloned();
                let connections = Some(watching.connections().clone());
                Ok(Watch { connections, state_dir, of: Of::Kubernetes(watching) })
            }
        }
    }
}

impl Watch {
    /// Tells a policy's author that it is refused, where the source has a way to.
    pub fn refuse(&self, policy: RefusedPolicy) {
        match &self.of {
            Of::Kubernetes(watching) => watching.refuse(policy),
            // Log and status name it.
            Of::Folder { .. } => {}
        }
    }

    /// How the state on disk is; `None` without one.
    pub fn state(&self) -> Option<&StateStatus> {
        self.state_dir.as_ref().map(|(status, _)| status)
    }

    /// Says whether the state may be written: as long as its agent enforces.
    pub fn permit_state(&self, is_permitted: bool) {
        if let Some((_, permit)) = &self.state_dir {
            permit.set(is_permitted);
        }
    }

    /// How each kind of object is connected; `None` for a folder.
    pub fn connections(&self) -> Option<&Connections> {
        self.connections.as_ref()
    }
}
