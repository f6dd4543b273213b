//! The objects of one document, as a stream: each is handed over before the one after the next is read.
//!
//! Works on any [`Deserializer`], so on YAML, JSON and what a client of the Kubernetes API receives. Of the kinds that
//! are converted only those fields are kept that the conversion looks at; of all others nothing.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::kept::{Keep, Kept, LONGEST_NAME, Notes, Passed, Trail, shortened};
use crate::convert::{FieldPath, Kind, Step, Twice};
use crate::invisible::as_seen;

/// An object's fields, as far as they matter.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RawObject {
    /// `apiVersion`.
    pub api_version: Option<String>,
    /// `kind`; for an element of a typed list that has none, the list's.
    pub kind: Option<String>,
    /// What the conversion takes.
    pub fields: Value,
    /// Where the object stands in its document, if that is a list.
    pub at: Vec<Step>,
    /// Fields that are written more than once, each with its path from the object's root.
    pub twice: Vec<Twice>,
    /// Fields that read like `apiVersion` or `kind`, and are written otherwise.
    pub miswritten: Vec<String>,
    /// Whether the text broke off within this object: `fields` has what came before.
    pub is_cut: bool,
    /// Why this is no object at all.
    pub fault: Option<Fault>,
}

/// Why something is no object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It has no fields: a text, a number, a list of such.
    NoFields,
    /// Objects in a list that doesn't say what it is.
    BareList,
    /// A list object whose items are no list.
    NoItems,
    /// A list object without items, however they were meant to be called.
    WithoutItems,
    /// Items of a list object that lacks its kind.
    ListWithoutKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFields => "this is no object: it has no fields",
            Self::BareList => "this is a list without a kind: use kind List and its items",
            Self::NoItems => "items is no list",
            Self::WithoutItems => "this is a list without items: is the field items written otherwise?",
            Self::ListWithoutKind => "this is a list without a kind: add apiVersion v1 and kind List",
        })
    }
}

impl<'de> de::Deserialize<'de> for RawObject {
    /// Reads one object that is no list.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = None;
        Objects::new(&mut |object| found = Some(object)).deserialize(deserializer)?;
        found.ok_or_else(|| de::Error::custom("an object was expected, and not a list of them"))
    }
}

impl RawObject {
    /// Reads one object that need not say its kind: an element of a list of the API, which are all of one kind.
    pub(crate) fn of_kind<'de, D: Deserializer<'de>>(kind: Kind, deserializer: D) -> Result<Self, D::Error> {
        let mut found = None;
        let sink = &mut |object| found = Some(object);
        Objects { by_hand: false, ..Objects::of_kind(kind, sink) }.deserialize(deserializer)?;
        found.ok_or_else(|| de::Error::custom("an object was expected, and not a list of them"))
    }

    /// The same, of a large text: of a policy only which pods it isolates. Fails if the fields that matter have more than
    /// `most` bytes.
    pub(crate) fn outline<'de, D: Deserializer<'de>>(
        kind: Kind,
        most: usize,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let mut found = None;
        let sink = &mut |object| found = Some(object);
        Objects { by_hand: false, most: Some(most), ..Objects::of_kind(kind, sink) }
            .deserialize(deserializer)?;
        found.ok_or_else(|| de::Error::custom("an object was expected, and not a list of them"))
    }
}

/// Reads a document and hands over the objects in it, those of `List` objects one by one.
pub(super) struct Objects<'a> {
    sink: &'a mut dyn FnMut(RawObject),
    at: Vec<Step>,
    /// `apiVersion` and `kind` of an object that doesn't say: the elements of a typed list don't have to.
    default: Option<(String, String)>,
    /// Whether a person or a template may have written it: an API server writes no field twice.
    by_hand: bool,
    /// The most bytes of an object that are kept; then of a policy only which pods it isolates.
    most: Option<usize>,
}

impl<'a> Objects<'a> {
    /// Hands over to `sink`.
    pub fn new(sink: &'a mut dyn FnMut(RawObject)) -> Self {
        Self { sink, at: Vec::new(), default: None, by_hand: true, most: None }
    }

    /// The same, of objects that need not say their kind.
    fn of_kind(kind: Kind, sink: &'a mut dyn FnMut(RawObject)) -> Self {
        let default = Some((kind.api_version().into_owned(), kind.name().into_owned()));
        Self { default, ..Self::new(sink) }
    }

    /// Reads one element of a List's `items`.
    pub fn element(self) -> Self {
        Self { at: vec![Step::Field("items".into())], ..self }
    }

    fn fault(self, fault: Fault) {
        (self.sink)(RawObject { at: self.at, fault: Some(fault), ..RawObject::default() });
    }
}

