//! Container images, written without a container engine: one layer, one configuration and one manifest, in
//! the format of `docker save`, which `ctr images import` reads.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The content of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    reference: String,
    files: Vec<(String, Content)>,
    environment: Vec<String>,
    entrypoint: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Content {
    /// A copy of a file on this machine.
    File(PathBuf),
    /// A symbolic link to this path.
    Link(String),
    /// An empty folder.
    Folder,
}

impl Image {
    /// An empty image of this name and tag.
    pub fn new(reference: &str) -> Self {
        let image = Self {
            reference: reference.to_owned(),
            files: Vec::new(),
            environment: Vec::new(),
            entrypoint: Vec::new(),
        };
        image.env("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").folder("tmp")
    }

    /// Adds a copy of a file on this machine at a path in the image.
    #[must_use]
    pub fn file(mut self, path: &Path, at: &str) -> Self {
        self.files.push((relative(at), Content::File(path.to_owned())));
        self
    }

    /// Adds a symbolic link at a path in the image.
    #[must_use]
    pub fn link(mut self, at: &str, to: &str) -> Self {
        self.files.push((relative(at), Content::Link(to.to_owned())));
        self
    }

    /// Adds an empty folder at a path in the image.
    #[must_use]
    pub fn folder(mut self, at: &str) -> Self {
        self.files.push((relative(at), Content::Folder));
        self
    }

    /// Sets an environment variable (`NAME=value`) of the container.
    #[must_use]
    pub fn env(mut self, variable: &str) -> Self {
        self.environment.push(variable.to_owned());
        self
    }

    /// Sets the command that runs unless the pod sets another.
    #[must_use]
    pub fn entrypoint(mut self, command: &[&str]) -> Self {
        self.entrypoint = command.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for (at, content) in &self.files {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            header.set_mode(0o755);
            header.set_size(0);
            match content {
                Content::File(path) => {
                    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
                    header.set_entry_type(EntryType::Regular);
                    header.set_size(bytes.len() as u64);
                    layer.append_data(&mut header, at, &*bytes)?;
                }
                Content::Link(to) => {
                    header.set_entry_type(EntryType::Symlink);
                    layer.append_link(&mut header, at, to)?;
                }
                Content::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(0o1777);
                    layer.append_data(&mut header, format!("{at}/"), &[][..])?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }
}

/// Writes several images as one archive.
pub fn save(images: &[Image], to: &Path) -> Result<()> {
    let write = || -> Result<()> {
        let mut archive = Builder::new(BufWriter::new(File::create(to)?));
        let mut manifest = Vec::new();
        for image in images {
            let layer = image.layer().with_context(|| format!("the image {}", image.reference))?;
            let layer_digest = digest(&layer);
            let config = serde_json::to_vec(&config(image, &layer_digest))?;
            let (config_name, layer_name) =
                (format!("{}.json", digest(&config)), format!("{layer_digest}/layer.tar"));
            add(&mut archive, &config_name, &config)?;
            add(&mut archive, &layer_name, &layer)?;
            manifest
                .push(json!({"Config": config_name, "RepoTags": [image.reference], "Layers": [layer_name]}));
        }
        add(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?)?;
        archive.into_inner()?.flush()?;
        Ok(())
    };
    write().with_context(|| format!("writing images to {}", to.display()))
}

fn config(image: &Image, layer_digest: &str) -> Value {
    json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Env": image.environment,
            "Entrypoint": image.entrypoint,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        "history": [],
    })
}

fn add<W: Write>(archive: &mut Builder<W>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, bytes)?;
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The path in a layer, which is relative to the root.
fn relative(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_archive_contains_each_image_with_its_configuration_and_layer() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let image = Image::new("localhost/tool:1")
            .file(&program, "/bin/tool")
            .link("/bin/sh", "tool")
            .env("COLOUR=none")
            .entrypoint(&["tool"]);
        let to = folder.path().join("images.tar");
        save(&[image.clone(), image], &to).unwrap();

        let mut archive = tar::Archive::new(File::open(&to).unwrap());
        let mut files = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest.as_array().unwrap().len(), 2);
        let config: Value = serde_json::from_slice(&files[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "tool");
        assert_eq!(config["config"]["Env"][1], "COLOUR=none");
        let layer = &files[manifest[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(layer)));
        let mut layer = tar::Archive::new(&**layer);
        let paths: Vec<String> = layer
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["tmp/", "bin/tool", "bin/sh"]);
    }
}
