//! An immutable, compiled view of the cluster under which packets are evaluated.
//!
//! From: the compiler, through [`Published`](crate::Published). To: workers, which evaluate packets, and
//! `audit`, which explains decisions. Invariant: a snapshot never changes. The next snapshot shares
//! everything that stayed the same.

pub(crate) mod address;
pub(crate) mod arena;
pub(crate) mod cluster_cidrs;
mod ends;
mod explain;
pub(crate) mod identity_table;
pub(crate) mod ids;
pub(crate) mod ip_blocks;
pub(crate) mod ipcache;
pub(crate) mod ports;
pub(crate) mod ruleset;
pub(crate) mod trie;
mod unknown;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::decision::{Decision, Direction, Outcome, Reason, RuleId, Verdict};
use crate::inventory::Pod;
use crate::names::{Generation, PodName, PolicyName};
use crate::packet::Packet;
use crate::snapshot::address::Address;
use crate::snapshot::cluster_cidrs::ClusterCidrs;
use crate::snapshot::ends::Ends;
use crate::snapshot::ids::NodeId;
use crate::snapshot::ipcache::{IpCache, IpCacheEntry, PodEntry};
use crate::snapshot::ruleset::{Ruleset, Rulesets};
use crate::spec::PolicySpec;

/// The directions that a hook evaluates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Directions {
    /// The source's egress and the destination's ingress: forwarded packets.
    Both,
    /// Only the source's egress: packets from a pod to its own node. The ingress outcome is `NotAPod`.
    Egress,
}

/// The size of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// Addresses of pods, on every node.
    pub pod_addresses: usize,
    /// Addresses of the pods that this snapshot evaluates.
    pub evaluated_addresses: usize,
    /// Policies of every tier.
    pub policies: usize,
    /// Rules of these policies, in both directions.
    pub rules: usize,
    /// Identities that have pods: no policy distinguishes pods of one identity as peers.
    pub identities: usize,
    /// Pairs of rulesets (ingress and egress). Pods to which the same policies apply share one.
    pub rulesets: usize,
}

/// A compiled view of the cluster: see the module.
pub struct Snapshot {
    pub(crate) generation: Generation,
    /// The verdict on packets that depend on something that is not known (yet).
    pub(crate) on_unknown_pod: Verdict,
    /// Whether verdicts need the steps for unknown pods and labels. That is so if ANY pod has unknown labels
    /// that policies refer to, if ANY rule can deny pods by their labels, or if the scope is `Cluster`.
    /// Otherwise verdicts skip these steps.
    pub(crate) handles_unknown: bool,
    /// This node; `None` in scope `Cluster`, or while the Node object is unknown.
    pub(crate) own_node: Option<NodeId>,
    /// Whether the scope is `Cluster`.
    pub(crate) cluster_scope: bool,
    /// The pod CIDRs of this node.
    pub(crate) pod_cidrs: Arc<[IpNet]>,
    /// The pod CIDRs of all nodes.
    pub(crate) cluster_cidrs: Arc<ClusterCidrs>,
    pub(crate) ipcache: IpCache,
    /// Addresses of evaluated pods: a subset of `ipcache`.
    pub(crate) evaluated: imbl::OrdSet<IpAddr>,
    /// By identity: what applies to its pods. Every identity that has evaluated pods has an entry. If an
    /// identity has unknown labels, its entry holds what applies in the strict view, and the next entry what
    /// applies in the permissive view (`PodEntry::permissive_identity`).
    pub(crate) rulesets: Arc<[Option<Arc<Rulesets>>]>,
    pub(crate) policies: Arc<PolicyTable>,
    pub(crate) size: Size,
}

/// Policies by the id of their first rule.
pub(crate) type PolicyTable = BTreeMap<RuleId, NumberedPolicy>;

/// A policy. From the id of its first rule on, its ingress rules have consecutive ids, and then its egress
/// rules.
#[derive(Clone, Debug)]
pub(crate) struct NumberedPolicy {
    pub name: Arc<PolicyName>,
    pub spec: Arc<PolicySpec>,
}

impl Snapshot {
    /// The number of this snapshot.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Evaluates a packet: no allocation, no lock, no loop over policies.
    ///
    /// All steps but the last (`PortTable::first_of_some`) are marked for inlining: as calls they took a
    /// fifth of the instructions.
    pub fn evaluate(&self, packet: &Packet, directions: Directions) -> Decision {
        if self.handles_unknown {
            self.evaluate_with_unknown(packet, directions)
        } else {
            self.evaluate_directions::<false>(packet, directions)
        }
    }

    /// A separate function, so that its steps cost other verdicts nothing.
    #[inline(never)]
    fn evaluate_with_unknown(&self, packet: &Packet, directions: Directions) -> Decision {
        self.evaluate_directions::<true>(packet, directions)
    }

