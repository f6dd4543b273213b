//! The names of the table, and of the chains that several files refer to.

use crate::nft::TableId;

/// The name of the table, in family `inet`.
pub const TABLE: &str = "kube-verdict";

/// The table at the hooks of IPv4 and IPv6.
pub(super) const INET: TableId = TableId::inet(TABLE);

/// Decides which packets from and to pods need a verdict.
pub(super) const POSTROUTING: &str = "postrouting";
/// Decides which packets from local pods to the node need a verdict.
pub(super) const INPUT: &str = "input";
/// Sends packets to userspace. Its rule is written once and never rewritten.
pub(super) const NFQUEUE: &str = "nfqueue";
