//! The archive: an OCI image layout. It also has the list that older versions of `docker load` need to find
//! the images.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, MediaType, OciLayoutBuilder,
    SCHEMA_VERSION,
};
use serde_json::{Value, json};
use tar::{Builder, EntryType};

use crate::blob::{self, Blob};
use crate::entry::append;
use crate::image::Image;
use crate::reference::Reference;

/// The annotation by which containerd finds an image's full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The list for `docker load`.
const DOCKER: &str = "manifest.json";

/// Writes an archive.
pub struct Archive<W: Write> {
    files: Builder<W>,
    /// The paths of the blobs that are already written.
    written: BTreeSet<String>,
    /// The images that have a name.
    named: Vec<Descriptor>,
    /// The same for Docker.
    docker: Vec<Value>,
}

impl<W: Write> Archive<W> {
    /// An archive without images.
    pub fn new(out: W) -> Self {
        Self { files: Builder::new(out), written: BTreeSet::new(), named: Vec::new(), docker: Vec::new() }
    }

    /// Adds an image under a name, once for each platform. Several platforms are behind an index of their
    /// own, so that the name refers to all of them.
    pub fn add(&mut self, reference: &Reference, images: &[Image]) -> Result<()> {
        ensure!(!images.is_empty(), "there is no image for the name {reference}");
        for blob in images.iter().flat_map(Image::blobs) {
            self.blob(blob)?;
        }
        let mut named = if let [image] = images {
            image.descriptor().clone()
        } else {
            let manifests = images.iter().map(|image| image.descriptor().clone()).collect();
            let index = Blob::json(MediaType::ImageIndex, &index(manifests)?)?;
            self.blob(&index)?;
            index.descriptor
        };
        named.set_annotations(Some(HashMap::from([
            (CONTAINERD_NAME.to_owned(), reference.full()),
            (ANNOTATION_REF_NAME.to_owned(), reference.tag().to_owned()),
        ])));
        self.named.push(named);
        // The list knows no platforms.
        let [config, layer, _] = images[0].blobs();
        self.docker.push(json!({
            "Config": config.path(),
            "Layers": [layer.path()],
            "RepoTags": [reference.to_string()],
        }));
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<W> {
        let layout = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?;
        let index = index(std::mem::take(&mut self.named))?;
        self.file("index.json", &blob::json(&index)?)?;
        self.file(DOCKER, &blob::json(&self.docker)?)?;
        self.file("oci-layout", &blob::json(&layout)?)?;
        Ok(self.files.into_inner()?)
    }

    fn blob(&mut self, blob: &Blob) -> Result<()> {
        let path = blob.path();
        if self.written.contains(&path) {
            return Ok(());
        }
        self.file(&path, &blob.bytes)?;
        self.written.insert(path);
        Ok(())
    }

    fn file(&mut self, path: &str, data: &[u8]) -> Result<()> {
        Ok(append(&mut self.files, path, EntryType::Regular, 0o644, data)?)
    }
}

impl<W: Write> fmt::Debug for Archive<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("named", &self.named).finish_non_exhaustive()
    }
}

/// The name and tag of the first image in an archive of this crate or of `docker save`.
pub fn first_name(archive: impl Read) -> Result<String> {
    for entry in tar::Archive::new(archive).entries()? {
        let entry = entry?;
        if entry.path()?.as_ref() == Path::new(DOCKER) {
            let list: Value = serde_json::from_reader(entry)?;
            let name = list[0]["RepoTags"][0].as_str().context("its first image has no name")?;
            return Ok(name.to_owned());
        }
    }
    bail!("it has no {DOCKER}")
}

