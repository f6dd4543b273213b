//! How much a source has read, so that an empty or wrong folder is noticed even if nothing is broken.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a source has read and holds now. Displayed as `12 files, 40 objects, 7 policies`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReadCounts {
    /// Files with a manifest's file name; null if the Kubernetes API is the source.
    pub files: Option<u64>,
    /// Namespaces, Nodes, Pods and NetworkPolicies that are in force.
    pub objects: u64,
    /// NetworkPolicies among them.
    pub policies: u64,
    /// Objects of kinds that verdicts do not depend on.
    pub others: u64,
    /// Files without any Kubernetes object.
    pub skipped: u64,
    /// The first of these files, by their paths in the folder.
    pub skipped_files: Vec<String>,
    /// Files that don't end in .yaml, .yml or .json, and broken links. Hidden ones are not counted.
    #[serde(default)]
    pub unread: u64,
    /// The first of these files, by their paths in the folder.
    #[serde(default)]
    pub unread_files: Vec<String>,
}

impl ReadCounts {
    /// At most this many skipped files, and as many unread files, are named.
    pub(crate) const NAMED: usize = 5;
}

impl fmt::Display for ReadCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number =
            |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        if let Some(files) = self.files {
            write!(f, "{}, ", number(files, "file", "files"))?;
        }
        write!(f, "{}, ", number(self.objects, "object", "objects"))?;
        f.write_str(&number(self.policies, "policy", "policies"))?;
        if self.others > 0 {
            write!(f, "; {} of kinds that no verdict needs", number(self.others, "object", "objects"))?;
        }
        if self.skipped > 0 {
            let files =
                number(self.skipped, "file without a Kubernetes object", "files without Kubernetes objects");
            write!(f, "; skipped {files}: {}", named(self.skipped, &self.skipped_files))?;
        }
        if self.unread > 0 {
            let files = number(
                self.unread,
                "file that is a broken link or does not end in .yaml, .yml or .json",
                "files that are broken links or do not end in .yaml, .yml or .json",
            );
            write!(f, "; did not read {files}: {}", named(self.unread, &self.unread_files))?;
        }
        Ok(())
    }
}

/// The names of the first of `count` files, separated by commas, and an ellipsis if there are more.
fn named(count: u64, files: &[String]) -> String {
    let more = if count > files.len() as u64 { ", ..." } else { "" };
    files.join(", ") + more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_one_line() {
        let mut counts = ReadCounts { files: Some(1), objects: 2, policies: 1, ..ReadCounts::default() };
        assert_eq!(counts.to_string(), "1 file, 2 objects, 1 policy");
        counts = ReadCounts {
            files: Some(9),
            others: 1,
            skipped: 3,
            skipped_files: vec!["values.yaml".into(), "a/package.json".into()],
            ..counts
        };
        assert_eq!(
            counts.to_string(),
            "9 files, 2 objects, 1 policy; 1 object of kinds that no verdict needs; skipped 3 files without \
             Kubernetes objects: values.yaml, a/package.json, ..."
        );
        counts = ReadCounts {
            files: Some(9),
            objects: 2,
            policies: 1,
            unread: 1,
            unread_files: vec!["policy.yaml.bak".into()],
            ..ReadCounts::default()
        };
        assert_eq!(
            counts.to_string(),
            "9 files, 2 objects, 1 policy; did not read 1 file that is a broken link or does not end in \
             .yaml, .yml or .json: policy.yaml.bak"
        );
        let api = ReadCounts { files: None, objects: 0, policies: 0, ..ReadCounts::default() };
        assert_eq!(api.to_string(), "0 objects, 0 policies");
    }
}
