//! The verdict on a connection.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use policy::{
    Direction, Evaluation, Explanation, Generation, Packet, PodName, Protocol, Snapshot, Tier, Verdict,
    Workload, explanation,
};
use serde::{Deserialize, Serialize};

use super::form;
use super::policy_ref::PolicyRef;
#[cfg(test)]
use super::schema;
use super::tcp_flags::TcpFlags;
use crate::community_id::CommunityId;
use crate::policy_versions::PolicyVersions;

/// How many isolating policies a record names at most. Hundreds may select a pod, and a line must not grow to
/// hundreds of kilobytes.
pub const MOST_ISOLATING: usize = 64;

/// The verdict on a connection: its addresses, its pods, and what decided.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Connection {
    /// `allow` or `deny`: the packet passes only if both directions allow it.
    #[serde(with = "form::VerdictForm")]
    #[cfg_attr(test, schemars(schema_with = "schema::verdict"))]
    pub verdict: Verdict,
    /// Why, in the direction that decided: a code from the list of reasons.
    pub reason: Cow<'static, str>,
    /// The direction that decided. For a denied packet, the direction that denies; if both do, egress, which
    /// the packet passes first. For an allowed packet, the direction with the stronger reason (a rule, then
    /// no isolation, then any other); if both are equally strong, ingress.
    #[serde(with = "form::DirectionForm")]
    #[cfg_attr(test, schemars(schema_with = "schema::direction"))]
    pub direction: Direction,
    /// The generation of the compiled policies under which the verdict was given. Counts from 1 within an
    /// instance.
    #[serde(with = "form::generation")]
    #[cfg_attr(test, schemars(with = "u64"))]
    pub generation: Generation,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the protocol's number as text. Absent if the packet could
    /// not be parsed.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "form::optional_text")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub protocol: Option<Protocol>,
    /// The ICMP or ICMPv6 type. Only in records of those protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// The ICMP or ICMPv6 code. Only in records of those protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// The flags of the TCP header: names with commas, such as `SYN` or `SYN,ACK`, or `none`. Only if a TCP
    /// packet was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "form::optional_text")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub tcp_flags: Option<TcpFlags>,
    /// The Community ID, version 1, seed 0. Absent if the packet lacks the ports, or the ICMP type and code.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "form::optional_text")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub community_id: Option<CommunityId>,
    /// The packet's source, before SNAT. Absent if the packet could not be parsed, or in a folded record of
    /// several sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Endpoint>,
    /// The packet's destination, after DNAT. Absent if the packet could not be parsed, or in a folded record
    /// of several destinations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Endpoint>,
    /// The tier that decided: `Admin`, `NetworkPolicy` or `Baseline`. Absent if no policy decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "schema::tier"))]
    pub tier: Option<Tier>,
    /// The priority of a cluster-wide policy within its tier: lower numbers are evaluated first. Present only
    /// if such a policy decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// The policy whose rule decided, or whose rule denies until an unknown peer is known. Null if no rule
    /// did, as for a default deny: see `isolated_by`.
    pub policy: Option<PolicyRef>,
    /// The rule that decided: its index, from 0, in the policy's list for `direction`. Null if no rule did.
    pub rule: Option<usize>,
    /// The rule's name. Present only if the rule has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_name: Option<Arc<str>>,
    /// The outcome for the source's side.
    pub egress: Outcome,
    /// The outcome for the destination's side.
    pub ingress: Outcome,
    /// The policies that isolate the pod in `direction`, sorted: the first 64. Present only for a default
    /// deny, and for an unknown peer that is denied by default until it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolated_by: Vec<PolicyRef>,
    /// How many more policies isolate the pod. Present only if there are any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub isolated_by_more: usize,
    /// The rule that came nearest to allowing the packet. Present only for a default deny, and only if a rule
    /// came near.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest_miss: Option<NearestMiss>,
    /// How long parsing and evaluation took, in nanoseconds. For a packet that was held, only its last
    /// evaluation. 0 for a cached verdict. Absent in events `revoked` and `restored`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nanoseconds: Option<u64>,
    /// How long the packet was held, in whole milliseconds, because the verdict depends on a pod or labels
    /// that were not known. Present only if it was held. If `reason` is `unknown-pod`, `unknown-peer` or
    /// `unknown-labels`, the pod or its labels did not become known in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    /// `true` if the kernel accepted the connection or dropped the packet from its verdict cache. The cached
    /// verdict is of this record's generation, for the same addresses, protocol and destination port. Present
    /// only if `true`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cached: bool,
    /// How many denials the record stands for. Absent for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The time of the first of these denials. Present with `count`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "form::optional_time")]
    #[cfg_attr(test, schemars(schema_with = "schema::time"))]
    pub first: Option<Timestamp>,
    /// The time of the last of these denials. Present with `count`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "form::optional_time")]
    #[cfg_attr(test, schemars(schema_with = "schema::time"))]
    pub last: Option<Timestamp>,
    /// What these denials have in common: `flow`, `port` or `origin`. Present with `count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded_by: Option<FoldedBy>,
}

