//! Container images of programs on this machine, which `ctr images import` reads.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oci::spec::{ConfigBuilder, ImageConfigurationBuilder};
use oci::{Archive, Compression, Layer, LayerBuilder};

/// The content of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    references: Vec<String>,
    files: Vec<(String, Content)>,
    environment: Vec<String>,
    entrypoint: Vec<String>,
    arguments: Vec<String>,
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
            references: vec![reference.to_owned()],
            files: Vec::new(),
            environment: Vec::new(),
            entrypoint: Vec::new(),
            arguments: Vec::new(),
        };
        image.env("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").folder("/tmp")
    }

    /// Adds another name and tag.
    #[must_use]
    pub fn reference(mut self, reference: &str) -> Self {
        self.references.push(reference.to_owned());
        self
    }

    /// Adds a copy of a file on this machine at a path in the image.
    #[must_use]
    pub fn file(mut self, path: &Path, at: &str) -> Self {
        self.files.push((at.to_owned(), Content::File(path.to_owned())));
        self
    }

    /// Adds a symbolic link at a path in the image.
    #[must_use]
    pub fn link(mut self, at: &str, to: &str) -> Self {
        self.files.push((at.to_owned(), Content::Link(to.to_owned())));
        self
    }

    /// Adds an empty folder at a path in the image.
    #[must_use]
    pub fn folder(mut self, at: &str) -> Self {
        self.files.push((at.to_owned(), Content::Folder));
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

    /// Sets the arguments of the command unless the pod sets others.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    fn add_to(&self, archive: &mut Archive<impl Write>) -> Result<()> {
        let config = ConfigBuilder::default()
            .env(self.environment.clone())
            .entrypoint(self.entrypoint.clone())
            .cmd(self.arguments.clone())
            .working_dir("/")
            .build()?;
        // For this machine's platform.
        let configuration = ImageConfigurationBuilder::default().config(config).build()?;
        let images = [oci::Image::new(configuration, self.layer()?)?];
        self.references.iter().try_for_each(|reference| archive.add(&reference.parse()?, &images))
    }

    fn layer(&self) -> Result<Layer> {
        let mut layer = LayerBuilder::new();
        for (at, content) in &self.files {
            match content {
                Content::File(path) => {
                    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
                    layer.file(at, 0o755, &bytes)?;
                }
                Content::Link(to) => {
                    layer.link(at, to)?;
                }
                Content::Folder => {
                    layer.folder(at, 0o1777)?;
                }
            }
        }
        // The images are imported on this machine, where compressing them takes longer than it saves.
        layer.finish(Compression::None)
    }
}

/// Writes several images as one archive.
pub fn save(images: &[Image], to: &Path) -> Result<()> {
    let write = || -> Result<()> {
        let mut archive = Archive::new(BufWriter::new(File::create(to)?));
        for image in images {
            image.add_to(&mut archive).with_context(|| format!("the image {:?}", image.references))?;
        }
        Ok(archive.finish()?.flush()?)
    };
    write().with_context(|| format!("writing images to {}", to.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn an_archive_contains_each_image_with_its_configuration_and_layer() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let image = Image::new("localhost/tool:1")
            .file(&program, "/bin/tool")
            .link("/bin/sh", "tool")
            .env("COLOUR=none")
            .entrypoint(&["tool"])
            .arguments(&["wait"]);
        let to = folder.path().join("images.tar");
        save(&[image.clone().reference("localhost/tool:2"), image], &to).unwrap();

        let mut archive = tar::Archive::new(File::open(&to).unwrap());
        let mut files = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let names: Vec<&Value> =
            manifest.as_array().unwrap().iter().map(|image| &image["RepoTags"][0]).collect();
        assert_eq!(names, ["localhost/tool:1", "localhost/tool:2", "localhost/tool:1"]);
        let config: Value = serde_json::from_slice(&files[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "tool");
        assert_eq!(config["config"]["Cmd"][0], "wait");
        assert_eq!(config["config"]["Env"][1], "COLOUR=none");
        let layer = &files[manifest[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{:x}", Sha256::digest(layer)));
        let mut layer = tar::Archive::new(&**layer);
        let paths: Vec<String> = layer
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["tmp/", "bin/tool", "bin/sh"]);
    }
}
