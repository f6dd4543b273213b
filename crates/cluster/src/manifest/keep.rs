//! Which fields of an object are kept, and how they are parsed.
//!
//! Of a field that occurs more than once in a mapping, the last value is kept, as by kubectl and Helm, and
//! the duplicate is recorded.

use std::cell::{Cell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::convert::{
    Duplicate, FieldPath, Kind, PUBLIC_ADDRESSES, Step, is_miswritten, is_miswritten_range,
};

/// Which part of a value is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// Nothing, not even its presence.
    Nothing,
    /// Only its presence.
    Presence,
    /// All of it.
    All,
    /// These fields of a mapping.
    Fields(&'static [(&'static str, Keep)]),
    /// This part of each element of a list.
    Each(&'static Keep),
}

/// Only the names of the fields are examined, to find duplicates.
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
/// Addresses that Flannel uses for the overlay, if they are not among the node's own
/// ([`mod@crate::convert`]).
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
/// The outline of a policy whose rules are read later. Without `policyTypes`, a policy isolates for egress if
/// it has a rule for it.
const POLICY_OUTLINE: Keep = Keep::Fields(&[
    ("podSelector", Keep::All),
    ("policyTypes", Keep::All),
    ("egress", Keep::Each(&Keep::Presence)),
]);
const NODE_SPEC: Keep = Keep::Fields(&[("podCIDR", Keep::All), ("podCIDRs", Keep::All)]);
const NODE_STATUS: Keep = Keep::Fields(&[("addresses", Keep::All)]);

/// The part of the field `name` that is kept. While the object's kind is unknown, everything is kept.
fn keep_of(kind: Option<&str>, name: &str) -> &'static Keep {
    let Some(kind) = kind else { return &Keep::All };
    let Some(kind) = Kind::named(kind) else {
        // For messages, the object's name is enough.
        return if name == "metadata" { &METADATA } else { &Keep::Nothing };
    };
    match (kind, name) {
        (Kind::Node, "metadata") => &NODE_METADATA,
        (_, "metadata") => &METADATA,
        (Kind::Pod, "spec") => &POD_SPEC,
        (Kind::Pod, "status") => &POD_STATUS,
        (Kind::Node, "spec") => &NODE_SPEC,
        (Kind::Node, "status") => &NODE_STATUS,
        // All of a policy is kept, because an unknown field may narrow it.
        (Kind::NetworkPolicy, "spec") => &Keep::All,
        (Kind::NetworkPolicy, _) => &Keep::Presence,
        _ => &Keep::Nothing,
    }
}

/// The most duplicate fields of an object that are recorded one by one. Beyond that, the field that contains
/// them is recorded, such as `spec.podSelector` or `metadata.labels`; beyond twice as many, the object's own
/// field. So the records are bounded, and a field that contains duplicates is never understood.
const MOST_DUPLICATES: usize = 256;

/// The longest name of a field that is kept, in bytes. It is longer than any label's key (253 + 1 + 63), and
/// bounds messages and records.
pub(super) const LONGEST_NAME: usize = 512;

/// The fewest bytes of text that a field or element takes, besides names and strings.
const VALUE: usize = 1;

/// The beginning of a name that is too long, for messages.
pub(super) fn shortened(name: &str) -> String {
    /// The number of characters shown.
    const SHOWN: usize = 32;
    let shown: String = name.chars().take(SHOWN).collect();
    format!("{shown}... ({} bytes)", name.len())
}

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
    cut: RefCell<Option<(&'static str, Value)>>,
    /// Whether names of fields that are not kept are examined for duplicates.
    pub by_hand: bool,
    /// How many more bytes may be kept, if that is limited.
    room: Cell<Option<usize>>,
}

impl ReadContext {
    /// The initial state. `by_hand` says that a person or a template may have written the object. `most` is
    /// the most bytes that are kept.
    pub fn of(by_hand: bool, most: Option<usize>) -> Self {
        Self { by_hand, room: Cell::new(most), ..Self::default() }
    }

