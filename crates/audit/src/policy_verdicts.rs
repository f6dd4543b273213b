//! Verdicts by policy: the writer counts them, and metrics and status read them at any time.

use std::sync::Arc;

use dashmap::DashMap;
use policy::{PolicyName, Verdict};

/// Counts verdicts by the policy that decided them: see [`Record::policy`](crate::Record::policy). Verdicts
/// that no policy decided are not counted, nor are those whose records were lost in a ring.
#[derive(Debug, Default)]
pub struct PolicyVerdicts {
    by_policy: DashMap<(Arc<PolicyName>, Verdict), u64>,
}

impl PolicyVerdicts {
    /// Counts one verdict of `policy`.
    pub fn count(&self, policy: &Arc<PolicyName>, verdict: Verdict) {
        *self.by_policy.entry((Arc::clone(policy), verdict)).or_default() += 1;
    }

    /// How often `policy` gave this verdict.
    pub fn of(&self, policy: &Arc<PolicyName>, verdict: Verdict) -> u64 {
        self.by_policy.get(&(Arc::clone(policy), verdict)).map_or(0, |count| *count)
    }

    /// All counts, sorted by policy, `allow` first.
    pub fn all(&self) -> Vec<(Arc<PolicyName>, Verdict, u64)> {
        let mut all: Vec<_> = self
            .by_policy
            .iter()
            .map(|entry| (Arc::clone(&entry.key().0), entry.key().1, *entry.value()))
            .collect();
        all.sort_by(|a, b| (&a.0, a.1 == Verdict::Deny).cmp(&(&b.0, b.1 == Verdict::Deny)));
        all
    }

    /// Removes the counts of a deleted policy, so that memory doesn't grow as policies are created and
    /// deleted.
    pub fn remove(&self, policy: &PolicyName) {
        self.by_policy.retain(|(name, _), _| **name != *policy);
    }
}
