//! Decides which policies' rules a source keeps in memory.
//!
//! From: the cost of each policy in its source. To: the source, which omits the rules of the other policies
//! ([`PolicySpec::omit_rules`]) and reads an object again once its rules fit. Invariant: the policies whose
//! rules are kept cost at most the budget, except for those entered since the last [`RuleBudget::settle`] and
//! those that may be gone, which cost at most the budget once more.
//!
//! [`PolicySpec::omit_rules`]: policy::PolicySpec::omit_rules

use policy::{Admission, Budget, Cost, PolicyName};

/// Entries that may be added before the next [`RuleBudget::settle`] is due. Its cost grows with the number of
/// policies, so it does not run for each policy.
const UNSETTLED: Cost = 1 << 14;

/// See the module.
#[derive(Debug)]
pub(crate) struct RuleBudget {
    budget: Budget,
    admission: Admission,
    /// Entries that were added since the last [`RuleBudget::settle`].
    unsettled: Cost,
}

impl RuleBudget {
    /// A budget without policies.
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, admission: Admission::new(budget), unsettled: 0 }
    }

    /// Removes all policies; the caller enters those that still exist again. Rules that are kept stay until
    /// then at no cost, so a policy does not lose its rules to the policy that replaces it.
    pub(crate) fn begin(&mut self) {
        *self = Self::new(self.budget);
    }

    /// Adds a policy, or changes its cost. Returns whether [`RuleBudget::settle`] is due and should not wait
    /// for the next update.
    pub(crate) fn enter(&mut self, name: &PolicyName, cost: Cost) -> bool {
        let is_cheaper = self.admission.cost(name).is_some_and(|before| cost < before);
        let may_fit = is_cheaper && !self.admission.is_admitted(name);
        self.admission.enter(name, cost, true);
        self.unsettled = self.unsettled.saturating_add(cost);
        may_fit || self.unsettled > UNSETTLED
    }

    /// Removes a policy.
    pub(crate) fn leave(&mut self, name: &PolicyName) {
        self.admission.leave(name);
    }

    /// Decides again and returns the policies whose decision changed.
    pub(crate) fn settle(&mut self) -> Vec<PolicyName> {
        self.unsettled = 0;
        let mut differing = Vec::new();
        loop {
            self.admission.begin();
            differing.append(&mut self.admission.settle());
            if !self.admission.is_behind() {
                return differing;
            }
        }
    }

    /// Whether this policy's rules are kept, as of the last [`RuleBudget::settle`].
    pub(crate) fn keeps(&self, name: &PolicyName) -> bool {
        self.admission.is_admitted(name)
    }
}
