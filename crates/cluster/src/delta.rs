//! The delta since the last update. Every source builds the changes of its updates here.
//!
//! Invariant: `before` has an entry for each object that was modified since the last update, with the form
//! that the consumer has. So an object that changed and changed back is not sent, whatever happened in
//! between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::{Change, Labels};

use crate::key::Key;
use crate::namespaces::Namespaces;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    before: BTreeMap<Key, Option<Change>>,
    namespaces: Namespaces,
}

impl Delta {
    /// Records the form that is in force. Must be called before an object changes.
    pub(crate) fn record_before(&mut self, key: &Key, in_force: impl FnOnce() -> Option<Change>) {
        if !self.before.contains_key(key) {
            self.before.insert(key.clone(), in_force());
        }
    }

    /// Takes the changes for the consumer, in an order in which they can be applied: existing objects, then
    /// objects that are gone. Namespaces come first, including those that pods name and no object describes.
    pub(crate) fn take(&mut self, in_force: impl Fn(&Key) -> Option<Change>) -> Vec<Change> {
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for (key, before) in std::mem::take(&mut self.before) {
            let after = in_force(&key);
            if before == after {
                continue;
            }
            match (&key, &before, &after) {
                (Key::Pod(pod), None, Some(_)) => self.namespaces.pod_added(&pod.namespace),
                (Key::Pod(pod), Some(_), None) => self.namespaces.pod_removed(&pod.namespace),
                // A cluster-wide policy is in no namespace.
                (Key::Policy(policy), ..) if policy.namespace.is_empty() => {}
                (Key::Policy(policy), None, Some(_)) => self.namespaces.policy_added(&policy.namespace),
                (Key::Policy(policy), Some(_), None) => self.namespaces.policy_removed(&policy.namespace),
                _ => {}
            }
            match (key, after) {
                // Whether a namespace exists depends on its pods too.
                (_, Some(Change::Namespace(namespace))) => self.namespaces.described(namespace),
                (Key::Namespace(name), _) => self.namespaces.undescribed(&name),
                (_, Some(change)) => there.push(change),
                (key, None) => gone.push(key.gone()),
            }
        }
        let mut changes = self.namespaces.changes();
        changes.append(&mut there);
        changes.append(&mut gone);
        changes
    }

    /// The namespaces that have pods or policies and no object, as of the last update.
    pub(crate) fn missing_namespaces(&self) -> BTreeSet<&Arc<str>> {
        self.namespaces.missing()
    }

    /// Whether [`Delta::missing_namespaces`] may have changed since the last call.
    pub(crate) fn take_missing_changed(&mut self) -> bool {
        self.namespaces.take_missing_changed()
    }

    /// The label sets of namespaces that are in use.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &Labels> {
        self.namespaces.labels()
    }
}
