//! The size of a usual cluster's policies, for plots with one curve for each number of pods, and for bounds
//! on changes.

/// The rules of each policy.
pub(super) const USUAL_RULES: usize = 5;
/// The policies.
pub(super) const USUAL_POLICIES: usize = 1_000;
