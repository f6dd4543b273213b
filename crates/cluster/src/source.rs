//! Where objects come from: the one type behind which an agent need not know whether it is a folder or an API server.

use std::path::PathBuf;

use crate::connection::Connections;
use crate::folder::{self, Folder, FolderError};
use crate::kubernetes::{Kubernetes, KubernetesError, RefusedPolicy, Watching};
use crate::problem::Update;

/// A source that can be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
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
    pub fn watch(&self, mut publish: impl FnMut(Update) + Send + 'static) -> Result<Watch, SourceError> {
        match self {
            Self::Folder(path) => {
                let (folder, first) = Folder::read(path)?;
                publish(first);
                let watch = folder.watch(publish)?;
                Ok(Watch { connections: None, of: Of::Folder { _watch: watch } })
            }
            Self::Kubernetes(kubernetes) => {
                let watching = kubernetes.watch(publish)?;
                let connections = Some(watching.connections().clone());
                Ok(Watch { connections, of: Of::Kubernetes(watching) })
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

    /// How each kind of object is connected; `None` for a folder.
    pub fn connections(&self) -> Option<&Connections> {
        self.connections.as_ref()
    }
}
