//! The audit record: the one documented type behind a line of the log.
//!
//! From: a worker's [`Evaluation`]. To: the log, and from the log back, to be evaluated again under other policies.
//! Invariant: the order of the fields is the order in the line, and it stays; new fields may join.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use policy::{
    Direction, Evaluation, Explanation, Generation, Outcome, Packet, PodName, PolicyName, Protocol, Reason,
    Snapshot, Verdict, explanation,
};
use serde::{Deserialize, Serialize};

mod form;
mod line;

pub(crate) use line::Lines;

/// How many isolating policies a record names: where hundreds select a pod, a line must not grow to kilobytes.
pub const MOST_ISOLATING: usize = 8;

/// One verdict.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When the verdict was given: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub time: Timestamp,
    /// The node whose agent gave it.
    pub node: Arc<str>,
    /// The snapshot under which it was given.
    #[serde(with = "form::generation")]
    pub generation: Generation,
    /// `allow` or `deny`: the packet passes only if BOTH directions let it.
    #[serde(with = "form::VerdictForm")]
    pub verdict: Verdict,
    /// Why, in the direction that decided: [`Reason::code`].
    pub reason: Cow<'static, str>,
    /// The direction that decided. Denied: the one that denies, egress (which the packet meets first) where both do.
    /// Allowed: the one with the weightier reason (a rule, before nothing that isolates, before anything else), ingress where
    /// both weigh the same.
    #[serde(with = "form::DirectionForm")]
    pub direction: Direction,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the protocol's number as text. Null if the packet could not be parsed.
    #[serde(with = "form::protocol")]
    pub protocol: Option<Protocol>,
    /// The ICMP or ICMPv6 type. Only in records of those protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Where the packet came from, before SNAT. Null if the packet could not be parsed.
    pub source: Option<Endpoint>,
    /// Where it went, after DNAT. Null if the packet could not be parsed.
    pub destination: Option<Endpoint>,
    /// The policy that decided, as `namespace/name`, or `name` alone for a cluster-wide one. For a default deny the first of
    /// `isolated_by`. For an unknown peer that of the rule, or the first that isolates, that denies until the peer is known.
    #[serde(with = "form::policy_or_null")]
    pub policy: Option<Arc<PolicyName>>,
    /// The rule that decided: its index, from 0, in that policy's list for `direction`. Null for a default deny.
    pub rule: Option<usize>,
    /// The rule's own name. Only where the policy gives it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_name: Option<Arc<str>>,
    /// What the source's side said.
    pub egress: Side,
    /// What the destination's side said.
    pub ingress: Side,
    /// For a default deny, the policies that isolate the pod in `direction`, sorted: the first [`MOST_ISOLATING`] of them. Only
    /// there.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "form::policies")]
    pub isolated_by: Vec<Arc<PolicyName>>,
    /// How many more isolate it. Only if any do.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub isolated_by_more: usize,
    /// For a default deny, the rule that came nearest to allowing. Only there, and only if one came near.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest_miss: Option<NearestMiss>,
    /// How long parsing and evaluation took, in nanoseconds; of a packet that was held, its last evaluation alone; 0 where it was
    /// cached.
    pub nanoseconds: u64,
    /// How long the packet was held, in whole milliseconds, because a pod or labels decide about it that were not known. Only if it
    /// was. Where `reason` is `unknown-pod`, `unknown-peer` or `unknown-labels` the pod or its labels did not become known in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    /// `true` where the kernel let the connection pass, or dropped the packet, by itself, because it cached an earlier verdict of the
    /// same generation on the same addresses, protocol and destination port; `time` is then when that was heard, some hundredths of a
    /// second later. Only there.
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
    /// The pod's name; null likewise.
    pub pod: Option<Arc<str>>,
}

