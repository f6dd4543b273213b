//! The audit record: the documented type behind a line of the log.
//!
//! From: a worker's [`Evaluation`]. To: the log. A record that is read back can be evaluated again under
//! other policies. Invariant: the fields are declared in their order in the line. The order of existing
//! fields never changes; new fields may be added.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use policy::{
    Direction, Evaluation, Explanation, Generation, Outcome, Packet, PodName, PolicyName, Protocol, Reason,
    Snapshot, Tier, Verdict, explanation,
};
use serde::{Deserialize, Serialize};

mod form;
mod line;

pub(crate) use line::LineBuffer;

/// How many isolating policies a record names at most. Hundreds may select a pod, and a line must not grow to
/// kilobytes.
pub const MOST_ISOLATING: usize = 8;

/// One verdict.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When the verdict was given: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub time: Timestamp,
    /// The node whose agent gave it.
    pub node: Arc<str>,
    /// The generation of the snapshot under which it was given.
    #[serde(with = "form::generation")]
    pub generation: Generation,
    /// `allow` or `deny`: the packet passes only if BOTH directions let it.
    #[serde(with = "form::VerdictForm")]
    pub verdict: Verdict,
    /// Why, in the direction that decided: see [`Reason::code`].
    pub reason: Cow<'static, str>,
    /// The direction that decided. For a denied packet, the direction that denies; if both do, egress, which
    /// the packet passes first. For an allowed packet, the direction with the stronger reason (a rule, then
    /// no isolation, then any other); if both are equally strong, ingress.
    #[serde(with = "form::DirectionForm")]
    pub direction: Direction,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the protocol's number as text. Null if the packet could not
    /// be parsed.
    #[serde(with = "form::protocol")]
    pub protocol: Option<Protocol>,
    /// The ICMP or ICMPv6 type. Only in records of those protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// The packet's source, before SNAT. Null if the packet could not be parsed.
    pub source: Option<Endpoint>,
    /// The packet's destination, after DNAT. Null if the packet could not be parsed.
    pub destination: Option<Endpoint>,
    /// The policy that decided, as `namespace/name`, or `name` alone for a cluster-wide one. For a default
    /// deny, the first of `isolated_by`. For an unknown peer, the policy that denies until the peer is known:
    /// the policy of the rule, or the first one that isolates.
    #[serde(with = "form::policy_or_null")]
    pub policy: Option<Arc<PolicyName>>,
    /// The tier of a cluster-wide policy: `Admin` or `Baseline`. Present only if the policy is cluster-wide,
    /// since all others are NetworkPolicies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// The priority of a cluster-wide policy within its tier: lower numbers are evaluated first. Present only
    /// if the policy is cluster-wide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// The rule that decided: its index, from 0, in the policy's list for `direction`. Null for a default
    /// deny.
    pub rule: Option<usize>,
    /// The rule's name. Present only if the policy names its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_name: Option<Arc<str>>,
    /// The outcome for the source's side.
    pub egress: Side,
    /// The outcome for the destination's side.
    pub ingress: Side,
    /// The policies that isolate the pod in `direction`, sorted: the first [`MOST_ISOLATING`]. Present only
    /// for a default deny.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "form::policies")]
    pub isolated_by: Vec<Arc<PolicyName>>,
    /// How many more policies isolate the pod. Present only if there are any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub isolated_by_more: usize,
    /// The rule that came nearest to allowing the packet. Present only for a default deny, and only if a rule
    /// came near.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest_miss: Option<NearestMiss>,
    /// How long parsing and evaluation took, in nanoseconds. For a packet that was held, only its last
    /// evaluation. 0 for a cached verdict.
    pub nanoseconds: u64,
    /// How long the packet was held, in whole milliseconds, because the verdict depends on a pod or labels
    /// that were not known. Present only if it was held. If `reason` is `unknown-pod`, `unknown-peer` or
    /// `unknown-labels`, the pod or its labels did not become known in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    /// `true` if the kernel accepted the connection or dropped the packet from its verdict cache. The cached
    /// verdict was of this record's snapshot, for the same addresses, protocol and destination port. `time`
    /// is then when the agent received the kernel's log message, some hundredths of a second later. Present
    /// only if `true`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cached: bool,
}

/// One end of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address; an IPv4-mapped IPv6 address is shown as the IPv4 address.
    pub address: IpAddr,
    /// Its port; null where the protocol has none or the packet carries none.
    pub port: Option<u16>,
    /// The namespace of the pod that has the address; null if none is known to have it.
    pub namespace: Option<Arc<str>>,
    /// The pod's name; null if no pod is known to have the address.
    pub pod: Option<Arc<str>>,
}

