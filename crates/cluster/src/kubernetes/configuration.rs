//! How to find the API server and authenticate to it.

use std::path::PathBuf;

use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::error_chain::chain;

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
        error: UnusableKubeconfig,
    },
    /// The kubeconfig named by the environment is unusable.
    #[error("the kubeconfig that KUBECONFIG names can't be used")]
    Environment(#[source] UnusableKubeconfig),
    /// There is no service account.
    #[error(
        "this is not a pod with a service account; give --kubeconfig FILE to reach a cluster from outside, \
         or --source DIR for a folder of manifests"
    )]
    InCluster(#[source] InClusterError),
}

/// Why a kubeconfig is unusable, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct UnusableKubeconfig {
    text: String,
}

impl From<KubeconfigError> for UnusableKubeconfig {
    /// The caller names the file, so only the cause remains of an error about reading it. A parser's message
    /// shows the text behind its first line.
    fn from(error: KubeconfigError) -> Self {
        let text = match error {
            KubeconfigError::ReadConfig(error, _) => error.to_string(),
            error => chain(&error).lines().next().unwrap_or_default().to_owned(),
        };
        Self { text }
    }
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
                let wrong = |error: KubeconfigError| AccessError::Kubeconfig {
                    path: path.clone(),
                    error: error.into(),
                };
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)
            }
            Self::Environment => {
                let wrong = |error: KubeconfigError| AccessError::Environment(error.into());
                match Kubeconfig::from_env().map_err(wrong)? {
                    Some(file) => Config::from_custom_kubeconfig(file, &options).await.map_err(wrong),
                    None => Config::incluster().map_err(AccessError::InCluster),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unusable_kubeconfig_has_one_line_with_each_cause_once() {
        let folder = tempfile::tempdir().expect("folder");
        let load = async |name: &str| {
            let path = folder.path().join(name);
            chain(&Access::Kubeconfig(path).load().await.expect_err("unusable"))
                .replace(&format!("{}", folder.path().display()), "")
        };
        assert_eq!(
            load("missing").await,
            "the kubeconfig /missing can't be used: No such file or directory (os error 2)"
        );
        std::fs::write(folder.path().join("broken"), "a: [").expect("file");
        let broken = load("broken").await;
        assert_eq!(broken.lines().count(), 1, "{broken}");
        assert!(broken.contains("line 1"), "{broken}");
    }
}
