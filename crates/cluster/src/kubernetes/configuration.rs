//! How to find the API server and authenticate to it.

use std::path::PathBuf;

use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// How the API server is found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// With this kubeconfig.
    Kubeconfig(PathBuf),
    /// With the kubeconfig that the environment variable KUBECONFIG names. Without it, with what the kubelet
    /// provides to each pod: the environment variables KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT,
    /// and the service account's token.
    #[default]
    Environment,
}

/// Why the API server can't be found.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The named kubeconfig is unusable.
    #[error("the kubeconfig {} can't be used", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: KubeconfigError,
    },
    /// The kubeconfig named by the environment is unusable.
    #[error("the kubeconfig that KUBECONFIG names can't be used")]
    Environment(#[source] KubeconfigError),
    /// There is no service account.
    #[error(
        "this is not a pod with a service account; give --kubeconfig FILE to reach a cluster from outside, \
         or --source DIR for a folder of manifests"
    )]
    InCluster(#[source] InClusterError),
}

impl Access {
    /// Whether the configuration names an API server.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Kubeconfig(_) => true,
            Self::Environment => {
                ["KUBECONFIG", "KUBERNETES_SERVICE_HOST"].iter().any(|name| std::env::var_os(name).is_some())
            }
        }
    }

    /// Loads the client's configuration.
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