/// The outcome of one direction. `kube-verdict explain --packets` prints it in the same form.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Side {
    /// Whether this direction allows the packet.
    #[serde(with = "form::VerdictForm")]
    pub verdict: Verdict,
    /// Why: see [`Reason::code`].
    pub reason: Cow<'static, str>,
    /// The policy that decided; for a default deny, the first that isolates.
    #[serde(with = "form::policy_or_null")]
    pub policy: Option<Arc<PolicyName>>,
    /// Index of the rule that decided, in the policy's list for this direction.
    pub rule: Option<usize>,
}

/// The rule that came nearest to allowing a packet that a default deny dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NearestMiss {
    /// Its policy.
    #[serde(with = "form::policy")]
    pub policy: Arc<PolicyName>,
    /// Its index in the policy's list for the direction that decided.
    pub rule: usize,
    /// `port`: the peer matches, the port does not. `peer`: the port matches, the peer does not.
    #[serde(with = "form::MissForm")]
    pub miss: explanation::Miss,
}

/// A line that reports records missing from the log at this position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lost {
    /// How many records were lost since the last such line. Their ring was full, the log could not be
    /// written, or the kernel's log messages about cached verdicts were lost.
    pub lost: u64,
    /// When the loss was noticed: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub time: Timestamp,
    /// The node whose agent lost them.
    pub node: Arc<str>,
}

/// A line that marks the lines after it as possible duplicates. Another program moved the file during their
/// write, so they were written again. Whether that program's copy contains them depends on when it was made.
/// Those that it contains are identical byte for byte.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Repeated {
    /// How many of the following lines are repeated.
    pub repeated: u64,
    /// When the move was noticed: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub time: Timestamp,
    /// The node whose agent repeats them.
    pub node: Arc<str>,
}

/// A line about packets that nftables rules dropped without a verdict: at most one line per second for each
/// reason and interface.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Dropped {
    /// Why: the stable name of the reason.
    #[serde(rename = "dropped")]
    pub reason: Cow<'static, str>,
    /// When the drops were noticed: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub time: Timestamp,
    /// The node whose rules dropped them.
    pub node: Arc<str>,
    /// The interface on which they arrived; null if the rule counts by source address instead.
    pub interface: Option<Arc<str>>,
    /// The namespace of the pod behind that interface; if `interface` is null, of the pod that has the source
    /// address. Null if that pod is not known.
    pub namespace: Option<Arc<str>>,
    /// The pod's name; null if the pod is not known.
    pub pod: Option<Arc<str>>,
    /// How many packets were dropped since the last such line of this reason and interface.
    pub packets: u64,
    /// The EtherType of one of the packets, such as `0x86dd`. Null if it is not known.
    pub ether_type: Option<String>,
    /// The source MAC address of the same packet. Null if it has none.
    pub mac: Option<String>,
    /// The protocol of the same packet, as in [`Record::protocol`]. Null if it is not an IP packet or can't
    /// be parsed.
    #[serde(with = "form::protocol")]
    pub protocol: Option<Protocol>,
    /// The source of the same packet, which may be forged. Null if it is not an IP packet or can't be parsed.
    pub source: Option<Endpoint>,
    /// The destination of the same packet. Null if it is not an IP packet or can't be parsed.
    pub destination: Option<Endpoint>,
}

/// A line about a period in which packets could pass unevaluated on this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bypass {
    /// Why: `rules-changed` if another program changed the rules. `rules-unknown` if the kernel's
    /// notifications of such changes were lost, or if the rules were found missing.
    #[serde(rename = "bypass")]
    pub reason: Cow<'static, str>,
    /// When the period began: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub from: Timestamp,
    /// When the rules had been restored and all connections evaluated again.
    #[serde(with = "form::time")]
    pub to: Timestamp,
    /// The node.
    pub node: Arc<str>,
    /// The change to the rules.
    pub change: String,
    /// The name of the program that made the change; null if it is not known.
    pub program: Option<String>,
    /// The program's process ID; null if it is not known.
    pub pid: Option<u32>,
}

