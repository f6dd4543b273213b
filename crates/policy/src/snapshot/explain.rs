//! Explains the decisions of a snapshot.

use std::sync::Arc;

use crate::decision::{Decision, Direction, Outcome, Reason, RuleId, Verdict};
use crate::explanation::{Explanation, NearestMiss, RuleName};
use crate::packet::Packet;
use crate::snapshot::Snapshot;
use crate::snapshot::address::Address;
use crate::snapshot::ends::Ends;
use crate::snapshot::ruleset::Ruleset;

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
        Some(RuleName { policy: Arc::clone(&policy.name), index, name: spec.name.clone() })
    }
}
