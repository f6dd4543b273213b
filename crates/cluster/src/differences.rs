//! What differs since the consumer was told last: the one way in which every source makes the changes of an update.
//!
//! Invariant: `before` has an entry for each object that was touched since the last update, with what the consumer knows of
//! it. So what changed and changed back is not mentioned, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::{Change, Labels};

use crate::key::Key;
use crate::namespaces::Namespaces;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    before: BTreeMap<Key, Option<Change>>,
    namespaces: Namespaces,
}

impl Differences {
    /// Must be called before an object changes, with what is in force of it until then.
    pub fn touch<'a>(&mut self, key: &Key, in_force: impl FnOnce() -> Option<&'a Change>) {
        if !self.before.contains_key(key) {
            self.before.insert(key.clone(), in_force().cloned());
        }
    }

    /// What the consumer must be told now, in an order that can be applied as it is: what is there, then what is gone.
    /// Namespaces come first, and those that pods name without any object that describes them are among them.
    pub fn take(&mut self, in_force: impl Fn(&Key) -> Option<Change>) -> Vec<Change> {
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for (key, before) in std::mem::take(&mut self.before) {
            let after = in_force(&key);
            if before == after {
                continue;
            }
            match (&key, &before, &after) {
                (Key::Pod(pod), None, Some(_)) => self.namespaces.pod_added(&pod.namespace),
                (Key::Pod(pod), Some(_), None) => self.namespaces.pod_removed(&pod.namespace),
                (Key::Policy(policy), None, Some(_)) => self.namespaces.policy_added(&policy.namespace),
                (Key::Policy(policy), Some(_), None) => self.namespaces.policy_removed(&policy.namespace),
                _ => {}
            }
            match (key, after) {
                // Whether a namespace is there depends on its pods too.
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

    /// The namespaces that pods or policies are in and no object describes, as of the last update.
    pub fn missing_namespaces(&self) -> BTreeSet<&Arc<str>> {
        self.namespaces.missing()
    }

    /// Whether [`Differences::missing_namespaces`] may have changed since this was last asked.
    pub fn take_missing_changed(&mut self) -> bool {
        self.namespaces.take_missing_changed()
    }

    /// The label sets of namespaces that are in use here.
    pub fn labels(&self) -> impl Iterator<Item = &Labels> {
        self.namespaces.labels()
    }
}
