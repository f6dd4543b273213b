//! Decides which policies' rules a source keeps in memory.
//!
//! From: the cost of each policy in its source. To: the source, which omits the rules of the others ([`PolicySpec::omit_rules`]), and reads
//! an object again once there is room for its rules. Invariant: the policies whose rules are kept cost at most the budget, but for those
//! that came since the last [`RuleBudget::settle`], and those that may be gone: once more the budget at most.
//!
//! [`PolicySpec::omit_rules`]: policy::PolicySpec::omit_rules

use policy::{Admission, Budget, Cost, PolicyName};

/// Entries that may be added before the next [`RuleBudget::settle`] is due. Settling takes longer the more
/// policies there are, so it isn't done for each.
const UNSETTLED: Cost = 1 << 14;

/// See the module.
#[derive(Debug)]
pub(crate) struct RuleBudget {
    budget: Budget,
    admission: Admission,
    /// Entries that came since the last time.
    unsettled: Cost,
}

impl RuleBudget {
    /// Without policies.
    pub fn new(budget: Budget) -> Self {
        Self { budget, admission: Admission::new(budget), unsettled: 0 }
    }

    /// Forgets all policies: those that are still there are entered again. Until then the rules that are kept stay, and cost nothing, so
    /// that a policy doesn't lose its rules because of one in whose place it comes.
    pub fn begin(&mut self) {
        *self = Self::new(self.budget);
    }

    /// Adds a policy, or changes its cost. Returns whether [`RuleBudget::settle`] is due, and should not wait for the next update.
    pub fn enter(&mut self, name: &PolicyName, cost: Cost) -> bool {
        let is_cheaper = self.admission.cost(name).is_some_and(|before| cost < before);
        let may_fit = is_cheaper && !self.admission.is_admitted(name);
        self.admission.enter(name, cost, true);
        self.unsettled = self.unsettled.saturating_add(cost);
        may_fit || self.unsettled > UNSETTLED
    }

    /// Removes a policy.
    pub fn leave(&mut self, name: &PolicyName) {
        self.admission.leave(name);
    }

    /// Decides again, and returns the policies for which the decision changed.
    pub fn settle(&mut self) -> Vec<PolicyName> {
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
    pub fn keeps(&self, name: &PolicyName) -> bool {
        self.admission.is_admitted(name)
    }
}
