//! Addresses whose packets need no verdict.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Addresses of local pods to which policy allows every packet in a direction: no policy isolates them, and
/// no rule that applies to them denies. Their packets pass without a verdict in that direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenAddresses {
    /// Pods that policy allows all ingress.
    pub ingress: BTreeSet<IpAddr>,
    /// Pods that policy allows all egress.
    pub egress: BTreeSet<IpAddr>,
}
