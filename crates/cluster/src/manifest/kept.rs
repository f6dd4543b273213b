//! Which fields of an object are kept, and how they are read.
//!
//! Of a field that a mapping has more than once the last value is kept, as kubectl and Helm keep it, and a note is taken.

use std::cell::{Cell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::convert::{FieldPath, Kind, PUBLIC_ADDRESSES, Step, Twice, is_miswritten, is_miswritten_range};

/// Which part of a value is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// Nothing; not even that it is there.
    Nothing,
    /// Only that it is there.
    Presence,
    /// All of it.
    All,
    /// Of a mapping these fields.
    Fields(&'static [(&'static str, Keep)]),
    /// Of a list all elements, of each this.
    Each(&'static Keep),
}

/// Nothing but the names of the fields are looked at: whether one comes twice.
const NAMES: Keep = Keep::Fields(&[]);

const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("labels", Keep::All),
    ("creationTimestamp", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("annotations", NAMES),
]);
const NODE_METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("labels", Keep::All),
    ("creationTimestamp", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("annotations", Keep::Fields(&FLANNELS_ANNOTATIONS)),
]);
/// Addresses between which Flannel carries the overlay, where they are not among the node's own ([`mod@crate::convert`]).
const FLANNELS_ANNOTATIONS: [(&str, Keep); 4] = [
    (PUBLIC_ADDRESSES[0], Keep::All),
    (PUBLIC_ADDRESSES[1], Keep::All),
    (PUBLIC_ADDRESSES[2], Keep::All),
    (PUBLIC_ADDRESSES[3], Keep::All),
];
const CONTAINERS: Keep = Keep::Each(&Keep::Fields(&[("restartPolicy", Keep::All), ("ports", Keep::All)]));
const POD_SPEC: Keep = Keep::Fields(&[
    ("nodeName", Keep::All),
    ("hostNetwork", Keep::All),
    ("containers", CONTAINERS),
    ("initContainers", CONTAINERS),
]);
const POD_STATUS: Keep = Keep::Fields(&[("phase", Keep::All), ("podIP", Keep::All), ("podIPs", Keep::All)]);
/// Of a policy whose rules are read later. Without `policyTypes` it isolates for egress if it has a rule for it.
const POLICY_OUTLINE: Keep = Keep::Fields(&[
    ("podSelector", Keep::All),
    ("policyTypes", Keep::All),
    ("egress", Keep::Each(&Keep::Presence)),
]);
const NODE_SPEC: Keep = Keep::Fields(&[("podCIDR", Keep::All), ("podCIDRs", Keep::All)]);
const NODE_STATUS: Keep = Keep::Fields(&[("addresses", Keep::All)]);

/// What is kept of the field `name` of an object. While its kind isn't known, everything is.
fn keep_of(kind: Option<&str>, name: &str) -> &'static Keep {
    let Some(kind) = kind else { return &Keep::All };
    let Some(kind) = Kind::named(kind) else {
        // Its name is enough to say what a message is about.
        return if name == "metadata" { &METADATA } else { &Keep::Nothing };
    };
    match (kind, name) {
        (Kind::Node, "metadata") => &NODE_METADATA,
        (_, "metadata") => &METADATA,
        (Kind::Pod, "spec") => &POD_SPEC,
        (Kind::Pod, "status") => &POD_STATUS,
        (Kind::Node, "spec") => &NODE_SPEC,
        (Kind::Node, "status") => &NODE_STATUS,
        // A policy is looked at whole: a field that is not known may narrow it.
        (Kind::NetworkPolicy, "spec") => &Keep::All,
        (Kind::NetworkPolicy, _) => &Keep::Presence,
        _ => &Keep::Nothing,
    }
}

/// The most duplicated fields of an object that are noted one by one. Beyond that, the field that contains them is noted, such as
/// `spec.podSelector` or `metadata.labels`; beyond twice as many, the object's own field. So notes are bounded, and a field that contains
/// duplicates is never understood.
const MOST_NOTES: usize = 256;

/// The longest name of a field that is kept, in bytes: longer than any label's key (253 + 1 + 63), so that messages and notes stay short.
pub(super) const LONGEST_NAME: usize = 512;

