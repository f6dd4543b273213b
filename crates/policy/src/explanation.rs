//! Explanations of decisions in words, created off the packet's path.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::decision::{Direction, Reason, Verdict};
use crate::names::PolicyName;
use crate::spec::Tier;

/// One direction of a decision, explained.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Whether this direction lets the packet pass.
    pub verdict: Verdict,
    /// The reason's stable name: [`Reason::code`](crate::Reason::code).
    pub reason: &'static str,
    /// Which direction this is.
    pub direction: Direction,
    /// The rule that decided, or that denies until the unknown pod or labels are known.
    pub rule: Option<RuleName>,
    /// For a default deny, including a provisional one: the policies that isolate the pod in this direction,
    /// sorted by name.
    pub isolated_by: Vec<Arc<PolicyName>>,
    /// For a default deny: the rule that came nearest to matching.
    pub nearest_miss: Option<NearestMiss>,
}

impl fmt::Display for Explanation {
    /// One sentence, as `allowed by NetworkPolicy web/allow-api, ingress[1]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut verdict = match self.verdict {
            Verdict::Allow => "allowed",
            Verdict::Deny => "denied",
        };
        let provisional = [Reason::UnknownPeer, Reason::UnknownLabels];
        let denied_until_then = self.rule.is_some() || !self.isolated_by.is_empty();
        if let Some(reason) = provisional.into_iter().find(|reason| reason.code() == self.reason)
            && denied_until_then
        {
            write!(f, "{verdict}: {}; else ", reason.sentence())?;
            verdict = "denied";
        }
        if let Some(rule) = &self.rule {
            write!(f, "{verdict} by {:?} ", rule.policy.kind)?;
            if let Some(priority) = rule.priority {
                write!(f, "{} (tier {}, priority {priority})", rule.policy, rule.tier.name())?;
                return rule.write_rule(f, self.direction, ", ");
            }
            return rule.write(f, self.direction, ", ");
        }
        if self.isolated_by.is_empty() {
            return write!(f, "{verdict}: {}", Reason::sentence_of(self.reason).unwrap_or(self.reason));
        }
        write!(f, "{verdict}: isolated by ")?;
        for (position, policy) in self.isolated_by.iter().take(SHOWN_POLICIES).enumerate() {
            write!(f, "{}{policy}", if position == 0 { "" } else { ", " })?;
        }
        if let Some(more) = self.isolated_by.len().checked_sub(SHOWN_POLICIES).filter(|more| *more > 0) {
            write!(f, " and {more} more")?;
        }
        match &self.nearest_miss {
            None => f.write_str("; no rule of theirs matches peer or port"),
            Some(NearestMiss { rule, miss }) => {
                f.write_str("; nearest miss: ")?;
                rule.write(f, self.direction, " ")?;
                write!(f, " ({})", miss.sentence())
            }
        }
    }
}

/// A sentence names at most this many of the policies that isolate a pod.
const SHOWN_POLICIES: usize = 3;

impl RuleName {
    fn write(&self, f: &mut fmt::Formatter<'_>, direction: Direction, before_rule: &str) -> fmt::Result {
        write!(f, "{}", self.policy)?;
        self.write_rule(f, direction, before_rule)
    }

    fn write_rule(&self, f: &mut fmt::Formatter<'_>, direction: Direction, before_rule: &str) -> fmt::Result {
        let list = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        write!(f, "{before_rule}{list}[{}]", self.index)?;
        match &self.name {
            Some(name) => write!(f, " {name:?}"),
            None => Ok(()),
        }
    }
}

/// Identifies a rule by its policy and its index there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleName {
    /// The policy.
    pub policy: Arc<PolicyName>,
    /// The policy's tier.
    pub tier: Tier,
    /// The policy's priority within its tier; `None` for a NetworkPolicy, which has none.
    pub priority: Option<u16>,
    /// Index in the policy's `ingress` or `egress` list, from 0.
    pub index: usize,
    /// The rule's own name, where its kind has one.
    pub name: Option<Arc<str>>,
}

/// A tier in which a packet was evaluated, and the result there. [`Snapshot::tiers`](crate::Snapshot::tiers)
/// returns one for each tier until one decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierStep {
    /// The tier.
    pub tier: Tier,
    /// Its result.
    pub result: TierResult,
}

/// The result of one tier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TierResult {
    /// Not decided: no policy of the tier has a rule that applies to the pod in this direction, and none
    /// isolates the pod.
    NoRules,
    /// Not decided: none of its rules matches.
    NoMatch,
    /// Not decided: this Pass rule is the first that matches, and skips the rest of the tier.
    Passed(RuleName),
    /// Decided: this rule is the first that matches, and allows.
    Accepted(RuleName),
    /// Decided: this rule is the first that matches, and denies.
    Denied(RuleName),
    /// Decided: NetworkPolicies isolate the pod and none of their rules matches, so the packet is denied
    /// (semantics 2, 8). Only in tier NetworkPolicy.
    Isolated,
}

impl TierResult {
    /// Whether the tier decided, so that no later tier is evaluated.
    pub fn is_decided(&self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Denied(_) | Self::Isolated)
    }

    /// The rule that matched first; `None` if none did.
    pub fn rule(&self) -> Option<&RuleName> {
        match self {
            Self::Passed(rule) | Self::Accepted(rule) | Self::Denied(rule) => Some(rule),
            Self::NoRules | Self::NoMatch | Self::Isolated => None,
        }
    }

    /// The stable name of the result, as the JSON of `explain` shows it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRules => "no-rules",
            Self::NoMatch => "no-match",
            Self::Passed(_) => "passed",
            Self::Accepted(_) => "accepted",
            Self::Denied(_) => "denied",
            Self::Isolated => "isolated",
        }
    }

    /// The result in words.
    pub fn sentence(&self) -> &'static str {
        match self {
            Self::NoRules => "no rule applies to the pod in this direction",
            Self::NoMatch => "no rule matches",
            Self::Passed(_) => "the first match passes, so the rest of the tier is skipped",
            Self::Accepted(_) => "the first match accepts",
            Self::Denied(_) => "the first match denies",
            Self::Isolated => "policies isolate the pod and no rule matches",
        }
    }
}

/// A rule that almost matched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NearestMiss {
    /// The rule.
    pub rule: RuleName,
    /// Why it did not match.
    pub miss: Miss,
}

/// The part of a rule that did not match.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Miss {
    /// The peer matches, the port does not. This counts as nearer than [`Miss::Peer`].
    Port,
    /// The port matches, the peer does not.
    Peer,
}

impl Miss {
    /// The miss in words.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Port => "peer matches, port does not",
            Self::Peer => "port matches, peer does not",
        }
    }
}
