//! The flaws of an object: what of it was not understood, and which fields it has more than once.
//!
//! From: the conversion of each kind, which visits the object's [`Place`]s. To: [`Converted`](super::Converted), as [`Flaw`]s.

use std::collections::BTreeMap;

use super::Flaw;
use super::place::{FieldPath, Place, Step};
use super::twice::Twice;
use crate::invisible::as_seen;

/// How many flaws of an object are named.
const MOST_NAMED: usize = 20;

/// The flaws found so far.
#[derive(Debug, Default)]
pub(super) struct Flaws {
    /// At most [`MOST_NAMED`]: an object can have as many as it has fields.
    found: Vec<Flaw>,
    /// How many more there are.
    unnamed: usize,
    /// How many flaws mean that something is not understood. The others say only which value counts.
    serious: usize,
    /// Fields that are written more than once, and that no flaw names yet, by the mapping that they stand in.
    twice: BTreeMap<FieldPath, Vec<Twice>>,
}

impl Place<'_> {
    /// Visits each element of the list `name`. Absent is empty; anything else than a list is a flaw.
    pub fn each(
        &self,
        name: &str,
        flaws: &mut Flaws,
        effect: &'static str,
        mut visit: impl FnMut(&Place<'_>, &mut Flaws),
    ) {
        let Some(list) = self.field(name) else { return };
        let Some(items) = list.items() else {
            return flaws.push(&list, format!("{} is no list", list.shown()), effect);
        };
        items.for_each(|item| visit(&item, flaws));
    }
}

impl Flaws {
    /// None yet, in an object that has these fields more than once.
    pub fn with(twice: &[Twice]) -> Self {
        let mut flaws = Self::default();
        for twice in twice {
            flaws.twice.entry(twice.at.above()).or_default().push(twice.clone());
        }
        flaws
    }

    /// How many there are of which something is not understood.
    pub fn serious(&self) -> usize {
        self.serious
    }

    /// All, in the order in which they were found; at the end the fields that are written more than once and about which nothing
    /// else was said.
    pub fn all(mut self) -> Vec<Flaw> {
        for twice in std::mem::take(&mut self.twice).into_values().flatten() {
            self.note(twice, None);
        }
        if self.unnamed > 0 {
            let what = format!("{} more fields of this object are wrong in the same way", self.unnamed);
            self.found.push(Flaw { at: FieldPath::default(), what, effect: "the same follows" });
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

    /// Notes that what stands at `place` was not understood.
    pub fn push(&mut self, place: &Place<'_>, what: impl Into<String>, effect: &'static str) {
        self.push_at(place.path(), what, effect);
    }

    /// Notes a flaw of the field `name` of `place`, which may be absent.
    pub fn push_below(
        &mut self,
        place: &Place<'_>,
        name: &str,
        what: impl Into<String>,
        effect: &'static str,
    ) {
        let mut at = place.path();
        at.0.push(Step::Field(name.to_owned()));
        self.push_at(at, what, effect);
    }

    /// Notes a flaw of the field at `at`.
    pub fn push_at(&mut self, at: FieldPath, what: impl Into<String>, effect: &'static str) {
        self.add(Flaw { at, what: what.into(), effect });
        self.serious += 1;
    }

    /// Notes every field of `place` that is not among `known`, and every one that is written twice with different values. A field
    /// of a future API may narrow what the others say, so what has one in it is not understood (semantics 28). Returns whether
    /// there was none.
    pub fn all_known(&mut self, place: &Place<'_>, known: &[&str], effect: &'static str) -> bool {
        let before = self.serious;
        for name in place.unknown_fields(known) {
            let seen = as_seen(name);
            let what = match seen == name {
                true => "this field is not known".to_owned(),
                false => {
                    format!("this field is not known: take the invisible character out, {seen:?} is meant")
                }
            };
            self.push_below(place, name, what, effect);
        }
        self.all_once(place, effect);
        self.serious == before
    }

    /// Notes every field of `place` that is written twice, with `effect` where the values differ.
    pub fn all_once(&mut self, place: &Place<'_>, effect: &'static str) {
        for twice in self.take_twice(place) {
            if twice.is_same {
                self.note(twice, None);
            } else {
                let what = twice.to_string();
                self.push_at(twice.at, what, effect);
            }
        }
    }

    /// Notes every field of `place` that is written twice and of which the last value counts, with `effect` where the values differ.
    pub fn last_counts(&mut self, place: &Place<'_>, effect: &'static str) {
        for twice in self.take_twice(place) {
            self.note(twice, Some(effect));
        }
    }

    fn note(&mut self, twice: Twice, effect: Option<&'static str>) {
        let what = twice.to_string();
        let effect = effect.filter(|_| !twice.is_same).unwrap_or(twice.effect());
        self.add(Flaw { at: twice.at, what, effect });
    }

    fn take_twice(&mut self, place: &Place<'_>) -> Vec<Twice> {
        // Nearly no object has any.
        if self.twice.is_empty() {
            return Vec::new();
        }
        self.twice.remove(&place.path()).unwrap_or_default()
    }

    /// The first field with different values that is this one, one above it, or one within it. It is named by the caller then.
    pub fn take_differing(&mut self, path: [&str; 2]) -> Option<Twice> {
        let path = path.map(|name| Step::Field(name.to_owned()));
        // In the object it is one that leads there; below, each concerns it.
        for length in 0..=path.len() {
            let Some(here) = self.twice.get_mut(&FieldPath(path[..length].to_vec())) else { continue };
            let next = path.get(length);
            let at = here
                .iter()
                .position(|twice| !twice.is_same && next.is_none_or(|next| twice.at.0.last() == Some(next)));
            if let Some(at) = at {
                return Some(here.remove(at));
            }
        }
        None
    }

    /// Whether the field `name` of `place` is written twice with different values.
    pub fn differs(&self, place: &Place<'_>, name: &str) -> bool {
        if self.twice.is_empty() {
            return false;
        }
        let name = Step::Field(name.to_owned());
        let here = self.twice.get(&place.path()).into_iter().flatten();
        here.into_iter().any(|twice| !twice.is_same && twice.at.0.last() == Some(&name))
    }
}
