//! Verdicts on packets from a pod to itself, through its own Service (semantics 62).

use crate::decision::{Decision, Direction, Outcome, Reason, Verdict};
use crate::packet::Packet;
use crate::snapshot::Snapshot;
use crate::snapshot::address::Address;
use crate::snapshot::ends::is_provisional;

impl Snapshot {
    /// Evaluates such a packet: cluster-wide policies decide, and NetworkPolicies deny nothing. A separate
    /// function that looks the pod up again, so that it costs other verdicts nothing.
    #[cold]
    #[inline(never)]
    pub(super) fn evaluate_hairpin<const UNKNOWN: bool>(
        &self,
        address: impl Address,
        packet: &Packet,
    ) -> Decision {
        let ends = &self.ends(address, address);
        let rulesets = match self.rules_for::<UNKNOWN>(ends.source_address, ends.source) {
            Ok(rulesets) => rulesets,
            Err(outcome) => return Decision { egress: outcome, ingress: outcome },
        };
        let evaluate = |direction| {
            let ruleset = rulesets.of(direction);
            let outcome = ruleset.evaluate_hairpin(ends.peer(direction), ends.target(packet));
            if outcome.reason == Reason::OwnAddress && ruleset.might_omit_denial {
                Outcome { verdict: self.on_unknown_pod, reason: Reason::UnknownLabels }
            } else if UNKNOWN && outcome.verdict == Verdict::Deny && is_provisional(ends.source) {
                self.evaluate_permissive(outcome, ends, packet, direction, false)
            } else {
                outcome
            }
        };
        Decision { egress: evaluate(Direction::Egress), ingress: evaluate(Direction::Ingress) }
    }
}