    /// The part of the field `name` that is kept for an object of this kind.
    pub fn keep_of(&self, kind: Option<&str>, name: &str) -> &'static Keep {
        match (kind.and_then(Kind::named), name, self.room.get()) {
            (Some(Kind::NetworkPolicy), "spec", Some(_)) => &POLICY_OUTLINE,
            _ => keep_of(kind, name),
        }
    }

    /// Counts bytes that are kept. Fails if there are too many.
    fn count<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        let Some(room) = self.room.get() else { return Ok(()) };
        let left = room.checked_sub(bytes).ok_or_else(|| E::custom("the object is too large"))?;
        self.room.set(Some(left));
        Ok(())
    }

    /// Records that the field at `at` occurred again, with its previous and current value if they are known.
    pub fn again(&self, at: FieldPath, values: Option<(&Value, &Value)>) {
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
    pub fn duplicates(&self) -> Vec<Duplicate> {
        self.duplicates.take().into_values().collect()
    }

    /// Takes the complete fields of a `spec` or `metadata` in which the text broke off.
    pub fn cut(&self) -> Option<(&'static str, Value)> {
        self.cut.take()
    }
}

/// The names of a mapping's fields that are not kept.
#[derive(Debug, Default)]
pub(super) struct Passed(BTreeSet<String>);

impl Passed {
    /// Whether the name occurred before.
    pub fn again(&mut self, name: &str) -> bool {
        // Avoids copying a name that is known already.
        self.0.contains(name) || !self.0.insert(name.to_owned())
    }
}

/// The path to a value from the object's root. Lives on the stack.
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
    /// The path to a field of the object.
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

/// Deserializes a value and keeps a part of it.
pub(super) struct KeepSeed<'a> {
    /// Which part.
    pub keep: &'a Keep,
    /// Its path.
    pub at: Trail<'a>,
    /// The state of reading the object.
    pub context: &'a ReadContext,
}

impl<'de> DeserializeSeed<'de> for KeepSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl KeepSeed<'_> {
    /// Reads the fields of a mapping into `fields`, as far as possible.
    fn fill<'de, A: MapAccess<'de>>(
        &self,
        mut map: A,
        fields: &mut Map<String, Value>,
    ) -> Result<(), A::Error> {
        // The names of fields that are not kept.
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
                    // No known field has such a name, so this represents an unknown field.
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
                if self.context.by_hand && passed.again(&name) {
                    self.context.again(at.path(), None);
                }
                continue;
            }
            self.context.count(name.len() + VALUE)?;
            let value = map.next_value_seed(KeepSeed { keep, at, context: self.context })?;
            if let Some(before) = fields.get(&name) {
                self.context.again(at.path(), Some((before, &value)));
            }
            if !keep.is_names() {
                fields.insert(name, value);
            }
        }
        Ok(())
    }
}

impl Keep {
    /// Whether only names are examined.
    pub fn is_names(&self) -> bool {
        matches!(self, Self::Fields([]))
    }
}

impl<'de> Visitor<'de> for KeepSeed<'_> {
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
                    self.context.cut.replace(Some(("spec", Value::Object(fields))));
                // Without its namespace, it is unknown which pods the policy selects.
                } else if self.at.is_metadata() && fields.contains_key("namespace") {
                    self.context.cut.replace(Some(("metadata", Value::Object(fields))));
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
            match seq.next_element_seed(KeepSeed { keep, at, context: self.context })? {
                Some(item) => {
                    self.context.count(VALUE)?;
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
        // JSON has no `.inf` and `.nan`. Their replacement must not read as absent, and is just as invalid as
        // a string, a port or a list.
        Ok(Value::from(if value.is_finite() { value } else { f64::MAX }))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.context.count(value.len())?;
        Ok(Value::from(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        self.context.count(value.len())?;
        Ok(Value::from(value))
    }
}
