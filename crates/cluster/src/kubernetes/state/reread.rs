//! Objects that are read again: objects that were too large to be read from a watch, and policies whose rules
//! were omitted and fit the budget now.
//!
//! Invariant: an object that was read is stored only if it has the expected version. So a late response
//! neither restores an object that is gone nor hides a newer one.

use std::sync::Arc;

use policy::{Change, Labels, Namespace, Pod, PolicySpec};

use super::{State, key};
use crate::convert::Kind;
use crate::key::Key;
use crate::kubernetes::object::ObjectIdentity;
use crate::kubernetes::reread::{Answer, Reread};
use crate::problem::{Problem, ProblemLocation, ResourceVersion};

impl State {
    /// The object to read next, and its expected version; `None` if there is none, or if no list of its kind
    /// is complete yet.
    pub(crate) fn next_reread(&mut self) -> Option<(Key, ResourceVersion)> {
        let lists = &self.lists;
        self.reread_queue.next(|key| lists.get(&key.kind()).is_some_and(|list| list.is_known))
    }

    /// Applies the result of reading an object again.
    pub(crate) fn reread(&mut self, Reread { key, expected, answer }: Reread) {
        self.reread_queue.record_turn(&key);
        match (self.reread_queue.expected(&key), answer) {
            (Some(now), Some(Answer::There(object))) if **now == *object.identity.resource_version => {
                self.put(key.kind(), *object);
                self.reread_queue.remove(&key);
            }
            // The watch reports it too, unless another object of the same name exists by now.
            (Some(now), Some(Answer::Gone)) if *now == expected => self.reread_queue.remove(&key),
            (Some(now), Some(Answer::There(_))) if *now == expected => self.reread_queue.postpone(&key),
            // The object changed again, or could not be read.
            _ => {}
        }
    }

    /// An object has a new form, which is read later. Until then, whatever the new form may be, not too much
    /// is allowed: a new policy, or one that selects other pods now, isolates and allows nothing; labels are
    /// unknown.
    pub(super) fn large(&mut self, kind: Kind, identity: ObjectIdentity, isolation: Option<Arc<PolicySpec>>) {
        let Some(key) = key(kind, &identity, &self.interner) else { return };
        let known = self.objects.get(&key).filter(|_| self.is_same(&key, &identity));
        let until_then = match (known, isolation) {
            (Some(Change::Policy(known)), Some(isolation)) => {
                replaces(&isolation, known).map(|policy| Change::Policy(Arc::new(policy)))
            }
            (_, Some(isolation)) => {
                self.rule_budget.enter(&isolation.name, isolation.cost());
                Some(Change::Policy(isolation))
            }
            (Some(Change::Pod(pod)), None) => {
                Some(Change::Pod(Pod { labels: Labels::unknown(), ..pod.clone() }))
            }
            (Some(Change::Namespace(namespace)), None) => {
                Some(Change::Namespace(Namespace { labels: Labels::unknown(), ..namespace.clone() }))
            }
            (_, None) => None,
        };
        if let Some(change) = until_then {
            self.replace(key.clone(), change);
            if !matches!(key, Key::Pod(_)) && !identity.uid.is_empty() {
                self.uids.insert(key.clone(), identity.uid.into());
            }
        }
        self.reread_queue.insert(key, identity.resource_version.into());
    }

    /// Advances the clock by a second while objects are to be read. Returns whether that makes one overdue.
    pub(crate) fn tick(&mut self) -> bool {
        let overdue = self.reread_queue.tick();
        for (key, resource_version) in &overdue {
            let problem = Problem {
                location: ProblemLocation::Api { resource_version: Arc::clone(resource_version) },
                object: Some(key.to_string()),
                what:
                    "its current version could not be read for some seconds and is retried; see the log for \
                       the cause"
                        .into(),
                effect: self.effect_until_read(key).into(),
            };
            self.problems.set(key, resource_version, vec![problem]);
        }
        !overdue.is_empty()
    }

    /// Whether objects are queued.
    pub(crate) fn wants_any(&self) -> bool {
        !self.reread_queue.is_empty()
    }

    /// The effect while the current version of an object is not read.
    fn effect_until_read(&self, key: &Key) -> &'static str {
        match self.objects.get(key) {
            Some(Change::Policy(policy)) if policy.ingress.is_empty() && policy.egress.is_empty() => {
                "it isolates the pods that it selects, and allows nothing"
            }
            Some(Change::Pod(Pod { labels, .. }) | Change::Namespace(Namespace { labels, .. }))
                if !labels.are_known() =>
            {
                "its labels are unknown: rules that select by them allow nothing, and policies that might \
                 select its pods isolate them"
            }
            Some(_) => "its last version is in force",
            None => "it is not in force",
        }
    }

    /// Enters a policy into the budget, and omits its rules if they do not fit.
    pub(super) fn enter_rules(&mut self, policy: &mut Arc<PolicySpec>) {
        if self.rule_budget.enter(&policy.name, policy.cost()) {
            self.settle_rules();
        }
        if !self.rule_budget.keeps(&policy.name) {
            *policy = Arc::new(policy.omit_rules());
        }
    }

    /// Omits the rules that do not fit the budget any more, and queues the policies whose rules fit again.
    pub(super) fn settle_rules(&mut self) {
        for name in self.rule_budget.settle() {
            let key = Key::Policy(name.clone());
            let Some(Change::Policy(policy)) = self.objects.get(&key) else { continue };
            match (self.rule_budget.keeps(&name), policy.omitted) {
                (true, Some(_)) => {
                    // If the policy is queued already, a newer version is expected.
                    if let Some(version) =
                        self.versions.get(&name).filter(|_| self.reread_queue.expected(&key).is_none())
                    {
                        self.reread_queue.insert(key, Arc::clone(version));
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

/// The policy to enforce instead of `known` until the new version is read, given how the new version
/// isolates. `None` if `known` stays in force, because it isolates the same pods in the same or more
/// directions.
fn replaces(now: &PolicySpec, known: &PolicySpec) -> Option<PolicySpec> {
    let now = PolicySpec { omitted: known.omitted, ..now.clone() };
    let now = if known.omitted.is_some() { now.omit_rules() } else { now };
    let is_isolated = now.subject == known.subject
        && (known.isolates_ingress || !now.isolates_ingress)
        && (known.isolates_egress || !now.isolates_egress);
    (!is_isolated).then_some(now)
}