    #[inline(always)]
    fn evaluate_directions<const UNKNOWN: bool>(&self, packet: &Packet, directions: Directions) -> Decision {
        // Both arms are the same code. The first is compiled without the steps for IPv6.
        let decision = match (packet.source(), packet.destination()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.evaluate_between::<UNKNOWN>(&self.ends(source, destination), packet, directions)
            }
            (source, destination) => {
                self.evaluate_between::<UNKNOWN>(&self.ends(source, destination), packet, directions)
            }
        };
        match directions {
            Directions::Both => decision,
            // The packet goes to the node itself.
            Directions::Egress => Decision { ingress: Outcome::allow(Reason::NotAPod), ..decision },
        }
    }

    /// Evaluates a packet that does not show which end opened its connection. It passes only if policy allows
    /// BOTH connections that could have led to it (semantics 34).
    #[cold]
    pub fn evaluate_unproven(&self, packet: &Packet, directions: Directions) -> Decision {
        let decision = self.evaluate(packet, directions);
        // The node may open a connection to any of its pods.
        if directions == Directions::Egress {
            return decision;
        }
        let reversed = self.evaluate(&packet.reversed(), directions);
        let both = |own: Outcome, other: Outcome| match (own.verdict, other.verdict) {
            (Verdict::Allow, Verdict::Deny) if other.reason.is_provisional() => other,
            (Verdict::Allow, Verdict::Deny) => Outcome::deny(Reason::Unproven),
            (Verdict::Deny, Verdict::Deny)
                if own.reason.is_provisional() && !other.reason.is_provisional() =>
            {
                Outcome::deny(Reason::Unproven)
            }
            _ => own,
        };
        Decision {
            egress: both(decision.egress, reversed.ingress),
            ingress: both(decision.ingress, reversed.egress),
        }
    }

    #[inline(always)]
    fn evaluate_between<const UNKNOWN: bool>(
        &self,
        ends: &Ends<'_, impl Address>,
        packet: &Packet,
        directions: Directions,
    ) -> Decision {
        // A pod's own node always reaches it (semantics 21), even if the pod is not known yet. This is
        // checked first because few sources are a node.
        if ends
            .source
            .is_some_and(|source| source.is_of_a_node() && source.is_of(self.node_of::<UNKNOWN>(ends)))
        {
            return Decision {
                egress: Outcome::allow(Reason::NotAPod),
                ingress: Outcome::allow(Reason::OwnNode),
            };
        }
        // A pod always reaches its own address (semantics 21).
        if ends.source_address == ends.destination_address {
            return Decision::both(Outcome::allow(Reason::OwnAddress));
        }
        let egress = match self.rules_for::<UNKNOWN>(ends.source_address, ends.source) {
            Ok(rulesets) => {
                // In this case the destination is the node itself, so the peer is known.
                let peer_is_known = directions == Directions::Egress;
                self.evaluate_rules::<UNKNOWN>(
                    &rulesets.egress,
                    ends,
                    packet,
                    Direction::Egress,
                    peer_is_known,
                )
            }
            Err(outcome) => outcome,
        };
        let ingress = match directions {
            Directions::Egress => Outcome::allow(Reason::NotAPod),
            Directions::Both => match self.rules_for::<UNKNOWN>(ends.destination_address, ends.destination) {
                Ok(rulesets) => {
                    self.evaluate_rules::<UNKNOWN>(&rulesets.ingress, ends, packet, Direction::Ingress, false)
                }
                Err(outcome) => outcome,
            },
        };
        Decision { egress, ingress }
    }

    /// The rulesets of the pod at `address`, or the outcome of that side if no rules apply to it.
    #[inline(always)]
    fn rules_for<const UNKNOWN: bool>(
        &self,
        address: impl Address,
        entry: Option<&IpCacheEntry>,
    ) -> Result<&Rulesets, Outcome> {
        let unknown = Outcome { verdict: self.on_unknown_pod, reason: Reason::UnknownPod };
        match entry.and_then(|entry| entry.pod.as_ref()) {
            Some(pod) if !pod.is_evaluated() => Err(Outcome::allow(Reason::OtherNode)),
            Some(pod) => self.rulesets_of(pod).ok_or(unknown),
            None if self.is_unknown_pod::<UNKNOWN>(address, entry) => Err(unknown),
            None => Err(Outcome::allow(Reason::NotAPod)),
        }
    }

    /// Evaluates the rules of a known pod.
    ///
    /// A denial is provisional if the peer is a pod that is not known (yet), or if labels of either end are
    /// unknown, and some rule might allow the packet once they are known (semantics 37). So is an allowance,
    /// if some rule might deny the peer once it is known. The verdict is `on_unknown_pod` then.
    #[inline(always)]
    fn evaluate_rules<const UNKNOWN: bool>(
        &self,
        ruleset: &Ruleset,
        ends: &Ends<'_, impl Address>,
        packet: &Packet,
        direction: Direction,
        peer_is_known: bool,
    ) -> Outcome {
        let (peer, target) = (ends.peer(direction), ends.target(packet));
        let outcome = ruleset.evaluate(peer, target);
        if UNKNOWN {
            return self.evaluate_unknown(outcome, ruleset, ends, packet, direction, peer_is_known);
        }
        let provisional = outcome.verdict == Verdict::Deny
            && !peer_is_known
            && self.is_unknown_peer(peer.address, ends.peer_entry(direction))
            && ruleset.might_allow(peer, target, direction);
        if provisional {
            Outcome { verdict: self.on_unknown_pod, reason: Reason::UnknownPeer }
        } else {
            outcome
        }
    }

    /// Whether an address belongs to a pod of the cluster that is not known (yet): it is in the pod CIDRs of
    /// ANY node, no known pod has it, and it is not a node's own. Flannel gives each node two addresses of
    /// its pod CIDR.
    #[inline(always)]
    fn is_unknown_peer(&self, address: impl Address, entry: Option<&IpCacheEntry>) -> bool {
        entry.is_none() && self.cluster_cidrs.contains(address)
    }

    /// Whether an address without a known pod belongs to a pod of this node: it is in the node's pod CIDRs,
    /// and not the node's own. In scope `Cluster`, of any node.
    #[inline]
    fn is_unknown_pod<const UNKNOWN: bool>(
        &self,
        address: impl Address,
        entry: Option<&IpCacheEntry>,
    ) -> bool {
        if UNKNOWN && self.cluster_scope {
            return self.node_of_unknown_pod(address, entry).is_some();
        }
        let address: IpAddr = address.into();
        // ANY of the CIDRs.
        self.pod_cidrs.iter().any(|cidr| cidr.contains(&address))
            && !entry.is_some_and(|entry| entry.is_of(self.own_node))
    }

    /// The node of the pod at the packet's destination.
    fn node_of<const UNKNOWN: bool>(&self, ends: &Ends<'_, impl Address>) -> Option<NodeId> {
        match ends.destination.and_then(|entry| entry.pod.as_ref()) {
            Some(pod) => pod.node(),
            None if UNKNOWN && self.cluster_scope => {
                self.node_of_unknown_pod(ends.destination_address, ends.destination)
            }
            None if self.is_unknown_pod::<UNKNOWN>(ends.destination_address, ends.destination) => {
                self.own_node
            }
            None => None,
        }
    }

    #[inline(always)]
    fn rulesets_of(&self, pod: &PodEntry) -> Option<&Rulesets> {
        self.rulesets.get(pod.identity().index())?.as_deref()
    }

    #[inline(always)]
    fn ends<A: Address>(&self, source_address: A, destination_address: A) -> Ends<'_, A> {
        Ends {
            source_address,
            destination_address,
            source: self.ipcache.get(source_address),
            destination: self.ipcache.get(destination_address),
        }
    }

    /// The pod that has this address: not finished, not hostNetwork, and the latest if several report it
    /// (semantics 22).
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodName> {
        self.ipcache.get(address.to_canonical())?.pod.as_ref().map(PodEntry::name)
    }

    /// The state of the pod that [`Snapshot::pod_at`] names.
    pub fn pod(&self, address: IpAddr) -> Option<&Pod> {
        self.shared_pod(address).map(Arc::as_ref)
    }

    /// As [`Snapshot::pod`]. Snapshots share the state until the pod changes.
    pub fn shared_pod(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.ipcache.get(address.to_canonical())?.pod.as_ref().map(PodEntry::pod)
    }

    /// Addresses of the pods that this snapshot evaluates.
    pub fn evaluated_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.evaluated.iter().copied()
    }

    /// Addresses of evaluated pods for which policy allows every packet in `direction`, so that their packets
    /// need no verdict in that direction. No policy isolates these pods, and no rule that applies to them
    /// denies or passes. A pod that is only a peer of rules is among them, and so is the pod of a policy that
    /// has no rules in `direction`, or only rules that accept.
    pub fn open_addresses(&self, direction: Direction) -> impl Iterator<Item = IpAddr> + '_ {
        self.evaluated.iter().copied().filter(move |address| {
            let pod = self.ipcache.get(*address).and_then(|entry| entry.pod.as_ref());
            pod.and_then(|pod| self.rulesets_of(pod)).is_some_and(|rulesets| match direction {
                Direction::Ingress => rulesets.ingress.is_open(),
                Direction::Egress => rulesets.egress.is_open(),
            })
        })
    }

    /// The pod CIDRs of the scope's node; empty while the Node object is unknown, and in scope `Cluster`.
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// The size of the snapshot.
    pub fn size(&self) -> Size {
        self.size
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The complete content would be megabytes. These fields identify the snapshot.
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("pod_cidrs", &self.pod_cidrs)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
