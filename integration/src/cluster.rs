//! The description of a small cluster, from which the testbed and the manifests are built.
//!
//! Pure data with validated input. Building a description that names something unknown fails.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attachment::Attachment;
use crate::specs::{NodeSpec, PodSpec, ServiceSpec, nth4, nth6};
use anyhow::{Context, Result, bail};

/// The name of the host outside of the cluster. It can be used wherever a pod's name can.
pub const OUTSIDE: &str = "outside";

/// How packets travel from node to node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Links {
    /// Routes through the other node's address (Flannel's backend `host-gw`).
    #[default]
    Routes,
    /// VXLAN through a device `flannel.1` on each node (Flannel's default).
    Vxlan,
}

/// The description of a cluster. Its methods keep the first error for [`ClusterSpec::build`], so that calls
/// can be chained.
#[derive(Debug, Default)]
pub struct ClusterSpec {
    /// Nodes, in the order in which they were added.
    pub nodes: Vec<NodeSpec>,
    /// Namespaces with their labels.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Pods, in the order in which they were added.
    pub pods: Vec<PodSpec>,
    /// Services.
    pub services: Vec<ServiceSpec>,
    /// How nodes are connected.
    pub links: Links,
    /// How pods are attached to their node.
    pub attachment: Attachment,
    /// Whether a pod's hardware address is derived from its IPv4 address, as in some CNI plugins. The next
    /// pod with the IPv4 address then has the same hardware address.
    pub has_steady_hardware_addresses: bool,
    error: Option<anyhow::Error>,
}

