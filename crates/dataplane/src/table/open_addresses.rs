//! Addresses whose packets need no verdict.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Addresses of local pods that no policy isolates: their packets pass without a verdict, in that direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenAddresses {
    /// Pods that no policy isolates for ingress.
    pub ingress: BTreeSet<IpAddr>,
    /// Pods that no policy isolates for egress.
    pub egress: BTreeSet<IpAddr>,
}
