//! Deduplicates equal values (hash consing).
//!
//! From: compiled policies and pods. To: the same, with shared values. Invariant: unused values are dropped
//! before they outnumber all others, so that values that come and go do not fill the memory.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashSet;

/// With fewer values than this, unused ones are not dropped.
const FEW: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    values: FxHashSet<Arc<T>>,
    /// The number of values at which unused ones are dropped.
    full: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { values: FxHashSet::default(), full: FEW }
    }
}

impl<T: Eq + Hash> Shared<T> {
    /// Returns the existing value that equals this one, or else adds this one.
    pub(crate) fn share(&mut self, value: T) -> Arc<T> {
        if let Some(shared) = self.values.get(&value) {
            return Arc::clone(shared);
        }
        if self.values.len() >= self.full {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.full = (2 * self.values.len()).max(FEW);
        }
        let value = Arc::new(value);
        self.values.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_values_are_dropped() {
        let mut shared = Shared::default();
        let held = shared.share(0);
        for value in 1..100_000 {
            shared.share(value);
        }
        assert!(shared.values.len() <= FEW, "{}", shared.values.len());
        assert!(Arc::ptr_eq(&shared.share(0), &held));
    }
}
