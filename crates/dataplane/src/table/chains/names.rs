//! The names of the chains that only this module refers to.

/// Marks a packet with the reason for which it is queued.
pub(super) const ENQUEUE: &str = "enqueue";
/// Drops packets over a sender's quota of the queues.
pub(super) const QUOTA: &str = "sender-quota";
/// Takes packets that only connection tracking calls replies, and TCP in mid-stream.
pub(super) const UNPROVEN: &str = "unproven";
/// Passes packets that need no verdict, and marks their connections, so that the next packets leave at the
/// first rule. These are packets between pods that no policy isolates, and those of the node itself, tunnels'
/// packets among them.
pub(super) const UNFILTERED: &str = "unfiltered";
/// Drops packets of connections that are marked REVOKED, and restarts the timeout of their tuples.
pub(super) const REVOKED: &str = "revoked";
/// Takes reinjected packets with a verdict. It drops denied ones, accepts the others, and marks their
/// connections.
pub(super) const ALLOWED: &str = "allowed";
/// Takes reinjected packets from local pods to the node in the same way.
pub(super) const ALLOWED_INPUT: &str = "allowed-input";
/// Decides which DNS queries of local pods need a verdict. Of two simultaneous queries from one socket, one
/// is lost if they are queued after routing (netfilter bug 1766, kernels before 6.12).
pub(super) const PREROUTING_DNS: &str = "prerouting-dns";
