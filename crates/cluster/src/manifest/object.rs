//! The objects of one document as a stream: each is passed on before the one after the next is read.
//!
//! Works on any [`Deserializer`], so on YAML, JSON and the responses of the Kubernetes API. Of the kinds that
//! are converted, only the fields that the conversion uses are kept; of all others, nothing.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::keep::{Keep, LONGEST_NAME, shortened};
use super::keep_seed::{KeepSeed, Trail};
use super::last::Last;
use super::raw_object::{Fault, RawObject};
use super::read_context::{Passed, ReadContext};
use crate::convert::{FieldPath, Kind, Step};
use crate::invisible::as_seen;

impl<'de> de::Deserialize<'de> for RawObject {
    /// Reads one object that is not a list.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = None;
        Objects::new(&mut |object| found = Some(object)).deserialize(deserializer)?;
        found.ok_or_else(|| de::Error::custom("expected an object, found a list"))
    }
}

impl RawObject {
    /// Reads one object that may lack its kind: an item of an API list, whose items are all of one kind.
    pub(crate) fn of_kind<'de, D: Deserializer<'de>>(kind: Kind, deserializer: D) -> Result<Self, D::Error> {
        let mut found = None;
        let sink = &mut |object| found = Some(object);
        Objects { by_hand: false, ..Objects::of_kind(kind, sink) }.deserialize(deserializer)?;
        found.ok_or_else(|| de::Error::custom("expected an object, found a list"))
    }

    /// Reads an outline of an object with a large text: of a policy, only the pods that it isolates. Fails if
    /// the fields that matter have more than `most` bytes.
    pub(crate) fn outline<'de, D: Deserializer<'de>>(
        kind: Kind,
        most: usize,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let mut found = None;
        let sink = &mut |object| found = Some(object);
        Objects { by_hand: false, most: Some(most), ..Objects::of_kind(kind, sink) }
            .deserialize(deserializer)?;
        found.ok_or_else(|| de::Error::custom("expected an object, found a list"))
    }
}

/// Reads a document and passes on the objects in it, those of `List` objects one by one.
pub(super) struct Objects<'a> {
    sink: &'a mut dyn FnMut(RawObject),
    at: Vec<Step>,
    /// `apiVersion` and `kind` of an object that has none: items of a typed list may omit them.
    default: Option<(String, String)>,
    /// Whether a person or a template may have written it. An API server writes no duplicate fields.
    by_hand: bool,
    /// The most bytes of an object that are kept. If set, only the outline of a policy is kept.
    most: Option<usize>,
    /// Whether pod templates and Services are kept.
    with_templates: bool,
}

impl<'a> Objects<'a> {
    /// Passes the objects to `sink`.
    pub(super) fn new(sink: &'a mut dyn FnMut(RawObject)) -> Self {
        Self { sink, at: Vec::new(), default: None, by_hand: true, most: None, with_templates: false }
    }

    /// Keeps pod templates and Services too.
    pub(super) fn with_templates(self) -> Self {
        Self { with_templates: true, ..self }
    }

    /// Passes objects that may lack their kind to `sink`.
    fn of_kind(kind: Kind, sink: &'a mut dyn FnMut(RawObject)) -> Self {
        let default = Some((kind.api_version().into_owned(), kind.name().into_owned()));
        Self { default, ..Self::new(sink) }
    }

    /// Reads one item of a List.
    pub(super) fn element(self) -> Self {
        Self { at: vec![Step::Field("items".into())], ..self }
    }

    fn fault(self, fault: Fault) {
        (self.sink)(RawObject { at: self.at, fault: Some(fault), ..RawObject::default() });
    }
}