/// What the denials of a folded record have in common, besides protocol and what decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FoldedBy {
    /// Both addresses and both ports.
    Flow,
    /// The destination address and port, and the source if it is a pod. Source ports differ.
    Port,
    /// The source if it is a pod, and otherwise the destination address. All else differs.
    Origin,
}

impl FoldedBy {
    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Port => "port",
            Self::Origin => "origin",
        }
    }
}

/// One end of a connection. What the agent does not know is absent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// Its address; an IPv4-mapped IPv6 address is shown as the IPv4 address.
    pub address: IpAddr,
    /// Its port. Absent where the protocol has none or the packet carries none, and in a folded record of
    /// several ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The namespace of the pod that has the address. Absent if no pod is known to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// The pod's name. Absent if no pod is known to have the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// The workload that controls the pod, in the pod's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "form::optional_workload")]
    #[cfg_attr(test, schemars(with = "Option<form::WorkloadForm>"))]
    pub workload: Option<Arc<Workload>>,
    /// The node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
}

/// The outcome of one direction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// Whether this direction allows the packet.
    #[serde(with = "form::VerdictForm")]
    #[cfg_attr(test, schemars(schema_with = "schema::verdict"))]
    pub verdict: Verdict,
    /// Why: a code from the list of reasons.
    pub reason: Cow<'static, str>,
    /// The policy whose rule decided; null if no rule did.
    pub policy: Option<PolicyRef>,
    /// Index of the rule that decided, in the policy's list for this direction; null if no rule did.
    pub rule: Option<usize>,
}

/// The rule that came nearest to allowing a packet that a default deny dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NearestMiss {
    /// Its policy.
    pub policy: PolicyRef,
    /// Its index in the policy's list for the direction that decided.
    pub rule: usize,
    /// `port`: the peer matches, the port does not. `peer`: the port matches, the peer does not.
    #[serde(with = "form::MissForm")]
    #[cfg_attr(test, schemars(schema_with = "schema::miss"))]
    pub miss: explanation::Miss,
}

