//! Holds equal texts and equal label sets once, however many objects carry them.
//!
//! Ten thousand pods of a hundred Deployments have a hundred label sets, not ten thousand: this is what keeps the
//! agent small. Every source of one agent shares one interner; it is safe to use from several threads.
//!
//! Invariant: an entry lives as long as some object uses it, and at most one [`Interner::sweep`] longer.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::{DashMap, DashSet};
use policy::Labels;

/// Below this number of label sets it isn't worth looking for those that are no longer used.
const WORTH_A_SWEEP: usize = 256;

/// The same for texts. Some 100 bytes each.
const TEXTS_WORTH_A_SWEEP: usize = 1 << 16;

/// See the module.
#[derive(Debug, Default)]
pub struct Interner {
    texts: DashSet<Arc<str>>,
    labels: DashMap<Labels, ()>,
    /// How many label sets the last sweep left.
    left: AtomicUsize,
    /// How many texts.
    texts_left: AtomicUsize,
}

impl Interner {
    /// An interner that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one shared copy of `text`. For texts that many objects carry: a namespace, a label's key, a node's name.
    pub fn text(&self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(&known);
        }
        let new: Arc<str> = Arc::from(text);
        // Another thread may have been faster: then its copy counts.
        if self.texts.insert(Arc::clone(&new)) {
            new
        } else {
            self.texts.get(text).map_or(new, |known| Arc::clone(&known))
        }
    }

    /// The shared copy of `text` if there is one, and otherwise a copy of its own, which is not shared. For texts that only policies have:
    /// those of a policy whose rules are omitted are gone with them.
    pub fn known_text(&self, text: &str) -> Arc<str> {
        self.texts.get(text).map_or_else(|| Arc::from(text), |known| Arc::clone(&known))
    }

    /// The one shared set of these labels. Of a key that comes twice the last value counts.
    pub fn labels<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
        let labels: Labels =
            pairs.into_iter().map(|(key, value)| (self.text(key), self.text(value))).collect();
        self.labels.entry(labels).or_insert(()).key().clone()
    }

    /// Whether enough label sets or texts came since the last sweep that another is worth its time.
    pub fn wants_sweep(&self) -> bool {
        self.labels.len() > WORTH_A_SWEEP + 2 * self.left.load(Ordering::Relaxed)
            || self.texts.len() > TEXTS_WORTH_A_SWEEP + 2 * self.texts_left.load(Ordering::Relaxed)
    }

    /// Drops what is no longer used: `live` names the label sets of all objects that there are.
    pub fn sweep<'a>(&self, live: impl IntoIterator<Item = &'a Labels>) {
        let live: HashSet<&Labels> = live.into_iter().collect();
        self.labels.retain(|labels, ()| live.contains(labels));
        self.labels.shrink_to_fit();
        // A text of which only this table has a reference is in no label set, name or policy any more.
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.texts.shrink_to_fit();
        self.left.store(self.labels.len(), Ordering::Relaxed);
        self.texts_left.store(self.texts.len(), Ordering::Relaxed);
    }

    /// How many texts and how many label sets are held.
    pub fn len(&self) -> (usize, usize) {
        (self.texts.len(), self.labels.len())
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_and_labels_are_held_once() {
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
    fn a_sweep_drops_only_what_is_no_longer_used() {
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
    fn sweeps_are_asked_for_only_when_the_table_has_grown() {
        let interner = Interner::new();
        let all: Vec<_> =
            (0..2 * WORTH_A_SWEEP).map(|n| interner.labels([("n", n.to_string().as_str())])).collect();
        assert!(interner.wants_sweep());
        interner.sweep(&all);
        assert!(!interner.wants_sweep());
        drop(interner.labels([("n", "one more")]));
        assert!(!interner.wants_sweep());
        // Values of policies that are gone.
        (0..2 * TEXTS_WORTH_A_SWEEP).for_each(|n| drop(interner.text(&n.to_string())));
        assert!(interner.wants_sweep());
        interner.sweep(&all);
        assert!(!interner.wants_sweep() && interner.len().0 < TEXTS_WORTH_A_SWEEP);
    }
}
