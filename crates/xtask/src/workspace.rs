//! Where the sources and the build results are, according to cargo.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;

/// The checkout in which the command was run, and its target folder.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    #[serde(rename = "workspace_root")]
    root: PathBuf,
    /// Follows `CARGO_TARGET_DIR` and cargo's configuration.
    #[serde(rename = "target_directory")]
    target: PathBuf,
}

impl Workspace {
    /// Queries cargo.
    pub(crate) fn locate() -> Result<Self> {
        let output = Command::new(cargo_program())
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .output()
            .context("cargo could not be started: is Rust installed (https://rustup.rs)?")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata said something that could not be read")
    }

    /// The folder that holds the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The target folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Logs of the last run's tasks.
    pub(crate) fn logs(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// Results and reports of benchmarks.
    pub(crate) fn bench(&self) -> PathBuf {
        self.target.join("bench")
    }

    /// The built programs of the cluster.
    pub(crate) fn components(&self) -> PathBuf {
        self.target.join("parts")
    }

    /// Tools that were built only for this checkout.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// A program that `cargo build` left.
    pub(crate) fn development_program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// A program that `cargo build --release` left.
    pub(crate) fn release_program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// A cargo command in the workspace's folder, with the dependencies' versions from `Cargo.lock`.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root).arg(subcommand);
        for (name, _) in env::vars_os().filter(|(name, _)| describes_own_package(name)) {
            command.env_remove(name);
        }
        if !matches!(subcommand, "fmt" | "install") {
            command.arg("--locked");
        }
        command
    }
}

/// Waits until no other xtask command works in `folder`, and blocks others until the lock is dropped.
pub(crate) fn lock(folder: &Path) -> Result<Flock<File>> {
    let file = File::open(folder).with_context(|| format!("opening {}", folder.display()))?;
    let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(file, errno)| {
        if errno != Errno::EWOULDBLOCK {
            return Err(errno);
        }
        anstream::println!("waiting for another command that works in {}", folder.display());
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)
    });
    locked.with_context(|| format!("locking {}", folder.display()))
}

/// Whether cargo sets this variable for the programs that it runs, to describe their package. Some build
/// scripts read these variables (ring's). If they saw xtask's values, they would run again, and all
/// dependents be compiled again, after each direct call of cargo.
fn describes_own_package(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR"
}

/// The cargo that runs this program, so that a `+toolchain` argument applies to all commands that follow.
fn cargo_program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_gets_the_callers_settings_but_not_xtasks_package_variables() {
        let ours = ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR", "OUT_DIR"];
        let callers = ["CARGO", "CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_BUILD_JOBS", "PATH"];
        assert!(ours.iter().all(|name| describes_own_package(name.as_ref())));
        assert!(!callers.iter().any(|name| describes_own_package(name.as_ref())));
    }
}
