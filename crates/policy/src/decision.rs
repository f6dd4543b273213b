//! The outcome of evaluating a packet. Small and `Copy`, so that the packet's path passes it on without
//! allocating.
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

/// The direction of a connection, seen from a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections from the pod.
    Egress,
}

impl Direction {
    /// The opposite direction.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// Identifies a rule of a snapshot. Ids of one snapshot have no meaning in another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RuleId(pub u32);

impl RuleId {
    /// The id of a rule at this index of a policy whose first rule has this id.
    pub(crate) fn at(self, index: u32) -> Self {
        Self(self.0 + index)
    }

    /// The inverse of [`RuleId::at`]: the index of this rule in a policy whose first rule is `first`.
    pub(crate) fn index_from(self, first: Self) -> usize {
        (self.0 - first.0) as usize
    }
}

/// The reason of an outcome. [`Reason::sentence`] puts each into words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The address on this side belongs to no pod: it is outside the cluster, or a node's.
    NotAPod,
    /// The pod on this side runs on another node, which evaluates it.
    OtherNode,
    /// The packet comes from the pod's own node (semantics 21).
    OwnNode,
    /// The pod connects to its own address (semantics 21).
    OwnAddress,
    /// No policy applies to the pod in this direction, or no policy that applies decides.
    NotIsolated,
    /// This rule matched first and decided.
    Rule(RuleId),
    /// Policies isolate the pod in this direction and none of their rules matched (semantics 2, 8).
    DefaultDeny,
    /// The address is in its node's pod CIDR, and no pod is known to have it (yet).
    UnknownPod,
    /// The other end's address is in a pod CIDR of the cluster, and no pod is known to have it (yet). Once
    /// the pod is known, a rule might change the verdict: allow what is denied now, or deny what is allowed
    /// now.
    UnknownPeer,
    /// Denied by what is known. But labels of a pod at either end, or of its namespace, are unknown, and
    /// policy might allow the packet once they are known (semantics 37).
    UnknownLabels,
    /// The packet does not show which end opened its connection, and policy denies the connection opened by
    /// the other end (semantics 34).
    Unproven,
    /// The packet could not be parsed (semantics 28).
    Unparsable,
}

impl Reason {
    /// The stable name of the reason, as audit records and `explain` show it.
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

    /// Whether the outcome is provisional: it might change once a pod or its labels are known.
    pub fn is_provisional(self) -> bool {
        matches!(self, Self::UnknownPod | Self::UnknownPeer | Self::UnknownLabels)
    }

    /// The sentence of the reason with this stable name.
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

/// The outcome of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Outcome {
    /// Whether this direction lets the packet pass.
    pub verdict: Verdict,
    /// The reason for the verdict.
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

/// The outcomes of both directions. The packet passes only if BOTH allow it (semantics 8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Decision {
    /// The outcome for the source pod.
    pub egress: Outcome,
    /// The outcome for the destination pod.
    pub ingress: Outcome,
}

impl Decision {
    /// The decision on a packet that can't be parsed: deny (semantics 28).
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

    /// Whether the verdict might change once a pod or its labels are known: ANY direction is provisional, and
    /// NONE denies finally.
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
