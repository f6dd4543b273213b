//! An immutable, compiled view of the cluster under which packets are evaluated.
//!
//! From: the compiler, through [`Published`](crate::Published). To: workers, which evaluate, and the audit,
//! which explains. Invariant: nothing in it ever changes; the next snapshot shares with this one whatever
//! stayed the same.

pub(crate) mod address;
pub(crate) mod addresses;
pub(crate) mod arena;
pub(crate) mod class_table;
pub(crate) mod cluster_cidrs;
mod ends;
pub(crate) mod hosts;
pub(crate) mod ids;
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
use crate::explanation::{Explanation, NearestMiss, RuleName};
use crate::inventory::Pod;
use crate::names::{Generation, PodName, PolicyName};
use crate::packet::Packet;
use crate::snapshot::address::Address;
use crate::snapshot::cluster_cidrs::ClusterCidrs;
use crate::snapshot::ends::Ends;
use crate::snapshot::hosts::{Host, HostPod, Hosts};
use crate::snapshot::ids::NodeId;
use crate::snapshot::ruleset::{Ruleset, Rulesets};
use crate::spec::PolicySpec;

/// Which directions a hook is there to evaluate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Directions {
    /// The source's egress and the destination's ingress: forwarded packets.
    Both,
    /// The source's egress alone: packets from a pod to its own node. The ingress outcome is `NotAPod`.
    Egress,
}

/// How much a snapshot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// Addresses of pods, on every node.
    pub pod_addresses: usize,
    /// Addresses of pods that this snapshot evaluates.
    pub evaluated_addresses: usize,
    /// Policies of every tier.
    pub policies: usize,
    /// Rules of these policies, both directions.
    pub rules: usize,
    /// Classes of pods that no policy can tell apart as peers.
    pub classes: usize,
    /// Pairs of rulesets (ingress and egress), each shared by the pods to which the same policies apply.
    pub rulesets: usize,
}

/// See the module.
pub struct Snapshot {
    pub(crate) generation: Generation,
    /// What becomes of packets about which something decides that is not known (yet).
    pub(crate) on_unknown_pod: Verdict,
    /// Whether some pod has labels that are unknown and that policies ask for, some rule can deny pods by
    /// their labels, or the scope is `Cluster`. Where none of this is so, verdicts leave out the steps that
    /// only these need.
    pub(crate) minds_unknown: bool,
    /// This node; `None` in scope `Cluster`, or while the Node is unknown.
    pub(crate) here: Option<NodeId>,
    /// Whether the scope is `Cluster`.
    pub(crate) everywhere: bool,
    /// This node's.
    pub(crate) pod_cidrs: Arc<[IpNet]>,
    /// Those of all nodes.
    pub(crate) cluster_cidrs: Arc<ClusterCidrs>,
    pub(crate) hosts: Hosts,
    /// Addresses of evaluated pods: a subset of `hosts`.
    pub(crate) evaluated: imbl::OrdSet<IpAddr>,
    /// By class: what applies to its pods. There for every class that has evaluated pods; behind what applies
    /// by the cautious view of unknown labels comes what applies by the hopeful one
    /// (`HostPod::hopeful_class`).
    pub(crate) rulesets: Arc<[Option<Arc<Rulesets>>]>,
    pub(crate) policies: Arc<PolicyTable>,
    pub(crate) size: Size,
}

/// Policies by the number of their first rule.
pub(crate) type PolicyTable = BTreeMap<u32, NumberedPolicy>;

