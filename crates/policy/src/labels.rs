//! Labels of a pod or namespace: sorted, shared, cheap to clone and to compare.

use std::sync::Arc;

/// The label that every namespace has, and whose value is its name (semantics 11).
pub(crate) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// An immutable set of labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Labels {
    /// Sorted by key, each key once.
    pairs: Arc<[(Arc<str>, Arc<str>)]>,
}

impl Labels {
    /// No labels.
    pub fn none() -> Self {
        Self { pairs: Arc::from([]) }
    }

    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        let at = self.pairs.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.pairs[at].1)
    }

    /// All labels, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    /// Of a key that comes twice the last value counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let map: std::collections::BTreeMap<Arc<str>, Arc<str>> =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { pairs: map.into_iter().collect() }
    }
}