impl Record {
    /// The record of an evaluation by the agent of `node`.
    pub fn new(node: &Arc<str>, evaluation: &Evaluation) -> Self {
        let Evaluation { at, packet, decision, elapsed, held, snapshot, cached } = evaluation;
        let explain = |direction| match packet {
            Some(packet) => snapshot.explain(packet, decision, direction),
            None => unexplained(decision.outcome(direction), direction),
        };
        let (egress, ingress) = (explain(Direction::Egress), explain(Direction::Ingress));
        let sides = (Side::new(&egress), Side::new(&ingress));
        let direction = deciding(decision.egress, decision.ingress);
        let mut decided = match direction {
            Direction::Egress => egress,
            Direction::Ingress => ingress,
        };
        let isolated_by_more = decided.isolated_by.len().saturating_sub(MOST_ISOLATING);
        decided.isolated_by.truncate(MOST_ISOLATING);
        Self {
            time: Timestamp::try_from(*at).unwrap_or_default(),
            node: Arc::clone(node),
            generation: snapshot.generation(),
            verdict: decision.verdict(),
            reason: Cow::Borrowed(decided.reason),
            direction,
            protocol: packet.as_ref().map(|packet| packet.protocol),
            icmp_type: packet.as_ref().and_then(|packet| packet.icmp_type),
            source: packet.as_ref().map(|p| Endpoint::new(p.source(), p.source_port, snapshot)),
            destination: packet
                .as_ref()
                .map(|p| Endpoint::new(p.destination(), p.destination_port, snapshot)),
            policy: deciding_policy(&decided).cloned(),
            // Only rules of cluster-wide policies have a priority.
            tier: decided.rule.as_ref().and_then(|rule| rule.priority.map(|_| rule.tier)),
            priority: decided.rule.as_ref().and_then(|rule| rule.priority),
            rule: decided.rule.as_ref().map(|rule| rule.index),
            rule_name: decided.rule.and_then(|rule| rule.name),
            egress: sides.0,
            ingress: sides.1,
            isolated_by: decided.isolated_by,
            isolated_by_more,
            nearest_miss: decided.nearest_miss.map(|near| NearestMiss {
                policy: near.rule.policy,
                rule: near.rule.index,
                miss: near.miss,
            }),
            nanoseconds: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            held_ms: held.map(|held| u64::try_from(held.as_millis()).unwrap_or(u64::MAX)),
            cached: *cached,
        }
    }

    /// The evaluated packet, with everything that a verdict depends on; `None` if it could not be parsed.
    pub fn packet(&self) -> Option<Packet> {
        let (source, destination) = (self.source.as_ref()?, self.destination.as_ref()?);
        let mut packet = Packet::new(source.address, destination.address, self.protocol?);
        packet.source_port = source.port;
        packet.destination_port = destination.port;
        packet.icmp_type = self.icmp_type;
        Some(packet)
    }
}

impl Endpoint {
    /// The end of a connection that has this address, with its pod in `snapshot`.
    pub fn new(address: IpAddr, port: Option<u16>, snapshot: &Snapshot) -> Self {
        let pod = snapshot.pod_at(address);
        Self {
            address,
            port,
            namespace: pod.map(|pod: &PodName| Arc::clone(&pod.namespace)),
            pod: pod.map(|pod| Arc::clone(&pod.name)),
        }
    }
}

impl Side {
    /// The short form of an explanation.
    pub fn new(explanation: &Explanation) -> Self {
        Self {
            verdict: explanation.verdict,
            reason: Cow::Borrowed(explanation.reason),
            policy: deciding_policy(explanation).cloned(),
            rule: explanation.rule.as_ref().map(|rule| rule.index),
        }
    }
}

/// The policy of the rule that decided, or the first that isolates.
fn deciding_policy(explanation: &Explanation) -> Option<&Arc<PolicyName>> {
    explanation.rule.as_ref().map(|rule| &rule.policy).or(explanation.isolated_by.first())
}

/// The explanation for a packet that could not be parsed.
fn unexplained(outcome: Outcome, direction: Direction) -> Explanation {
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

/// See [`Record::direction`].
fn deciding(egress: Outcome, ingress: Outcome) -> Direction {
    match (egress.verdict, ingress.verdict) {
        (Verdict::Deny, _) => Direction::Egress,
        (Verdict::Allow, Verdict::Deny) => Direction::Ingress,
        (Verdict::Allow, Verdict::Allow) if weight(egress.reason) > weight(ingress.reason) => {
            Direction::Egress
        }
        (Verdict::Allow, Verdict::Allow) => Direction::Ingress,
    }
}

/// Ranks reasons to allow by how closely they relate to policy.
fn weight(reason: Reason) -> u8 {
    match reason {
        Reason::Rule(_) => 3,
        Reason::NotIsolated => 2,
        Reason::OwnNode
        | Reason::OwnAddress
        | Reason::UnknownPod
        | Reason::UnknownPeer
        | Reason::UnknownLabels => 1,
        Reason::NotAPod | Reason::OtherNode | Reason::DefaultDeny | Reason::Unproven | Reason::Unparsable => {
            0
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
