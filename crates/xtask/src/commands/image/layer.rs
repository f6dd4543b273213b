//! The one layer: the program, its second name, and nothing else. It needs no shell, no library and no
//! certificates: the API server's certificate comes with the pod's token.

use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use super::digest::Digest;

/// A layer, compressed and uncompressed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layer {
    /// As it is stored and downloaded.
    pub(super) compressed: Vec<u8>,
    /// The digest of the tar archive inside, which the image configuration lists.
    pub(super) contents: Digest,
    /// The size of the tar archive inside, in bytes.
    pub(super) unpacked: u64,
}

/// The file system: `/kube-verdict`, and `/bin/netpol` as a link to it.
pub(super) fn pack(program: &[u8]) -> Result<Layer> {
    let mut files = tar::Builder::new(Vec::new());
    append(&mut files, "kube-verdict", EntryType::Regular, 0o755, program)?;
    append(&mut files, "bin/", EntryType::Directory, 0o755, &[])?;
    let mut link = header(EntryType::Symlink, 0o777, 0);
    files.append_link(&mut link, "bin/netpol", "/kube-verdict")?;
    let files = files.into_inner()?;
    // The gzip header contains neither name nor time.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&files)?;
    Ok(Layer { compressed: encoder.finish()?, contents: Digest::of(&files), unpacked: files.len() as u64 })
}

/// Appends an entry that belongs to root and has no time.
pub(super) fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    data: &[u8],
) -> Result<()> {
    archive.append_data(&mut header(kind, mode, data.len() as u64), path, data)?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn it_contains_the_program_under_both_names_and_no_time() {
        let layer = pack(b"a program").unwrap();
        assert_eq!(layer, pack(b"a program").unwrap(), "the same program makes the same layer");
        let mut files = Vec::new();
        GzDecoder::new(&layer.compressed[..]).read_to_end(&mut files).unwrap();
        assert_eq!((Digest::of(&files), files.len() as u64), (layer.contents, layer.unpacked));
        let mut seen = Vec::new();
        for entry in tar::Archive::new(&files[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let mut data = String::new();
            entry.read_to_string(&mut data).unwrap();
            seen.push((entry.path().unwrap().display().to_string(), header.mode().unwrap(), link, data));
        }
        let entry = |path: &str, mode, link: Option<&str>, data: &str| {
            (path.to_owned(), mode, link.map(str::to_owned), data.to_owned())
        };
        assert_eq!(
            seen,
            [
                entry("kube-verdict", 0o755, None, "a program"),
                entry("bin/", 0o755, None, ""),
                entry("bin/netpol", 0o777, Some("/kube-verdict"), ""),
            ]
        );
    }
}
