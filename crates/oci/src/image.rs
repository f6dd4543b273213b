//! The image of one platform.

use anyhow::Result;
use oci_spec::image::{
    Descriptor, ImageConfiguration, ImageManifestBuilder, MediaType, PlatformBuilder, RootFsBuilder,
    SCHEMA_VERSION,
};

use crate::blob::Blob;
use crate::layer::Layer;

/// An image of one layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    configuration: ImageConfiguration,
    config: Blob,
    layer: Layer,
    manifest: Blob,
}

impl Image {
    /// An image with this configuration, to which the layer is added. The configuration's labels are also the
    /// annotations of its manifest.
    pub fn new(mut configuration: ImageConfiguration, layer: Layer) -> Result<Self> {
        let contents = layer.contents.to_string();
        configuration.set_rootfs(RootFsBuilder::default().diff_ids([contents]).build()?);
        let config = Blob::json(MediaType::ImageConfig, &configuration)?;
        let mut manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config.descriptor.clone())
            .layers([layer.blob.descriptor.clone()])
            .build()?;
        manifest.set_annotations(configuration.labels_of_config().cloned());
        let mut manifest = Blob::json(MediaType::ImageManifest, &manifest)?;
        let platform = PlatformBuilder::default()
            .architecture(configuration.architecture().clone())
            .os(configuration.os().clone())
            .build()?;
        manifest.descriptor.set_platform(Some(platform));
        Ok(Self { configuration, config, layer, manifest })
    }

    /// Its configuration.
    pub fn configuration(&self) -> &ImageConfiguration {
        &self.configuration
    }

    /// Bytes that a node downloads.
    pub fn compressed(&self) -> u64 {
        self.blobs().map(|blob| blob.descriptor.size()).iter().sum()
    }

    /// Bytes on the node after unpacking.
    pub fn unpacked(&self) -> u64 {
        self.layer.unpacked
    }

    /// The configuration, the layer, and the manifest.
    pub(crate) fn blobs(&self) -> [&Blob; 3] {
        [&self.config, &self.layer.blob, &self.manifest]
    }

    /// The descriptor of the manifest.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.manifest.descriptor
    }
}
