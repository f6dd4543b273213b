//! Names of the chains that rules of several files are about.

/// Knows which packets from and to pods need a verdict.
pub(super) const POSTROUTING: &str = "postrouting";
/// The same for packets from local pods to the node.
pub(super) const INPUT: &str = "input";
/// Sends packets to userspace. Its rule is written once and stays.
pub(super) const NFQUEUE: &str = "nfqueue";
