//! The folder of a cluster, and the names of its namespaces.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// The prefix of the names of all clusters' network namespaces.
const PREFIX: &str = "kvc-";

/// The folder of one cluster. Clusters in different folders are independent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workdir {
    root: PathBuf,
    id: String,
}

impl Workdir {
    /// The folder `root`, which is created if it does not exist.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
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

    /// The name of the network namespace of a member: `control` or a node.
    pub fn namespace(&self, member: &str) -> String {
        format!("{PREFIX}{}-{member}", self.id)
    }

    /// The path of the log of a member's daemon.
    pub fn log(&self, member: &str, daemon: &str) -> PathBuf {
        self.root.join("logs").join(format!("{member}-{daemon}.log"))
    }

    /// Writes a file in it, and creates the file's folder.
    pub fn write(&self, name: &str, contents: &str) -> Result<PathBuf> {
        let path = self.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// Starts a program that outlives this process, and appends its output to a log.
pub fn start(mut command: Command, log: &Path) -> Result<Child> {
    let file = log_file(log)?;
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        // Fewer garbage collections: here Kubernetes' programs lack processor time and not memory.
        .env("GOGC", "300")
        // Ctrl-C in the terminal must not end it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {name}"))
}

/// Opens a log for appending, and creates it if it does not exist.
pub fn log_file(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening the log {}", log.display()))
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_has_its_own_names() {
        let folder = tempfile::tempdir().unwrap();
        let workdir = |name: &str| Workdir::at(&folder.path().join(name)).unwrap();
        assert_eq!(workdir("one").namespace("node-1"), workdir("one").namespace("node-1"));
        assert_ne!(workdir("one").namespace("node-1"), workdir("two").namespace("node-1"));
        assert_ne!(workdir("one").namespace("node-1"), workdir("one").namespace("node-2"));
    }
}