/// A policy whose ingress rules have the ids from its number on, and then its egress rules.
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
    /// All its steps but the last (`PortTable::first_of_some`) are told to be inlined: as calls they were a
    /// fifth of its instructions.
    pub fn evaluate(&self, packet: &Packet, directions: Directions) -> Decision {
        if self.minds_unknown {
            self.evaluate_with_unknown(packet, directions)
        } else {
            self.evaluate_minding::<false>(packet, directions)
        }
    }

    /// Apart, so that the steps of this one cost the others nothing.
    #[inline(never)]
    fn evaluate_with_unknown(&self, packet: &Packet, directions: Directions) -> Decision {
        self.evaluate_minding::<true>(packet, directions)
    }

    #[inline(always)]
    fn evaluate_minding<const UNKNOWN: bool>(&self, packet: &Packet, directions: Directions) -> Decision {
        // Both halves say the same: the first is compiled without the steps that IPv6 takes.
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

    /// Evaluates a packet that does not show which end opened its connection: it passes only if policy allows
    /// the connection as opened by either end (semantics 34).
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
        // A pod's own node always reaches it (semantics 21), also a pod that is not known yet. Few sources
        // are a node: that is asked first.
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
                // The node is no pod: what is on its way to it has a peer that is known.
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

    /// What applies to the pod at `address`, or what comes out for that side without asking any rule.
    #[inline(always)]
    fn rules_for<const UNKNOWN: bool>(
        &self,
        address: impl Address,
        host: Option<&Host>,
    ) -> Result<&Rulesets, Outcome> {
        let unknown = Outcome { verdict: self.on_unknown_pod, reason: Reason::UnknownPod };
        match host.and_then(|host| host.pod.as_ref()) {
            Some(pod) if !pod.is_evaluated() => Err(Outcome::allow(Reason::OtherNode)),
            Some(pod) => self.rulesets_of(pod).ok_or(unknown),
            None if self.is_unknown_pod::<UNKNOWN>(address, host) => Err(unknown),
            None => Err(Outcome::allow(Reason::NotAPod)),
        }
    }

    /// Evaluates by the rules for a pod that is known. A denial is provisional if the peer is a pod that is
    /// not known (yet), or if labels of either end are unknown, and if some rule might allow what they turn
    /// out to be (semantics 37). So is a verdict that allows, if some rule might deny the peer: it denies
    /// until then.
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
        let unsure = outcome.verdict == Verdict::Deny
            && !peer_is_known
            && self.is_unknown_peer(peer.address, ends.peer_host(direction))
            && ruleset.might_allow(peer, target, direction);
        if unsure { Outcome { verdict: self.on_unknown_pod, reason: Reason::UnknownPeer } } else { outcome }
    }

    /// Whether an address belongs to a pod of the cluster that is not known (yet): it is in the pod CIDRs of
    /// ANY node, no pod is known to have it, and it is no node's own. Flannel gives each node two addresses
    /// of its pod CIDR.
    #[inline(always)]
    fn is_unknown_peer(&self, address: impl Address, host: Option<&Host>) -> bool {
        host.is_none() && self.cluster_cidrs.contains(address)
    }

    /// Whether an address that no pod has is one of this node's pods' all the same: in its pod CIDRs, and not
    /// its own. In scope `Cluster`, of any node's.
    #[inline]
    fn is_unknown_pod<const UNKNOWN: bool>(&self, address: impl Address, host: Option<&Host>) -> bool {
        if UNKNOWN && self.everywhere {
            return self.node_of_unknown_pod(address, host).is_some();
        }
        let address: IpAddr = address.into();
        // ANY of the CIDRs.
        self.pod_cidrs.iter().any(|cidr| cidr.contains(&address))
            && !host.is_some_and(|host| host.is_of(self.here))
    }

    /// The node of the pod at the packet's destination.
    fn node_of<const UNKNOWN: bool>(&self, ends: &Ends<'_, impl Address>) -> Option<NodeId> {
        match ends.destination.and_then(|host| host.pod.as_ref()) {
            Some(pod) => pod.node(),
            None if UNKNOWN && self.everywhere => {
                self.node_of_unknown_pod(ends.destination_address, ends.destination)
            }
            None if self.is_unknown_pod::<UNKNOWN>(ends.destination_address, ends.destination) => self.here,
            None => None,
        }
    }

    #[inline(always)]
    fn rulesets_of(&self, pod: &HostPod) -> Option<&Rulesets> {
        self.rulesets.get(pod.class() as usize)?.as_deref()
    }

    #[inline(always)]
    fn ends<A: Address>(&self, source_address: A, destination_address: A) -> Ends<'_, A> {
        Ends {
            source_address,
            destination_address,
            source: self.hosts.get(source_address),
            destination: self.hosts.get(destination_address),
        }
    }

    /// Says in words why `decision` came out for `packet` in `direction`. `decision` must be this snapshot's
    /// own.
    pub fn explain(&self, packet: &Packet, decision: &Decision, direction: Direction) -> Explanation {
        let Outcome { verdict, reason } = decision.outcome(direction);
        let mut explanation = Explanation {
            verdict,
            reason: reason.code(),
            direction,
            rule: None,
            isolated_by: Vec::new(),
            nearest_miss: None,
        };
        match reason {
            Reason::Rule(rule) => explanation.rule = self.rule_name(rule),
            Reason::DefaultDeny | Reason::UnknownPeer | Reason::UnknownLabels => {
                self.explain_denial(packet, &mut explanation)
            }
            // What denies the connection as the other end would have opened it.
            Reason::Unproven => {
                explanation.direction = direction.opposite();
                self.explain_denial(&packet.reversed(), &mut explanation);
                explanation.direction = direction;
            }
            _ => {}
        }
        explanation
    }

    /// Fills in what denies a packet, or does until what is unknown is known: a rule, or isolation that no
    /// rule breaks.
    fn explain_denial(&self, packet: &Packet, explanation: &mut Explanation) {
        let ends = self.ends(packet.source(), packet.destination());
        let Some(ruleset) = self.ruleset(&ends, explanation.direction) else { return };
        let (peer, target) = (ends.peer(explanation.direction), ends.target(packet));
        let evaluated = ruleset.evaluate(peer, target);
        if evaluated.verdict == Verdict::Allow {
            return;
        }
        if let Reason::Rule(rule) = evaluated.reason {
            explanation.rule = self.rule_name(rule);
            return;
        }
        explanation.isolated_by = ruleset.isolating.to_vec();
        explanation.nearest_miss = ruleset
            .nearest_miss(peer, target)
            .and_then(|(rule, miss)| Some(NearestMiss { rule: self.rule_name(rule)?, miss }));
    }

    fn ruleset(&self, ends: &Ends<'_, impl Address>, direction: Direction) -> Option<&Ruleset> {
        let rulesets = self.rulesets_of(ends.host(direction)?.pod.as_ref()?)?;
        Some(match direction {
            Direction::Ingress => &rulesets.ingress,
            Direction::Egress => &rulesets.egress,
        })
    }

    /// Names a rule of this snapshot; `None` if it has no such rule.
    pub fn rule_name(&self, rule: RuleId) -> Option<RuleName> {
        let (first, policy) = self.policies.range(..=rule.0).next_back()?;
        let index = (rule.0 - first) as usize;
        let (ingress, egress) = (&policy.spec.ingress, &policy.spec.egress);
        let (index, spec) = match index.checked_sub(ingress.len()) {
            None => (index, ingress.get(index)?),
            Some(index) => (index, egress.get(index)?),
        };
        Some(RuleName { policy: Arc::clone(&policy.name), index, name: spec.name.clone() })
    }

    /// The pod that has this address (not finished, not hostNetwork; of several the newest).
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodName> {
        self.hosts.get(address.to_canonical())?.pod.as_ref().map(HostPod::name)
    }

    /// What is known of the pod that has this address, likewise.
    pub fn pod(&self, address: IpAddr) -> Option<&Pod> {
        self.hosts.get(address.to_canonical())?.pod.as_ref().map(HostPod::pod)
    }

    /// Addresses of the pods that this snapshot evaluates.
    pub fn evaluated_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.evaluated.iter().copied()
    }

    /// Addresses of evaluated pods to which no policy applies in `direction`: their packets need no verdict
    /// there.
    pub fn open_addresses(&self, direction: Direction) -> impl Iterator<Item = IpAddr> + '_ {
        self.evaluated.iter().copied().filter(move |address| {
            let pod = self.hosts.get(*address).and_then(|host| host.pod.as_ref());
            pod.and_then(|pod| self.rulesets_of(pod)).is_some_and(|rulesets| match direction {
                Direction::Ingress => rulesets.ingress.is_open(),
                Direction::Egress => rulesets.egress.is_open(),
            })
        })
    }

    /// The pod CIDRs of the scope's node; empty while the Node is unknown, and in scope `Cluster`.
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// How much the snapshot holds.
    pub fn size(&self) -> Size {
        self.size
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole would be megabytes: what a person asks first is which snapshot this is.
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("pod_cidrs", &self.pod_cidrs)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