fn index(manifests: Vec<Descriptor>) -> Result<ImageIndex> {
    let index = ImageIndexBuilder::default().schema_version(SCHEMA_VERSION);
    Ok(index.media_type(MediaType::ImageIndex).manifests(manifests).build()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use oci_spec::image::{Arch, ConfigBuilder, ImageConfigurationBuilder};

    use super::*;
    use crate::blob::digest;
    use crate::layer::{Compression, LayerBuilder};

    const PLATFORMS: [Arch; 2] = [Arch::Amd64, Arch::ARM64];

    /// Images with labels in no particular order.
    fn images(platforms: &[Arch]) -> Vec<Image> {
        let image = |platform: &Arch| {
            let mut files = LayerBuilder::new();
            files.file("/tool", 0o755, platform.to_string().as_bytes()).unwrap();
            let label = |part| (format!("org.opencontainers.image.{part}"), "1.2.3".to_owned());
            let labels: HashMap<_, _> = ["version", "title", "licenses", "description"].map(label).into();
            let config = ConfigBuilder::default().labels(labels).entrypoint(["/tool".to_owned()]).build();
            let configuration =
                ImageConfigurationBuilder::default().architecture(platform.clone()).config(config.unwrap());
            Image::new(configuration.build().unwrap(), files.finish(Compression::Gzip).unwrap()).unwrap()
        };
        platforms.iter().map(image).collect()
    }

    fn pack(images: &[Image], reference: &Reference) -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.add(reference, images).unwrap();
        archive.finish().unwrap()
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            let path = entry.path().unwrap().display().to_string();
            assert_eq!(files.insert(path, data), None, "each file once");
        }
        files
    }

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// The blob of a descriptor, checked for its size and digest.
    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let named = descriptor["digest"].as_str().unwrap();
        let blob = &files[&format!("blobs/{}", named.replace(':', "/"))];
        assert_eq!(descriptor["size"], blob.len());
        assert_eq!(digest(blob).unwrap().to_string(), named);
        blob
    }

    /// Follows descriptors from a manifest to the layer, and returns the platform.
    fn walk(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> String {
        let manifest = json(blob(files, descriptor));
        assert_eq!(descriptor["mediaType"], manifest["mediaType"]);
        let config = json(blob(files, &manifest["config"]));
        let layer = blob(files, &manifest["layers"][0]);
        let mut contents = Vec::new();
        flate2::read::GzDecoder::new(layer).read_to_end(&mut contents).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&contents).unwrap().to_string()]));
        assert_eq!(config["architecture"], descriptor["platform"]["architecture"]);
        assert_eq!(config["os"], "linux");
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], "1.2.3");
        assert_eq!(config["config"]["Labels"], manifest["annotations"]);
        config["architecture"].as_str().unwrap().to_owned()
    }

    #[test]
    fn one_platform_is_in_the_index_itself_and_in_dockers_list() {
        let reference = "kube-verdict:1.2.3".parse().unwrap();
        first_name(&Archive::new(Vec::new()).finish().unwrap()[..]).expect_err("no image");
        let files = files(&pack(&images(&[Arch::ARM64]), &reference));
        assert_eq!(json(&files["oci-layout"]), json!({"imageLayoutVersion": "1.0.0"}));
        let index = json(&files["index.json"]);
        let [named] = &index["manifests"].as_array().unwrap()[..] else { panic!("{index}") };
        assert_eq!(named["annotations"]["io.containerd.image.name"], "docker.io/library/kube-verdict:1.2.3");
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "1.2.3");
        assert_eq!(walk(&files, named), "arm64");
        let docker = json(&files["manifest.json"]);
        assert_eq!(docker[0]["RepoTags"], json!(["kube-verdict:1.2.3"]));
        for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
            assert!(files.contains_key(path.as_str().unwrap()), "{path}");
        }
    }

    #[test]
    fn several_platforms_share_a_name() {
        let reference: Reference = "registry.example:5000/net/kube-verdict:1.2.3".parse().unwrap();
        let bytes = pack(&images(&PLATFORMS), &reference);
        for _ in 0..10 {
            assert_eq!(bytes, pack(&images(&PLATFORMS), &reference), "the same bytes each time");
        }
        let files = files(&bytes);
        let index = json(&files["index.json"]);
        let named = &index["manifests"][0];
        assert_eq!(named["mediaType"], MediaType::ImageIndex.to_string());
        assert_eq!(named["annotations"]["io.containerd.image.name"], reference.to_string());
        let inner = json(blob(&files, named));
        let platforms: Vec<String> =
            inner["manifests"].as_array().unwrap().iter().map(|manifest| walk(&files, manifest)).collect();
        assert_eq!(platforms, ["amd64", "arm64"]);
    }

    #[test]
    fn images_of_different_names_share_blobs() {
        let mut archive = Archive::new(Vec::new());
        for reference in ["a:1", "b:1"] {
            archive.add(&reference.parse().unwrap(), &images(&[Arch::Amd64])).unwrap();
        }
        archive.add(&"c:1".parse().unwrap(), &[]).unwrap_err();
        let archive = archive.finish().unwrap();
        assert_eq!(first_name(&archive[..]).unwrap(), "a:1");
        let files = files(&archive);
        assert_eq!(files.keys().filter(|path| path.starts_with("blobs/")).count(), 3);
        let index = json(&files["index.json"]);
        let names = index["manifests"].as_array().unwrap().iter().map(|image| {
            walk(&files, image);
            image["annotations"]["io.containerd.image.name"].as_str().unwrap().to_owned()
        });
        assert_eq!(names.collect::<Vec<_>>(), ["docker.io/library/a:1", "docker.io/library/b:1"]);
        assert_eq!(json(&files["manifest.json"]).as_array().unwrap().len(), 2);
    }
}
