//! Objects that are read again: those that were too large to be read from a watch, and policies whose rules were omitted and for which
//! there is room now.
//!
//! Invariant: an object is put in its place only if it has the version that is expected, so that a late answer neither brings back an
//! object that is gone nor hides a newer one.

use std::sync::Arc;

use policy::{Change, PolicySpec};

use super::State;
use crate::key::Key;
use crate::kubernetes::reread::{Answer, Reread};
use crate::problem::ResourceVersion;

impl State {
    /// The object that should be read again next, and the version that is expected; `None` if there is none, or not all of its kind were
    /// listed yet.
    pub fn wanted(&mut self) -> Option<(Key, ResourceVersion)> {
        let lists = &self.lists;
        self.wanted.next(|key| lists.get(&key.kind()).is_some_and(|list| list.is_known))
    }

    /// Takes in what came of reading an object again.
    pub fn reread(&mut self, Reread { key, expected, answer }: Reread) {
        self.wanted.record_turn(&key);
        match (self.wanted.expected(&key), answer) {
            (Some(now), Some(Answer::There(object))) if **now == *object.identity.resource_version => {
                self.put(key.kind(), *object);
                self.wanted.remove(&key);
            }
            // The watch says so, too; unless there is another one of the same name by now.
            (Some(now), Some(Answer::Gone)) if *now == expected => self.wanted.remove(&key),
            // It changed again, or could not be read.
            _ => {}
        }
    }

    /// A policy is there with its rules, which are omitted if the budget has no room for them.
    pub(super) fn enter_rules(&mut self, policy: &mut Arc<PolicySpec>) {
        if self.rule_budget.enter(&policy.name, policy.cost()) {
            self.settle_rules();
        }
        if !self.rule_budget.keeps(&policy.name) {
            *policy = Arc::new(policy.omit_rules());
        }
    }

    /// Omits the rules that the budget has no room for any more, and finds out which there is room for again.
    pub(super) fn settle_rules(&mut self) {
        for name in self.rule_budget.settle() {
            let key = Key::Policy(name.clone());
            let Some(Change::Policy(policy)) = self.objects.get(&key) else { continue };
            match (self.rule_budget.keeps(&name), policy.omitted) {
                (true, Some(_)) => {
                    // Where it is wanted already, a newer version is expected.
                    if let Some(version) =
                        self.versions.get(&name).filter(|_| self.wanted.expected(&key).is_none())
                    {
                        self.wanted.insert(key, Arc::clone(version));
                    }
                }
                (false, None) => {
                    let policy = Arc::new(policy.omit_rules());
                    self.replace(key, Change::Policy(policy));
                }
                _ => {}
            }
        }
        self.sweep_interner();
    }
}
