//! The entries of tar archives: they belong to root and have no time.

use std::io::{Result, Write};

use tar::{Builder, EntryType, Header};

/// Appends a file or folder. `path` is relative.
pub(crate) fn append<W: Write>(
    archive: &mut Builder<W>,
    path: &str,
    kind: EntryType,
    mode: u32,
    data: &[u8],
) -> Result<()> {
    archive.append_data(&mut header(kind, mode, data.len() as u64), path, data)
}

/// Appends a symbolic link to `target`. `path` is relative.
pub(crate) fn append_link<W: Write>(archive: &mut Builder<W>, path: &str, target: &str) -> Result<()> {
    archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
