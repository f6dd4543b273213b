//! Parses objects as the API server sends them. Of each object's many fields, only those that matter are
//! kept, and only until the object is converted.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use policy::{Change, PolicySpec};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::convert::{Converted, Duplicate, Kind, Unusable, convert};
use crate::interner::Interner;
use crate::manifest::RawObject;

/// A converted object.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Object {
    pub identity: ObjectIdentity,
    /// Whether it is a pod that has finished.
    pub is_finished: bool,
    pub converted: Result<Converted, Unusable>,
}

/// The identity and version of an object. Unknown strings are empty.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ObjectIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl Object {
    /// Parses and converts the object of this kind in the text. The object may lack its kind.
    pub(super) fn read(kind: Kind, text: &str, interner: &Interner) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let RawObject { fields, duplicates, .. } = RawObject::of_kind(kind, &mut deserializer)?;
        deserializer.end()?;
        Ok(Self::of(kind, &fields, &duplicates, interner))
    }

    /// Converts the object with these fields.
    pub(super) fn of(kind: Kind, fields: &Value, duplicates: &[Duplicate], interner: &Interner) -> Self {
        let phase = fields.get("status").and_then(|status| status.get("phase")?.as_str());
        Self {
            identity: ObjectIdentity::of(fields),
            is_finished: matches!(phase, Some("Succeeded" | "Failed")),
            converted: convert(kind, fields, duplicates, interner),
        }
    }
}

impl ObjectIdentity {
    /// The identity of the object with these fields.
    pub(super) fn of(fields: &Value) -> Self {
        let text = |name: &str| {
            let text = fields.get("metadata").and_then(|metadata| metadata.get(name)?.as_str());
            text.unwrap_or_default().to_owned()
        };
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
        }
    }

    /// The identity of the object in this text. Other fields are skipped, which takes some 2 ms for 1.5 MB.
    /// Fails if the text is not an object with `metadata`.
    pub(super) fn skim(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Envelope {
            metadata: ObjectIdentity,
        }
        serde_json::from_str(text).map(|Envelope { metadata }| metadata)
    }
}

/// What is read immediately of a large object.
#[derive(Debug)]
pub(super) enum Outline {
    /// The fields that matter are small, so this is the whole object.
    Small(Object),
    /// The object is read later. If it is a policy, `isolation` isolates the pods that it selects until then.
    Large { identity: ObjectIdentity, isolation: Option<Arc<PolicySpec>> },
}

impl Outline {
    /// The most bytes of fields that matter that are read immediately.
    const MOST: usize = 64 << 10;

    /// The outline of the object of this kind in the text. Other fields are skipped, which takes some 2 ms
    /// for 1.5 MB. Fails if the text is not an object with `metadata`.
    pub(super) fn of(kind: Kind, text: &str, interner: &Interner) -> Result<Self, serde_json::Error> {
        let identity = ObjectIdentity::skim(text)?;
        let read = RawObject::outline(kind, Self::MOST, &mut serde_json::Deserializer::from_str(text));
        Ok(match (kind, read) {
            (Kind::NetworkPolicy, read) => {
                let read = read.ok().and_then(|read| isolation(&read.fields, &read.duplicates, interner));
                let isolation = read.or_else(|| isolation(&isolates_all(&identity), &[], interner));
                Self::Large { identity, isolation }
            }
            (_, Ok(RawObject { fields, duplicates, .. })) => {
                Self::Small(Object::of(kind, &fields, &duplicates, interner))
            }
            (_, Err(_)) => Self::Large { identity, isolation: None },
        })
    }
}

/// The policy with these fields, without its rules.
fn isolation(fields: &Value, duplicates: &[Duplicate], interner: &Interner) -> Option<Arc<PolicySpec>> {
    match convert(Kind::NetworkPolicy, fields, duplicates, interner).ok()?.change {
        // Rules for egress matter only for isolation. In the outline, each would read as one that allows
        // everything.
        Change::Policy(policy) => Some(Arc::new(PolicySpec {
            ingress: Vec::new(),
            egress: Vec::new(),
            ..PolicySpec::clone(&policy)
        })),
        _ => None,
    }
}

/// The fields of a policy that isolates every pod of its namespace.
fn isolates_all(ObjectIdentity { namespace, name, .. }: &ObjectIdentity) -> Value {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A line of a watch. The client library's type parses the object immediately, however large it is.
#[derive(Debug, Deserialize)]
pub(super) struct WatchLine<'a> {
    #[serde(rename = "type")]
    pub what: EventType,
    /// The object; for [`EventType::Error`], a `Status`.
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// The type of a watch event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum EventType {
    Added,
    Modified,
    Deleted,
    /// No object changed; the watch has reached this version.
    Bookmark,
    /// The watch failed.
    Error,
}

/// Parses the page of a list in this text and converts its objects.
///
/// The client library's list type holds every field of every object at once. As values in memory, small
/// fields take up to 60 times as much as text.
pub(super) fn objects_of_page(
    page: &str,
    kind: Kind,
    interner: &Interner,
) -> Result<Vec<Object>, serde_json::Error> {
    let raw = raw_objects_of_page(page, kind)?;
    let object = |raw: RawObject| Object::of(kind, &raw.fields, &raw.duplicates, interner);
    Ok(raw.into_iter().map(object).collect())
}

fn raw_objects_of_page(page: &str, kind: Kind) -> Result<Vec<RawObject>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(page);
    let objects = PageOf(kind).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(objects)
}

