//! What decides in one direction of a connection.

use std::fmt;
use std::sync::Arc;

use policy::{Decision, Direction, Packet, Reason, Snapshot, Verdict};
use serde::{Serialize, Serializer};

/// One direction of a decision, without the parts that differ between ports or peers to which the same rules
/// apply.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Side {
    /// Which direction.
    #[serde(serialize_with = "lowercase")]
    direction: Ordered,
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// The stable name of the reason: [`Reason::code`].
    pub reason: &'static str,
    /// The policy of the rule that decided.
    pub policy: Option<String>,
    /// Its kind.
    pub kind: Option<&'static str>,
    /// The rule's index in the policy's list for this direction.
    pub rule: Option<usize>,
    /// The rule's own name, where its kind has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_name: Option<Arc<str>>,
    /// For a default deny: the policies that isolate the pod.
    pub isolated_by: Vec<String>,
    /// The reason in words.
    sentence: &'static str,
}

/// A direction, egress first: the order in which a packet passes both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Ordered {
    Egress,
    Ingress,
}

fn lowercase<S: Serializer>(direction: &Ordered, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(direction.list())
}

impl Ordered {
    fn list(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

impl Side {
    /// One direction of a decision of this snapshot.
    pub fn new(snapshot: &Snapshot, packet: &Packet, decision: &Decision, direction: Direction) -> Self {
        let explained = snapshot.explain(packet, decision, direction);
        let reason = decision.outcome(direction).reason;
        let rule = explained.rule.as_ref();
        Self {
            direction: match direction {
                Direction::Egress => Ordered::Egress,
                Direction::Ingress => Ordered::Ingress,
            },
            verdict: match explained.verdict {
                Verdict::Allow => "allow",
                Verdict::Deny => "deny",
            },
            reason: explained.reason,
            policy: rule.map(|rule| rule.policy.to_string()),
            kind: rule.map(|rule| rule.policy.kind.name()),
            rule: rule.map(|rule| rule.index),
            rule_name: rule.and_then(|rule| rule.name.clone()),
            isolated_by: explained.isolated_by.iter().map(ToString::to_string).collect(),
            sentence: match reason {
                Reason::NotIsolated => "no policy isolates it",
                reason => reason.sentence(),
            },
        }
    }

    /// The direction's name: `ingress` or `egress`.
    pub fn direction(&self) -> &'static str {
        self.direction.list()
    }
}

impl fmt::Display for Side {
    /// `allowed by db/allow-web ingress[0]`, `denied: isolated by db/default-deny`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.verdict == "allow" { "allowed" } else { "denied" })?;
        match (&self.policy, self.rule) {
            (Some(policy), Some(rule)) => {
                write!(f, " by {policy} {}[{rule}]", self.direction())?;
                match &self.rule_name {
                    Some(name) => write!(f, " ({name})"),
                    None => Ok(()),
                }
            }
            _ if !self.isolated_by.is_empty() => write!(f, ": isolated by {}", self.isolated_by.join(", ")),
            _ => write!(f, ": {}", self.sentence),
        }
    }
}
