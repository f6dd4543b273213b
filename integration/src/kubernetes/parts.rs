//! The folder of a cluster's programs, which `cargo xtask` builds from `integration/parts`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    folder: PathBuf,
}

impl Parts {
    /// Those in `folder`.
    pub fn at(folder: &Path) -> Result<Self> {
        let folder = fs::canonicalize(folder)
            .with_context(|| format!("finding {} (cargo xtask cluster build makes it)", folder.display()))?;
        Ok(Self { folder })
    }

    /// Where a program lies.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of all of them, for PATH.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Flannel's sources, which hold its Helm chart and its manifest.
    pub fn flannel_sources(&self) -> PathBuf {
        self.folder.join("flannel-sources")
    }
}
