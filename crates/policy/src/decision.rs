//! What came out for a packet. Small and `Copy`, so that the packet's path can hand it on without allocating.
//!
//! From: [`Snapshot::evaluate`](crate::Snapshot::evaluate). To: the kernel as a verdict, and the audit log as
//! a record.

use serde::Serialize;

/// Whether a packet passes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped, never rejected (semantics 29).
    Deny,
}

/// The side of a pod on which a policy works.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections from the pod.
    Egress,
}

impl Direction {
    /// The other one.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// A rule of a snapshot: an index into its table of rules, valid for that snapshot alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleId(pub u32);

/// Why an outcome came out. Each has a sentence in [`Reason::sentence`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The address on this side belongs to no pod: it is outside the cluster, or a node's.
    NotAPod,
    /// The pod on this side lives on another node, which evaluates it.
    OtherNode,
    /// The packet comes from the pod's own node (semantics 21).
    OwnNode,
    /// The pod reaches its own address (semantics 21).
    OwnAddress,
    /// No policy applies to the pod in this direction, or none that applies decides.
    NotIsolated,
    /// This rule matched first and decided.
    Rule(RuleId),
    /// Policies isolate the pod in this direction and no rule of theirs matched (semantics 2, 8).
    DefaultDeny,
    /// The address is one of its node's pods', and no such pod is known (yet).
    UnknownPod,
    /// The other end's address is one of the cluster's pods', no such pod is known (yet), and a rule might
    /// allow it once it is, or deny it, where the rules that are sure to match do otherwise.
    UnknownPeer,
    /// What is known denies it, but labels of a pod at either end, or of its namespace, are unknown, and
    /// policy might allow it once they are known (semantics 37).
    UnknownLabels,
    /// The packet does not show which end opened its connection, and policy denies the connection opened by
    /// the other end (semantics 34).
    Unproven,
    /// The packet could not be parsed (semantics 28).
    Unparsable,
}

impl Reason {
    /// The stable name of the reason, as records and `explain` show it.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAPod => "not-a-pod",
            Self::OtherNode => "other-node",
            Self::OwnNode => "own-node",
            Self::OwnAddress => "own-address",
            Self::NotIsolated => "not-isolated",
            Self::Rule(_) => "rule",
            Self::DefaultDeny => "default-deny",
            Self::UnknownPod => "unknown-pod",
            Self::UnknownPeer => "unknown-peer",
            Self::UnknownLabels => "unknown-labels",
            Self::Unproven => "unproven",
            Self::Unparsable => "unparsable",
        }
    }

    /// The reason in words.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotAPod => "the address belongs to no pod, so no policy applies to it",
            Self::OtherNode => "the pod lives on another node, which evaluates it",
            Self::OwnNode => "a pod's own node always reaches it",
            Self::OwnAddress => "a pod always reaches its own address",
            Self::NotIsolated => "no policy isolates the pod in this direction",
            Self::Rule(_) => "this rule is the first that matches",
            Self::DefaultDeny => "policies isolate the pod in this direction and none of their rules matches",
            Self::UnknownPod => "the address is in its node's pod CIDR and no pod is known to have it",
            Self::UnknownPeer => {
                "it depends on which pod the other end is, and no pod is known to have its address"
            }
            Self::UnknownLabels => {
                "policy might allow it, but labels of a pod at either end, or of its namespace, are unknown"
            }
            Self::Unproven => {
                "the packet does not show which end opened the connection, and policy denies it from the other end"
            }
            Self::Unparsable => "the packet could not be parsed",
        }
    }

    /// Whether knowing a pod or its labels might change the outcome: its verdict is only what stands in for
    /// knowledge.
    pub fn is_provisional(self) -> bool {
        matches!(self, Self::UnknownPod | Self::UnknownPeer | Self::UnknownLabels)
    }

    /// The words for a reason by its stable name.
    pub(crate) fn sentence_of(code: &str) -> Option<&'static str> {
        [
            Self::NotAPod,
            Self::OtherNode,
            Self::OwnNode,
            Self::OwnAddress,
            Self::NotIsolated,
            Self::Rule(RuleId(0)),
            Self::DefaultDeny,
            Self::UnknownPod,
            Self::UnknownPeer,
            Self::UnknownLabels,
            Self::Unproven,
            Self::Unparsable,
        ]
        .into_iter()
        .find(|reason| reason.code() == code)
        .map(Self::sentence)
    }
}

/// What came out in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Outcome {
    /// Whether this direction lets the packet pass.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

impl Outcome {
    /// An outcome that lets the packet pass.
    pub const fn allow(reason: Reason) -> Self {
        Self { verdict: Verdict::Allow, reason }
    }

    /// An outcome that drops the packet.
    pub const fn deny(reason: Reason) -> Self {
        Self { verdict: Verdict::Deny, reason }
    }
}

/// What came out in both directions: the packet passes only if BOTH let it (semantics 8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Decision {
    /// From the view of the source.
    pub egress: Outcome,
    /// From the view of the destination.
    pub ingress: Outcome,
}

impl Decision {
    /// The decision on a packet that can't be parsed: denied (semantics 28).
    pub const UNPARSABLE: Self =
        Self { egress: Outcome::deny(Reason::Unparsable), ingress: Outcome::deny(Reason::Unparsable) };

    /// The same outcome in both directions.
    pub(crate) const fn both(outcome: Outcome) -> Self {
        Self { egress: outcome, ingress: outcome }
    }

    /// Whether the packet passes.
    pub fn verdict(&self) -> Verdict {
        match (self.egress.verdict, self.ingress.verdict) {
            (Verdict::Allow, Verdict::Allow) => Verdict::Allow,
            _ => Verdict::Deny,
        }
    }

    /// Whether knowing a pod or its labels might change the verdict: ANY direction is unsure, and NONE denies
    /// for sure.
    pub fn is_provisional(&self) -> bool {
        let outcomes = [self.egress, self.ingress];
        outcomes.iter().any(|outcome| outcome.reason.is_provisional())
            && outcomes
                .iter()
                .all(|outcome| outcome.reason.is_provisional() || outcome.verdict == Verdict::Allow)
    }

    /// The outcome in one direction.
    pub fn outcome(&self, direction: Direction) -> Outcome {
        match direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }
}