impl ClusterSpec {
    /// A cluster without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The cluster of most scenarios: two nodes, `node-a` and `node-b`, and no pods.
    pub fn of_two_nodes() -> Self {
        Self::new().node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64").node(
            "node-b",
            "10.244.2.0/24",
            "fd00:10:244:2::/64",
        )
    }

    /// Adds a node with its pod CIDRs of both families.
    #[must_use]
    pub fn node(self, name: &str, cidr4: &str, cidr6: &str) -> Self {
        self.try_change(|cluster| {
            let number = u8::try_from(cluster.nodes.len() + 10).context("too many nodes")?;
            cluster.nodes.push(NodeSpec {
                name: name.to_owned(),
                cidr4: cidr4.parse().with_context(|| format!("node {name}: {cidr4:?}"))?,
                cidr6: cidr6.parse().with_context(|| format!("node {name}: {cidr6:?}"))?,
                address4: Ipv4Addr::new(192, 0, 2, number),
                address6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)),
            });
            Ok(())
        })
    }

    /// Adds a Kubernetes namespace with labels. Namespaces that are only named by pods have no labels of
    /// their own.
    #[must_use]
    pub fn namespace(mut self, name: &str, labels: &[(&str, &str)]) -> Self {
        self.namespaces.insert(name.to_owned(), owned(labels));
        self
    }

    /// Adds a pod, named `namespace/name`, on a node, with labels and ports such as `http=80/TCP`.
    #[must_use]
    pub fn pod(self, name: &str, node: &str, labels: &[(&str, &str)], ports: &[&str]) -> Self {
        self.try_change(|cluster| cluster.push_pod(name, node, labels, ports, false).map(drop))
    }

    /// Adds a pod with `hostNetwork: true`: it has the addresses of its node.
    #[must_use]
    pub fn host_pod(self, name: &str, node: &str, labels: &[(&str, &str)], ports: &[&str]) -> Self {
        self.try_change(|cluster| cluster.push_pod(name, node, labels, ports, true).map(drop))
    }

    /// Adds a service with addresses of both families. `port` is translated to `target` of each of `pods` in
    /// turn.
    #[must_use]
    pub fn service(self, address4: &str, address6: &str, port: &str, pods: &[&str], target: u16) -> Self {
        self.try_change(|cluster| {
            let address4: Ipv4Addr =
                address4.parse().with_context(|| format!("service address {address4:?}"))?;
            let address6: Ipv6Addr =
                address6.parse().with_context(|| format!("service address {address6:?}"))?;
            for pod in pods {
                cluster.pod_named(pod)?;
            }
            cluster.services.push(ServiceSpec {
                addresses: [address4.into(), address6.into()],
                port: port.parse()?,
                pods: pods.iter().map(|pod| (*pod).to_owned()).collect(),
                target,
            });
            Ok(())
        })
    }

    /// Chooses how packets travel from node to node.
    #[must_use]
    pub fn links(mut self, links: Links) -> Self {
        self.links = links;
        self
    }

    /// Chooses how pods are attached to their node.
    #[must_use]
    pub fn attachment(mut self, attachment: Attachment) -> Self {
        self.attachment = attachment;
        self
    }

    /// Derives hardware addresses from IPv4 addresses, so that neighbour caches stay valid when an address is
    /// reused.
    #[must_use]
    pub fn steady_hardware_addresses(mut self) -> Self {
        self.has_steady_hardware_addresses = true;
        self
    }

    /// The arguments of `ip` that set the hardware address of a pod's device; empty if the kernel chooses it.
    pub(crate) fn hardware_address(&self, pod: &PodSpec) -> String {
        match pod.addresses[0] {
            IpAddr::V4(address) if self.has_steady_hardware_addresses => {
                let [a, b, c, d] = address.octets();
                format!("address 0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x} ")
            }
            _ => String::new(),
        }
    }

    /// This description, or the first error in it.
    pub(crate) fn checked(mut self) -> Result<Self> {
        match self.error.take() {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    /// The pod of this name (`namespace/name`).
    pub fn pod_named(&self, name: &str) -> Result<&PodSpec> {
        self.pods
            .iter()
            .find(|pod| pod.full_name() == name)
            .with_context(|| format!("there is no pod {name:?}"))
    }

    /// The node of this name.
    pub fn node_named(&self, name: &str) -> Result<&NodeSpec> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("there is no node {name:?}"))
    }

    /// Adds a pod with the first free addresses of its node, or with those of the node itself.
    pub(crate) fn push_pod(
        &mut self,
        name: &str,
        node: &str,
        labels: &[(&str, &str)],
        ports: &[&str],
        host_network: bool,
    ) -> Result<&PodSpec> {
        let Some((namespace, short)) = name.split_once('/') else { bail!("pod {name:?} needs a namespace") };
        let spec = self.node_named(node).with_context(|| format!("pod {name}"))?;
        let addresses = if host_network { spec.addresses() } else { self.free_addresses(spec)? };
        let ports = ports.iter().map(|port| port.parse()).collect::<Result<_>>()?;
        self.namespaces.entry(namespace.to_owned()).or_default();
        self.pods.push(PodSpec {
            namespace: namespace.to_owned(),
            name: short.to_owned(),
            node: node.to_owned(),
            labels: owned(labels),
            ports,
            host_network,
            addresses,
        });
        self.pod_named(name)
    }

    /// The first addresses that no pod has. The network address is flannel.1's, and the first address is the
    /// gateway's.
    fn free_addresses(&self, node: &NodeSpec) -> Result<[IpAddr; 2]> {
        (2..=254)
            .map(|number| [nth4(node.cidr4, number).into(), nth6(node.cidr6, number).into()])
            .find(|addresses| self.pods.iter().all(|pod| pod.addresses != *addresses))
            .context("too many pods")
    }

    fn try_change(mut self, change: impl FnOnce(&mut Self) -> Result<()>) -> Self {
        if self.error.is_none() {
            self.error = change(&mut self).err();
        }
        self
    }
}

fn owned(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_addresses_after_the_gateway() {
        let cluster =
            ClusterSpec::of_two_nodes().pod("web/a", "node-a", &[], &["80"]).pod("web/b", "node-a", &[], &[]);
        assert_eq!(cluster.pod_named("web/b").unwrap().addresses[0].to_string(), "10.244.1.3");
        assert_eq!(cluster.pod_named("web/a").unwrap().addresses[1].to_string(), "fd00:10:244:1::2");
        assert_eq!(cluster.nodes[0].gateway4().to_string(), "10.244.1.1");
    }

    #[test]
    fn a_pod_on_an_unknown_node_is_refused() {
        let error = ClusterSpec::new().pod("web/a", "nowhere", &[], &[]).build().unwrap_err();
        assert!(format!("{error:#}").contains("nowhere"), "{error:#}");
    }
}
