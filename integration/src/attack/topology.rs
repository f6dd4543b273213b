//! The addresses of all senders and targets: pods, nodes and the host outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Index;

use anyhow::{Context, Result};

use super::frame::Mac;
use super::message::Path;
use super::wire::{self, Interface};
use crate::attachment::Attachment;
use crate::cluster::{Links, OUTSIDE};
use crate::probe::Family;
use crate::specs::NodeSpec;
use crate::testbed::Testbed;

/// A pod, or the host outside.
#[derive(Clone, Debug)]
pub struct Host {
    /// `namespace/name`, or [`OUTSIDE`].
    pub name: String,
    /// Its node; `None` for the host outside.
    pub node: Option<String>,
    /// Its interface.
    pub interface: Interface,
    /// Its addresses: IPv4, then IPv6.
    pub addresses: [IpAddr; 2],
    /// The interface of its gateway: the bridge, or its node's end of the veth pair.
    pub gateway: Interface,
}

impl Host {
    /// Its address in a family.
    pub fn address(&self, family: Family) -> IpAddr {
        family.of(self.addresses)
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        match self.addresses[0] {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        match self.addresses[1] {
            IpAddr::V6(address) => address,
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        }
    }

    /// Its hardware address.
    pub fn mac(&self) -> Mac {
        self.interface.mac
    }

    /// Its IPv6 link-local address.
    pub fn link_local(&self) -> Ipv6Addr {
        self.interface.link_local
    }
}

/// See the module's documentation. Indexed by the name of a pod or of the host outside.
#[derive(Clone, Debug)]
pub struct Topology {
    hosts: BTreeMap<String, Host>,
    /// The nodes, `node-a` first.
    pub nodes: Vec<NodeSpec>,
    /// How pods are attached.
    pub attachment: Attachment,
    /// How nodes are connected.
    pub links: Links,
}

impl Topology {
    /// Reads the addresses in a testbed.
    pub fn of(testbed: &Testbed) -> Result<Self> {
        let cluster = testbed.cluster();
        let mut hosts = BTreeMap::new();
        for pod in cluster.pods.iter().filter(|pod| !pod.host_network) {
            let name = pod.full_name();
            let gateway = match cluster.attachment {
                Attachment::Bridge => "cni0",
                Attachment::Routed => testbed.device(&name)?,
            };
            let gateway = wire::interface(testbed.namespace(&pod.node)?, gateway)?;
            let interface = wire::interface(testbed.namespace(&name)?, "eth0")?;
            let (node, addresses) = (Some(pod.node.clone()), pod.addresses);
            hosts.insert(name.clone(), Host { name, node, interface, addresses, gateway });
        }
        let interface = wire::interface(testbed.namespace(OUTSIDE)?, "lan0")?;
        let first = cluster.nodes.first().context("there is no node")?;
        let gateway = wire::interface(testbed.namespace(&first.name)?, "eth0")?;
        let name = OUTSIDE.to_owned();
        let addresses = testbed.addresses(OUTSIDE)?;
        hosts.insert(name.clone(), Host { name, node: None, interface, addresses, gateway });
        let nodes = cluster.nodes.clone();
        Ok(Self { hosts, nodes, attachment: cluster.attachment, links: cluster.links })
    }

    /// The pod of this name, or the host outside; `None` if there is none.
    pub fn get(&self, name: &str) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// Whether pods of one node share a bridge.
    pub fn is_bridged(&self) -> bool {
        self.attachment == Attachment::Bridge
    }

    /// The destination hardware address of frames from one host to another: the other's own, or the
    /// gateway's.
    pub fn next_hop(&self, from: &str, to: &str) -> Mac {
        let (from, to) = (&self[from], &self[to]);
        if self.is_bridged() && from.node == to.node { to.mac() } else { from.gateway.mac }
    }

    /// The path from one host's own address to another's.
    pub fn path(&self, from: &str, to: &str, family: Family) -> Path {
        Path::new(self[from].address(family), self[to].address(family))
    }
}

impl Index<&str> for Topology {
    type Output = Host;

    fn index(&self, name: &str) -> &Host {
        match self.hosts.get(name) {
            Some(host) => host,
            None => panic!("there is no pod {name:?}"),
        }
    }
}
