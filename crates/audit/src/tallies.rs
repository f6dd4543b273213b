//! How often each policy decided, kept by the writer and read by metrics and status at any time.

use std::sync::Arc;

use dashmap::DashMap;
use policy::{PolicyName, Verdict};

/// Verdicts by the policy that decided them: see [`Record::policy`](crate::Record::policy). Verdicts that no policy decided, and
/// those whose records were lost before they were looked at, are not in it.
#[derive(Debug, Default)]
pub struct Tallies {
    by_policy: DashMap<(Arc<PolicyName>, Verdict), u64>,
}

impl Tallies {
    /// Counts one verdict of `policy`.
    pub fn count(&self, policy: &Arc<PolicyName>, verdict: Verdict) {
        *self.by_policy.entry((Arc::clone(policy), verdict)).or_default() += 1;
    }

    /// How often `policy` decided so.
    pub fn of(&self, policy: &Arc<PolicyName>, verdict: Verdict) -> u64 {
        self.by_policy.get(&(Arc::clone(policy), verdict)).map_or(0, |count| *count)
    }

    /// All, sorted by policy, `allow` first.
    pub fn all(&self) -> Vec<(Arc<PolicyName>, Verdict, u64)> {
        let mut all: Vec<_> = self
            .by_policy
            .iter()
            .map(|entry| (Arc::clone(&entry.key().0), entry.key().1, *entry.value()))
            .collect();
        all.sort_by(|a, b| (&a.0, a.1 == Verdict::Deny).cmp(&(&b.0, b.1 == Verdict::Deny)));
        all
    }

    /// Forgets a policy that is gone, so that coming and going policies don't add up without end.
    pub fn forget(&self, policy: &PolicyName) {
        self.by_policy.retain(|(name, _), _| **name != *policy);
    }
}
