//! Labels of a pod or namespace. They are sorted, shared, and cheap to clone and to compare; or unknown.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The label that every namespace has. Its value is the namespace's name (semantics 11).
pub(crate) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// An immutable set of labels; or unknown labels (semantics 37).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Labels {
    /// Sorted by key, each key once; `None` if unknown.
    pairs: Option<Arc<[Pair]>>,
}

/// Key and value.
type Pair = (Arc<str>, Arc<str>);

impl Labels {
    /// No labels.
    pub fn none() -> Self {
        Self { pairs: Some(Arc::from([])) }
    }

    /// Labels that can't be read, or of an object that has not been read. Any key may have any value, or be
    /// missing.
    pub const fn unknown() -> Self {
        Self { pairs: None }
    }

    /// Whether the labels are known.
    pub fn are_known(&self) -> bool {
        self.pairs.is_some()
    }

    /// The value of `key`; `None` if the key is missing or the labels are unknown.
    pub fn value(&self, key: &str) -> Option<&str> {
        let pairs = self.pairs.as_ref()?;
        let at = pairs.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&pairs[at].1)
    }

    /// The address of the set in memory. Clones share it as long as one of them lives. `None` if the labels
    /// are unknown.
    pub fn address(&self) -> Option<usize> {
        self.pairs.as_ref().map(|pairs| Arc::as_ptr(pairs).cast::<Pair>().addr())
    }

    /// All labels, sorted by key; empty if they are unknown.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.pairs.as_deref().unwrap_or_default().iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    /// If a key occurs twice, the last value counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let map: std::collections::BTreeMap<Arc<str>, Arc<str>> =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { pairs: Some(map.into_iter().collect()) }
    }
}

impl Serialize for Labels {
    /// A list of keys and values; `null` if the labels are unknown.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.pairs.as_deref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Option::<Vec<Pair>>::deserialize(deserializer)?;
        Ok(pairs.map_or(Self::unknown(), |pairs| pairs.into_iter().collect()))
    }
}
