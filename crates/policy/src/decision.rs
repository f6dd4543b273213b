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

impl Verdict {
    /// `allow` or `deny`, as records and metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
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
    /// `ingress` or `egress`, as policies, records and metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

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
    /// All reasons, in the order of [`Reason::index`]. Rule 0 represents every rule.
    pub const ALL: [Self; 12] = [
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
    ];

    /// The index of the reason in [`Reason::ALL`], which is the same for every rule.
    pub const fn index(self) -> usize {
        match self {
            Self::NotAPod => 0,
            Self::OtherNode => 1,
            Self::OwnNode => 2,
            Self::OwnAddress => 3,
            Self::NotIsolated => 4,
            Self::Rule(_) => 5,
            Self::DefaultDeny => 6,
            Self::UnknownPod => 7,
            Self::UnknownPeer => 8,
            Self::UnknownLabels => 9,
            Self::Unproven => 10,
            Self::Unparsable => 11,
        }
    }

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

    /// Ranks reasons to allow by how closely they relate to policy.
    fn strength(self) -> u8 {
        match self {
            Self::Rule(_) => 3,
            Self::NotIsolated => 2,
            Self::OwnNode | Self::OwnAddress | Self::UnknownPod | Self::UnknownPeer | Self::UnknownLabels => {
                1
            }
            Self::NotAPod | Self::OtherNode | Self::DefaultDeny | Self::Unproven | Self::Unparsable => 0,
        }
    }

    /// The sentence of the reason with this stable name.
    pub(crate) fn sentence_of(code: &str) -> Option<&'static str> {
        Self::ALL.into_iter().find(|reason| reason.code() == code).map(Self::sentence)
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

    /// The direction that decided. For a denied packet, the direction that denies; if both do, egress, which
    /// the packet passes first. For an allowed packet, the direction with the stronger reason (a rule, then
    /// no isolation, then any other that a pod has); if both are equally strong, ingress.
    pub fn direction(&self) -> Direction {
        match (self.egress.verdict, self.ingress.verdict) {
            (Verdict::Deny, _) => Direction::Egress,
            (Verdict::Allow, Verdict::Deny) => Direction::Ingress,
            (Verdict::Allow, Verdict::Allow)
                if self.egress.reason.strength() > self.ingress.reason.strength() =>
            {
                Direction::Egress
            }
            (Verdict::Allow, Verdict::Allow) => Direction::Ingress,
        }
    }

    /// The outcome in one direction.
    pub fn outcome(&self, direction: Direction) -> Outcome {
        match direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_at_its_index() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason:?}");
        }
        assert_eq!(Reason::Rule(RuleId(7)).index(), Reason::ALL[5].index());
        assert_eq!(Reason::ALL[5].code(), "rule");
    }

    #[test]
    fn the_direction_that_denies_or_has_the_stronger_reason_decides() {
        let rule = Outcome::allow(Reason::Rule(RuleId(3)));
        let (open, own_node) = (Outcome::allow(Reason::NotIsolated), Outcome::allow(Reason::OwnNode));
        let other_node = Outcome::allow(Reason::OtherNode);
        let denied = Outcome::deny(Reason::DefaultDeny);
        for (egress, ingress, direction) in [
            (denied, rule, Direction::Egress),
            (rule, denied, Direction::Ingress),
            (denied, denied, Direction::Egress),
            (rule, open, Direction::Egress),
            (open, rule, Direction::Ingress),
            (rule, rule, Direction::Ingress),
            (open, own_node, Direction::Egress),
            (own_node, other_node, Direction::Egress),
            (other_node, own_node, Direction::Ingress),
        ] {
            assert_eq!(Decision { egress, ingress }.direction(), direction, "{egress:?} {ingress:?}");
        }
    }
}
