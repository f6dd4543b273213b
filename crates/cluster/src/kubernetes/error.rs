//! Why the Kubernetes API can't be used as a source.

use std::io;

use super::configuration::AccessError;

/// The Kubernetes API can't be used as a source.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The API server can't be found.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The client rejects the configuration.
    #[error("this configuration cannot be used to connect to the API server")]
    Client(#[source] kube::Error),
    /// The thread or its runtime could not be started.
    #[error("no thread could be started to watch the Kubernetes API")]
    Thread(#[source] io::Error),
}
