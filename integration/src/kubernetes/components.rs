//! The folder of a cluster's programs, which `cargo xtask` builds from `integration/parts`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Components {
    folder: PathBuf,
}

impl Components {
    /// The programs in `folder`.
    pub fn at(folder: &Path) -> Result<Self> {
        let folder = fs::canonicalize(folder).with_context(|| {
            format!("finding {} (cargo xtask cluster build creates it)", folder.display())
        })?;
        Ok(Self { folder })
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder itself, for PATH.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Flannel's sources, which contain its Helm chart and its manifest.
    pub fn flannel_sources(&self) -> PathBuf {
        self.folder.join("flannel-sources")
    }

    /// The pods of the ClusterNetworkPolicy suite.
    pub fn conformance_pods(&self) -> PathBuf {
        self.folder.join("network-policy-api-sources/conformance/base/manifests.yaml")
    }
}
