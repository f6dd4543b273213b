//! Equal values, held once.
//!
//! From: compiled policies and pods. To: the same, sharing. Invariant: what nothing else holds any more is
//! let go before there is twice as much of it as of all else, so that values that come and go fill no memory.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashSet;

/// With fewer values than this it isn't worth looking for those that nothing holds.
const FEW: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    values: FxHashSet<Arc<T>>,
    /// With as many values, those that nothing holds are let go.
    full: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { values: FxHashSet::default(), full: FEW }
    }
}

impl<T: Eq + Hash> Shared<T> {
    /// The value that is equal to this one and already held; else this one.
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
    fn what_nothing_holds_any_more_is_let_go() {
        let mut shared = Shared::default();
        let held = shared.share(0);
        for value in 1..100_000 {
            shared.share(value);
        }
        assert!(shared.values.len() <= FEW, "{}", shared.values.len());
        assert!(Arc::ptr_eq(&shared.share(0), &held));
    }
}
