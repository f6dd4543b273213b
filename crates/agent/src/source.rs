//! The folder of manifests, read once.

use std::path::Path;

use anyhow::Context;
use cluster::Folder;
use policy::Change;

use crate::exit::Usage;
use crate::paint;

/// All that the folder holds. What its objects got wrong is named on standard error.
pub fn read_once(folder: &Path) -> anyhow::Result<Vec<Change>> {
    must_be_a_folder(folder)?;
    let (_, update) =
        Folder::read(folder).with_context(|| format!("reading the manifests in {}", folder.display()))?;
    for problem in &update.problems {
        anstream::eprintln!("{} {problem}", paint::warning("warning:"));
    }
    Ok(update.changes)
}

/// A source that is no folder is a mistake on the command line.
pub fn must_be_a_folder(folder: &Path) -> Result<(), Usage> {
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Usage(format!("--source {}: not a folder", folder.display()))),
        Err(error) => Err(Usage(format!("--source {}: {error}", folder.display()))),
    }
}
