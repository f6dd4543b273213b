//! Which connections are compared: the ends with their addresses, and the classes of ports.
//!
//! From: the manifests of one or more folders. To: [`Model`](crate::Model)s, one of each folder, over the
//! same layout. Invariant: for every connection between ends, the layout has one with the same verdict and
//! the same deciding rules in each of the folders:
//!
//! - A pod of a template gets an address of the pod network, outside of any block that covers only a part of
//!   this network. No manifest can tell which part of the network a pod will be in, so these blocks are
//!   listed ([`Layout::blocks_of_pods`]).
//! - An address outside of the cluster has a representative in its region ([`crate::partition::addresses`]).
//! - A port has one in its class ([`crate::partition::ports`]), which takes in the boundaries of ALL policies
//!   of ALL folders, and every port of a container.
//! - Pods that have the same namespace, labels, port names, node and region in each folder are treated alike
//!   by every rule, so [`Layout::classes`] evaluates one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cluster::{Manifests, Workload};
use ipnet::IpNet;
use policy::{Change, Labels, NamedPort, Node, Peer, PolicySpec};

use crate::end::WorkloadName;
use crate::partition::addresses::{RegionId, Regions};
use crate::partition::ports::{Boundaries, PortClass};

/// The networks from which pods of templates get addresses, one of each family.
#[derive(Clone, Debug)]
pub struct PodNetworks {
    /// Flannel's default is 10.244.0.0/16 (its `Network`).
    pub ipv4: IpNet,
    /// Flannel has no default.
    pub ipv6: IpNet,
}

/// Why no layout can be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// Too many workloads for the pod network.
    #[error("the pod network {0} has no room for {1} addresses: give a larger one with --pod-cidr")]
    NoRoom(IpNet, usize),
}

/// The addresses of one pod, at most one of each family: IPv4, IPv6.
pub type Addresses = [Option<IpAddr>; 2];

/// The pods that stand for a workload: two, so that its connections to itself are evaluated too; one for a
/// bare Pod.
pub type Pods = Vec<Addresses>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Layout {
    regions: Regions,
    ports: Vec<PortClass>,
    pods: BTreeMap<WorkloadName, Pods>,
    nodes: BTreeMap<Arc<str>, Vec<IpAddr>>,
    networks: [IpNet; 2],
    blocks_of_pods: Vec<IpNet>,
}

/// Workloads that no rule of any folder tells apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkloadClass {
    /// At least one.
    pub members: Vec<WorkloadName>,
}

/// What rules can tell of a workload in one folder.
type Traits<'a> = (&'a Labels, &'a [NamedPort], Option<&'a Arc<str>>);

impl Layout {
    /// The layout of these folders. `more` has further addresses and ports that must be distinguished.
    pub fn new(
        folders: &[&Manifests],
        networks: &PodNetworks,
        more: &Distinguished,
    ) -> Result<Self, LayoutError> {
        let mut boundaries = Boundaries::default();
        let mut prefixes = more.blocks.clone();
        let mut nodes: BTreeMap<Arc<str>, Vec<IpAddr>> = BTreeMap::new();
        let networks = [networks.ipv4.trunc(), networks.ipv6.trunc()];
        let mut inside: BTreeSet<IpNet> = BTreeSet::from(networks);
        let mut workloads: BTreeMap<WorkloadName, &Workload> = BTreeMap::new();
        more.ports.iter().for_each(|port| boundaries.add(None, *port, *port));
        for folder in folders {
            for change in &folder.changes {
                match change {
                    Change::Policy(policy) => {
                        boundaries.add_policy(policy);
                        prefixes.extend(blocks(policy));
                    }
                    Change::Node(node) => add_node(node, &mut nodes, &mut inside),
                    _ => {}
                }
            }
            for workload in &folder.workloads {
                for port in &workload.ports {
                    boundaries.add(Some(port.protocol), port.number, port.number);
                }
                inside.extend(workload.pod.addresses.iter().map(|address| IpNet::from(*address)));
                if !workload.pod.host_network {
                    workloads.insert(WorkloadName::from(workload), workload);
                }
            }
        }
        let is_part =
            |prefix: &IpNet| networks.iter().any(|network| network.contains(prefix) && network != prefix);
        let blocks_of_pods = prefixes.iter().copied().filter(is_part).collect();
        let regions = Regions::new(&prefixes, &inside);
        let pods = place(&workloads, &regions, &networks)?;
        Ok(Self { regions, ports: boundaries.classes(), pods, nodes, networks, blocks_of_pods })
    }

