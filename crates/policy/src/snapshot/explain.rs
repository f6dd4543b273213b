//! Explains the decisions of a snapshot.

use std::sync::Arc;

use crate::decision::{Decision, Direction, Outcome, Reason, RuleId, Verdict};
use crate::explanation::{Explanation, NearestMiss, RuleName, TierResult, TierStep};
use crate::packet::Packet;
use crate::snapshot::Snapshot;
use crate::snapshot::address::Address;
use crate::snapshot::ends::Ends;
use crate::snapshot::ports::Target;
use crate::snapshot::ruleset::{PacketPeer, Ruleset};
use crate::spec::{Action, Tier};

impl Snapshot {
    /// Explains `decision` on `packet` in `direction`. The decision must come from this snapshot.
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
            // The denial is that of the connection opened by the other end.
            Reason::Unproven => {
                explanation.direction = direction.opposite();
                self.explain_denial(&packet.reversed(), &mut explanation);
                explanation.direction = direction;
            }
            _ => {}
        }
        explanation
    }

    /// Fills in what denies a packet, finally or provisionally: a rule, or isolation without a rule that
    /// allows it.
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

    /// The tiers in which `packet` was evaluated in `direction`, in order, with the result of each. Ends with
    /// the tier that decided; if none did, all three are listed. Empty if no policy was evaluated: because of
    /// who the ends are, because the pod is not known, or because the packet can't be parsed. For a
    /// provisional decision, these are the results by what is known. `decision` must be the one of
    /// [`Snapshot::evaluate`] on this snapshot.
    pub fn tiers(&self, packet: &Packet, decision: &Decision, direction: Direction) -> Vec<TierStep> {
        match decision.outcome(direction).reason {
            Reason::Rule(_)
            | Reason::NotIsolated
            | Reason::DefaultDeny
            | Reason::UnknownPeer
            | Reason::UnknownLabels => {}
            Reason::NotAPod
            | Reason::OtherNode
            | Reason::OwnNode
            | Reason::OwnAddress
            | Reason::UnknownPod
            | Reason::Unproven
            | Reason::Unparsable => return Vec::new(),
        }
        let ends = self.ends(packet.source(), packet.destination());
        let Some(ruleset) = self.ruleset(&ends, direction) else { return Vec::new() };
        let (peer, target) = (ends.peer(direction), ends.target(packet));
        let mut steps = Vec::with_capacity(Tier::ALL.len());
        for tier in Tier::ALL {
            let result = self.tier_result(ruleset, tier, peer, target);
            let is_decided = result.is_decided();
            steps.push(TierStep { tier, result });
            if is_decided {
                break;
            }
        }
        steps
    }

    /// The result of one tier, if no earlier one decided.
    fn tier_result(
        &self,
        ruleset: &Ruleset,
        tier: Tier,
        peer: PacketPeer<impl Address>,
        target: Target<'_>,
    ) -> TierResult {
        let rules = ruleset.tiers.iter().find(|rules| rules.tier == tier);
        let first = rules.and_then(|rules| rules.first(peer, target));
        match first.and_then(|(rule, action)| Some((self.rule_name(rule)?, action))) {
            Some((rule, Action::Accept)) => TierResult::Accepted(rule),
            Some((rule, Action::Deny)) => TierResult::Denied(rule),
            Some((rule, Action::Pass)) => TierResult::Passed(rule),
            None if tier == Tier::NetworkPolicy && !ruleset.isolating.is_empty() => TierResult::Isolated,
            None if rules.is_none() => TierResult::NoRules,
            None => TierResult::NoMatch,
        }
    }

    fn ruleset(&self, ends: &Ends<'_, impl Address>, direction: Direction) -> Option<&Ruleset> {
        let rulesets = self.rulesets_of(ends.subject_entry(direction)?.pod.as_ref()?)?;
        Some(match direction {
            Direction::Ingress => &rulesets.ingress,
            Direction::Egress => &rulesets.egress,
        })
    }

    /// The name of a rule of this snapshot; `None` if there is no such rule.
    pub fn rule_name(&self, rule: RuleId) -> Option<RuleName> {
        let (first, policy) = self.policies.range(..=rule).next_back()?;
        let index = rule.index_from(*first);
        let (ingress, egress) = (&policy.spec.ingress, &policy.spec.egress);
        let (index, spec) = match index.checked_sub(ingress.len()) {
            None => (index, ingress.get(index)?),
            Some(index) => (index, egress.get(index)?),
        };
        Some(RuleName {
            policy: Arc::clone(&policy.name),
            tier: policy.spec.tier,
            priority: policy.spec.priority_in_tier(),
            index,
            name: spec.name.clone(),
        })
    }
}
