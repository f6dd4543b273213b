//! The content of the image: the program, its second name, and nothing else. It needs no shell, no library
//! and no certificates: the API server's certificate comes with the pod's token.

use anyhow::Result;
use oci::spec::{
    ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_TITLE, ANNOTATION_VERSION, ConfigBuilder,
    HistoryBuilder, ImageConfigurationBuilder,
};
use oci::{Compression, Image, Layer, LayerBuilder};

use super::platform::Platform;

/// The image of a platform. It runs as root, since only root gets CAP_NET_ADMIN; the pod drops all other
/// capabilities.
pub(super) fn image(platform: Platform, program: &[u8], version: &str) -> Result<Image> {
    let labels = [
        (ANNOTATION_TITLE, "kube-verdict"),
        (ANNOTATION_DESCRIPTION, "NetworkPolicy for clusters whose CNI has none"),
        (ANNOTATION_LICENSES, env!("CARGO_PKG_LICENSE")),
        (ANNOTATION_VERSION, version),
    ];
    let config = ConfigBuilder::default()
        .user("0:0")
        .entrypoint(["/kube-verdict".to_owned()])
        .labels(labels.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .build()?;
    let configuration = ImageConfigurationBuilder::default()
        .architecture(platform.architecture())
        .os("linux")
        .config(config)
        .history([HistoryBuilder::default().created_by("cargo xtask image").build()?])
        .build()?;
    Image::new(configuration, layer(program)?)
}

/// The file system: `/kube-verdict`, and `/bin/netpol` as a link to it.
fn layer(program: &[u8]) -> Result<Layer> {
    let mut files = LayerBuilder::new();
    files.file("/kube-verdict", 0o755, program)?;
    files.folder("/bin", 0o755)?.link("/bin/netpol", "/kube-verdict")?;
    files.finish(Compression::Gzip)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_contains_the_program_under_both_names_and_no_time() {
        let layer = layer(b"a program").unwrap();
        assert_eq!(layer, super::layer(b"a program").unwrap(), "the same program makes the same layer");
        let mut files = Vec::new();
        GzDecoder::new(layer.bytes()).read_to_end(&mut files).unwrap();
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

    #[test]
    fn it_starts_the_program_as_root_and_names_its_version() {
        let image = image(Platform::Arm64, b"a program", "1.2.3").unwrap();
        assert_eq!(image, super::image(Platform::Arm64, b"a program", "1.2.3").unwrap());
        let mut configuration = serde_json::to_value(image.configuration()).unwrap();
        configuration["rootfs"].take();
        let expected = json!({
            "architecture": "arm64",
            "os": "linux",
            "config": {
                "User": "0:0",
                "Entrypoint": ["/kube-verdict"],
                "Labels": {
                    "org.opencontainers.image.title": "kube-verdict",
                    "org.opencontainers.image.description": "NetworkPolicy for clusters whose CNI has none",
                    "org.opencontainers.image.licenses": "GPL-3.0-or-later",
                    "org.opencontainers.image.version": "1.2.3",
                },
            },
            "rootfs": null,
            "history": [{"created_by": "cargo xtask image"}],
        });
        assert_eq!(configuration, expected);
    }
}