    /// The classes of ports.
    pub fn ports(&self) -> &[PortClass] {
        &self.ports
    }

    /// The regions of addresses.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// The pods of each workload.
    pub fn pods(&self) -> &BTreeMap<WorkloadName, Pods> {
        &self.pods
    }

    /// The addresses of each node.
    pub fn nodes(&self) -> &BTreeMap<Arc<str>, Vec<IpAddr>> {
        &self.nodes
    }

    /// Blocks of policies that cover a part of a pod network. They match no pod of a template.
    pub fn blocks_of_pods(&self) -> &[IpNet] {
        &self.blocks_of_pods
    }

    /// Whether an address can only be that of a pod.
    pub fn is_of_pods(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The workloads that ALL folders have, in classes.
    pub fn classes(&self, folders: &[&Manifests]) -> Vec<WorkloadClass> {
        let mut traits: BTreeMap<WorkloadName, Vec<Traits<'_>>> = BTreeMap::new();
        for folder in folders {
            for workload in &folder.workloads {
                let pod = &workload.pod;
                let own: Traits<'_> = (&pod.labels, &pod.ports, pod.node.as_ref());
                traits.entry(WorkloadName::from(workload)).or_default().push(own);
            }
        }
        let mut classes: BTreeMap<_, Vec<WorkloadName>> = BTreeMap::new();
        for (name, pods) in &self.pods {
            let Some(own) = traits.remove(name).filter(|own| own.len() == folders.len()) else { continue };
            let region = |address: &Option<IpAddr>| {
                let region = self.regions.region_of((*address)?)?;
                Some(self.regions.policy_prefixes(region))
            };
            let regions: Vec<_> = pods.iter().take(1).flatten().map(region).collect();
            classes.entry((name.namespace.clone(), own, regions)).or_default().push(name.clone());
        }
        classes.into_values().map(|members| WorkloadClass { members }).collect()
    }

    /// The regions outside of the cluster, each with an address.
    pub fn outside(&self) -> impl Iterator<Item = (RegionId, IpAddr)> + '_ {
        self.regions.outside()
    }
}

/// Addresses and ports that must be distinguished although no policy contains them.
#[derive(Clone, Debug, Default)]
pub struct Distinguished {
    /// Blocks of addresses.
    pub blocks: BTreeSet<IpNet>,
    /// Ports of every protocol.
    pub ports: BTreeSet<u16>,
}

/// The prefixes in a policy: blocks and their exceptions.
pub(crate) fn blocks(policy: &PolicySpec) -> Vec<IpNet> {
    let peers = policy.ingress.iter().chain(&policy.egress).flat_map(|rule| rule.peers.iter().flatten());
    let blocks = peers.filter_map(|peer| match peer {
        Peer::Block(block) => Some(block),
        _ => None,
    });
    blocks
        .flat_map(|block| std::iter::once(block.cidr).chain(block.except.iter()))
        .map(|net| net.trunc())
        .collect()
}

fn add_node(node: &Node, nodes: &mut BTreeMap<Arc<str>, Vec<IpAddr>>, inside: &mut BTreeSet<IpNet>) {
    let known = nodes.entry(node.name.clone()).or_default();
    known.extend(node.own_addresses());
    known.sort_unstable();
    known.dedup();
    inside.extend(known.iter().map(|address| IpNet::from(*address)));
    inside.extend(node.pod_cidrs.iter().map(IpNet::trunc));
}

/// Gives each workload addresses: those that its pod has, or else free ones.
fn place(
    workloads: &BTreeMap<WorkloadName, &Workload>,
    regions: &Regions,
    networks: &[IpNet; 2],
) -> Result<BTreeMap<WorkloadName, Pods>, LayoutError> {
    let needed = workloads.len() * 2;
    let mut free = networks.each_ref().map(|network| regions.free_addresses(network));
    let mut take = |family: usize| free[family].next().ok_or(LayoutError::NoRoom(networks[family], needed));
    let mut placed = BTreeMap::new();
    for (name, workload) in workloads {
        let fixed = &workload.pod.addresses;
        let pods: Pods = if fixed.is_empty() {
            let count = if name.kind.has_several_pods() { 2 } else { 1 };
            let pods = (0..count).map(|_| Ok([Some(take(0)?), Some(take(1)?)]));
            pods.collect::<Result<_, LayoutError>>()?
        } else {
            let first = |is_ipv4| fixed.iter().copied().find(|address| address.is_ipv4() == is_ipv4);
            vec![[first(true), first(false)]]
        };
        placed.insert(name.clone(), pods);
    }
    Ok(placed)
}
