//! Nodes, pods and services in a cluster's description, each with its addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::port::PodPort;

/// A node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// The IPv4 addresses of its pods.
    pub cidr4: Ipv4Net,
    /// The IPv6 addresses of its pods.
    pub cidr6: Ipv6Net,
    /// Its own IPv4 address, towards other nodes.
    pub address4: Ipv4Addr,
    /// Its own IPv6 address, towards other nodes.
    pub address6: Ipv6Addr,
}

impl NodeSpec {
    /// The address of `cni0`: the first of the pod CIDR.
    pub fn gateway4(&self) -> Ipv4Addr {
        nth4(self.cidr4, 1)
    }

    /// The IPv6 address of `cni0`: the first of the pod CIDR.
    pub fn gateway6(&self) -> Ipv6Addr {
        nth6(self.cidr6, 1)
    }

    /// Its own addresses towards other nodes.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.address4.into(), self.address6.into()]
    }

    /// The pod CIDRs, IPv4 first.
    pub fn cidrs(&self) -> [IpNet; 2] {
        [self.cidr4.into(), self.cidr6.into()]
    }
}

/// A pod. It answers on each of its ports.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Namespace of the cluster.
    pub namespace: String,
    /// Name within it.
    pub name: String,
    /// The node on which it runs.
    pub node: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<PodPort>,
    /// Whether it runs in the node's own network namespace.
    pub host_network: bool,
    /// Its addresses: IPv4, then IPv6.
    pub addresses: [IpAddr; 2],
}

impl PodSpec {
    /// Its name as `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A service whose address is translated to one of its pods on every node, as kube-proxy does.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Its addresses: IPv4, then IPv6.
    pub addresses: [IpAddr; 2],
    /// The port at that address.
    pub port: PodPort,
    /// The pods behind it, as `namespace/name`.
    pub pods: Vec<String>,
    /// The port of the pods.
    pub target: u16,
}

/// The address `number` places after the network address.
pub(crate) fn nth4(cidr: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(cidr.network().to_bits() + number)
}

/// The address `number` places after the network address.
pub(crate) fn nth6(cidr: Ipv6Net, number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(cidr.network().to_bits() + u128::from(number))
}