impl<'de> DeserializeSeed<'de> for Objects<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Objects<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Self { sink, at, default, by_hand, most } = self;
        let mut parts = Parts { at, default, notes: Notes::of(by_hand, most), ..Parts::default() };
        let read = parts.read(map, sink);
        match &read {
            Ok(()) if parts.types.is_list() && !parts.has_items => {
                sink(RawObject { at: parts.at, fault: Some(Fault::WithoutItems), ..RawObject::default() });
            }
            Ok(()) if parts.types.is_list() => parts.hand_over_early(sink),
            Ok(()) if parts.types.kind.is_none() && parts.has_early_objects() => {
                sink(RawObject { at: parts.at, fault: Some(Fault::ListWithoutKind), ..RawObject::default() });
            }
            Ok(()) => sink(parts.object(false)),
            // Of a policy its namespace and its podSelector may be known already, so which pods it is about.
            Err(_) if parts.kind().is_some_and(|kind| Kind::named(kind) == Some(Kind::NetworkPolicy)) => {
                sink(parts.object(true));
            }
            // kubectl writes the kind of a List last, so the text may break off before it.
            Err(_) if parts.types.kind.is_none() => {
                parts.early.into_iter().flatten().filter(|element| element.kind.is_some()).for_each(sink);
            }
            Err(_) => {}
        }
        read
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut objects = false;
        let mut look = |object: RawObject| objects |= object.kind.is_some();
        while seq.next_element_seed(Objects::new(&mut look))?.is_some() {}
        self.fault(if objects { Fault::BareList } else { Fault::NoFields });
        Ok(())
    }

    /// A document without content is no object, and nothing is wrong with it. An element of a list is.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if !self.at.is_empty() {
            self.fault(Fault::NoFields);
        }
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.fault(Fault::NoFields);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.fault(Fault::NoFields);
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.fault(Fault::NoFields);
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.fault(Fault::NoFields);
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.fault(Fault::NoFields);
        Ok(())
    }
}

/// An object as far as it was read.
#[derive(Default)]
struct Parts {
    at: Vec<Step>,
    default: Option<(String, String)>,
    types: Types,
    fields: Map<String, Value>,
    /// Elements that came before it was said that this is a list.
    early: Option<Vec<RawObject>>,
    /// Whether there are items.
    has_items: bool,
    miswritten: Vec<String>,
    notes: Notes,
}

impl Parts {
    fn kind(&self) -> Option<&str> {
        self.types.kind.as_deref().or(self.default.as_ref().map(|(_, kind)| kind.as_str()))
    }

    /// Reads all fields; the elements of a list go to `sink`.
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        mut map: A,
        sink: &mut dyn FnMut(RawObject),
    ) -> Result<(), A::Error> {
        // Those of which nothing is kept.
        let mut passed = Passed::default();
        let by_hand = self.notes.by_hand;
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > LONGEST_NAME {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let at = Trail::field(&name);
            let notes = &self.notes;
            match name.as_str() {
                "apiVersion" | "kind" => {
                    let value = map.next_value_seed(Kept { keep: &Keep::All, at, notes })?;
                    let slot =
                        if name == "kind" { &mut self.types.kind } else { &mut self.types.api_version };
                    let bounded = |text: &str| {
                        if text.len() > LONGEST_NAME { shortened(text) } else { text.to_owned() }
                    };
                    let text = value.as_str().map(bounded);
                    if let Some(before) = std::mem::replace(slot, text) {
                        let path = FieldPath(vec![Step::Field(name)]);
                        self.notes.again(path, Some((&Value::from(before), &value)));
                    }
                }
                "items" if self.types.kind.is_none() || self.types.is_list() => {
                    self.has_items = true;
                    let place = [self.at.as_slice(), &[Step::Field(name)]].concat();
                    if self.types.is_list() {
                        map.next_value_seed(Items {
                            sink,
                            at: place,
                            default: self.types.of_elements(),
                            by_hand,
                        })?;
                    } else {
                        let elements = self.early.get_or_insert_default();
                        let mut sink = |object| elements.push(object);
                        map.next_value_seed(Items { sink: &mut sink, at: place, default: None, by_hand })?;
                    }
                }
                _ => match notes.keep_of(self.kind(), &name) {
                    Keep::Nothing => {
                        map.next_value::<IgnoredAny>()?;
                        self.passed(&name);
                        if by_hand && passed.again(&name) {
                            self.notes.again(FieldPath(vec![Step::Field(name)]), None);
                        }
                    }
                    keep => {
                        let value = map.next_value_seed(Kept { keep, at, notes })?;
                        self.passed(&name);
                        if let Some(before) = self.fields.get(&name) {
                            let path = FieldPath(vec![Step::Field(name.clone())]);
                            self.notes.again(path, Some((before, &value)));
                        }
                        self.fields.insert(name, value);
                    }
                },
            }
        }
        Ok(())
    }

    /// Takes note of a field's name that may be meant to be another.
    fn passed(&mut self, name: &str) {
        /// The most elements that are kept.
        const MOST: usize = 3;
        let seen = as_seen(name);
        if self.miswritten.len() < MOST
            && ["apiVersion", "kind"].iter().any(|meant| seen.eq_ignore_ascii_case(meant))
        {
            self.miswritten.push(name.to_owned());
        }
    }

    /// Whether an element that came before any kind is an object.
    fn has_early_objects(&self) -> bool {
        self.early.iter().flatten().any(|element| element.kind.is_some())
    }

    /// The elements that came before the list's kind was known.
    fn hand_over_early(self, sink: &mut dyn FnMut(RawObject)) {
        for mut element in self.early.into_iter().flatten() {
            if let Some((api_version, kind)) = self.types.of_elements().filter(|_| element.kind.is_none()) {
                element.kind = Some(kind);
                element.api_version.get_or_insert(api_version);
            }
            sink(element);
        }
    }

    /// The object; `is_cut` if the text broke off within it.
    fn object(mut self, is_cut: bool) -> RawObject {
        if let Some((api_version, kind)) = self.default.filter(|_| self.types.kind.is_none()) {
            self.types.kind = Some(kind);
            self.types.api_version.get_or_insert(api_version);
        }
        if let Some((name, fields)) = self.notes.cut() {
            self.fields.insert(name.into(), fields);
        }
        RawObject {
            api_version: self.types.api_version,
            kind: self.types.kind,
            fields: Value::Object(self.fields),
            at: self.at,
            twice: self.notes.twice(),
            miswritten: self.miswritten,
            is_cut,
            fault: None,
        }
    }
}

