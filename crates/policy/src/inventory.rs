//! The few facts about a cluster that a verdict or a record needs, and the changes that keep them current.
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
    /// Its labels, `kubernetes.io/metadata.name` among them (semantics 11); that one is known even if the
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
    /// Every address of `status.podIPs`, canonical. Empty for a hostNetwork pod (semantics 20) and for one
    /// that is finished and so has released its addresses (semantics 22).
    pub addresses: Vec<IpAddr>,
    /// Named ports of its containers and sidecars (semantics 17 to 19). Sorted, each once.
    pub ports: Vec<NamedPort>,
    /// `spec.nodeName`; `None` while it is not scheduled.
    pub node: Option<Arc<str>>,
    /// Whether the pod uses its node's network: then it is the node (semantics 20).
    pub host_network: bool,
    /// `metadata.resourceVersion` with which the source first reported these addresses, 0 where unknown: of
    /// two pods that claim one address it belongs to the one reported last (semantics 22).
    pub reported: u64,
    /// `metadata.creationTimestamp` in seconds since 1970, 0 where unknown: of two pods reported at the same
    /// time the newer has the address; of two equally old ones, the one whose name sorts last.
    pub created: i64,
    /// `metadata.uid`: a later pod of the same name has another, and none of the connections of this one
    /// (semantics 36).
    pub uid: PodUid,
}

/// A pod's `metadata.uid`, in 16 bytes; zero where it is not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PodUid(pub u128);

impl Pod {
    /// Where the pod stands among those that claim one address: the greatest has it (semantics 22).
    pub(crate) fn claim_order(&self) -> impl Ord + '_ {
        (self.reported, self.created, &self.name)
    }
}

impl PodUid {
    /// The UID with this text: as the API server writes it, 32 hexadecimal digits in five groups (RFC 9562).
    /// Any other text gets a number of its own, too, of 64 bits.
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

/// A named container port: a name can mean one number for each protocol (semantics 18).
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
    /// Its own addresses, canonical (`status.addresses` of types InternalIP and ExternalIP).
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`: the addresses of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether `addresses` are all that it has, as its interfaces tell. If not, the first two of each pod
    /// CIDR are its own as well: Flannel gives them to `flannel.1` and to the pods' bridge.
    pub has_all_addresses: bool,
}

impl Node {
    /// All addresses that it has as far as is known: those that it reports, and those that Flannel gives it.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().chain(self.implied_addresses())
    }

    /// The first two addresses of each of its pod CIDRs: Flannel gives the network address to `flannel.1` and
    /// the first after it to the bridge. None where all its addresses are known.
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
    /// A namespace is there, with these labels now.
    Namespace(Namespace),
    /// A namespace is gone.
    NamespaceGone(Arc<str>),
    /// A pod is there, in this state now.
    Pod(Pod),
    /// A pod is gone.
    PodGone(PodName),
    /// A node is there, in this state now.
    Node(Node),
    /// A node is gone.
    NodeGone(Arc<str>),
    /// A policy is there, in this form now.
    Policy(Arc<PolicySpec>),
    /// A policy is gone.
    PolicyGone(PolicyName),
}

/// Everything known about the cluster. The labels of a namespace that is not among `namespaces` are unknown
/// (semantics 37).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    /// By name.
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// By namespace and name, in no order: of all objects these are the most, and a map that sorted them
    /// would take longer than all else that is done with one.
    pub pods: HashMap<PodName, Arc<Pod>>,
    /// By name.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// By kind, namespace and name.
    pub policies: BTreeMap<PolicyName, Arc<PolicySpec>>,
}

impl Inventory {
    /// The pods of one namespace, in no order. Looks at all there are.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(Arc::as_ref).filter(move |pod: &&Pod| &*pod.name.namespace == namespace)
    }

    /// Brings the inventory up to date with one change.
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
