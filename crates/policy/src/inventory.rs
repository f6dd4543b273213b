//! What a verdict or an audit record needs to know about the cluster, and the changes that keep it current.
//!
//! From: a source (`cluster`), as [`Change`]s. To: the compiler. Invariant: each object appears once under
//! its name.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::labels::Labels;
use crate::names::{PodName, PolicyName};
use crate::packet::Protocol;
use crate::spec::PolicySpec;

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Its labels, including `kubernetes.io/metadata.name` (semantics 11). That label is known even if the
    /// others are not (semantics 37).
    pub labels: Labels,
}

/// A pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub name: PodName,
    /// Its labels.
    pub labels: Labels,
    /// Every address of `status.podIPs`, canonical. Empty for a hostNetwork pod (semantics 20), and for a
    /// finished pod, which has released its addresses (semantics 22).
    pub addresses: Vec<IpAddr>,
    /// Named ports of its containers and sidecars (semantics 17 to 19). Sorted, without duplicates.
    pub ports: Vec<NamedPort>,
    /// `spec.nodeName`; `None` while it is not scheduled.
    pub node: Option<Arc<str>>,
    /// Whether the pod uses its node's network. Such a pod is treated as the node (semantics 20).
    pub host_network: bool,
    /// `metadata.resourceVersion` with which the source first reported these addresses, 0 if unknown. If two
    /// pods report the same address, it belongs to the one that reported it last (semantics 22).
    pub reported: u64,
    /// `metadata.creationTimestamp` in seconds since 1970, 0 if unknown. If two pods were reported at the
    /// same time, the newer one has the address; among equally old ones, the one whose name sorts last.
    pub created: i64,
    /// `metadata.uid`. A later pod of the same name has a different UID, and does not inherit connections of
    /// this one (semantics 36).
    pub uid: PodUid,
    /// The workload that controls the pod; `None` if there is none, or if it is not known. Recorded, never
    /// evaluated.
    pub workload: Option<Arc<Workload>>,
}

/// The object that controls a pod, in the pod's namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Its `kind`, such as `Deployment`.
    pub kind: Arc<str>,
    /// Its `metadata.name`.
    pub name: Arc<str>,
}

/// A pod's `metadata.uid`, in 16 bytes; zero if unknown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PodUid(pub u128);

impl Pod {
    /// Orders pods that have the same address: it belongs to the greatest (semantics 22).
    pub(crate) fn owner_order(&self) -> impl Ord + '_ {
        (self.reported, self.created, &self.name)
    }
}

impl PodUid {
    /// Parses a UID as the API server writes it: 32 hexadecimal digits in five groups (RFC 9562). Any other
    /// text is hashed to 64 bits.
    pub fn of(text: &str) -> Self {
        let digits = text.bytes().filter(|byte| *byte != b'-').count();
        let number = text
            .bytes()
            .filter(|byte| *byte != b'-')
            .try_fold(0_u128, |number, byte| Some(number << 4 | u128::from(char::from(byte).to_digit(16)?)));
        match number {
            Some(number) if digits == 32 => Self(number),
            _ => {
                let mut hasher = rustc_hash::FxHasher::default();
                text.hash(&mut hasher);
                Self(hasher.finish().into())
            }
        }
    }
}

impl Serialize for PodUid {
    /// 32 hexadecimal digits.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for PodUid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = std::borrow::Cow::<str>::deserialize(deserializer)?;
        u128::from_str_radix(&digits, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A named container port. A name can have a different number for each protocol (semantics 18).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NamedPort {
    /// `name`.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `containerPort`.
    pub number: u16,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Its labels.
    #[serde(default = "Labels::unknown")]
    pub labels: Labels,
    /// The node's own addresses, canonical (`status.addresses` of types InternalIP and ExternalIP).
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`: the address ranges of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether `addresses` is complete, because it was read from the node's interfaces. If not, the first two
    /// addresses of each pod CIDR count as the node's own as well: Flannel gives them to `flannel.1` and to
    /// the pods' bridge.
    pub has_all_addresses: bool,
    /// The addresses that its object reports, canonical, if `addresses` has those of its interfaces instead.
    /// They include an external address that the cloud translates to one of the node's. Only
    /// [`Peer::Nodes`](crate::Peer::Nodes) matches them: as the source of a packet they don't prove that it
    /// comes from the node (semantics 33).
    #[serde(default)]
    pub reported_addresses: Vec<IpAddr>,
}

impl Node {
    /// All known addresses of the node: those that it reports, and those that Flannel gives it.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().chain(self.implied_addresses())
    }

    /// The first two addresses of each of its pod CIDRs. Flannel gives the network address to `flannel.1` and
    /// the next one to the bridge. Empty if `addresses` is complete.
    pub(crate) fn implied_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.pod_cidrs.iter().filter(|_| !self.has_all_addresses).flat_map(first_addresses)
    }
}

fn first_addresses(cidr: &IpNet) -> impl Iterator<Item = IpAddr> + use<> {
    let cidr = cidr.trunc();
    let next = match cidr.network() {
        IpAddr::V4(network) => u32::from(network).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(network) => u128::from(network).checked_add(1).map(|next| IpAddr::V6(next.into())),
    };
    [Some(cidr.network()), next].into_iter().flatten().filter(move |address| cidr.contains(address))
}

/// One change in the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A namespace was created or changed; this is its current state.
    Namespace(Namespace),
    /// A namespace was deleted.
    NamespaceGone(Arc<str>),
    /// A pod was created or changed; this is its current state.
    Pod(Pod),
    /// A pod was deleted.
    PodGone(PodName),
    /// A node was created or changed; this is its current state.
    Node(Node),
    /// A node was deleted.
    NodeGone(Arc<str>),
    /// A policy was created or changed; this is its current form.
    Policy(Arc<PolicySpec>),
    /// A policy was deleted.
    PolicyGone(PolicyName),
}

/// Everything known about the cluster. If a namespace is missing from `namespaces`, its labels are unknown
/// (semantics 37).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    /// By name.
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// By namespace and name, unordered. Pods are the most numerous objects, and a sorted map would take
    /// longer than all other work on a pod.
    pub pods: HashMap<PodName, Arc<Pod>>,
    /// By name.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// By kind, namespace and name.
    pub policies: BTreeMap<PolicyName, Arc<PolicySpec>>,
}

impl Inventory {
    /// The pods of one namespace, in no particular order. Iterates over all pods.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(Arc::as_ref).filter(move |pod: &&Pod| &*pod.name.namespace == namespace)
    }

    /// Applies one change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(namespace) => drop(self.namespaces.insert(namespace.name.clone(), namespace)),
            Change::NamespaceGone(name) => drop(self.namespaces.remove(&name)),
            Change::Pod(pod) => drop(self.pods.insert(pod.name.clone(), Arc::new(pod))),
            Change::PodGone(name) => drop(self.pods.remove(&name)),
            Change::Node(node) => drop(self.nodes.insert(node.name.clone(), node)),
            Change::NodeGone(name) => drop(self.nodes.remove(&name)),
            Change::Policy(policy) => drop(self.policies.insert(policy.name.clone(), policy)),
            Change::PolicyGone(name) => drop(self.policies.remove(&name)),
        }
    }
}