/// Reads a page: the field `items` of an object.
struct PageOf(Kind);

/// Reads the items of a page; `null` if there are none.
struct ItemsOf(Kind);

/// Reads one item.
struct ItemOf(Kind);

impl<'de> DeserializeSeed<'de> for PageOf {
    type Value = Vec<RawObject>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PageOf {
    type Value = Vec<RawObject>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.0.plural())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == "items" {
                objects = map.next_value_seed(ItemsOf(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(objects)
    }
}

impl<'de> DeserializeSeed<'de> for ItemsOf {
    type Value = Vec<RawObject>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ItemsOf {
    type Value = Vec<RawObject>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or null", self.0.plural())
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(object) = items.next_element_seed(ItemOf(self.0))? {
            objects.push(object);
        }
        Ok(objects)
    }
}

impl<'de> DeserializeSeed<'de> for ItemOf {
    type Value = RawObject;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawObject, D::Error> {
        RawObject::of_kind(self.0, deserializer)
    }
}

/// The `metadata` of a page.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// The version at which the whole list was read.
    pub resource_version: Option<String>,
    /// The token of the next page; absent or empty on the last page.
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl PageMetadata {
    /// Parses the metadata of the page in this text. Its objects are skipped.
    pub(super) fn of(page: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Envelope {
            metadata: PageMetadata,
        }
        serde_json::from_str(page).map(|Envelope { metadata }| metadata)
    }

    /// The token of the next page; `None` on the last page.
    pub(super) fn next_page(&self) -> Option<&str> {
        self.next.as_deref().filter(|next| !next.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_items_need_no_kind_and_keep_only_fields_that_matter() {
        let page = json!({
            "kind": "PodList", "apiVersion": "v1",
            "metadata": {"resourceVersion": "7", "continue": "next", "remainingItemCount": 1},
            "items": [{
                "metadata": {"name": "a", "namespace": "web", "uid": "u", "resourceVersion": "5", "managedFields": [{"manager": "m"}],
                             "annotations": {"large": "text"}},
                "spec": {"nodeName": "n", "containers": [{"image": "i", "env": [{"name": "e"}], "ports": [{"containerPort": 80}]}]},
                "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready"}]},
            }],
        });
        let metadata = PageMetadata::of(&page.to_string()).expect("metadata");
        assert_eq!((metadata.resource_version.as_deref(), metadata.next_page()), (Some("7"), Some("next")));
        let objects = raw_objects_of_page(&page.to_string(), Kind::Pod).expect("a page");
        let fields = &objects[0].fields;
        let [namespace, name, uid, resource_version] = ["web", "a", "u", "5"].map(str::to_owned);
        assert_eq!(ObjectIdentity::of(fields), ObjectIdentity { namespace, name, uid, resource_version });
        assert_eq!(
            *fields,
            json!({
                "metadata": {"name": "a", "namespace": "web", "uid": "u", "resourceVersion": "5"},
                "spec": {"nodeName": "n", "containers": [{"ports": [{"containerPort": 80}]}]},
                "status": {"podIPs": [{"ip": "10.0.0.1"}]},
            })
        );
        for next in [json!({"resourceVersion": "7"}), json!({"resourceVersion": "7", "continue": ""})] {
            let last = json!({"metadata": next, "items": null});
            assert_eq!(PageMetadata::of(&last.to_string()).expect("metadata").next_page(), None);
            assert!(raw_objects_of_page(&last.to_string(), Kind::Pod).expect("a page").is_empty());
        }
    }

    #[test]
    fn a_duplicate_field_does_not_break_its_page() {
        let page = r#"{"items": [{"metadata": {"name": "p", "namespace": "web", "labels": {"a": "1", "a": "2"}},
            "spec": {"podSelector": {}}}, {"metadata": {"name": "q"}}]}"#;
        let items = raw_objects_of_page(page, Kind::NetworkPolicy).expect("a page");
        assert_eq!((items.len(), items[0].duplicates.len()), (2, 1));
        assert_eq!(items[0].fields["metadata"]["labels"], json!({"a": "2"}));
    }

    #[test]
    fn a_watch_line_holds_an_object_or_a_bookmark() {
        let line = r#"{"type":"MODIFIED","object":{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1",
            "metadata":{"name":"p","namespace":"web","resourceVersion":"9"},"spec":{"podSelector":{},"future":1}}}"#;
        let read: WatchLine<'_> = serde_json::from_str(line).expect("a line");
        assert_eq!(read.what, EventType::Modified);
        let mut deserializer = serde_json::Deserializer::from_str(read.object.get());
        let policy = RawObject::of_kind(Kind::NetworkPolicy, &mut deserializer).expect("an object");
        assert_eq!(
            policy.fields["spec"],
            json!({"podSelector": {}, "future": 1}),
            "all fields of a policy are kept"
        );
        assert_eq!(
            ObjectIdentity::skim(read.object.get()).expect("metadata"),
            ObjectIdentity::of(&policy.fields)
        );
        let line = r#"{"object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"12"}},"type":"BOOKMARK"}"#;
        let read: WatchLine<'_> = serde_json::from_str(line).expect("a line");
        assert_eq!(read.what, EventType::Bookmark);
        assert_eq!(ObjectIdentity::skim(read.object.get()).expect("metadata").resource_version, "12");
    }
}
