//! A small file system of its own that can be full.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// A tmpfs, unmounted when this goes.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
    size: u64,
}

impl Disk {
    /// Mounts one of this many bytes.
    pub fn mount(size: u64) -> Result<Self> {
        let disk = Self { folder: tempfile::tempdir().context("making a folder for a disk")?, size };
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "kube-verdict-test"])
            .arg(disk.path()))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of a file on it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Leaves no room beyond what is used now.
    pub fn fill(&self) -> Result<()> {
        loop {
            let stat = statvfs(self.path()).with_context(|| format!("{}", self.path().display()))?;
            let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
            // What is used meanwhile makes the kernel refuse.
            if self.resize(used.max(stat.fragment_size())).is_ok() {
                return Ok(());
            }
        }
    }

    /// Makes room again.
    pub fn free(&self) -> Result<()> {
        self.resize(self.size)
    }

    fn resize(&self, size: u64) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(self.path()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output: io::Result<_> = command.output();
    let output = output.with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
