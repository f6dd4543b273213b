//! Stands in for namespaces that pods name and no object describes.
//!
//! A Namespace object can be missing from a folder, or arrive after its pods. Its name alone is known then, and so is
//! the one label that follows from the name (semantics 11): selectors on it must work.
//!
//! Invariant: `shown` is what the consumer knows. A namespace is shown if an object describes it or a pod is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::{Change, Labels, Namespace};

use crate::interner::Interner;

/// The label that the API server sets on every namespace (KEP-2161, semantics 11).
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// See the module.
#[derive(Debug, Default)]
pub struct Namespaces {
    described: BTreeMap<Arc<str>, Namespace>,
    /// How many pods there are in each.
    pods: BTreeMap<Arc<str>, usize>,
    shown: BTreeMap<Arc<str>, Namespace>,
    /// Those whose showing must be looked at again.
    touched: BTreeSet<Arc<str>>,
}

impl Namespaces {
    /// Takes note of a namespace's object.
    pub fn described(&mut self, namespace: Namespace) {
        self.touched.insert(namespace.name.clone());
        self.described.insert(namespace.name.clone(), namespace);
    }

    /// Takes note that a namespace's object is gone.
    pub fn undescribed(&mut self, name: &Arc<str>) {
        self.touched.insert(name.clone());
        self.described.remove(name);
    }

    /// Takes note of one more pod in `namespace`.
    pub fn pod_added(&mut self, namespace: &Arc<str>) {
        let pods = self.pods.entry(namespace.clone()).or_default();
        *pods += 1;
        if *pods == 1 {
            self.touched.insert(namespace.clone());
        }
    }

    /// Takes note of one pod fewer in `namespace`.
    pub fn pod_removed(&mut self, namespace: &Arc<str>) {
        let Some(pods) = self.pods.get_mut(namespace) else { return };
        *pods -= 1;
        if *pods == 0 {
            self.pods.remove(namespace);
            self.touched.insert(namespace.clone());
        }
    }

    /// What the consumer must be told now, by name: namespaces that came or changed, and those that are gone.
    pub fn changes(&mut self, interner: &Interner) -> Vec<Change> {
        let mut changes = Vec::new();
        for name in std::mem::take(&mut self.touched) {
            let now = match self.described.get(&name) {
                Some(described) => Some(described.clone()),
                None => self.pods.contains_key(&name).then(|| known_by_name(&name, interner)),
            };
            match now {
                Some(now) if self.shown.get(&name) == Some(&now) => {}
                Some(now) => {
                    self.shown.insert(name, now.clone());
                    changes.push(Change::Namespace(now));
                }
                None => {
                    if self.shown.remove(&name).is_some() {
                        changes.push(Change::NamespaceGone(name));
                    }
                }
            }
        }
        changes
    }

    /// The label sets in use here.
    pub fn labels(&self) -> impl Iterator<Item = &Labels> {
        self.described.values().chain(self.shown.values()).map(|namespace| &namespace.labels)
    }
}

/// A namespace of which nothing is known but its name.
fn known_by_name(name: &Arc<str>, interner: &Interner) -> Namespace {
    Namespace { name: name.clone(), labels: interner.labels([(METADATA_NAME, &**name)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_there_while_an_object_or_a_pod_says_so() {
        let interner = Interner::new();
        let mut namespaces = Namespaces::default();
        let web: Arc<str> = Arc::from("web");
        let by_name = [Change::Namespace(known_by_name(&web, &interner))];
        let labels = interner.labels([(METADATA_NAME, "web"), ("team", "a")]);
        let described = Namespace { name: web.clone(), labels };

        namespaces.pod_added(&web);
        namespaces.pod_added(&web);
        assert_eq!(namespaces.changes(&interner), by_name, "a pod came before the Namespace object");
        namespaces.described(described.clone());
        assert_eq!(namespaces.changes(&interner), [Change::Namespace(described)]);
        namespaces.undescribed(&web);
        assert_eq!(namespaces.changes(&interner), by_name, "its pods are still there");
        namespaces.pod_removed(&web);
        assert_eq!(namespaces.changes(&interner), []);
        namespaces.pod_removed(&web);
        assert_eq!(namespaces.changes(&interner), [Change::NamespaceGone(web)]);
    }

    #[test]
    fn an_object_that_says_no_more_than_the_name_changes_nothing() {
        let interner = Interner::new();
        let mut namespaces = Namespaces::default();
        let web: Arc<str> = Arc::from("web");
        namespaces.pod_added(&web);
        namespaces.changes(&interner);
        namespaces.described(known_by_name(&web, &interner));
        assert_eq!(namespaces.changes(&interner), []);
    }
}
