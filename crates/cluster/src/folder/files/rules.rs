//! Policies whose rules are not kept in memory, and whose files are read again once their rules fit.
//!
//! Invariant: the cost of a policy is the total of what ALL files that hold it keep of it, except for files
//! that may be gone. So a policy does not lose its rules because of a file that its own file replaces.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use policy::{Change, PolicyName, PolicySpec};

use super::{Files, in_force, object_in};
use crate::key::Key;

impl Files {
    /// Omits the rules that do not fit the budget any more, and finds the policies whose rules fit again.
    pub(crate) fn settle_rules(&mut self) {
        for name in self.rule_budget.settle() {
            if !self.rule_budget.keeps(&name) {
                self.wanted.remove(&name);
                self.omit_rules(&name);
            } else if self.holders_of(&name).any(|(_, policy)| policy.omitted.is_some()) {
                self.wanted.insert(name);
            }
        }
        self.sweep_interner();
    }

    /// Takes the files to read again, because the rules of their policies fit now.
    pub(crate) fn take_wanted(&mut self) -> BTreeSet<Arc<Path>> {
        let wanted = std::mem::take(&mut self.wanted);
        let omitted = |name| self.holders_of(name).filter(|(_, policy)| policy.omitted.is_some());
        let paths: BTreeSet<Arc<Path>> =
            wanted.iter().flat_map(omitted).map(|(path, _)| Arc::clone(path)).collect();
        for path in &paths {
            if let Some(file) = self.files.get_mut(path) {
                // If reading fails, the next walk tries again.
                file.stamp = None;
            }
        }
        paths
    }

    /// Updates the budget after a change of the files that hold these policies. Omits rules that do not fit.
    pub(super) fn enter_rules(&mut self, policies: &BTreeSet<PolicyName>) {
        let mut is_due = false;
        for name in policies {
            let counted = self.holders_of(name).filter(|(path, _)| !self.is_in_doubt(path));
            let costs: Vec<_> = counted.map(|(_, policy)| policy.cost()).collect();
            match costs.is_empty() {
                true => self.rule_budget.leave(name),
                false => {
                    is_due |= self.rule_budget.enter(name, costs.into_iter().fold(0, u64::saturating_add));
                }
            }
        }
        if is_due {
            self.settle_rules();
        }
        for name in policies {
            if self.holders_of(name).all(|(path, _)| self.is_in_doubt(path)) {
                self.wanted.remove(name);
                continue;
            }
            let is_kept = self.rule_budget.keeps(name);
            if !is_kept {
                self.omit_rules(name);
            }
            // If several files hold the policy, one of them may have been read.
            if is_kept && self.holders_of(name).any(|(_, policy)| policy.omitted.is_some()) {
                self.wanted.insert(name.clone());
            } else {
                self.wanted.remove(name);
            }
        }
    }

    /// Updates the budget after a change that concerns all policies of a file.
    pub(super) fn enter_rules_of(&mut self, path: &Path) {
        let objects = self.files.get(path).into_iter().flat_map(|file| file.objects.iter());
        let policies = objects.filter_map(|object| match &object.change {
            Change::Policy(policy) => Some(policy.name.clone()),
            _ => None,
        });
        let policies: BTreeSet<PolicyName> = policies.collect();
        // The next update finds the policies whose rules fit now.
        self.is_dirty |= !policies.is_empty();
        self.enter_rules(&policies);
    }

    fn is_in_doubt(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|file| file.is_in_doubt)
    }

    /// The files that hold a policy, and its form in each file.
    fn holders_of(&self, name: &PolicyName) -> impl Iterator<Item = (&Arc<Path>, &Arc<PolicySpec>)> {
        let key = Key::Policy(name.clone());
        let holders = self.holders.get(&key).into_iter().flatten();
        holders.filter_map(move |path| match &object_in(&self.files, path, &key)?.change {
            Change::Policy(policy) => Some((path, policy)),
            _ => None,
        })
    }

    fn omit_rules(&mut self, name: &PolicyName) {
        let key = Key::Policy(name.clone());
        self.delta.record_before(&key, || in_force(&self.holders, &self.files, &key).cloned());
        for path in self.holders.get(&key).into_iter().flatten() {
            let Some(file) = self.files.get_mut(path) else { continue };
            let Ok(at) = file.objects.binary_search_by(|object| object.key().cmp(&key)) else { continue };
            if let Change::Policy(policy) = &mut Arc::make_mut(&mut file.objects)[at].change
                && policy.omitted.is_none()
            {
                *policy = Arc::new(policy.omit_rules());
            }
        }
    }
}
