//! Blobs, which are named by their content.

use anyhow::Result;
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Bytes with their descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Blob {
    /// Type, size and digest of the bytes.
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(media_type: MediaType, bytes: Vec<u8>) -> Result<Self> {
        let descriptor = Descriptor::new(media_type, bytes.len() as u64, digest(&bytes)?);
        Ok(Self { descriptor, bytes })
    }

    /// A blob of JSON.
    pub(crate) fn json(media_type: MediaType, document: &impl Serialize) -> Result<Self> {
        Self::new(media_type, json(document)?)
    }

    /// The path of the bytes in an image layout.
    pub(crate) fn path(&self) -> String {
        let digest = self.descriptor.digest();
        format!("blobs/{}/{}", digest.algorithm(), digest.digest())
    }
}

/// The SHA-256 of bytes.
pub(crate) fn digest(bytes: &[u8]) -> Result<Digest> {
    Ok(Digest::try_from(format!("sha256:{:x}", Sha256::digest(bytes)))?)
}

/// JSON with sorted keys, since labels and annotations are hash maps. `Value` sorts them.
pub(crate) fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(document)?)?)
}
