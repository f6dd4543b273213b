//! A port, its addresses, and what decides about them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::PodName;

use crate::link::{Attachment, Mac};
use crate::ports::link_local::is_link_local;

/// The pods and addresses in the cluster.
pub trait Owners {
    /// The pod that has this address.
    fn pod_at(&self, address: IpAddr) -> Option<PodName>;
    /// All addresses of this pod, which has `address`; empty if the pod is not known.
    fn addresses_of(&self, pod: &PodName, address: IpAddr) -> Vec<IpAddr>;
    /// The addresses that the CNI cache lists for an interface of the node; `None` or empty if it lists none.
    fn in_cni_cache(&self, interface: &str) -> Option<Vec<IpAddr>>;
    /// This node's pod CIDRs.
    fn pod_cidrs(&self) -> &[IpNet];
    /// Whether an administrator allows this pod, which has `address`, to send from any other.
    fn is_exempt(&self, pod: &PodName, address: IpAddr) -> bool;
}

/// A port and its bindings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its name, such as `veth1a2b3c4d`.
    pub name: Arc<str>,
    /// How it is attached.
    pub attachment: Attachment,
    /// The hardware address of the pod's end.
    pub mac: Mac,
    /// The addresses that are bound to it: the pod's, and link-local ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether all its addresses are known: a packet with another source is spoofed.
    pub is_settled: bool,
    /// Whether its pod may send from any address that is not bound to another port of this node.
    pub is_exempt: bool,
    /// Whether the cluster or the CNI cache has known its pod while no other port claimed its addresses (rule
    /// 5).
    pub is_confirmed: bool,
    /// Whether an address that it claimed is bound to another port, or to none (rule 5).
    pub has_lost: bool,
}

impl Port {
    /// Its addresses that are not link-local.
    pub fn pod_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().filter(|address| !is_link_local(*address))
    }
}

/// An address that only one port can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A hardware address.
    Mac(Mac),
}

impl fmt::Display for PortAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
        }
    }
}

/// Several ports claim one address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict {
    /// The address.
    pub address: PortAddress,
    /// The port to which it is bound; `None` if there is no evidence for either port.
    pub bound_to: Option<Arc<str>>,
    /// Another port that claims it.
    pub claimed_by: Arc<str>,
}
