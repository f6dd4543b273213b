//! Where the API server is and who we are to it.

use std::path::PathBuf;

use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// How the API server is found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// By this kubeconfig.
    Kubeconfig(PathBuf),
    /// By the kubeconfig that the environment variable KUBECONFIG names; without it by what the kubelet gives to each pod: the
    /// environment variables KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, and the service account's token.
    #[default]
    Environment,
}

/// The API server can't be found.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// By the kubeconfig that was named.
    #[error("the kubeconfig {} can't be used: {error}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: KubeconfigError,
    },
    /// By the kubeconfig of the environment.
    #[error("the kubeconfig that KUBECONFIG names can't be used: {0}")]
    Environment(#[source] KubeconfigError),
    /// By what the kubelet gives.
    #[error(
        "this is not a pod with a service account ({0}): give --kubeconfig FILE to reach a cluster from outside, \
         or --source DIR for a folder of manifests"
    )]
    InCluster(#[source] InClusterError),
}

impl Access {
    /// Whether anything says where an API server is.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Kubeconfig(_) => true,
            Self::Environment => {
                ["KUBECONFIG", "KUBERNETES_SERVICE_HOST"].iter().any(|name| std::env::var_os(name).is_some())
            }
        }
    }

    /// What the client needs to know.
    pub(super) async fn load(&self) -> Result<Config, AccessError> {
        let options = KubeConfigOptions::default();
        match self {
            Self::Kubeconfig(path) => {
                let wrong = |error| AccessError::Kubeconfig { path: path.clone(), error };
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)
            }
            Self::Environment => match Kubeconfig::from_env().map_err(AccessError::Environment)? {
                Some(file) => {
                    Config::from_custom_kubeconfig(file, &options).await.map_err(AccessError::Environment)
                }
                None => Config::incluster().map_err(AccessError::InCluster),
            },
        }
    }
}