/// What one direction said: the form that `kube-verdict explain --packets` prints, too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Side {
    /// Whether this direction lets the packet pass.
    #[serde(with = "form::VerdictForm")]
    pub verdict: Verdict,
    /// [`Reason::code`].
    pub reason: Cow<'static, str>,
    /// The policy that decided; for a default deny the first that isolates.
    #[serde(with = "form::policy_or_null")]
    pub policy: Option<Arc<PolicyName>>,
    /// Index of the rule that decided, in that policy's list for this direction.
    pub rule: Option<usize>,
}

/// The rule that came nearest to allowing what a default deny dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NearestMiss {
    /// Its policy.
    #[serde(with = "form::policy")]
    pub policy: Arc<PolicyName>,
    /// Its index in that policy's list for the direction that decided.
    pub rule: usize,
    /// `port`: the peer matches, the port does not. `peer`: the port matches, the peer does not.
    #[serde(with = "form::MissForm")]
    pub miss: explanation::Miss,
}

/// A line that says that records are missing from the log at this place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lost {
    /// How many since the last such line: their ring was full, the log could not be written, or what the kernel told of
    /// cached connections was not heard.
    pub lost: u64,
    /// When that was noticed: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub time: Timestamp,
    /// The node whose agent lost them.
    pub node: Arc<str>,
}

/// A line that says that those after it may stand elsewhere, too: another program moved the file away while they were written to it, so
/// they were written again. Whether that program's copy holds them depends on when it was read: those that it holds are equal byte by
/// byte.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Repeated {
    /// How many lines after this one.
    pub repeated: u64,
    /// When that was noticed: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub time: Timestamp,
    /// The node whose agent repeats them.
    pub node: Arc<str>,
}

/// A line about packets that rules dropped by themselves, folded: of one reason and interface one line a second at most.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Dropped {
    /// Why: the stable name of the reason.
    #[serde(rename = "dropped")]
    pub reason: Cow<'static, str>,
    /// When that was noticed: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub time: Timestamp,
    /// The node whose rules dropped them.
    pub node: Arc<str>,
    /// The interface where they entered; null where the rule does not know it.
    pub interface: Option<Arc<str>>,
    /// The namespace of the pod behind that interface, or, where it is not known, of the pod that has the source address; null if
    /// neither is known.
    pub namespace: Option<Arc<str>>,
    /// The pod's name; null likewise.
    pub pod: Option<Arc<str>>,
    /// How many since the last such line of this reason and interface.
    pub packets: u64,
    /// Of one of them: the protocol behind the Ethernet header, such as `0x86dd`. Null where it is not known.
    pub ether_type: Option<String>,
    /// Of one of them: the frame's source. Null where it has none.
    pub mac: Option<String>,
    /// Of one of them: as [`Record::protocol`]. Null where it was no IP packet, or can't be parsed.
    #[serde(with = "form::protocol")]
    pub protocol: Option<Protocol>,
    /// Of one of them: where it claimed to come from. Null likewise.
    pub source: Option<Endpoint>,
    /// Of one of them: where it would have gone. Null likewise.
    pub destination: Option<Endpoint>,
}

/// A line about a time in which packets could pass unevaluated on this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bypass {
    /// Why: `rules-changed` by another program, or `rules-unknown` where the kernel's notifications of such changes were lost or the
    /// rules were found missing.
    #[serde(rename = "bypass")]
    pub reason: Cow<'static, str>,
    /// Since when: RFC 3339, UTC, microseconds.
    #[serde(with = "form::time")]
    pub from: Timestamp,
    /// When the rules were back and all connections had been evaluated again.
    #[serde(with = "form::time")]
    pub to: Timestamp,
    /// The node.
    pub node: Arc<str>,
    /// What was done to the rules.
    pub change: String,
    /// The program that did it, by name; null if it is not known.
    pub program: Option<String>,
    /// Its process id; null likewise.
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

    /// The packet that was evaluated, with all that a verdict depends on; `None` if it could not be parsed.
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
    /// The end of a connection that has this address, as `snapshot` knows it.
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

/// A packet that could not be parsed has nothing to explain but that.
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

/// How much a reason to allow says about policy.
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
