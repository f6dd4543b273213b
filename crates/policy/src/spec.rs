//! A policy as the engine sees it: one form for NetworkPolicy and the cluster-wide kinds.
//!
//! From: a Kubernetes object, converted once at the edge (`cluster`). To: the compiler and the reference.
//! Invariant: whatever could not be understood is a variant that matches nothing.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::PolicyName;
use crate::packet::Protocol;
use crate::prefixes::Prefixes;
use crate::selector::Selector;

/// The cost of policies, in entries. Each rule, CIDR, exception, port, label key and label value is one
/// entry. A key costs one more for each 64 bytes, a peer that selects pods 16 more, and a policy 16. An entry
/// takes about 100 bytes, and 1 µs to compile. [`PolicySpec::cost`] counts them.
pub type Cost = u64;

/// One policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicySpec {
    /// Kind, namespace and name.
    pub name: PolicyName,
    /// The policy's tier in the order of evaluation.
    pub tier: Tier,
    /// 0 to 1000, lower first, within `Admin` and `Baseline`; 0 for NetworkPolicy. Equal priorities are
    /// ordered by kind and name, so that all nodes agree (semantics 52).
    pub priority: u16,
    /// The pods to which the policy applies.
    pub subject: Subject,
    /// Whether the policy isolates its pods for ingress. Only NetworkPolicy isolates (semantics 1, 8).
    pub isolates_ingress: bool,
    /// Whether the policy isolates its pods for egress.
    pub isolates_egress: bool,
    /// Rules for connections to the subject, in order.
    pub ingress: Vec<RuleSpec>,
    /// Rules for connections from the subject, in order.
    pub egress: Vec<RuleSpec>,
    /// If a source omitted the rules because the policies of the namespace exceed their budget: the policy's
    /// cost with its rules. Both lists of rules are empty then: the policy isolates its pods and allows
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<Cost>,
}

/// The order of evaluation: Admin, then NetworkPolicy, then Baseline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Tier {
    /// ClusterNetworkPolicy of tier Admin, and AdminNetworkPolicy: before every NetworkPolicy.
    Admin,
    /// NetworkPolicy: allows the union of what its rules allow, and isolates from the rest.
    #[default]
    NetworkPolicy,
    /// ClusterNetworkPolicy of tier Baseline, and BaselineAdminNetworkPolicy: only in a direction in which no
    /// NetworkPolicy isolates (semantics 9).
    Baseline,
}

impl PolicySpec {
    /// The priority within the policy's tier; `None` for a NetworkPolicy, which has none.
    pub fn priority_in_tier(&self) -> Option<u16> {
        (self.tier != Tier::NetworkPolicy).then_some(self.priority)
    }
}

impl Tier {
    /// All tiers, in the order of evaluation.
    pub const ALL: [Self; 3] = [Self::Admin, Self::NetworkPolicy, Self::Baseline];

    /// The name of the tier, as records, metrics and `explain` show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Baseline => "Baseline",
        }
    }
}

/// The pods that a policy applies to: BOTH selectors must match. hostNetwork pods are never among them
/// (semantics 20).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// The namespaces.
    pub namespaces: NamespaceMatch,
    /// The pods in them.
    pub pods: Selector,
}

/// Selects namespaces.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum NamespaceMatch {
    /// The namespace of this name: a NetworkPolicy's own.
    Named(Arc<str>),
    /// Namespaces with labels that match.
    Labels(Selector),
}

/// One rule: matches when its peers AND its ports match (semantics 3).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleSpec {
    /// The rule's own name, where its kind has one.
    pub name: Option<Arc<str>>,
    /// What happens to a packet that matches. Always `Accept` in NetworkPolicy.
    pub action: Action,
    /// `from` or `to`. `None` matches every peer. A list matches if ANY entry does, so an empty list matches
    /// nothing.
    pub peers: Option<Vec<Peer>>,
    /// `ports`. `None` matches every protocol and port. A list matches if ANY entry does, so an empty list
    /// matches nothing.
    pub ports: Option<Vec<PortMatch>>,
}

/// What a matching rule does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Action {
    /// Allow; no later rule is evaluated.
    Accept,
    /// Deny; no later rule is evaluated.
    Deny,
    /// Skip the rest of the rule's own tier.
    Pass,
}

/// The other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Peer {
    /// Pods with a namespace AND labels that match. Never an address outside the cluster (semantics 7), never
    /// a hostNetwork pod (semantics 20).
    Pods {
        /// The namespaces.
        namespaces: NamespaceMatch,
        /// The pods in them.
        pods: Selector,
    },
    /// Any address of a block, including addresses of pods (semantics 12).
    Block(IpBlock),
    /// The addresses of the nodes with labels that match (semantics 56). Not the addresses of their pods.
    Nodes(Selector),
    /// A peer that could not be understood. It matches nothing (semantics 28).
    Nothing,
}

/// An `ipBlock`: a CIDR without its exceptions. Exceptions apply to this block only (semantics 13).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct IpBlock {
    /// The block; host bits are ignored.
    pub cidr: IpNet,
    /// The exceptions.
    pub except: Prefixes,
}

/// One entry of a rule's ports: BOTH protocol and numbers must match.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortMatch {
    /// `None` matches every protocol that the named port has (a ClusterNetworkPolicy's
    /// `destinationNamedPort`).
    pub protocol: Option<Protocol>,
    /// The destination ports.
    pub numbers: PortNumbers,
}

/// Destination ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PortNumbers {
    /// Every port of the protocol, including packets without a port (semantics 15).
    Any,
    /// `first` to `last`, both included (semantics 16). `first <= last`.
    Range(u16, u16),
    /// A name, resolved on the destination pod and per protocol (semantics 17, 18).
    Named(Arc<str>),
    /// A port that could not be understood. It matches nothing (semantics 28).
    Nothing,
}
