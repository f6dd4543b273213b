//! Verdicts by policy: the writer counts them, and metrics and status read them at any time.

use std::sync::Arc;

use dashmap::DashMap;
use policy::{PolicyName, Tier, Verdict};

/// Counts verdicts by the policy that decided them: see [`Record::policy`](crate::Record::policy). Verdicts
/// that no policy decided are not counted, nor are those whose records were lost in a ring.
#[derive(Debug, Default)]
pub struct PolicyVerdicts {
    by_policy: DashMap<(Arc<PolicyName>, Verdict), Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    /// The policy's tier at its last verdict.
    tier: Tier,
    verdicts: u64,
}

impl PolicyVerdicts {
    /// Counts one verdict of `policy`, which is of this tier.
    pub fn count(&self, policy: &Arc<PolicyName>, tier: Tier, verdict: Verdict) {
        let key = (Arc::clone(policy), verdict);
        let mut count = self.by_policy.entry(key).or_insert(Count { tier, verdicts: 0 });
        *count = Count { tier, verdicts: count.verdicts + 1 };
    }

    /// How often `policy` gave this verdict.
    pub fn of(&self, policy: &Arc<PolicyName>, verdict: Verdict) -> u64 {
        self.by_policy.get(&(Arc::clone(policy), verdict)).map_or(0, |count| count.verdicts)
    }

    /// All counts with the tiers of their policies, sorted by policy, `allow` first.
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

    /// Removes the counts of a deleted policy, so that memory doesn't grow as policies are created and
    /// deleted.
    pub fn remove(&self, policy: &PolicyName) {
        self.by_policy.retain(|(name, _), _| **name != *policy);
    }
}
