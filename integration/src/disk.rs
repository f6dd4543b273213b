//! A small file system that can be filled.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// A tmpfs, which is unmounted when this is dropped.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
    size: u64,
}

impl Disk {
    /// Mounts a tmpfs of this many bytes.
    pub fn mount(size: u64) -> Result<Self> {
        let disk = Self { folder: tempfile::tempdir().context("creating a folder for a disk")?, size };
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

    /// Shrinks it to the space that is used now.
    pub fn fill(&self) -> Result<()> {
        loop {
            let stat = statvfs(self.path()).with_context(|| format!("{}", self.path().display()))?;
            let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
            // The kernel refuses a size below the used space, which may have grown meanwhile.
            if self.resize(used.max(stat.fragment_size())).is_ok() {
                return Ok(());
            }
        }
    }

    /// Restores its size.
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
