//! Names of the chains that several files refer to.

/// Decides which packets from and to pods need a verdict.
pub(super) const POSTROUTING: &str = "postrouting";
/// Decides which packets from local pods to the node need a verdict.
pub(super) const INPUT: &str = "input";
/// Sends packets to userspace. Its rule is written once and never rewritten.
pub(super) const NFQUEUE: &str = "nfqueue";
