//! The last object of a list, which is held back until it is known that the list does not break off in it.

use super::raw_object::{Fault, RawObject};
use crate::convert::Kind;

/// The last object of a list. If an extra brace ends it, its next fields look like items without fields, and
/// the text breaks off soon after.
pub(super) struct Last<'a> {
    pub sink: &'a mut dyn FnMut(RawObject),
    pub object: Option<RawObject>,
    /// The first items without fields after it.
    pub others: Vec<RawObject>,
}

impl Last<'_> {
    pub(super) fn next(&mut self, next: RawObject) {
        /// The most that are kept.
        const MOST: usize = 200;
        if next.fault != Some(Fault::NoFields) {
            self.hand_over(false);
            self.object = Some(next);
        } else if self.others.len() < MOST {
            self.others.push(next);
        }
    }

    /// Passes on everything that is held back. `is_broken` says that the text broke off after it.
    pub(super) fn hand_over(&mut self, is_broken: bool) {
        if let Some(mut object) = self.object.take() {
            let is_policy = object.kind.as_deref().and_then(Kind::named).and_then(Kind::policy).is_some();
            object.is_cut |= is_broken && is_policy && !self.others.is_empty();
            (self.sink)(object);
        }
        self.others.drain(..).for_each(&mut *self.sink);
    }
}
