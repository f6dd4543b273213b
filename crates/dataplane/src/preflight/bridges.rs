//! The pods' bridges, on which the check `br_netfilter` depends.
//!
//! From: rtnetlink, because `/sys/class/net` shows the network namespace in which it was mounted.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::PodName;

use crate::ports::{Bindings, BridgeNetfilter, InterfacesError, Owners, read_interfaces};

/// A bridge to which pods are attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bridge {
    pub(super) name: Arc<str>,
    pub(super) netfilter: BridgeNetfilter,
}

impl Bridge {
    /// Whether its packets of this family reach IP's hooks regardless of the sysctl.
    pub(super) fn reaches_hooks(&self, ipv6: bool) -> bool {
        if ipv6 { self.netfilter.ipv6 } else { self.netfilter.ipv4 }
    }
}

impl fmt::Display for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name.escape_debug())
    }
}

/// The bridges of the calling thread's network namespace to which pods with these addresses are attached;
/// none before the CNI plugin has created one.
pub(super) fn pod_bridges(pod_cidrs: &[IpNet]) -> Result<Vec<Bridge>, InterfacesError> {
    let interfaces = read_interfaces()?;
    let bindings = Bindings::default().derive(&interfaces, &NoPods { pod_cidrs });
    let is_pods = |index| bindings.pod_bridges.contains(index);
    let bridges = interfaces.iter().filter(|interface| is_pods(&interface.index));
    Ok(bridges.map(|bridge| Bridge { name: Arc::clone(&bridge.name), netfilter: bridge.netfilter }).collect())
}

/// A cluster without pods, which knows only this node's pod CIDRs.
struct NoPods<'a> {
    pod_cidrs: &'a [IpNet],
}

impl Owners for NoPods<'_> {
    fn pod_at(&self, _: IpAddr) -> Option<PodName> {
        None
    }

    fn addresses_of(&self, _: &PodName, _: IpAddr) -> Vec<IpAddr> {
        Vec::new()
    }

    fn in_cni_cache(&self, _: &str) -> Option<Vec<IpAddr>> {
        None
    }

    fn pod_cidrs(&self) -> &[IpNet] {
        self.pod_cidrs
    }

    fn is_exempt(&self, _: &PodName, _: IpAddr) -> bool {
        false
    }
}
