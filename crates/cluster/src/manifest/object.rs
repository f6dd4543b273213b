//! The objects of one document, as a stream: each is handed over before the next one is read.
//!
//! Works on any [`Deserializer`], so on YAML, JSON and what a client of the Kubernetes API receives. Of the kinds that
//! are converted only those fields are kept that the conversion looks at; of all others nothing.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::convert::{Kind, PUBLIC_ADDRESSES, Step};

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
    /// Why this is no object at all.
    pub fault: Option<&'static str>,
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
        let default = Some((kind.api_version().into_owned(), kind.name().into_owned()));
        Objects { sink: &mut |object| found = Some(object), at: Vec::new(), default }
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
}

impl<'a> Objects<'a> {
    /// Hands over to `sink`.
    pub fn new(sink: &'a mut dyn FnMut(RawObject)) -> Self {
        Self { sink, at: Vec::new(), default: None }
    }

    fn fault(self, fault: &'static str) {
        (self.sink)(RawObject { at: self.at, fault: Some(fault), ..RawObject::default() });
    }
}

impl<'de> DeserializeSeed<'de> for Objects<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

const NO_OBJECT: &str = "this is no object: it has no fields";

impl<'de> Visitor<'de> for Objects<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { sink, at, default } = self;
        let mut types = Types::default();
        let mut fields = Map::new();
        // Elements that came before it was said that this is a list.
        let mut early: Option<Vec<RawObject>> = None;
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "apiVersion" | "kind" => {
                    let value = map.next_value_seed(Kept(&Keep::All))?;
                    let text = value.as_str().map(str::to_owned);
                    let slot = if name == "kind" { &mut types.kind } else { &mut types.api_version };
                    if slot.is_some() {
                        return Err(de::Error::custom(format_args!("the field {name} comes twice")));
                    }
                    *slot = text;
                }
                "items" if types.kind.is_none() || types.is_list() => {
                    let place = [at.as_slice(), &[Step::Field(name)]].concat();
                    if types.is_list() {
                        map.next_value_seed(Items { sink, at: place, default: types.of_elements() })?;
                    } else {
                        let elements = early.get_or_insert_default();
                        let mut sink = |object| elements.push(object);
                        map.next_value_seed(Items { sink: &mut sink, at: place, default: None })?;
                    }
                }
                _ => {
                    let kind = types.kind.as_deref().or(default.as_ref().map(|(_, kind)| kind.as_str()));
                    match keep_of(kind, &name) {
                        Keep::Nothing => {
                            map.next_value::<IgnoredAny>()?;
                        }
                        keep => {
                            let value = map.next_value_seed(Kept(keep))?;
                            if fields.contains_key(&name) {
                                return Err(de::Error::custom(format_args!("the field {name} comes twice")));
                            }
                            fields.insert(name, value);
                        }
                    }
                }
            }
        }
        if types.is_list() {
            for mut element in early.into_iter().flatten() {
                if let Some((api_version, kind)) = types.of_elements().filter(|_| element.kind.is_none()) {
                    element.kind = Some(kind);
                    element.api_version.get_or_insert(api_version);
                }
                sink(element);
            }
            return Ok(());
        }
        if let Some((api_version, kind)) = default.filter(|_| types.kind.is_none()) {
            types.kind = Some(kind);
            types.api_version.get_or_insert(api_version);
        }
        sink(RawObject {
            api_version: types.api_version,
            kind: types.kind,
            fields: Value::Object(fields),
            at,
            fault: None,
        });
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.fault("this is a list without a kind: use kind List and its items");
        Ok(())
    }

    /// A document without content is no object, and nothing is wrong with it. An element of a list is.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if !self.at.is_empty() {
            self.fault(NO_OBJECT);
        }
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.fault(NO_OBJECT);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.fault(NO_OBJECT);
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.fault(NO_OBJECT);
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.fault(NO_OBJECT);
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.fault(NO_OBJECT);
        Ok(())
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
        for index in 0.. {
            let mut at = self.at.clone();
            at.push(Step::Item(index));
            let element = Objects { sink: &mut *self.sink, at, default: self.default.clone() };
            if seq.next_element_seed(element)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// `items: null`: an empty list, as the API writes it.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        (self.sink)(RawObject { at: self.at, fault: Some("items is no list"), ..RawObject::default() });
        Ok(())
    }
}

/// Which part of a value is kept.
#[derive(Clone, Copy, Debug)]
enum Keep {
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

const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("labels", Keep::All),
    ("creationTimestamp", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
]);
const NODE_METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("labels", Keep::All),
    ("creationTimestamp", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("annotations", Keep::Fields(&FLANNELS_ANNOTATIONS)),
]);
/// Addresses between which Flannel carries the overlay, where they are not among the node's own ([`crate::convert`]).
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

/// Reads a value and keeps a part of it.
struct Kept<'k>(&'k Keep);

impl<'de> DeserializeSeed<'de> for Kept<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Kept<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let keep = match self.0 {
                Keep::All => &Keep::All,
                Keep::Fields(known) => {
                    known.iter().find(|(known, _)| *known == name).map_or(&Keep::Nothing, |(_, keep)| keep)
                }
                Keep::Nothing | Keep::Presence | Keep::Each(_) => &Keep::Nothing,
            };
            if matches!(keep, Keep::Nothing) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value_seed(Kept(keep))?;
            if fields.contains_key(&name) {
                return Err(de::Error::custom(format_args!("the field {name} comes twice")));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let keep = match self.0 {
            Keep::All => &Keep::All,
            Keep::Each(keep) => *keep,
            Keep::Nothing | Keep::Presence | Keep::Fields(_) => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Array(Vec::new()));
            }
        };
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Kept(keep))? {
            items.push(item);
        }
        Ok(Value::Array(items))
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
        Ok(Value::from(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }
}
