//! The start of the prefix of each packet that the verdict cache logs.

/// The start of a logged packet's prefix, followed by the snapshot's generation.
pub(crate) const LOG_PREFIX: &str = "kube-verdict ";
