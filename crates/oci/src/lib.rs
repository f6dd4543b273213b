//! Container images, written without a container engine.
//!
//! ```text
//!  files -> [ LayerBuilder ] -> Layer -+
//!                                      +-> Image -> [ Archive ] -> a file for Docker or containerd
//!  ImageConfiguration -----------------+
//! ```
//!
//! An archive is an OCI image layout in a tar file. `docker load` and `ctr images import` read it.
//!
//! The crate `oci-spec` defines the documents of a layout, and how names are completed. The crate `ocidir`
//! writes layouts, but only into folders, and it needs OpenSSL. This crate needs no system library, because
//! `xtask` reports which of them are missing.
//!
//! Invariant: the same input gives the same archive. It contains no time, no user, and no order of a hash
//! map.
//!
//! ```
//! use oci::spec::{ConfigBuilder, ImageConfigurationBuilder};
//! use oci::{Archive, Compression, Image, LayerBuilder};
//!
//! let mut files = LayerBuilder::new();
//! files.file("/tool", 0o755, b"a static program")?.link("/bin/tool", "/tool")?;
//! let run = ConfigBuilder::default().entrypoint(["/tool".to_owned()]).build()?;
//! let configuration = ImageConfigurationBuilder::default().config(run).build()?;
//! let image = Image::new(configuration, files.finish(Compression::Gzip)?)?;
//!
//! let mut archive = Archive::new(Vec::new());
//! archive.add(&"tool:1".parse()?, &[image])?;
//! let bytes = archive.finish()?;
//! assert!(!bytes.is_empty());
//! # anyhow::Ok(())
//! ```
#![forbid(unsafe_code)]

mod archive;
mod blob;
mod entry;
mod image;
mod layer;
mod reference;

/// The documents of an image layout.
pub use oci_spec::image as spec;

pub use archive::{Archive, first_name};
pub use image::Image;
pub use layer::{Compression, Layer, LayerBuilder};
pub use reference::Reference;
