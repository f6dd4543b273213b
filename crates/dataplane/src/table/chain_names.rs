//! Names of the chains that rules of several files are about.

/// Knows which packets from and to pods need a verdict.
pub(super) const JUDGE: &str = "judge";
/// The same for packets from local pods to the node.
pub(super) const JUDGE_LOCAL: &str = "judge-local";
/// Sends packets to userspace. Its rule is written once and stays.
pub(super) const QUEUE: &str = "enqueue";
