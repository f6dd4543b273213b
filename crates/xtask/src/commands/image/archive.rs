//! The archive: an OCI image layout with one image for each platform. It also has the list that older
//! versions of `docker load` need to find the first image.

use std::fmt;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tar::EntryType;

use super::digest::Digest;
use super::layer::{Layer, append};
use super::platform::Platform;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image's name and tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reference {
    name: String,
    tag: String,
}

impl Reference {
    /// `NAME:TAG`. A colon before the last slash belongs to a registry's port.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a NAME:TAG, such as kube-verdict:0.1.0");
        let (name, tag) = text.rsplit_once(':').ok_or_else(wrong)?;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
        let is_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let good = !name.is_empty()
            && name.chars().all(is_name)
            && name.split('/').all(|part| !part.is_empty())
            && !tag.is_empty()
            && tag.len() <= 128
            && tag.chars().all(is_tag)
            && !tag.starts_with(['.', '-']);
        good.then(|| Self { name: name.to_owned(), tag: tag.to_owned() }).ok_or_else(wrong)
    }

    /// The name with the default registry that containerd and the kubelet add to a name without one.
    fn full(&self) -> String {
        let registry = self.name.split_once('/').map(|(first, _)| first);
        match registry {
            None => format!("docker.io/library/{self}"),
            Some(first) if first.contains(['.', ':']) || first == "localhost" => self.to_string(),
            Some(_) => format!("docker.io/{self}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

/// The image of one platform.
#[derive(Clone, Debug)]
pub(super) struct Image {
    platform: Platform,
    layer: Layer,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    /// An image of one layer. It runs as root, since only root gets CAP_NET_ADMIN; the pod drops all other
    /// capabilities.
    pub(super) fn new(platform: Platform, layer: Layer, version: &str) -> Result<Self> {
        let labels = json!({
            "org.opencontainers.image.title": "kube-verdict",
            "org.opencontainers.image.description": "NetworkPolicy for clusters whose CNI has none",
            "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            "org.opencontainers.image.version": version,
        });
        let config = serde_json::to_vec(&json!({
            "architecture": platform.architecture(),
            "os": "linux",
            "config": { "User": "0:0", "Entrypoint": ["/kube-verdict"], "Labels": labels },
            "rootfs": { "type": "layers", "diff_ids": [layer.contents.to_string()] },
            "history": [{ "created_by": "cargo xtask image" }],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer.compressed)],
            "annotations": labels,
        }))?;
        Ok(Self { platform, layer, config, manifest })
    }

    /// The image's platform.
    pub(super) fn platform(&self) -> Platform {
        self.platform
    }

    /// Bytes that a node downloads.
    pub(super) fn compressed(&self) -> u64 {
        (self.layer.compressed.len() + self.config.len() + self.manifest.len()) as u64
    }

    /// Bytes on the node after unpacking.
    pub(super) fn unpacked(&self) -> u64 {
        self.layer.unpacked
    }

    fn descriptor(&self) -> Value {
        let mut descriptor = descriptor(MANIFEST, &self.manifest);
        descriptor["platform"] = json!({ "os": "linux", "architecture": self.platform.architecture() });
        descriptor
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

/// The archive's bytes. Several platforms are behind an index of their own, so that the name refers to all of
/// them.
pub(super) fn pack(images: &[Image], reference: &Reference) -> Result<Vec<u8>> {
    ensure!(!images.is_empty(), "an archive without an image");
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    for image in images {
        blobs.extend([image.config.clone(), image.layer.compressed.clone(), image.manifest.clone()]);
    }
    let mut named = if let [image] = images {
        image.descriptor()
    } else {
        let manifests: Vec<Value> = images.iter().map(Image::descriptor).collect();
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests,
        }))?;
        let descriptor = descriptor(INDEX, &index);
        blobs.push(index);
        descriptor
    };
    named["annotations"] = json!({
        "io.containerd.image.name": reference.full(),
        "org.opencontainers.image.ref.name": reference.tag,
    });
    let docker = images.iter().take(1).map(|image| {
        json!({
            "Config": Digest::of(&image.config).path(),
            "Layers": [Digest::of(&image.layer.compressed).path()],
            "RepoTags": [reference.to_string()],
        })
    });
    let docker = serde_json::to_vec(&docker.collect::<Vec<_>>())?;
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });

    let mut archive = tar::Builder::new(Vec::new());
    let mut file = |path: &str, data: &[u8]| append(&mut archive, path, EntryType::Regular, 0o644, data);
    file("oci-layout", &serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?)?;
    file("index.json", &serde_json::to_vec(&index)?)?;
    file("manifest.json", &docker)?;
    for blob in blobs {
        file(&Digest::of(&blob).path(), &blob)?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::super::layer;
    use super::*;

    fn images(platforms: &[Platform]) -> Vec<Image> {
        let image = |platform: &Platform| {
            let layer = layer::pack(platform.name().as_bytes()).unwrap();
            Image::new(*platform, layer, "1.2.3").unwrap()
        };
        platforms.iter().map(image).collect()
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), data);
        }
        files
    }

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// The blob of a descriptor, checked for its size and digest.
    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let blob = &files[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(descriptor["size"], blob.len());
        assert_eq!(Digest::of(blob).to_string(), digest);
        blob
    }

    /// Follows descriptors from a manifest to the layer, and returns the platform.
    fn walk(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> String {
        let manifest = json(blob(files, descriptor));
        let config = json(blob(files, &manifest["config"]));
        let layer = blob(files, &manifest["layers"][0]);
        let mut contents = Vec::new();
        flate2::read::GzDecoder::new(layer).read_to_end(&mut contents).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([Digest::of(&contents).to_string()]));
        assert_eq!(config["architecture"], descriptor["platform"]["architecture"]);
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], "1.2.3");
        config["architecture"].as_str().unwrap().to_owned()
    }

    #[test]
    fn one_platform_is_in_the_index_itself_and_in_dockers_list() {
        let reference = Reference::parse("kube-verdict:1.2.3").unwrap();
        let files = files(&pack(&images(&[Platform::Arm64]), &reference).unwrap());
        let index = json(&files["index.json"]);
        let [named] = &index["manifests"].as_array().unwrap()[..] else { panic!("{index}") };
        assert_eq!(named["annotations"]["io.containerd.image.name"], "docker.io/library/kube-verdict:1.2.3");
        assert_eq!(walk(&files, named), "arm64");
        let docker = json(&files["manifest.json"]);
        assert_eq!(docker[0]["RepoTags"], json!(["kube-verdict:1.2.3"]));
        for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
            assert!(files.contains_key(path.as_str().unwrap()), "{path}");
        }
    }

    #[test]
    fn several_platforms_share_a_name() {
        let reference = Reference::parse("registry.example:5000/net/kube-verdict:1.2.3").unwrap();
        let bytes = pack(&images(&Platform::ALL), &reference).unwrap();
        assert_eq!(bytes, pack(&images(&Platform::ALL), &reference).unwrap(), "the same bytes each time");
        let files = files(&bytes);
        let index = json(&files["index.json"]);
        let named = &index["manifests"][0];
        assert_eq!(named["mediaType"], INDEX);
        assert_eq!(named["annotations"]["io.containerd.image.name"], reference.to_string());
        let inner = json(blob(&files, named));
        let platforms: Vec<String> =
            inner["manifests"].as_array().unwrap().iter().map(|manifest| walk(&files, manifest)).collect();
        assert_eq!(platforms, ["amd64", "arm64"]);
    }

    #[test]
    fn names_are_completed_as_by_containerd() {
        let full = |text: &str| Reference::parse(text).map(|reference| reference.full());
        for (text, expected) in [
            ("kube-verdict:1", "docker.io/library/kube-verdict:1"),
            ("team/kube-verdict:1", "docker.io/team/kube-verdict:1"),
            ("localhost/kube-verdict:1", "localhost/kube-verdict:1"),
            ("registry.example/kube-verdict:1", "registry.example/kube-verdict:1"),
            ("registry:5000/kube-verdict:v1.2-rc_3", "registry:5000/kube-verdict:v1.2-rc_3"),
        ] {
            assert_eq!(full(text).as_deref(), Ok(expected));
        }
        for text in ["", ":1", "kube-verdict", "kube-verdict:", "Kube:1", "a//b:1", "registry:5000/a", "a:-1"]
        {
            Reference::parse(text).expect_err(text);
        }
    }
}
