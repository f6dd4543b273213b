//! Stores equal strings and equal label sets once, however many objects have them.
//!
//! Ten thousand pods of a hundred Deployments have a hundred label sets, not ten thousand. This keeps the
//! agent small. All sources of an agent share one interner, and it can be used from several threads.
//!
//! Invariant: an entry lives as long as an object uses it, and at most one [`Interner::sweep`] longer.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::{DashMap, DashSet};
use policy::Labels;

/// With fewer new label sets than this, looking for unused ones is not worthwhile.
const WORTH_A_SWEEP: usize = 256;

/// With fewer new strings than this, looking for unused ones is not worthwhile. A string takes some 100
/// bytes.
const TEXTS_WORTH_A_SWEEP: usize = 1 << 16;

/// See the module.
#[derive(Debug, Default)]
pub struct Interner {
    texts: DashSet<Arc<str>>,
    labels: DashMap<Labels, ()>,
    /// Label sets after the last sweep.
    left: AtomicUsize,
    /// Strings after the last sweep.
    texts_left: AtomicUsize,
}

impl Interner {
    /// An empty interner.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shared copy of `text`. For strings that many objects have: a namespace, a label's key, a node's
    /// name.
    pub fn text(&self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(&known);
        }
        let new: Arc<str> = Arc::from(text);
        // If another thread was faster, its copy is used.
        if self.texts.insert(Arc::clone(&new)) {
            new
        } else {
            self.texts.get(text).map_or(new, |known| Arc::clone(&known))
        }
    }

    /// The shared copy of `text` if there is one, and otherwise a separate copy that is not shared. For
    /// strings that only policies have: those of a policy whose rules are omitted are freed with the rules.
    pub fn known_text(&self, text: &str) -> Arc<str> {
        self.texts.get(text).map_or_else(|| Arc::from(text), |known| Arc::clone(&known))
    }

    /// The shared set of these labels. If a key occurs twice, the last value counts.
    pub fn labels<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
        let labels: Labels =
            pairs.into_iter().map(|(key, value)| (self.text(key), self.text(value))).collect();
        self.labels.entry(labels).or_insert(()).key().clone()
    }

    /// Whether enough label sets or strings were added since the last sweep to make another worthwhile.
    pub fn wants_sweep(&self) -> bool {
        self.labels.len() > WORTH_A_SWEEP + 2 * self.left.load(Ordering::Relaxed)
            || self.texts.len() > TEXTS_WORTH_A_SWEEP + 2 * self.texts_left.load(Ordering::Relaxed)
    }

    /// Drops unused entries. `live` has the label sets of all existing objects.
    pub fn sweep<'a>(&self, live: impl IntoIterator<Item = &'a Labels>) {
        let live: HashSet<&Labels> = live.into_iter().collect();
        self.labels.retain(|labels, ()| live.contains(labels));
        self.labels.shrink_to_fit();
        // A string that only this table references is in no label set, name or policy.
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.texts.shrink_to_fit();
        self.left.store(self.labels.len(), Ordering::Relaxed);
        self.texts_left.store(self.texts.len(), Ordering::Relaxed);
    }

    /// The number of strings and of label sets.
    pub fn len(&self) -> (usize, usize) {
        (self.texts.len(), self.labels.len())
    }

    /// Whether the interner is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_and_label_sets_are_stored_once() {
        let interner = Interner::new();
        assert!(Arc::ptr_eq(&interner.text("web"), &interner.text("web")));
        let first = interner.labels([("app", "a"), ("tier", "web")]);
        let second = interner.labels([("tier", "web"), ("app", "a")]);
        assert_eq!(first, second);
        let address = |labels: &Labels| labels.iter().next().map(|(key, _)| key.as_ptr());
        assert_eq!(address(&first), address(&second));
        assert_eq!(interner.len(), (4, 1), "app, a, tier and web");
    }

    #[test]
    fn a_sweep_drops_only_unused_entries() {
        let interner = Interner::new();
        let kept = interner.labels([("app", "kept")]);
        let node = interner.text("node-1");
        drop(interner.labels([("app", "gone")]));
        interner.sweep([&kept]);
        assert_eq!(interner.len(), (3, 1), "app, kept, node-1");
        assert!(Arc::ptr_eq(&node, &interner.text("node-1")));
        drop((kept, node));
        interner.sweep([]);
        assert!(interner.is_empty());
    }

    #[test]
    fn a_sweep_is_due_only_when_the_table_has_grown() {
        let interner = Interner::new();
        let all: Vec<_> =
            (0..2 * WORTH_A_SWEEP).map(|n| interner.labels([("n", n.to_string().as_str())])).collect();
        assert!(interner.wants_sweep());
        interner.sweep(&all);
        assert!(!interner.wants_sweep());
        drop(interner.labels([("n", "one more")]));
        assert!(!interner.wants_sweep());
        // Values of policies that no longer exist.
        (0..2 * TEXTS_WORTH_A_SWEEP).for_each(|n| drop(interner.text(&n.to_string())));
        assert!(interner.wants_sweep());
        interner.sweep(&all);
        assert!(!interner.wants_sweep() && interner.len().0 < TEXTS_WORTH_A_SWEEP);
    }
}