impl Connection {
    /// The record of an evaluation. `versions` are those of the policies.
    pub fn new(evaluation: &Evaluation, versions: &PolicyVersions) -> Self {
        let Evaluation { at: _, packet, decision, elapsed, held, snapshot, cached } = evaluation;
        let explain = |direction| match packet {
            Some(packet) => snapshot.explain(packet, decision, direction),
            None => unexplained(decision.outcome(direction), direction),
        };
        let generation = snapshot.generation();
        let named =
            |name: &Arc<_>| PolicyRef { name: Arc::clone(name), version: versions.at(name, generation) };
        let outcome = |explanation: &Explanation| Outcome {
            verdict: explanation.verdict,
            reason: Cow::Borrowed(explanation.reason),
            policy: explanation.rule.as_ref().map(|rule| named(&rule.policy)),
            rule: explanation.rule.as_ref().map(|rule| rule.index),
        };
        let (egress, ingress) = (explain(Direction::Egress), explain(Direction::Ingress));
        let sides = (outcome(&egress), outcome(&ingress));
        let direction = decision.direction();
        let (decided, policy) = match direction {
            Direction::Egress => (egress, sides.0.policy.clone()),
            Direction::Ingress => (ingress, sides.1.policy.clone()),
        };
        let isolated_by = decided.isolated_by.iter().take(MOST_ISOLATING).map(named).collect();
        Self {
            verdict: decision.verdict(),
            reason: Cow::Borrowed(decided.reason),
            direction,
            generation,
            protocol: packet.as_ref().map(|packet| packet.protocol),
            icmp_type: packet.as_ref().and_then(|packet| packet.icmp_type),
            icmp_code: packet.as_ref().and_then(|packet| packet.icmp_code),
            tcp_flags: packet.as_ref().and_then(|packet| packet.tcp_flags).map(TcpFlags),
            community_id: packet.as_ref().and_then(CommunityId::of),
            source: packet.as_ref().map(|p| Endpoint::new(p.source(), p.source_port, snapshot)),
            destination: packet
                .as_ref()
                .map(|p| Endpoint::new(p.destination(), p.destination_port, snapshot)),
            tier: tier(&decided),
            priority: decided.rule.as_ref().and_then(|rule| rule.priority),
            policy,
            rule: decided.rule.as_ref().map(|rule| rule.index),
            rule_name: decided.rule.and_then(|rule| rule.name),
            egress: sides.0,
            ingress: sides.1,
            isolated_by,
            isolated_by_more: decided.isolated_by.len().saturating_sub(MOST_ISOLATING),
            nearest_miss: decided.nearest_miss.map(|near| NearestMiss {
                policy: named(&near.rule.policy),
                rule: near.rule.index,
                miss: near.miss,
            }),
            nanoseconds: Some(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)),
            held_ms: held.map(|held| u64::try_from(held.as_millis()).unwrap_or(u64::MAX)),
            cached: *cached,
            count: None,
            first: None,
            last: None,
            folded_by: None,
        }
    }

    /// The evaluated packet, with everything that a verdict depends on. `None` if it could not be parsed, or
    /// if a folded record stands for several.
    pub fn packet(&self) -> Option<Packet> {
        let (source, destination) = (self.source.as_ref()?, self.destination.as_ref()?);
        let mut packet = Packet::new(source.address, destination.address, self.protocol?);
        packet.source_port = source.port;
        packet.destination_port = destination.port;
        (packet.icmp_type, packet.icmp_code) = (self.icmp_type, self.icmp_code);
        Some(match self.tcp_flags {
            Some(TcpFlags(flags)) => packet.with_tcp_flags(flags),
            None => packet,
        })
    }

    /// Changes the record to a denial because of the nodes' overlay, which no policy decides.
    pub(crate) fn deny_overlay(&mut self) {
        const REASON: Cow<'_, str> = Cow::Borrowed("overlay");
        let outcome = Outcome { verdict: Verdict::Deny, reason: REASON, policy: None, rule: None };
        self.verdict = Verdict::Deny;
        (self.reason, self.direction) = (REASON, Direction::Egress);
        (self.policy, self.rule, self.rule_name) = (None, None, None);
        (self.tier, self.priority, self.nearest_miss) = (None, None, None);
        (self.isolated_by, self.isolated_by_more) = (Vec::new(), 0);
        self.egress = outcome;
    }

    /// How many evaluations the record stands for.
    pub fn evaluations(&self) -> u64 {
        self.count.unwrap_or(1)
    }
}

impl Endpoint {
    /// The end of a connection that has this address, with its pod in `snapshot`.
    pub fn new(address: IpAddr, port: Option<u16>, snapshot: &Snapshot) -> Self {
        let pod = snapshot.pod(address);
        Self {
            address,
            port,
            namespace: pod.map(|pod| Arc::clone(&pod.name.namespace)),
            pod: pod.map(|pod| Arc::clone(&pod.name.name)),
            workload: pod.and_then(|pod| pod.workload.clone()),
            node: pod.and_then(|pod| pod.node.clone()),
        }
    }
}

impl Endpoint {
    /// The pod that has the address, if it is known.
    pub fn pod_name(&self) -> Option<PodName> {
        let (namespace, name) = self.namespace.as_ref().zip(self.pod.as_ref())?;
        Some(PodName { namespace: Arc::clone(namespace), name: Arc::clone(name) })
    }
}

/// The tier of the rule that decided. Only NetworkPolicies isolate.
fn tier(explanation: &Explanation) -> Option<Tier> {
    let isolated = || (!explanation.isolated_by.is_empty()).then_some(Tier::NetworkPolicy);
    explanation.rule.as_ref().map(|rule| rule.tier).or_else(isolated)
}

/// The explanation for a packet that could not be parsed.
fn unexplained(outcome: policy::Outcome, direction: Direction) -> Explanation {
    Explanation {
        verdict: outcome.verdict,
        reason: outcome.reason.code(),
        direction,
        rule: None,
        isolated_by: Vec::new(),
        nearest_miss: None,
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}
