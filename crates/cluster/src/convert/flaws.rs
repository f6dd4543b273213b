//! The flaws of an object: its parts that were not understood, and its duplicate fields.
//!
//! From: the conversion of each kind, which visits the object's [`FieldRef`]s. To:
//! [`Converted`](super::Converted), as [`Flaw`]s.

use std::collections::BTreeMap;

use super::duplicate::Duplicate;
use super::field_path::{FieldPath, Step};
use super::field_ref::FieldRef;
use super::flaw::Flaw;
use crate::invisible::as_seen;

/// The most flaws of an object that are reported.
const MOST_NAMED: usize = 20;

/// The flaws found so far.
#[derive(Debug, Default)]
pub(super) struct Flaws {
    /// At most [`MOST_NAMED`], because an object can have as many as it has fields.
    found: Vec<Flaw>,
    /// The number of further flaws.
    unnamed: usize,
    /// The number of flaws of parts that are not understood. The other flaws only say which value counts.
    serious: usize,
    /// Duplicate fields that no flaw reports yet, by the mapping that contains them.
    duplicates: BTreeMap<FieldPath, Vec<Duplicate>>,
}

impl FieldRef<'_> {
    /// Visits each element of the list `name`. An absent list is empty; a value that is not a list is a flaw.
    pub(super) fn each(
        &self,
        name: &str,
        flaws: &mut Flaws,
        effect: &'static str,
        mut visit: impl FnMut(&FieldRef<'_>, &mut Flaws),
    ) {
        let Some(list) = self.field(name) else { return };
        let Some(items) = list.items() else {
            return flaws.push(&list, format!("{} is not a list", list.shown()), effect);
        };
        items.for_each(|item| visit(&item, flaws));
    }
}

impl Flaws {
    /// No flaws, in an object with these duplicate fields.
    pub(super) fn with(duplicates: &[Duplicate]) -> Self {
        let mut flaws = Self::default();
        for duplicate in duplicates {
            flaws.duplicates.entry(duplicate.at.above()).or_default().push(duplicate.clone());
        }
        flaws
    }

    /// The number of flaws of parts that are not understood.
    pub(super) fn serious(&self) -> usize {
        self.serious
    }

    /// All flaws in the order in which they were found, and then the duplicate fields that no flaw reports.
    pub(super) fn all(mut self) -> Vec<Flaw> {
        for duplicate in std::mem::take(&mut self.duplicates).into_values().flatten() {
            self.note(duplicate, None);
        }
        if self.unnamed > 0 {
            let what = format!("{} more fields of this object have problems", self.unnamed);
            self.found.push(Flaw { at: FieldPath::default(), what, effect: "with similar effects" });
        }
        self.found
    }

    fn add(&mut self, flaw: Flaw) {
        if self.found.len() < MOST_NAMED {
            self.found.push(flaw);
        } else {
            self.unnamed += 1;
        }
    }

    /// Records that the value at `field` was not understood.
    pub(super) fn push(&mut self, field: &FieldRef<'_>, what: impl Into<String>, effect: &'static str) {
        self.push_at(field.path(), what, effect);
    }

    /// Records a flaw of the field `name` of `field`, which may be absent.
    pub(super) fn push_below(
        &mut self,
        field: &FieldRef<'_>,
        name: &str,
        what: impl Into<String>,
        effect: &'static str,
    ) {
        let mut at = field.path();
        at.0.push(Step::Field(name.to_owned()));
        self.push_at(at, what, effect);
    }

    /// Records a flaw of the field at `at`.
    pub(super) fn push_at(&mut self, at: FieldPath, what: impl Into<String>, effect: &'static str) {
        self.add(Flaw { at, what: what.into(), effect });
        self.serious += 1;
    }

    /// Records something about `field` that does not change how the rest of the object is understood.
    pub(super) fn remark(&mut self, field: &FieldRef<'_>, what: impl Into<String>, effect: &'static str) {
        self.add(Flaw { at: field.path(), what: what.into(), effect });
    }

    /// Records every field of `field` that is not in `known`, and every one that occurs twice with different
    /// values. A field of a future API may narrow the meaning of the others, so a value that contains one is
    /// not understood (semantics 28). Returns whether there was none.
    pub(super) fn all_known(&mut self, field: &FieldRef<'_>, known: &[&str], effect: &'static str) -> bool {
        let before = self.serious;
        for name in field.unknown_fields(known) {
            let seen = as_seen(name);
            let what = match seen == name {
                true => "this field is not known".to_owned(),
                false => {
                    format!("this field is not known: remove the invisible character, {seen:?} is meant")
                }
            };
            self.push_below(field, name, what, effect);
        }
        self.note_duplicates(field, effect);
        self.serious == before
    }

    /// Records every duplicate field of `field`, with `effect` if its values differ.
    pub(super) fn note_duplicates(&mut self, field: &FieldRef<'_>, effect: &'static str) {
        for duplicate in self.take_duplicates(field) {
            if duplicate.is_same {
                self.note(duplicate, None);
            } else {
                let what = duplicate.to_string();
                self.push_at(duplicate.at, what, effect);
            }
        }
    }

    /// Records every duplicate field of `field` whose last value counts, with `effect` if its values differ.
    pub(super) fn note_last_wins(&mut self, field: &FieldRef<'_>, effect: &'static str) {
        for duplicate in self.take_duplicates(field) {
            self.note(duplicate, Some(effect));
        }
    }

    fn note(&mut self, duplicate: Duplicate, effect: Option<&'static str>) {
        let what = duplicate.to_string();
        let effect = effect.filter(|_| !duplicate.is_same).unwrap_or(duplicate.effect());
        self.add(Flaw { at: duplicate.at, what, effect });
    }

    fn take_duplicates(&mut self, field: &FieldRef<'_>) -> Vec<Duplicate> {
        // Almost no object has any.
        if self.duplicates.is_empty() {
            return Vec::new();
        }
        self.duplicates.remove(&field.path()).unwrap_or_default()
    }

    /// Takes the first duplicate field with different values that is this one, contains it, or is within it.
    /// The caller reports it.
    pub(super) fn take_differing(&mut self, path: [&str; 2]) -> Option<Duplicate> {
        let path = path.map(|name| Step::Field(name.to_owned()));
        // In a containing mapping only the next field of the path matters; within the field itself, each one
        // does.
        for length in 0..=path.len() {
            let Some(here) = self.duplicates.get_mut(&FieldPath(path[..length].to_vec())) else { continue };
            let next = path.get(length);
            let at = here.iter().position(|duplicate| {
                !duplicate.is_same && next.is_none_or(|next| duplicate.at.0.last() == Some(next))
            });
            if let Some(at) = at {
                return Some(here.remove(at));
            }
        }
        None
    }

    /// Whether the field `name` of `field` occurs twice with different values.
    pub(super) fn differs(&self, field: &FieldRef<'_>, name: &str) -> bool {
        if self.duplicates.is_empty() {
            return false;
        }
        let name = Step::Field(name.to_owned());
        let here = self.duplicates.get(&field.path()).into_iter().flatten();
        here.into_iter().any(|duplicate| !duplicate.is_same && duplicate.at.0.last() == Some(&name))
    }
}
