//! Placeholders for namespaces that pods name and no object describes.
//!
//! A Namespace object can be missing from a folder, arrive after its pods, or go away before them. Then only
//! its name is known, and with it the one label that follows from the name (semantics 11), so selectors on
//! that label work. All its other labels are unknown (semantics 37).
//!
//! Only a folder can lack a Namespace for long, so only a folder reports the missing ones
//! ([`Namespaces::missing`]). The API server has no pod without its Namespace: there, one is missing only
//! while the watch of pods is ahead of the watch of namespaces.
//!
//! Invariant: `shown` is what the consumer has. A namespace is shown if an object describes it or a pod is in
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::{Change, Labels, Namespace};

/// The label that the API server sets on every namespace (KEP-2161, semantics 11).
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// See the module.
#[derive(Debug, Default)]
pub struct Namespaces {
    described: BTreeMap<Arc<str>, Namespace>,
    /// The number of pods in each namespace.
    pods: BTreeMap<Arc<str>, usize>,
    /// The number of policies in each namespace.
    policies: BTreeMap<Arc<str>, usize>,
    shown: BTreeMap<Arc<str>, Namespace>,
    /// Namespaces whose entry in `shown` must be checked again.
    dirty: BTreeSet<Arc<str>>,
    /// Whether [`Namespaces::missing`] may have changed.
    missing_changed: bool,
}

impl Namespaces {
    /// Records a namespace's object.
    pub fn described(&mut self, namespace: Namespace) {
        self.missing_changed |= !self.described.contains_key(&namespace.name);
        self.dirty.insert(namespace.name.clone());
        self.described.insert(namespace.name.clone(), namespace);
    }

    /// Records that a namespace's object is gone.
    pub fn undescribed(&mut self, name: &Arc<str>) {
        self.dirty.insert(name.clone());
        self.missing_changed |= self.described.remove(name).is_some();
    }

    /// Records one more pod in `namespace`.
    pub fn pod_added(&mut self, namespace: &Arc<str>) {
        let pods = self.pods.entry(namespace.clone()).or_default();
        *pods += 1;
        if *pods == 1 {
            self.missing_changed = true;
            self.dirty.insert(namespace.clone());
        }
    }

    /// Records one pod fewer in `namespace`.
    pub fn pod_removed(&mut self, namespace: &Arc<str>) {
        let Some(pods) = self.pods.get_mut(namespace) else { return };
        *pods -= 1;
        if *pods == 0 {
            self.missing_changed = true;
            self.pods.remove(namespace);
            self.dirty.insert(namespace.clone());
        }
    }

    /// Records one more policy in `namespace`.
    pub fn policy_added(&mut self, namespace: &Arc<str>) {
        let policies = self.policies.entry(namespace.clone()).or_default();
        *policies += 1;
        self.missing_changed |= *policies == 1;
    }

    /// Records one policy fewer in `namespace`.
    pub fn policy_removed(&mut self, namespace: &Arc<str>) {
        let Some(policies) = self.policies.get_mut(namespace) else { return };
        *policies -= 1;
        if *policies == 0 {
            self.missing_changed = true;
            self.policies.remove(namespace);
        }
    }

    /// The namespaces that have pods or policies and no object, by name.
    pub fn missing(&self) -> BTreeSet<&Arc<str>> {
        let named = self.pods.keys().chain(self.policies.keys());
        named.filter(|name| !self.described.contains_key(*name)).collect()
    }

    /// Whether [`Namespaces::missing`] may have changed since the last call.
    pub fn take_missing_changed(&mut self) -> bool {
        std::mem::take(&mut self.missing_changed)
    }

    /// The changes for the consumer, by name: namespaces that are new or changed, and those that are gone.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            let now = match self.described.get(&name) {
                Some(described) => Some(described.clone()),
                None => self.pods.contains_key(&name).then(|| known_by_name(&name)),
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

    /// The label sets in use.
    pub fn labels(&self) -> impl Iterator<Item = &Labels> {
        self.described.values().chain(self.shown.values()).map(|namespace| &namespace.labels)
    }
}

/// A namespace that is known only by its name.
fn known_by_name(name: &Arc<str>) -> Namespace {
    Namespace { name: name.clone(), labels: Labels::unknown() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_exists_while_it_has_an_object_or_a_pod() {
        let mut namespaces = Namespaces::default();
        let web: Arc<str> = Arc::from("web");
        let by_name = [Change::Namespace(known_by_name(&web))];
        let labels = [(METADATA_NAME, "web"), ("team", "a")].into_iter().collect();
        let described = Namespace { name: web.clone(), labels };

        namespaces.pod_added(&web);
        namespaces.pod_added(&web);
        assert_eq!(namespaces.changes(), by_name, "a pod came before the Namespace object");
        namespaces.described(described.clone());
        assert_eq!(namespaces.changes(), [Change::Namespace(described)]);
        namespaces.undescribed(&web);
        assert_eq!(namespaces.changes(), by_name, "its pods are still there");
        namespaces.pod_removed(&web);
        assert_eq!(namespaces.changes(), []);
        namespaces.pod_removed(&web);
        assert_eq!(namespaces.changes(), [Change::NamespaceGone(web)]);
    }

    #[test]
    fn a_namespace_is_missing_while_a_pod_or_a_policy_is_in_it_and_no_object_describes_it() {
        let mut namespaces = Namespaces::default();
        let [web, db]: [Arc<str>; 2] = ["web".into(), "db".into()];
        namespaces.pod_added(&web);
        namespaces.policy_added(&web);
        namespaces.policy_added(&db);
        assert_eq!(namespaces.missing(), BTreeSet::from([&db, &web]));
        namespaces.pod_removed(&web);
        namespaces.policy_removed(&db);
        assert_eq!(namespaces.missing(), BTreeSet::from([&web]));
        namespaces.described(known_by_name(&web));
        assert_eq!(namespaces.missing(), BTreeSet::new());
        namespaces.undescribed(&web);
        namespaces.policy_removed(&web);
        assert_eq!(namespaces.missing(), BTreeSet::new());
    }

    #[test]
    fn an_object_without_labels_has_known_labels() {
        let mut namespaces = Namespaces::default();
        let web: Arc<str> = Arc::from("web");
        namespaces.pod_added(&web);
        namespaces.changes();
        let labels = [(METADATA_NAME, "web")].into_iter().collect();
        let described = Namespace { name: web.clone(), labels };
        namespaces.described(described.clone());
        assert_eq!(
            namespaces.changes(),
            [Change::Namespace(described)],
            "its labels are known: it has no others"
        );
        namespaces.described(known_by_name(&web));
        assert_eq!(
            namespaces.changes(),
            [Change::Namespace(known_by_name(&web))],
            "they are no longer readable"
        );
        namespaces.undescribed(&web);
        assert_eq!(namespaces.changes(), [], "no known label is lost");
    }
}
