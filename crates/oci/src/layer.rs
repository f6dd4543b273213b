//! Layers: the files of an image.

use std::fmt;
use std::io::{Result as IoResult, Write};

use anyhow::Result;
use flate2::write::GzEncoder;
use oci_spec::image::{Digest, MediaType};
use tar::{Builder, EntryType};

use crate::blob::{Blob, digest};
use crate::entry::{append, append_link};

/// A finished layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    pub(crate) blob: Blob,
    pub(crate) contents: Digest,
    pub(crate) unpacked: u64,
}

/// How a layer is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As it is, for an image that stays on this machine.
    None,
    /// As small as gzip makes it.
    Gzip,
}

/// Adds files to a layer. Paths are those in the container. All files belong to root.
pub struct LayerBuilder {
    files: Builder<Vec<u8>>,
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self { files: Builder::new(Vec::new()) }
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> IoResult<&mut Self> {
        append(&mut self.files, relative(path), EntryType::Regular, mode, data)?;
        Ok(self)
    }

    /// Adds an empty folder. The folder of a file need not be added.
    pub fn folder(&mut self, path: &str, mode: u32) -> IoResult<&mut Self> {
        append(&mut self.files, &format!("{}/", relative(path)), EntryType::Directory, mode, &[])?;
        Ok(self)
    }

    /// Adds a symbolic link to `target`.
    pub fn link(&mut self, path: &str, target: &str) -> IoResult<&mut Self> {
        append_link(&mut self.files, relative(path), target)?;
        Ok(self)
    }

    /// Ends the layer.
    pub fn finish(self, compression: Compression) -> Result<Layer> {
        let files = self.files.into_inner()?;
        let (contents, unpacked) = (digest(&files)?, files.len() as u64);
        let blob = match compression {
            Compression::None => Blob::new(MediaType::ImageLayer, files)?,
            Compression::Gzip => {
                // The gzip header contains neither name nor time.
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(&files)?;
                Blob::new(MediaType::ImageLayerGzip, encoder.finish()?)?
            }
        };
        Ok(Layer { blob, contents, unpacked })
    }
}

impl Layer {
    /// The bytes as they are stored and downloaded.
    pub fn bytes(&self) -> &[u8] {
        &self.blob.bytes
    }

    /// The digest of the uncompressed tar archive.
    pub fn contents(&self) -> &Digest {
        &self.contents
    }
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBuilder").finish_non_exhaustive()
    }
}

/// The path in the archive of a path in the container.
fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn layer(compression: Compression) -> Layer {
        let mut files = LayerBuilder::new();
        files.file("/usr/bin/tool", 0o755, b"a program").unwrap();
        files.folder("/tmp", 0o1777).unwrap().link("/bin", "usr/bin").unwrap();
        files.finish(compression).unwrap()
    }

    #[test]
    fn the_same_files_give_the_same_bytes_without_times_and_owners() {
        let (plain, packed) = (layer(Compression::None), layer(Compression::Gzip));
        assert_eq!(packed, layer(Compression::Gzip));
        let mut files = Vec::new();
        GzDecoder::new(packed.bytes()).read_to_end(&mut files).unwrap();
        assert_eq!((&files[..], files.len() as u64), (plain.bytes(), packed.unpacked));
        assert_eq!(packed.contents, digest(&files).unwrap());
        assert_eq!(plain.contents(), plain.blob.descriptor.digest());

        let mut paths = Vec::new();
        for entry in tar::Archive::new(&files[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            paths.push((entry.path().unwrap().display().to_string(), header.mode().unwrap()));
        }
        let path = |path: &str, mode| (path.to_owned(), mode);
        assert_eq!(paths, [path("usr/bin/tool", 0o755), path("tmp/", 0o1777), path("bin", 0o777)]);
    }
}