/// The bytes of text that a field or element takes, at least, besides names and texts.
const VALUE: usize = 1;

/// The beginning of a name that is too long.
pub(super) fn shortened(name: &str) -> String {
    /// Characters of it.
    const SHOWN: usize = 32;
    let shown: String = name.chars().take(SHOWN).collect();
    format!("{shown}... ({} bytes)", name.len())
}

/// Whether a verdict may depend on this field of an object.
fn is_read(field: &Step) -> bool {
    let read = ["apiVersion", "kind", "metadata", "spec", "status"];
    matches!(field, Step::Field(name) if read.contains(&name.as_str()))
}

/// What was noted while an object was read.
#[derive(Debug, Default)]
pub(super) struct Notes {
    twice: RefCell<BTreeMap<FieldPath, Twice>>,
    /// What there is of `spec` or `metadata` if the text broke off in it.
    cut: RefCell<Option<(&'static str, Value)>>,
    /// Whether names of which nothing is kept are looked at.
    pub by_hand: bool,
    /// How many bytes more may be kept, if that is limited.
    room: Cell<Option<usize>>,
}

impl Notes {
    /// Nothing yet. `by_hand`: of an object that a person or a template may have written. `most`: the most bytes that are kept.
    pub fn of(by_hand: bool, most: Option<usize>) -> Self {
        Self { by_hand, room: Cell::new(most), ..Self::default() }
    }

    /// What is kept of the field `name` of an object of this kind.
    pub fn keep_of(&self, kind: Option<&str>, name: &str) -> &'static Keep {
        match (kind.and_then(Kind::named), name, self.room.get()) {
            (Some(Kind::NetworkPolicy), "spec", Some(_)) => &POLICY_OUTLINE,
            _ => keep_of(kind, name),
        }
    }

    /// Takes note that this many bytes are kept. Fails if they are too many.
    fn keep<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        let Some(room) = self.room.get() else { return Ok(()) };
        let left = room.checked_sub(bytes).ok_or_else(|| E::custom("there is too much to keep"))?;
        self.room.set(Some(left));
        Ok(())
    }

    /// Notes that the field at `at` came again: its value before and its value now, where they are known.
    pub fn again(&self, at: FieldPath, values: Option<(&Value, &Value)>) {
        let mut twice = self.twice.borrow_mut();
        let known = twice.len();
        let is_read = at.0.first().is_some_and(is_read);
        // An object has only five fields of its own that a verdict reads: these are always noted.
        let again = if known < MOST_NOTES || twice.contains_key(&at) || (is_read && at.0.len() == 1) {
            Twice::new(at, values)
        } else if is_read {
            let depth = if known < 2 * MOST_NOTES { 2 } else { 1 };
            Twice::more_within(FieldPath(at.0.into_iter().take(depth).collect()))
        } else {
            return;
        };
        match twice.entry(again.at.clone()) {
            Entry::Occupied(known) => known.into_mut().again(again),
            Entry::Vacant(new) => drop(new.insert(again)),
        }
    }

    /// The fields that came twice.
    pub fn twice(&self) -> Vec<Twice> {
        self.twice.take().into_values().collect()
    }

    /// The whole fields of a `spec` or `metadata` in which the text broke off.
    pub fn cut(&self) -> Option<(&'static str, Value)> {
        self.cut.take()
    }
}

/// Names of a mapping's fields of which nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Passed(BTreeSet<String>);

impl Passed {
    /// Whether the name has been there before.
    pub fn again(&mut self, name: &str) -> bool {
        // Of a name that is there already no copy is made.
        self.0.contains(name) || !self.0.insert(name.to_owned())
    }
}

/// The way to a value, from the object's root. Lives on the stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trail<'a> {
    up: Option<&'a Trail<'a>>,
    hop: Hop<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Hop<'a> {
    Field(&'a str),
    Item(usize),
}

impl<'a> Trail<'a> {
    /// To a field of the object.
    pub fn field(name: &'a str) -> Self {
        Self { up: None, hop: Hop::Field(name) }
    }

    fn path(&self) -> FieldPath {
        let mut steps = Vec::new();
        let mut here = Some(self);
        while let Some(Self { up, hop }) = here {
            steps.push(match hop {
                Hop::Field(name) => Step::Field((*name).to_owned()),
                Hop::Item(index) => Step::Item(*index),
            });
            here = *up;
        }
        steps.reverse();
        FieldPath(steps)
    }