fn is_policy(kind: Kind) -> bool {
    kind.policy().is_some()
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
        let Self { sink, at, default, by_hand, most, with_templates } = self;
        let context = ReadContext::of(by_hand, most, with_templates);
        let mut parts = Parts { at, default, context, ..Parts::default() };
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
            // A policy's namespace and podSelector may be known already, and so the pods that it concerns.
            Err(_) if parts.kind().is_some_and(|kind| Kind::named(kind).is_some_and(is_policy)) => {
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

    /// An empty document is not an object, and that is not an error. An empty item of a list is one.
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

/// The parts of an object that were read so far.
#[derive(Default)]
struct Parts {
    at: Vec<Step>,
    default: Option<(String, String)>,
    types: Types,
    fields: Map<String, Value>,
    /// Items that were read before the kind, which says whether this is a list.
    early: Option<Vec<RawObject>>,
    /// Whether there is a field `items`.
    has_items: bool,
    miswritten: Vec<String>,
    context: ReadContext,
}

impl Parts {
    fn kind(&self) -> Option<&str> {
        self.types.kind.as_deref().or(self.default.as_ref().map(|(_, kind)| kind.as_str()))
    }

    /// Reads all fields. The items of a list go to `sink`.
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        mut map: A,
        sink: &mut dyn FnMut(RawObject),
    ) -> Result<(), A::Error> {
        // The names of fields that are not kept.
        let mut passed = Passed::default();
        let ReadContext { by_hand, with_templates, .. } = self.context;
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > LONGEST_NAME {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let at = Trail::field(&name);
            let context = &self.context;
            match name.as_str() {
                "apiVersion" | "kind" => {
                    let value = map.next_value_seed(KeepSeed { keep: &Keep::All, at, context })?;
                    let slot =
                        if name == "kind" { &mut self.types.kind } else { &mut self.types.api_version };
                    let bounded = |text: &str| {
                        if text.len() > LONGEST_NAME { shortened(text) } else { text.to_owned() }
                    };
                    let text = value.as_str().map(bounded);
                    if let Some(before) = std::mem::replace(slot, text) {
                        let path = FieldPath(vec![Step::Field(name)]);
                        self.context.again(path, Some((&Value::from(before), &value)));
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
                            with_templates,
                        })?;
                    } else {
                        let elements = self.early.get_or_insert_default();
                        let mut sink = |object| elements.push(object);
                        let (sink, default) = (&mut sink, None);
                        map.next_value_seed(Items { sink, at: place, default, by_hand, with_templates })?;
                    }
                }
                _ => match context.keep_of(self.kind(), &name) {
                    Keep::Nothing => {
                        map.next_value::<IgnoredAny>()?;
                        self.passed(&name);
                        if by_hand && passed.again(&name) {
                            self.context.again(FieldPath(vec![Step::Field(name)]), None);
                        }
                    }
                    keep => {
                        let value = map.next_value_seed(KeepSeed { keep, at, context })?;
                        self.passed(&name);
                        if let Some(before) = self.fields.get(&name) {
                            let path = FieldPath(vec![Step::Field(name.clone())]);
                            self.context.again(path, Some((before, &value)));
                        }
                        self.fields.insert(name, value);
                    }
                },
            }
        }
        Ok(())
    }

    /// Records a field's name if it is probably a misspelling of `apiVersion` or `kind`.
    fn passed(&mut self, name: &str) {
        /// The most that are kept.
        const MOST: usize = 3;
        let seen = as_seen(name);
        if self.miswritten.len() < MOST
            && ["apiVersion", "kind"].iter().any(|meant| seen.eq_ignore_ascii_case(meant))
        {
            self.miswritten.push(name.to_owned());
        }
    }

    /// Whether an item that was read before the kind is an object.
    fn has_early_objects(&self) -> bool {
        self.early.iter().flatten().any(|element| element.kind.is_some())
    }

    /// Passes on the items that were read before the list's kind was known.
    fn hand_over_early(self, sink: &mut dyn FnMut(RawObject)) {
        for mut element in self.early.into_iter().flatten() {
            if let Some((api_version, kind)) = self.types.of_elements().filter(|_| element.kind.is_none()) {
                element.kind = Some(kind);
                element.api_version.get_or_insert(api_version);
            }
            sink(element);
        }
    }

    /// The object. `is_cut` says that the text broke off within it.
    fn object(mut self, is_cut: bool) -> RawObject {
        if let Some((api_version, kind)) = self.default.filter(|_| self.types.kind.is_none()) {
            self.types.kind = Some(kind);
            self.types.api_version.get_or_insert(api_version);
        }
        if let Some((name, fields)) = self.context.cut() {
            self.fields.insert(name.into(), fields);
        }
        RawObject {
            api_version: self.types.api_version,
            kind: self.types.kind,
            fields: Value::Object(self.fields),
            at: self.at,
            duplicates: self.context.duplicates(),
            miswritten: self.miswritten,
            is_cut,
            fault: None,
        }
    }
}

/// `apiVersion` and `kind`, if they were read.
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

    /// `apiVersion` and `kind` of a typed list's items.
    fn of_elements(&self) -> Option<(String, String)> {
        let kind = self.kind.as_ref()?.strip_suffix("List").filter(|kind| !kind.is_empty())?;
        Some((self.api_version.clone().unwrap_or_default(), kind.to_owned()))
    }
}

/// The items of a list object.
struct Items<'a> {
    sink: &'a mut dyn FnMut(RawObject),
    at: Vec<Step>,
    default: Option<(String, String)>,
    by_hand: bool,
    with_templates: bool,
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
                with_templates: self.with_templates,
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