/// `apiVersion` and `kind`, as far as they were read.
#[derive(Default)]
struct Types {
    api_version: Option<String>,
    kind: Option<String>,
}

impl Types {
    /// Whether this is a list of objects: `List`, `PodList`, ...
    fn is_list(&self) -> bool {
        self.kind.as_ref().is_some_and(|kind| kind.ends_with("List"))
    }

    /// `apiVersion` and `kind` of a typed list's elements.
    fn of_elements(&self) -> Option<(String, String)> {
        let kind = self.kind.as_ref()?.strip_suffix("List").filter(|kind| !kind.is_empty())?;
        Some((self.api_version.clone().unwrap_or_default(), kind.to_owned()))
    }
}

/// The elements of a list object.
struct Items<'a> {
    sink: &'a mut dyn FnMut(RawObject),
    at: Vec<Step>,
    default: Option<(String, String)>,
    by_hand: bool,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of Kubernetes objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut last = Last { sink: self.sink, object: None, others: Vec::new() };
        let mut read = Ok(Some(()));
        for index in 0.. {
            let mut at = self.at.clone();
            at.push(Step::Item(index));
            let mut sink = |object| last.next(object);
            let element = Objects {
                at,
                default: self.default.clone(),
                by_hand: self.by_hand,
                ..Objects::new(&mut sink)
            };
            read = seq.next_element_seed(element);
            if !matches!(read, Ok(Some(()))) {
                break;
            }
        }
        last.hand_over(read.is_err());
        read.map(drop)
    }

    /// `items: null`: an empty list, as the API writes it.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        (self.sink)(RawObject { at: self.at, fault: Some(Fault::NoItems), ..RawObject::default() });
        Ok(())
    }
}

/// The last object of a list. If a brace too many ends it, its next fields look like elements without fields, and the text breaks off
/// soon after.
struct Last<'a> {
    sink: &'a mut dyn FnMut(RawObject),
    object: Option<RawObject>,
    /// The first elements without fields behind it.
    others: Vec<RawObject>,
}

impl Last<'_> {
    fn next(&mut self, next: RawObject) {
        /// The most elements that are kept.
        const MOST: usize = 200;
        if next.fault != Some(Fault::NoFields) {
            self.hand_over(false);
            self.object = Some(next);
        } else if self.others.len() < MOST {
            self.others.push(next);
        }
    }

    /// Hands over all that is held; `is_broken` says that the text broke off behind it.
    fn hand_over(&mut self, is_broken: bool) {
        if let Some(mut object) = self.object.take() {
            let is_policy = object.kind.as_deref().and_then(Kind::named) == Some(Kind::NetworkPolicy);
            object.is_cut |= is_broken && is_policy && !self.others.is_empty();
            (self.sink)(object);
        }
        self.others.drain(..).for_each(&mut *self.sink);
    }
}
