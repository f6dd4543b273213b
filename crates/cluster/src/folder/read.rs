//! Reads one file of the folder.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use crate::interner::Interner;
use crate::manifest::{self, FileContent};
use crate::stamp::Stamp;

/// The largest manifest that is read, in bytes. 10,000 large pods fit into it.
pub(super) const LARGEST: u64 = 256 << 20;

/// The result of reading a file.
#[derive(Debug)]
pub(super) enum Read {
    /// Its objects, and the version of the file that they are from.
    Whole(FileContent, Stamp),
    /// It changed or vanished while it was read.
    Doubtful,
    /// Why it can't be read.
    Unreadable(String),
}

/// Reads and parses a file.
pub(super) fn read(path: &Path, interner: &Interner) -> Read {
    match read_whole(path) {
        Ok(Content::Whole(bytes, stamp)) => Read::Whole(manifest::read(path, &bytes, interner), stamp),
        Ok(Content::Changed) => Read::Doubtful,
        Ok(Content::TooLarge) => Read::Unreadable(too_large()),
        // It vanished after the check.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Read::Doubtful,
        Err(error) => Read::Unreadable(format!("the file can't be read: {error}")),
    }
}

/// The content of a file.
enum Content {
    Whole(Vec<u8>, Stamp),
    /// It changed while it was read.
    Changed,
    TooLarge,
}

/// Reads a file, and checks that it was not written to meanwhile.
fn read_whole(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    if before.len() > LARGEST {
        return Ok(Content::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0) + 1);
    (&mut file).take(LARGEST + 1).read_to_end(&mut bytes)?;
    let (before, after) = (Stamp::of(&before), Stamp::of(&file.metadata()?));
    Ok(if before == after { Content::Whole(bytes, after) } else { Content::Changed })
}

/// The content of a file, for commands that read it once.
///
/// # Errors
/// It can't be read, it is not a regular file (reading a pipe could block), or it is larger than the largest
/// manifest.
pub(crate) fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other(too_large()));
    }
    fs::read(path)
}

fn too_large() -> String {
    format!("the file is larger than {} MiB: split it", LARGEST >> 20)
}