    fn is_metadata(&self) -> bool {
        matches!(self, Self { up: None, hop: Hop::Field("metadata") })
    }

    fn is_spec(&self) -> bool {
        matches!(self, Self { up: None, hop: Hop::Field("spec") })
    }
}

/// Reads a value and keeps a part of it.
pub(super) struct Kept<'a> {
    /// Which part.
    pub keep: &'a Keep,
    /// Where it stands.
    pub at: Trail<'a>,
    /// What is noted about it.
    pub notes: &'a Notes,
}

impl<'de> DeserializeSeed<'de> for Kept<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Kept<'_> {
    /// Reads the fields of a mapping into `fields`, as far as they can be read.
    fn fill<'de, A: MapAccess<'de>>(
        &self,
        mut map: A,
        fields: &mut Map<String, Value>,
    ) -> Result<(), A::Error> {
        // Those of which nothing is kept.
        let mut passed = Passed::default();
        while let Some(name) = map.next_key::<String>()? {
            let keep = match self.keep {
                Keep::All => &Keep::All,
                Keep::Fields(known) => {
                    known.iter().find(|(known, _)| *known == name).map_or(&Keep::Nothing, |(_, keep)| keep)
                }
                Keep::Nothing | Keep::Presence | Keep::Each(_) => &Keep::Nothing,
            };
            if name.len() > LONGEST_NAME {
                map.next_value::<IgnoredAny>()?;
                if matches!(keep, Keep::All) {
                    // No field has such a name: it stands for one that is not known.
                    fields.insert(shortened(&name), Value::Null);
                }
                continue;
            }
            let at = Trail { up: Some(&self.at), hop: Hop::Field(&name) };
            if matches!(keep, Keep::Nothing) {
                map.next_value::<IgnoredAny>()?;
                if (self.at.is_metadata() && is_miswritten(&name))
                    || (self.at.is_spec() && is_miswritten_range(&name))
                {
                    fields.insert(name, Value::Null);
                    continue;
                }
                if self.notes.by_hand && passed.again(&name) {
                    self.notes.again(at.path(), None);
                }
                continue;
            }
            self.notes.keep(name.len() + VALUE)?;
            let value = map.next_value_seed(Kept { keep, at, notes: self.notes })?;
            if let Some(before) = fields.get(&name) {
                self.notes.again(at.path(), Some((before, &value)));
            }
            if !keep.is_names() {
                fields.insert(name, value);
            }
        }
        Ok(())
    }
}

impl Keep {
    /// Whether only names are looked at.
    pub fn is_names(&self) -> bool {
        matches!(self, Self::Fields([]))
    }
}

impl<'de> Visitor<'de> for Kept<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        match self.fill(map, &mut fields) {
            Ok(()) => Ok(Value::Object(fields)),
            Err(error) => {
                if self.at.is_spec() {
                    self.notes.cut.replace(Some(("spec", Value::Object(fields))));
                // Without its namespace it is not known which pods the policy selects.
                } else if self.at.is_metadata() && fields.contains_key("namespace") {
                    self.notes.cut.replace(Some(("metadata", Value::Object(fields))));
                }
                Err(error)
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let keep = match self.keep {
            Keep::All => &Keep::All,
            Keep::Each(keep) => *keep,
            Keep::Nothing | Keep::Presence | Keep::Fields(_) => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Array(Vec::new()));
            }
        };
        let mut items = Vec::new();
        loop {
            let at = Trail { up: Some(&self.at), hop: Hop::Item(items.len()) };
            match seq.next_element_seed(Kept { keep, at, notes: self.notes })? {
                Some(item) => {
                    self.notes.keep(VALUE)?;
                    items.push(item);
                }
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::from(value as f64))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(Value::from(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // `.inf` and `.nan`: JSON has no such number. What stands for them must not read as absent, and is as little a text, a port
        // or a list as they are.
        Ok(Value::from(if value.is_finite() { value } else { f64::MAX }))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.notes.keep(value.len())?;
        Ok(Value::from(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        self.notes.keep(value.len())?;
        Ok(Value::from(value))
    }
}
