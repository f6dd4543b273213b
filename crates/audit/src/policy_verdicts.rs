//! Verdicts by policy, and default denies by namespace: the writer counts them, and metrics and status read
//! them at any time.

use std::sync::Arc;

use dashmap::DashMap;
use policy::{Direction, Evaluation, PolicyName, Reason, Tier, Verdict};

/// At most this many pairs of namespace and direction are counted separately. Only namespaces with isolated
/// pods on one node are counted, so more are not expected.
pub const MOST_DEFAULT_DENIES: usize = 2000;

/// The namespaces beyond [`MOST_DEFAULT_DENIES`]. No namespace can have this name: RFC 1123 labels have no
/// `_`.
pub const OTHER_NAMESPACES: &str = "_other";

/// Counts verdicts by what decided them, in the direction that decided: see [`policy::Decision::direction`].
///
/// A verdict counts for a policy only if a rule of this policy decided it. A default deny is decided by the
/// absence of a matching rule, so it counts for no policy but for the namespace of the isolated pod. Other
/// verdicts, and those whose records were lost in a ring, are not counted.
#[derive(Debug, Default)]
pub struct PolicyVerdicts {
    by_policy: DashMap<(Arc<PolicyName>, Verdict), Count>,
    default_denies: DashMap<(Arc<str>, Direction), u64>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    /// The policy's tier at its last verdict.
    tier: Tier,
    verdicts: u64,
}

impl PolicyVerdicts {
    /// Counts the verdict of an evaluation.
    pub fn count(&self, evaluation: &Evaluation) {
        let Evaluation { decision, snapshot, packet, .. } = evaluation;
        let direction = decision.direction();
        let outcome = decision.outcome(direction);
        match outcome.reason {
            Reason::Rule(rule) => {
                if let Some(rule) = snapshot.rule_name(rule) {
                    self.count_policy(&rule.policy, rule.tier, outcome.verdict);
                }
            }
            Reason::DefaultDeny => {
                let isolated = packet.as_ref().map(|packet| match direction {
                    Direction::Egress => packet.source(),
                    Direction::Ingress => packet.destination(),
                });
                // Only a pod of the snapshot is isolated.
                if let Some(pod) = isolated.and_then(|address| snapshot.pod_at(address)) {
                    self.count_default_deny(&pod.namespace, direction);
                }
            }
            _ => {}
        }
    }

    fn count_policy(&self, policy: &Arc<PolicyName>, tier: Tier, verdict: Verdict) {
        let key = (Arc::clone(policy), verdict);
        let mut count = self.by_policy.entry(key).or_insert(Count { tier, verdicts: 0 });
        *count = Count { tier, verdicts: count.verdicts + 1 };
    }

    fn count_default_deny(&self, namespace: &Arc<str>, direction: Direction) {
        let mut key = (Arc::clone(namespace), direction);
        if !self.default_denies.contains_key(&key) && self.default_denies.len() >= MOST_DEFAULT_DENIES {
            key.0 = OTHER_NAMESPACES.into();
        }
        *self.default_denies.entry(key).or_default() += 1;
    }

    /// How often a rule of `policy` gave this verdict.
    pub fn of(&self, policy: &Arc<PolicyName>, verdict: Verdict) -> u64 {
        self.by_policy.get(&(Arc::clone(policy), verdict)).map_or(0, |count| count.verdicts)
    }

    /// All counts of policies with their tiers, sorted by policy, `allow` first.
    pub fn all(&self) -> Vec<(Arc<PolicyName>, Tier, Verdict, u64)> {
        let mut all: Vec<_> = self
            .by_policy
            .iter()
            .map(|entry| {
                let ((policy, verdict), count) = entry.pair();
                (Arc::clone(policy), count.tier, *verdict, count.verdicts)
            })
            .collect();
        all.sort_by(|a, b| (&a.0, a.2 == Verdict::Deny).cmp(&(&b.0, b.2 == Verdict::Deny)));
        all
    }

    /// All counts of default denies, by namespace and direction of the isolated pod, sorted.
    pub fn default_denies(&self) -> Vec<(Arc<str>, Direction, u64)> {
        let mut all: Vec<_> = self
            .default_denies
            .iter()
            .map(|entry| {
                let ((namespace, direction), count) = entry.pair();
                (Arc::clone(namespace), *direction, *count)
            })
            .collect();
        all.sort();
        all
    }

