//! Files that agents write.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::exit::Usage;

/// The files that the command line names.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub files: Vec<PathBuf>,
    /// Files that do not exist, one sentence each.
    pub not_found: Vec<String>,
}

impl Found {
    /// Adds the files found at a path. If there are none, `none` is the sentence that says so.
    pub(super) fn add(&mut self, files: Vec<PathBuf>, none: impl FnOnce() -> String) {
        if files.is_empty() {
            self.not_found.push(none());
        }
        self.files.extend(files);
    }
}

/// A folder in place of a file, or a file in place of a folder, is a usage error. Checked before anything is
/// removed.
pub(super) fn check_paths(audit_log: Option<&Path>, state_dir: Option<&Path>) -> Result<(), Usage> {
    if let Some(log) = audit_log
        && (log.is_dir() || log.file_name().is_none())
    {
        return Err(Usage(format!(
            "--audit-log {:?} names no file: give the agent's --audit-log",
            log.display()
        )));
    }
    if let Some(folder) = state_dir
        && folder.exists()
        && !folder.is_dir()
    {
        return Err(Usage(format!(
            "--state-dir {:?} is a file: give the folder of the agent's --state-dir",
            folder.display()
        )));
    }
    Ok(())
}

/// The audit log at a path and its closed files, such as `PATH.20260102T030405.123Z.zst`, as far as they
/// exist. Also `PATH.1` and so on, as other programs name what they rotate.
pub(super) fn of_audit_log(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        anyhow::bail!("{} names no file: give the agent's --audit-log", path.display());
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look for audit logs in {}", folder.display()));
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot look for audit logs in {}", folder.display()))?;
        // Folders and links are not an agent's.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && is_of_log(&entry.file_name(), name) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file is the log of this name, or one of its closed files.
fn is_of_log(file: &OsStr, log: &OsStr) -> bool {
    if audit::is_closed_file(file, log) {
        return true;
    }
    match file.as_bytes().strip_prefix(log.as_bytes()) {
        Some([]) => true,
        Some([b'.', digits @ ..]) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// Removes files, and returns those that still existed.
pub(super) fn remove(files: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for file in files {
        match fs::remove_file(&file) {
            Ok(()) => removed.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove {}", file.display())),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_log_is_found_with_its_rotated_files_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let names = [
            "audit.log",
            "audit.log.1",
            "audit.log.12",
            "audit.log.20260102T030405.123Z",
            "audit.log.20260102T030405.123Z.zst",
            "audit.log.20260102T030405.123Z.zst.tmp",
        ];
        for name in
            names.iter().chain(&["audit.log.1.gz", "audit.log.old", "audit.logs", "other.log", "audit.log."])
        {
            fs::write(path(name), "").expect("a file");
        }
        fs::create_dir(path("audit.log.2")).expect("a folder");
        std::os::unix::fs::symlink(path("other.log"), path("audit.log.3")).expect("a link");
        let found = of_audit_log(&path("audit.log")).expect("read");
        assert_eq!(found, names.map(path));
        assert_eq!(remove(found).expect("removed").len(), 6);
        assert!(of_audit_log(&path("audit.log")).expect("read").is_empty());
        assert!(path("other.log").exists() && path("audit.log.1.gz").exists());
        assert!(of_audit_log(Path::new("/nowhere/audit.log")).expect("no folder").is_empty());
        of_audit_log(Path::new("/")).expect_err("not a file");
        let log = path("audit.log.1.gz");
        for (log, state) in [(Some(folder.path()), None), (Some(Path::new("")), None), (None, Some(&*log))] {
            check_paths(log, state).expect_err("a usage error");
        }
        check_paths(Some(&path("none")), Some(&path("none"))).expect("files that do not exist are no error");
    }
}
