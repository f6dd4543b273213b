//! Names of images.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, ensure};
use oci_spec::distribution;

/// An image's name and tag, such as `kube-verdict:0.1.0`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    text: String,
    parsed: distribution::Reference,
}

impl Reference {
    /// The name with the default registry that containerd and the kubelet add to a name without one.
    pub fn full(&self) -> String {
        self.parsed.whole()
    }

    /// The part after the name, such as `0.1.0`.
    pub fn tag(&self) -> &str {
        self.parsed.tag().unwrap_or_default()
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// Fails for a name without a tag, or with a digest.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || format!("{text:?} is not a NAME:TAG, such as kube-verdict:0.1.0");
        let parsed: distribution::Reference = text.parse().with_context(wrong)?;
        // A missing tag is parsed as `latest`.
        ensure!(parsed.tag().is_some_and(|tag| text.ends_with(&format!(":{tag}"))), wrong());
        Ok(Self { text: text.to_owned(), parsed })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_by_containerd() {
        let full = |text: &str| text.parse().map(|reference: Reference| reference.full()).unwrap();
        for (text, expected) in [
            ("kube-verdict:1", "docker.io/library/kube-verdict:1"),
            ("team/kube-verdict:1", "docker.io/team/kube-verdict:1"),
            ("localhost/kube-verdict:1", "localhost/kube-verdict:1"),
            ("registry.example/kube-verdict:1", "registry.example/kube-verdict:1"),
            ("registry:5000/kube-verdict:v1.2-rc_3", "registry:5000/kube-verdict:v1.2-rc_3"),
        ] {
            assert_eq!(full(text), expected);
        }
        let digest = "0".repeat(64);
        for text in [
            "",
            ":1",
            "kube-verdict",
            "kube-verdict:",
            "Kube:1",
            "a//b:1",
            "registry:5000/a",
            "a:-1",
            &format!("a:1@sha256:{digest}"),
            &format!("a@sha256:{digest}"),
        ] {
            let error = text.parse::<Reference>().expect_err(text);
            assert!(error.to_string().ends_with("such as kube-verdict:0.1.0"), "{error}");
        }
    }
}