    /// Removes the counts of a deleted policy, so that memory doesn't grow as policies are created and
    /// deleted.
    pub fn remove(&self, policy: &PolicyName) {
        self.by_policy.retain(|(name, _), _| **name != *policy);
    }

    /// Removes the counts of a deleted namespace.
    pub fn remove_namespace(&self, namespace: &str) {
        self.default_denies.retain(|(name, _), _| **name != *namespace);
    }
}

#[cfg(test)]
mod tests {
    use policy::{Decision, Outcome, RuleId};

    use super::*;
    use crate::policy_versions::PolicyVersions;
    use crate::record::Connection;
    use crate::record::tests::{evaluation, from_to, snapshot};

    #[test]
    fn a_verdict_counts_for_the_policy_whose_rule_decided_it_and_a_default_deny_for_none() {
        let (counts, snapshot) = (PolicyVerdicts::default(), snapshot());
        for (source, destination, port) in [
            ("10.0.0.1", "10.0.1.2", 5432), // allowed by a rule
            ("10.0.0.1", "10.0.1.2", 80),   // no rule has this port
            ("10.0.0.3", "10.0.1.2", 5432), // no rule has this peer
            ("10.0.0.3", "10.0.0.1", 80),   // not isolated
        ] {
            counts.count(&evaluation(&snapshot, Some(from_to(source, destination, port))));
        }
        counts.count(&evaluation(&snapshot, None));
        let policy = Arc::new(PolicyName::network_policy("db", "allow-web"));
        assert_eq!(counts.all(), [(Arc::clone(&policy), Tier::NetworkPolicy, Verdict::Allow, 1)]);
        assert_eq!(counts.default_denies(), [("db".into(), Direction::Ingress, 2)]);
        counts.remove(&policy);
        assert_eq!(counts.all(), []);
        counts.remove_namespace("web");
        assert_eq!(counts.default_denies().len(), 1);
        counts.remove_namespace("db");
        assert_eq!(counts.default_denies(), []);
    }

    #[test]
    fn a_provisional_verdict_counts_for_no_policy() {
        let (counts, snapshot) = (PolicyVerdicts::default(), snapshot());
        let mut evaluation = evaluation(&snapshot, Some(from_to("10.0.0.1", "10.0.1.2", 80)));
        evaluation.decision.ingress.reason = Reason::UnknownPeer;
        counts.count(&evaluation);
        assert_eq!((counts.all(), counts.default_denies()), (Vec::new(), Vec::new()));
    }

    #[test]
    fn namespaces_beyond_the_limit_are_counted_together() {
        let counts = PolicyVerdicts::default();
        for number in 0..MOST_DEFAULT_DENIES + 5 {
            counts.count_default_deny(&format!("n{number}").into(), Direction::Egress);
        }
        counts.count_default_deny(&"n0".into(), Direction::Egress);
        let all = counts.default_denies();
        assert_eq!(all.len(), MOST_DEFAULT_DENIES + 1);
        assert_eq!(all[0], (OTHER_NAMESPACES.into(), Direction::Egress, 5));
        assert_eq!(all[1], ("n0".into(), Direction::Egress, 2));
    }

    /// What decided is the same in a record and in the metrics.
    #[test]
    fn records_name_the_direction_that_is_counted() {
        let snapshot = snapshot();
        let reasons = Reason::ALL.into_iter().chain([Reason::Rule(RuleId(1))]);
        let outcomes: Vec<_> =
            reasons.flat_map(|reason| [Outcome::allow(reason), Outcome::deny(reason)]).collect();
        for (egress, ingress) in outcomes.iter().flat_map(|one| outcomes.iter().map(move |two| (*one, *two)))
        {
            let mut evaluation = evaluation(&snapshot, Some(from_to("10.0.0.1", "10.0.1.2", 5432)));
            evaluation.decision = Decision { egress, ingress };
            let record = Connection::new(&evaluation, &PolicyVersions::default());
            assert_eq!(record.direction, evaluation.decision.direction(), "{egress:?} {ingress:?}");
        }
    }
}
