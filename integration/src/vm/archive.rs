//! The archive of an initramfs: cpio's "newc" format (the kernel's
//! `Documentation/driver-api/early-userspace`).

use std::io::{self, Write};

/// The kind of an entry, which determines the file type bits of its mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A folder.
    Folder,
    /// A file that everyone may execute.
    File,
    /// A symbolic link; the data is its target.
    Link,
}

impl Kind {
    fn mode(self) -> u32 {
        match self {
            Self::Folder => 0o040_755,
            Self::File => 0o100_755,
            Self::Link => 0o120_777,
        }
    }
}

/// Writes entries one after another. A folder must precede its content.
#[derive(Debug)]
pub(super) struct Archive<W> {
    out: W,
    entries: u32,
}

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub(super) fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds an entry; `name` has no leading slash.
    pub(super) fn add(&mut self, kind: Kind, name: &str, data: &[u8]) -> io::Result<()> {
        self.entry(kind.mode(), name, data)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry(0, TRAILER, &[])?;
        self.out.flush()
    }

    fn entry(&mut self, mode: u32, name: &str, data: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(data.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        // Inode, mode, owner, group, links, time, size, device (two), special device (two), size of the name,
        // checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        head.push_str(name);
        head.push('\0');
        // Name and data each end on a multiple of four.
        self.out.write_all(head.as_bytes())?;
        self.out.write_all(padding(head.len()))?;
        self.out.write_all(data)?;
        self.out.write_all(padding(data.len()))
    }
}

fn padding(length: usize) -> &'static [u8] {
    &[0; 3][..length.next_multiple_of(4) - length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_newc_format() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.add(Kind::File, "init", b"hello").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("07070100000001000081ed"), "{text}");
        assert_eq!(&text[110..115], "init\0");
        assert_eq!(&text[116..121], "hello");
        assert!(text[124..].starts_with("070701") && text.contains(TRAILER));
    }
}
