//! The state of reading an object: its duplicate fields, and how much of it is kept.

use std::cell::{Cell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::de;
use serde_json::Value;

use super::keep::{Keep, POLICY_OUTLINE, keep_of, keep_of_template};
use crate::convert::{Duplicate, FieldPath, Kind, Step};

/// The most duplicate fields of an object that are recorded one by one. Beyond that, the field that contains
/// them is recorded, such as `spec.podSelector` or `metadata.labels`; beyond twice as many, the object's own
/// field. So the records are bounded, and a field that contains duplicates is never understood.
const MOST_DUPLICATES: usize = 256;

/// Whether verdicts may depend on this field of an object.
fn is_read(field: &Step) -> bool {
    let read = ["apiVersion", "kind", "metadata", "spec", "status"];
    matches!(field, Step::Field(name) if read.contains(&name.as_str()))
}

/// The state of reading an object.
#[derive(Debug, Default)]
pub(super) struct ReadContext {
    duplicates: RefCell<BTreeMap<FieldPath, Duplicate>>,
    /// The part of `spec` or `metadata` that was read, if the text broke off in it.
    pub cut: RefCell<Option<(&'static str, Value)>>,
    /// Whether names of fields that are not kept are examined for duplicates.
    pub by_hand: bool,
    /// Whether pod templates and Services are kept.
    pub with_templates: bool,
    /// How many more bytes may be kept, if that is limited.
    room: Cell<Option<usize>>,
}

impl ReadContext {
    /// The initial state. `by_hand` says that a person or a template may have written the object. `most` is
    /// the most bytes that are kept. `with_templates` says that pod templates and Services are kept.
    pub(super) fn of(by_hand: bool, most: Option<usize>, with_templates: bool) -> Self {
        Self { by_hand, with_templates, room: Cell::new(most), ..Self::default() }
    }

    /// The part of the field `name` that is kept for an object of this kind.
    pub(super) fn keep_of(&self, kind: Option<&str>, name: &str) -> &'static Keep {
        if self.with_templates
            && let Some(keep) = kind.and_then(|kind| keep_of_template(kind, name))
        {
            return keep;
        }
        match (kind.and_then(Kind::named), name, self.room.get()) {
            (Some(Kind::NetworkPolicy), "spec", Some(_)) => &POLICY_OUTLINE,
            _ => keep_of(kind, name),
        }
    }

    /// Counts bytes that are kept. Fails if there are too many.
    pub(super) fn count<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        let Some(room) = self.room.get() else { return Ok(()) };
        let left = room.checked_sub(bytes).ok_or_else(|| E::custom("the object is too large"))?;
        self.room.set(Some(left));
        Ok(())
    }

    /// Records that the field at `at` occurred again, with its previous and current value if they are known.
    pub(super) fn again(&self, at: FieldPath, values: Option<(&Value, &Value)>) {
        let mut duplicates = self.duplicates.borrow_mut();
        let known = duplicates.len();
        let is_read = at.0.first().is_some_and(is_read);
        // Verdicts depend on only five top-level fields of an object. Those are always recorded.
        let again = if known < MOST_DUPLICATES || duplicates.contains_key(&at) || (is_read && at.0.len() == 1)
        {
            Duplicate::new(at, values)
        } else if is_read {
            let depth = if known < 2 * MOST_DUPLICATES { 2 } else { 1 };
            Duplicate::more_within(FieldPath(at.0.into_iter().take(depth).collect()))
        } else {
            return;
        };
        match duplicates.entry(again.at.clone()) {
            Entry::Occupied(known) => known.into_mut().again(again),
            Entry::Vacant(new) => drop(new.insert(again)),
        }
    }

    /// Takes the duplicate fields.
    pub(super) fn duplicates(&self) -> Vec<Duplicate> {
        self.duplicates.take().into_values().collect()
    }

    /// Takes the complete fields of a `spec` or `metadata` in which the text broke off.
    pub(super) fn cut(&self) -> Option<(&'static str, Value)> {
        self.cut.take()
    }
}

/// The names of a mapping's fields that are not kept.
#[derive(Debug, Default)]
pub(super) struct Passed(BTreeSet<String>);

impl Passed {
    /// Whether the name occurred before.
    pub(super) fn again(&mut self, name: &str) -> bool {
        // Avoids copying a name that is known already.
        self.0.contains(name) || !self.0.insert(name.to_owned())
    }
}
