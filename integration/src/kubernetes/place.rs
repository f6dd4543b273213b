//! Where a cluster keeps its files, and the names that only its namespaces have.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// What the name of every network namespace of a cluster begins with.
const PREFIX: &str = "kvc-";

/// The folder of one cluster. Two folders are two clusters, which don't meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    root: PathBuf,
    id: String,
}

impl Place {
    /// The cluster that lives in this folder, which is made if it isn't there.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
        let root = fs::canonicalize(root).with_context(|| format!("finding {}", root.display()))?;
        let mut hasher = DefaultHasher::new();
        root.hash(&mut hasher);
        let id = format!("{:08x}", hasher.finish() as u32);
        Ok(Self { root, id })
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the network namespace of a member: `control`, or a node.
    pub fn namespace(&self, member: &str) -> String {
        format!("{PREFIX}{}-{member}", self.id)
    }

    /// The log of a daemon of a member.
    pub fn log(&self, member: &str, daemon: &str) -> PathBuf {
        self.root.join("logs").join(format!("{member}-{daemon}.log"))
    }

    /// Writes a file in it, and the folders on the way.
    pub fn write(&self, name: &str, contents: &str) -> Result<PathBuf> {
        let path = self.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// Starts a program that outlives us, with its output at the end of a log.
pub fn start(mut command: Command, log: &Path) -> Result<Child> {
    let file = log_file(log)?;
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        // Kubernetes' own programs, and what they start in turn, are short of cores here and not of memory.
        .env("GOGC", "300")
        // Ctrl-C in the terminal is not meant for it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {name}"))
}

/// Opens a log at its end, and makes it if it isn't there.
pub fn log_file(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening the log {}", log.display()))
}

/// The last lines of a log, for an error.
pub fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_has_names_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| Place::at(&folder.path().join(name)).unwrap();
        assert_eq!(place("one").namespace("node-1"), place("one").namespace("node-1"));
        assert_ne!(place("one").namespace("node-1"), place("two").namespace("node-1"));
        assert_ne!(place("one").namespace("node-1"), place("one").namespace("node-2"));
    }
}
